"""Several teachers of one corpus as one: each document once, with the targets of all of them.

Documents are found by their ids. What has the same id must be the same text: lengths are compared
when the stores are opened, tokens and which of them count when a block is read. Order, packing and
resume are those of the first store, so they are as exact as its own.

The index of ids takes 32 bytes for each document of every store but the first.

Shapes: R targets, D documents of a store or of a block.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore import SparseTargets, SpecError, StoreError
from logitstore.plumbing import fingerprint
from trainer.data.mixture import WeightedStore, joined_spec, name_of
from trainer.data.store import reading_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from logitstore import Document, DocumentBlock
    from trainer.data.store import Ahead

__all__ = ["AveragedStore", "AveragedTargets"]

_BLOCKS_KEPT = 4  # of each store but the first, decoded


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AveragedTargets:
    """The targets of R tokens by several teachers, and how much each teacher weighs.

    `parts` are of one kind and have R rows each; `weights` are positive and sum to 1.
    """

    parts: tuple[SparseTargets, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    @staticmethod
    def concatenate(several: Sequence[AveragedTargets]) -> AveragedTargets:
        """The rows of all, one after another; those of one teacher may differ in K."""
        columns = zip(*(one.parts for one in several), strict=True)
        return AveragedTargets(parts=tuple(map(_joined, columns)), weights=several[0].weights)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Averaged:
    """A document with the targets of all teachers."""

    document: Document
    targets: AveragedTargets


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Block:
    """The documents of a block, in order."""

    documents: list[_Averaged]

    def split(self) -> Iterator[_Averaged]:
        return iter(self.documents)

    def document(self, number: int) -> _Averaged:
        return self.documents[number]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Size:
    documents: int
    tokens: int
    targets: int


class AveragedStore:
    """Stores of one corpus, read together; `trainer.average` checks them and makes it.

    Args:
        parts: The stores, with their targets' kind and the meaning of ids in common; the first one
            gives the order.
        common: Whether documents that are not in all of them are left out; else they are refused.

    `left_out` counts the documents of each store that are not in all. Raises SpecError where
    documents are missing, or of other lengths than in the first store; StoreError where an id
    stands twice, or no document is in all.
    """

    def __init__(self, parts: Sequence[WeightedStore], *, common: bool) -> None:
        self.parts = tuple(parts)
        total = sum(one.weight for one in parts)
        self.weights = tuple(one.weight / total for one in parts)
        self.draw = 0
        self.uri = " and ".join(name_of(one.store) for one in parts)
        self.spec: Any = joined_spec([one.store for one in parts], averaged=True)
        tables = [_Table.of(one.store) for one in parts]
        kept_D = self._shared(tables, common=common)
        self.left_out = tuple(len(one.ids_D) - int(kept_D.sum()) for one in tables)
        # Of each kept document of the first store, block by block: its place in each store.
        self._places = [one.places_of(tables[0].ids_D[kept_D]) for one in tables]
        self._refuse_other_lengths(tables, tables[0].ids_D[kept_D])
        blocks_D = tables[0].places_D2[kept_D, 0]
        _, starts = np.unique(blocks_D, return_index=True)
        self._stops = np.append(starts, len(blocks_D))
        lengths_D2 = tables[0].lengths_D2[kept_D]
        self._lengths = [
            lengths_D2[start:stop]
            for start, stop in zip(self._stops[:-1], self._stops[1:], strict=True)
        ]
        self.blocks = tuple(
            _Size(documents=len(one), tokens=int(one[:, 0].sum()), targets=int(one[:, 1].sum()))
            for one in self._lengths
        )
        self.fingerprint = fingerprint(
            {
                "averaged": [
                    [one.store.fingerprint, str(weight)]
                    for one, weight in zip(parts, self.weights, strict=True)
                ],
                "common": common,
            }
        )
        self._kept: dict[tuple[int, int], DocumentBlock] = {}

    def _shared(self, tables: Sequence[_Table], *, common: bool) -> np.ndarray:
        """bool [D]: which documents of the first store are in all."""
        first = tables[0]
        kept_D = np.ones(len(first.ids_D), dtype=bool)
        for table in tables[1:]:
            kept_D &= table.has(first.ids_D)
        if not kept_D.any():
            raise StoreError(
                "no document is in all of the stores, which are of different corpora",
                place=self.uri,
                remedy="Learn from them without --average: each document by its own teacher",
            )
        if not common:
            for part, table in zip(self.parts, tables, strict=True):
                if len(table.ids_D) != kept_D.sum():
                    raise SpecError(
                        "the stores do not hold the same documents",
                        place=name_of(part.store),
                        found=f"{len(table.ids_D) - int(kept_D.sum()):,} of "
                        f"{len(table.ids_D):,} documents that are not in all stores",
                        remedy="Leave these out with --average common",
                    )
        return kept_D

    def describe(self) -> list[dict[str, Any]]:
        """What run.json says of each store."""
        return [
            {
                "name": name_of(one.store),
                "store": one.store.fingerprint,
                "teacher": one.store.spec.teacher.name,
                "weight": weight,
            }
            for one, weight in zip(self.parts, self.weights, strict=True)
        ]

    def told_of_left_out(self) -> str | None:
        """What a warning says of documents that are not in all stores; None where all are."""
        if not any(self.left_out):
            return None
        counts = ", ".join(
            f"{left:,} of {left + len(self):,} in {name_of(one.store)}"
            for left, one in zip(self.left_out, self.parts, strict=True)
        )
        return f"documents that are not in all stores are left out: {counts}"

    def with_draw(self, draw: int) -> AveragedStore:
        """The same, each store read at the draw that it has for draw number `draw` of all."""
        repeats = self.spec.sparsifier.repeats
        temperature, repeat = divmod(draw, repeats)
        other = copy.copy(self)
        other.draw, other._kept = draw, {}
        other.parts = tuple(
            WeightedStore(
                store=one.store.with_draw(temperature * own + repeat % own), weight=one.weight
            )
            for one in self.parts
            for own in [one.store.spec.sparsifier.repeats]
        )
        return other

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of each document of block `number`."""
        lengths_D2 = self._lengths[number]
        return lengths_D2[:, 0], lengths_D2[:, 1]

    def read_block(self, number: int) -> Any:
        """Block `number` of the first store, with the targets of all.

        Raises SpecError where a document has other tokens in another store; what reading raises.
        """
        return self.block_read_by(number, lambda part, own: self.parts[part].store.read_block(own))

    def block_read_by(self, number: int, read: Callable[[int, int], DocumentBlock]) -> Any:
        """Block `number` as `read_block` gives it.

        Args:
            number: Its number.
            read: Is given the number of the store, and that of its block.
        """
        found = []
        for at in range(self._stops[number], self._stops[number + 1]):
            stored = [
                self._block(part, int(places_D2[at, 0]), read).document(int(places_D2[at, 1]))
                for part, places_D2 in enumerate(self._places)
            ]
            self._refuse_other_tokens([one.document for one in stored])
            targets = AveragedTargets(
                parts=tuple(one.targets for one in stored), weights=self.weights
            )
            found.append(_Averaged(document=stored[0].document, targets=targets))
        return _Block(documents=found)

    def __len__(self) -> int:
        return int(self._stops[-1])

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self.blocks)):
            yield from self.read_block(number).split()

    def tokenizer_files(self) -> dict[str, bytes]:
        """The files of the first store's tokenizer, by name; ids mean the same in all."""
        files: dict[str, bytes] = getattr(self.parts[0].store, "tokenizer_files", dict)()
        return files

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}}

    def _refuse_other_lengths(self, tables: Sequence[_Table], ids_D: np.ndarray) -> None:
        lengths_D2 = tables[0].lengths_of(ids_D)
        for part, table in zip(self.parts[1:], tables[1:], strict=True):
            differs_D = (table.lengths_of(ids_D) != lengths_D2).any(axis=1)
            if differs_D.any():
                found = ids_D[differs_D.argmax()].ljust(16, b"\0").hex()
                raise self._other_text(part.store, found)

    def _other_text(self, store: Any, document: str) -> SpecError:
        return SpecError(
            "the stores hold different texts under one id, or other tokens count: they are of "
            "different corpora, or were dumped by different rules",
            place=name_of(store),
            found=f"document {document}",
            allowed=f"as in {name_of(self.parts[0].store)}",
            remedy="Learn from them without --average: each document by its own teacher",
        )

    def ahead(self) -> Ahead:
        """What reads blocks while it fetches those of all stores that it is told to expect."""
        return _AveragedAhead(self)

    def blocks_to_read(self, number: int) -> list[tuple[int, int]]:
        """The stores and their blocks that block `number` is made of, but those that are kept.

        Args:
            number: Its number.
        """
        rows = slice(self._stops[number], self._stops[number + 1])
        wanted = [
            (part, own)
            for part, places_D2 in enumerate(self._places)
            for own in dict.fromkeys(places_D2[rows, 0].tolist())
        ]
        return [one for one in wanted if one not in self._kept]

    def _block(
        self, part: int, number: int, read: Callable[[int, int], DocumentBlock]
    ) -> DocumentBlock:
        """Block `number` of a store, one of the last few that were read."""
        kept, wanted = self._kept, (part, number)
        if wanted not in kept:
            own = [one for one in kept if one[0] == part]
            for one in own[: len(own) + 1 - _BLOCKS_KEPT]:
                del kept[one]
            kept[wanted] = read(part, number)
        return kept[wanted]

    def _refuse_other_tokens(self, documents: Sequence[Document]) -> None:
        first = documents[0]
        for part, one in zip(self.parts[1:], documents[1:], strict=True):
            if not (
                np.array_equal(one.input_ids_L, first.input_ids_L)
                and np.array_equal(one.counted_L, first.counted_L)
            ):
                raise self._other_text(part.store, first.id.hex())


class _AveragedAhead:
    """The blocks of several teachers; those of stores that are far away are read ahead.

    What several blocks need is expected once until it is read; it is then one of those kept.
    """

    def __init__(self, store: AveragedStore) -> None:
        self._store = store
        self._readers = [reading_ahead(one.store) for one in store.parts]
        self._expected: set[tuple[int, int]] = set()
        self.far = any(one.far for one in self._readers)

    def expect(self, number: int) -> None:
        """Block `number` is read soon, and once."""
        for part, own in self._store.blocks_to_read(number):
            if (part, own) not in self._expected:
                self._expected.add((part, own))
                self._readers[part].expect(own)

    def expect_lengths(self, number: int) -> None:
        """Lengths are known since the stores were opened."""

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """As the store gives them."""
        return self._store.document_lengths(number)

    def read_block(self, number: int) -> Any:
        """As the store gives it."""
        return self._store.block_read_by(number, self._read)

    def _read(self, part: int, number: int) -> DocumentBlock:
        self._expected.discard((part, number))
        return self._readers[part].read_block(number)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """The documents of a store, in order."""

    ids_D: np.ndarray  # 16 bytes each
    places_D2: np.ndarray  # int64: the number of its block, and its place there
    lengths_D2: np.ndarray  # int64: tokens and targets

    @staticmethod
    def of(store: Any) -> _Table:
        """Read without entries, where the store can. Raises StoreError for an id that is twice."""
        ids, places, lengths = [], [], []
        for number in range(len(store.blocks)):
            if hasattr(store, "read_documents"):
                table_DC = store.read_documents(number)
                halves_D2 = np.ascontiguousarray(table_DC[:, :2].astype(">u8"))
                ids.append(halves_D2.view("V16").reshape(-1))
                lengths.append(table_DC[:, 4:6].astype(np.int64))
            else:
                block = store.read_block(number)
                ids.append(np.frombuffer(b"".join(block.ids), dtype="V16"))
                lengths.append(np.stack([block.token_lengths_D, block.target_lengths_D], axis=1))
            size = len(ids[-1])
            places.append(np.stack([np.full(size, number), np.arange(size)], axis=1))
        found = _Table(
            ids_D=np.concatenate(ids).view("S16"),
            places_D2=np.concatenate(places),
            lengths_D2=np.concatenate(lengths),
        )
        ordered_D = found.ids_D[found._order_D]
        if (ordered_D[1:] == ordered_D[:-1]).any():
            raise StoreError(
                "a document stands twice in the store, so it has no one place beside others",
                place=name_of(store),
                remedy="Leave it out with `logitstore merge STORE OUT --duplicates drop`",
            )
        return found

    @cached_property
    def _order_D(self) -> np.ndarray:
        return np.argsort(self.ids_D, kind="stable")

    def _found(self, ids_D: np.ndarray) -> np.ndarray:
        """Where each id stands, if it stands here."""
        at_D = np.searchsorted(self.ids_D, ids_D, sorter=self._order_D)
        found: np.ndarray = self._order_D[np.minimum(at_D, len(self.ids_D) - 1)]
        return found

    def has(self, ids_D: np.ndarray) -> np.ndarray:
        """bool: which ids stand here."""
        same: np.ndarray = self.ids_D[self._found(ids_D)] == ids_D
        return same

    def places_of(self, ids_D: np.ndarray) -> np.ndarray:
        """The places of ids that all stand here."""
        places: np.ndarray = self.places_D2[self._found(ids_D)]
        return places

    def lengths_of(self, ids_D: np.ndarray) -> np.ndarray:
        """The lengths of ids that all stand here."""
        lengths: np.ndarray = self.lengths_D2[self._found(ids_D)]
        return lengths


def _joined(parts: Sequence[SparseTargets]) -> SparseTargets:
    k = max(one.k for one in parts)
    return SparseTargets.concatenate([one.widened(k) for one in parts])
