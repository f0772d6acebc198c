"""Several stores as one: what a student learns from that has several teachers, or corpora.

The blocks of all stores are numbered through, so packing, ranks and resume are those of one store;
how the stores are spread over an epoch, `streams.py` says. The losses see one kind of targets, so
the stores have that in common. K may differ: rows are padded where they meet.

Shapes: D documents of a block.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from math import lcm
from typing import TYPE_CHECKING, Any

from logitstore import CorruptionError, StoreError
from logitstore.plumbing import GENERATION, DamagedBlock, generation_of
from trainer.data.answer_files import labels_only
from trainer.data.options import WEIGHT
from trainer.data.store import Ahead, BlockSize, begin_reading, reading_ahead
from trainer.data.streams import first_blocks, mix_fingerprint

if TYPE_CHECKING:
    import numpy as np

    from logitstore import DocumentBlock, SparsifierSpec, StoredDocument
    from trainer.data.store import StoreLike

__all__ = ["MixedStore", "WeightedStore", "joined_spec", "name_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedStore:
    """A store, and how many times an epoch passes over it."""

    store: Any  # a StoreLike
    weight: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", WEIGHT.check(self.weight))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Teachers:
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    max_length: int
    sampler_logprobs: bool  # whether all stores know with which tokens were drawn


@dataclass(frozen=True, kw_only=True, slots=True)
class _Corpora:
    answers: tuple[dict[str, Any], ...]  # who gave those that any store holds


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spec:
    """What a trainer reads of the spec of a store."""

    teacher: _Teachers
    tokenizer: Any
    text: _Text
    corpus: _Corpora
    sparsifier: SparsifierSpec
    labels_only: bool
    states: Any  # which hidden states are kept; None where none are
    provenance: Mapping[str, Any]
    averaged: tuple[SparsifierSpec, ...]  # of each store, where all speak of each document


class MixedStore:
    """Several stores, block by block one after another; `trainer.mix` checks them and makes it.

    Args:
        parts: The stores, which have their kind of targets and the meaning of ids in common.
        damaged: Blocks that are left out, numbered over all stores without any left out.
    """

    def __init__(
        self, parts: Sequence[WeightedStore], *, damaged: tuple[DamagedBlock, ...] = ()
    ) -> None:
        self.parts = tuple(parts)
        self.damaged = damaged
        self.draw = 0
        self.uri = " + ".join(name_of(one.store) for one in self.parts)
        self.fingerprint = mix_fingerprint(
            (one.store.fingerprint, one.weight) for one in self.parts
        )
        self.spec: Any = joined_spec([one.store for one in self.parts])
        self.blocks: Sequence[BlockSize] = tuple(
            chain.from_iterable(one.store.blocks for one in self.parts)
        )
        self._starts = first_blocks(len(one.store.blocks) for one in self.parts)

    @property
    def targets(self) -> int:
        """How many targets the stores hold."""
        return sum(one.targets for one in self.blocks)

    @property
    def head(self) -> Any:
        """The teacher's output layer, which all stores of hidden states have in common."""
        return self.parts[0].store.head

    def describe(self) -> list[dict[str, Any]]:
        """What run.json says of each store."""
        return [
            {
                "name": name_of(one.store),
                "store": one.store.fingerprint,
                "teacher": one.store.spec.teacher.name,
                "weight": one.weight,
            }
            for one in self.parts
        ]

    def with_draw(self, draw: int) -> MixedStore:
        """The same stores, each read at the draw that it has for draw number `draw` of all.

        Those of a store with fewer repeats take turns.
        """
        repeats = self.spec.sparsifier.repeats
        temperature, repeat = divmod(draw, repeats)
        if not 0 <= draw < self.spec.sparsifier.draw_count:
            raise StoreError(
                "the stores do not hold that draw",
                place=self.uri,
                found=draw,
                allowed=f"0..{self.spec.sparsifier.draw_count - 1}",
            )

        def number(store: StoreLike) -> int:
            own = store.spec.sparsifier.repeats
            return temperature * own + repeat % own

        stores = [one.store.with_draw(number(one.store)) for one in self.parts]
        other = self._of(stores, damaged=self.damaged)
        other.draw = draw
        return other

    def without(self, damaged: Sequence[DamagedBlock]) -> MixedStore:
        """All the stores without the blocks `damaged`, in order of their numbers there.

        Raises CorruptionError where nothing is left of one.
        """
        whole = [one.store.without(()) for one in self.parts]
        starts = first_blocks(len(one.blocks) for one in whole)
        left = []
        for store, (start, stop) in zip(whole, pairwise(starts), strict=True):
            own = [one for one in damaged if start <= one.number < stop]
            left.append(
                store.without([replace(one, number=one.number - start) for one in own])
                if own
                else store
            )
        for one in left:
            if not len(one.blocks):
                raise CorruptionError("every block is damaged", place=name_of(one))
        return self._of(left, damaged=tuple(damaged))

    def ahead(self) -> Ahead:
        """What reads blocks of all stores while it fetches those that it is told to expect."""
        return _MixedAhead(self)

    def place_of(self, number: int) -> tuple[int, int]:
        """The number of the store that holds block `number`, and the block's number in it."""
        if not 0 <= number < len(self.blocks):
            raise IndexError(f"block {number} of stores of {len(self.blocks)}")
        part = bisect.bisect_right(self._starts, number) - 1
        return part, number - self._starts[part]

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of each document of block `number`, without its entries."""
        part, own = self.place_of(number)
        found: tuple[np.ndarray, np.ndarray] = self.parts[part].store.document_lengths(own)
        return found

    def read_block(self, number: int) -> DocumentBlock:
        """Block `number`, decoded and checked."""
        part, own = self.place_of(number)
        found: DocumentBlock = self.parts[part].store.read_block(own)
        return found

    def read_draws(self, number: int) -> Iterator[DocumentBlock]:
        """Block `number` at each draw of its store in turn."""
        part, own = self.place_of(number)
        found: Iterator[DocumentBlock] = self.parts[part].store.read_draws(own)
        return found

    def tokenizer_files(self) -> dict[str, bytes]:
        """The files of the first store's tokenizer, by name; ids mean the same in all."""
        files: dict[str, bytes] = getattr(self.parts[0].store, "tokenizer_files", dict)()
        return files

    def __len__(self) -> int:
        return sum(one.documents for one in self.blocks)

    def __iter__(self) -> Iterator[StoredDocument]:
        return chain.from_iterable(one.store for one in self.parts)

    def _of(self, stores: Sequence[Any], *, damaged: tuple[DamagedBlock, ...]) -> MixedStore:
        """Other views of the same stores, with their weights."""
        parts = [replace(one, store=store) for one, store in zip(self.parts, stores, strict=True)]
        return MixedStore(parts, damaged=damaged)


class _MixedAhead:
    """The blocks of several stores; those that are far away are read ahead."""

    def __init__(self, store: MixedStore) -> None:
        self._store = store
        self._readers = [reading_ahead(one.store) for one in store.parts]
        self.far = any(one.far for one in self._readers)

    def expect(self, number: int) -> None:
        """Block `number` is read soon, and once."""
        part, own = self._store.place_of(number)
        self._readers[part].expect(own)

    def begin(self, number: int) -> None:
        """Block `number` is read next, beside others that are begun."""
        part, own = self._store.place_of(number)
        begin_reading(self._readers[part], own)

    def expect_lengths(self, number: int) -> None:
        """The lengths of block `number` are asked for soon."""
        part, own = self._store.place_of(number)
        self._readers[part].expect_lengths(own)

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """As the store gives them."""
        part, own = self._store.place_of(number)
        return self._readers[part].document_lengths(own)

    def read_block(self, number: int) -> DocumentBlock:
        """As the store gives it."""
        part, own = self._store.place_of(number)
        return self._readers[part].read_block(own)


def name_of(store: Any) -> str:
    """How a message calls a store: by its place, else by its fingerprint.

    Args:
        store: A StoreLike.
    """
    return str(getattr(store, "uri", None) or f"store {store.fingerprint[:12]}")


def joined_spec(stores: Sequence[Any], *, averaged: bool = False) -> Any:
    """What a trainer reads of the specs of several stores, as one spec.

    Args:
        stores: Their targets are of one kind, with the same temperatures.
        averaged: Whether each document has the targets of all.
    """
    specs = [one.spec for one in stores]
    widest = max((one.sparsifier for one in specs), key=lambda one: one.k)
    repeats = lcm(*(one.sparsifier.repeats for one in specs))
    if repeats > widest.repeats:
        widest = replace(widest, options={**widest.options, "repeats": repeats})
    ends = _generation(stores)
    return _Spec(
        teacher=_Teachers(name=" + ".join(dict.fromkeys(one.teacher.name for one in specs))),
        tokenizer=specs[0].tokenizer,
        text=_Text(
            max_length=max(one.text.max_length for one in specs),
            sampler_logprobs=all(getattr(one.text, "sampler_logprobs", False) for one in specs),
        ),
        corpus=_Corpora(
            answers=tuple(
                chain.from_iterable(
                    getattr(getattr(one, "corpus", None), "answers", ()) for one in specs
                )
            )
        ),
        sparsifier=widest,
        labels_only=labels_only(specs[0]),
        states=getattr(specs[0], "states", None),
        provenance={GENERATION: ends} if ends else {},
        averaged=tuple(one.sparsifier for one in specs) if averaged else (),
    )


def _generation(stores: Sequence[Any]) -> dict[str, Any]:
    """How the teachers generate: what all say alike, and the ids that end a text of any of them."""
    told = [generation_of(one.spec, place=name_of(one)) for one in stores]
    alike = {
        name: value
        for name, value in told[0].items()
        if all(other.get(name) == value for other in told[1:])
    }
    found: set[int] = set()
    for one, own in zip(stores, told, strict=True):
        ids = own.get("eos_token_id", one.spec.tokenizer.eos_token_id)
        found |= set(ids if isinstance(ids, list) else [] if ids is None else [ids])
    if "eos_token_id" not in alike and found:
        alike["eos_token_id"] = sorted(found) if len(found) > 1 else found.pop()
    return alike
