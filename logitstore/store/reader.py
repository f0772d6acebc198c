"""A store as a read-only sequence of documents, verified as it is read."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import TypeAlias, overload

import numpy as np

from logitstore.codec import codec_for
from logitstore.errors import CorruptionError, StoreError
from logitstore.format.blocks import BlockTable
from logitstore.format.columns import Columns
from logitstore.format.json import fingerprint
from logitstore.format.manifest import Commit, Manifest, Totals, store_fingerprint
from logitstore.format.spec import StoreSpec
from logitstore.progress import OnProgress
from logitstore.store.ahead import ReadAhead
from logitstore.store.commits import SealedCommits
from logitstore.store.containers import CONTAINERS
from logitstore.store.containers.base import Fetched, fields_of
from logitstore.store.head import StoredHead
from logitstore.store.layout import COMMITS, SPEC, StoreLayout
from logitstore.store.memory_limit import memory_limit
from logitstore.store.open_shards import MALFORMED, OpenShards
from logitstore.store.seal import seal_faults
from logitstore.store.sound import (
    DamagedBlock,
    find_damaged,
    most_damaged,
    refuse_more_damaged,
    refuse_other_blocks,
)
from logitstore.store.storage import StorageLike
from logitstore.store.tokenizer_files import read_tokenizer
from logitstore.store.way_out import DAMAGED, name_damage, no_memory, telling_the_way_out
from logitstore.targets.documents import DocumentBlock, StoredDocument

__all__ = ["Store", "StoreLike", "as_store", "load_store", "open_store"]

StoreLike: TypeAlias = "Store | StorageLike"  # an open store, or what one is opened from

# Decoded blocks kept for access by index: a block of 65,536 rows at K = 64 is 34 MB.
_CACHED_BLOCKS = 4


def open_store(
    uri: StorageLike,
    *,
    allow_partial: bool = False,
    skip_damaged: bool | int = False,
    max_memory: int | str | None = None,
) -> Store:
    """The store at `uri`: a folder, a file:// URI, or a `Storage`.

    uri: a path, a URI or a `Storage`.
    allow_partial: whether an unsealed store is read as far as it goes.
    skip_damaged: whether every block is read, and those that are damaged are left out, as `sound`
        does: True for any number of them, or the most.
    max_memory: what a block may take while it is read, in bytes or as in "8G"; None for half of the
        machine's memory. A shard with a larger block is refused before memory is set aside.

    An unsealed store is refused unless `allow_partial`: then it is read as far as its units are
    committed. Raises StoreError where there is no store, CorruptionError where it is damaged,
    SettingError for a URI that nothing serves.
    """
    store = load_store(uri, allow_partial=allow_partial, max_memory=max_memory)
    fault = next(seal_faults(store.layout, store.spec, store.commits, store.manifest), None)
    if fault is not None:
        with telling_the_way_out(store.layout):
            raise fault
    return store if skip_damaged is False else store.sound(most_damaged(skip_damaged))


def as_store(
    source: StoreLike, *, allow_partial: bool = False, max_memory: int | str | None = None
) -> Store:
    """The store that `source` is, or the one that is opened from it.

    source: a `Store`, which is returned as it is, or what `open_store` takes.
    allow_partial: whether an unsealed store is taken too.
    max_memory: as `open_store` takes it; an open `Store` keeps its own.

    Raises what `open_store` raises, also for an open `Store` that is not sealed.
    """
    if not isinstance(source, Store):
        return open_store(source, allow_partial=allow_partial, max_memory=max_memory)
    if source.manifest is None and not allow_partial:
        raise unsealed(source.uri)
    return source


def load_store(
    uri: StorageLike, *, allow_partial: bool = False, max_memory: int | str | None = None
) -> Store:
    """The store at `uri` as its small objects tell of it, not compared with its manifest.

    uri: a path, a URI or a `Storage`.
    allow_partial: whether an unsealed store is read as far as it goes.
    max_memory: as `open_store` takes it.
    """
    layout, memory = StoreLayout.at(uri), memory_limit(max_memory)
    try:
        with telling_the_way_out(layout):
            return _load(layout, allow_partial=allow_partial, memory=memory)
    except MALFORMED as error:
        problem = f"the store's JSON is malformed: {error!r}"
        raise CorruptionError(problem, place=layout.uri) from error


def _load(layout: StoreLayout, *, allow_partial: bool, memory: int) -> Store:
    spec = layout.read_spec()
    codec_for(spec)
    if spec.container not in CONTAINERS:
        raise CorruptionError(
            "unknown container",
            place=layout.place(SPEC),
            found=spec.container,
            allowed=", ".join(CONTAINERS),
        )
    if not layout.sealed() and not allow_partial:
        raise unsealed(layout.uri)
    manifest = layout.read_manifest() if layout.sealed() else None
    commits = _commits(layout, manifest)
    shards = OpenShards(layout=layout, spec=spec, commits=commits, memory=memory)
    return Store(layout=layout, spec=spec, commits=commits, manifest=manifest, shards=shards)


def _commits(layout: StoreLayout, manifest: Manifest | None) -> Sequence[Commit]:
    """Those of the store's units: read when asked for where the manifest names them, else now."""
    if manifest is not None and manifest.units is not None:
        return SealedCommits(layout=layout, manifest=manifest)
    commits = [layout.read_commit(unit) for unit in layout.read_plan().units]
    if manifest is not None and None in commits:
        raise CorruptionError("a commit of a sealed store is missing", place=layout.place(COMMITS))
    return tuple(commit for commit in commits if commit is not None)


def unsealed(uri: str) -> StoreError:
    """What is said of a store that is not finished.

    uri: where it lies.
    """
    return StoreError(
        "the store is not finished: it has no manifest.json",
        place=uri,
        remedy="Run the command that wrote it again to finish it, such as `logitstore dump`; from "
        "Python, "
        "allow_partial=True reads what is there",
    )


@contextmanager
def _naming(place: str, within: int) -> Iterator[None]:
    """What reading a block raises, with the block as its place."""
    try:
        yield
    except MemoryError as error:
        raise no_memory(place) from error
    except MALFORMED as error:
        raise CorruptionError(
            f"block is malformed: {error!r}", place=f"{place}, block {within}", remedy=DAMAGED
        ) from error
    except CorruptionError as error:
        name_damage(error, place, block=within)
        raise


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Store(Sequence[StoredDocument]):
    """The documents of a store, in corpus order: `len`, `[i]`, iteration, and whole blocks.

    It pickles, as what it was opened from: the other process opens shards of its own.
    """

    layout: StoreLayout
    spec: StoreSpec
    commits: Sequence[Commit]  # of units in the plan's order; read when asked for, where sealed
    manifest: Manifest | None  # None: not sealed
    shards: OpenShards
    draw: int = 0  # of those that each target has, the one that is read
    damaged: tuple[DamagedBlock, ...] = ()  # left out; all other blocks are numbered anew

    __getstate__ = fields_of

    def __repr__(self) -> str:
        state = "sealed" if self.manifest is not None else "not sealed"
        return (
            f"<Store {self.uri!r}: {len(self):,} documents, {self.targets:,} targets, "
            f"{self.spec.sparsifier.name}, {self.spec.container}, {state}>"
        )

    @property
    def uri(self) -> str:
        """Where the store lies."""
        return self.layout.uri

    @cached_property
    def stored_bytes(self) -> int:
        """Every object of the store but the tokenizer, the README and the manifest."""
        if self.manifest is not None:
            return self.manifest.bytes
        return self.layout.stored_bytes(self.commits)

    def tokenizer_files(self) -> dict[str, bytes]:
        """The tokenizer that the store's ids belong to: the files that transformers saves, by name.

        Written into a folder they are what `AutoTokenizer.from_pretrained` reads.
        """
        return read_tokenizer(self.layout, self.spec)

    @property
    def head(self) -> StoredHead:
        """The teacher's output layer, of a store with hidden states; see `log_probs`.

        Raises StoreError for a store without it.
        """
        if self.spec.states is None or self.spec.states.head is None:
            raise StoreError(
                "the store keeps no hidden states, which whole distributions are made of",
                place=self.uri,
                found=f"--sparsify {self.spec.sparsifier.name}",
                remedy="Dump with --sparsify hidden",
            )
        return StoredHead(self.layout, self.spec)

    def log_probs(
        self, document: StoredDocument, *, temperature: float = 1.0, rows: int | None = None
    ) -> Iterator[np.ndarray]:
        """float32 [R', V], nats: the teacher's whole distributions of a document's counted tokens.

        document: of this store, which must keep hidden states.
        temperature: T.
        rows: R', the most that are in memory at a time; None for what takes 8 MiB.

        Raises StoreError for a store without hidden states, CorruptionError for a damaged one.
        """
        return self.head.log_probs(document.targets, temperature=temperature, rows=rows)

    @cached_property
    def fingerprint(self) -> str:
        """Names the content: the same dump twice has the same one.

        Without some blocks it is another one, made of that of the whole and of their numbers.
        """
        if self.damaged:
            return fingerprint(
                {"store": self._whole.fingerprint, "without": [one.number for one in self.damaged]}
            )
        if self.manifest is not None:
            return self.manifest.fingerprint
        return store_fingerprint(self.spec, (one.data_identity() for one in self.commits))

    @cached_property
    def blocks(self) -> BlockTable:
        """Documents, tokens and targets of each block, in store order."""
        if self.damaged:
            return self._whole.blocks.without([one.number for one in self.damaged])
        if self.manifest is not None and self.manifest.blocks is not None:
            return self.manifest.blocks
        return BlockTable.of(block for commit in self.commits for block in commit.blocks)

    @cached_property
    def totals(self) -> Totals:
        """What its commits add up to: as the manifest has it, where it does."""
        manifest = self.manifest
        if manifest is None or manifest.units is None:
            return Totals.of(self.commits)
        return Totals(**{one.name: getattr(manifest, one.name) for one in fields(Totals)})

    @property
    def targets(self) -> int:
        """How many targets the store holds."""
        return int(self.blocks.targets_B.sum())

    def with_draw(self, draw: int) -> Store:
        """The same store, read at draw number `draw`; see `SparsifierSpec.draw_number`.

        draw: its number, from 0.
        """
        if not 0 <= draw < self.spec.sparsifier.draw_count:
            raise StoreError(
                "the store does not hold that draw",
                place=self.uri,
                found=draw,
                allowed=f"0..{self.spec.sparsifier.draw_count - 1}",
            )
        return replace(self, draw=draw)

    def sound(self, most: int | None = None, *, on_progress: OnProgress | None = None) -> Store:
        """The store without its damaged blocks, which are found by reading every block once.

        most: the number of damaged blocks that may be left out; None for any.
        on_progress: told how far it is.

        `damaged` names them. `blocks`, `len` and every index count what is left. Raises
        CorruptionError where more blocks are damaged, or all; StorageError where the storage
        refuses for now, which is no damage.
        """
        damaged = find_damaged(self._whole, on_progress=on_progress)
        refuse_more_damaged(self._whole, damaged, most=most)
        return self.without(damaged)

    def without(self, damaged: Sequence[DamagedBlock]) -> Store:
        """The whole store without the blocks `damaged`, in order of their numbers there."""
        refuse_other_blocks(self._whole, damaged)
        return replace(self, damaged=tuple(damaged))

    @cached_property
    def _whole(self) -> Store:
        return replace(self, damaged=()) if self.damaged else self

    @cached_property
    def _numbers(self) -> np.ndarray:
        """The numbers that the blocks have in the whole store."""
        left_out = [one.number for one in self.damaged]
        return np.delete(np.arange(len(self._whole.blocks)), left_out)

    def read_block(self, number: int, *, fetched: Fetched | None = None) -> DocumentBlock:
        """Block `number`, decoded. Raises CorruptionError that names the file.

        number: of the block, from 0.
        fetched: what `fetch_block` gave for it, if that was done.

        Raises StoreError where it takes more memory than reading may.
        """
        unit, within = self._place(number)
        shard, place = self.shards.of_unit(unit)
        with _naming(place, within):
            columns = shard.block(within, draw=self.draw, fetched=fetched)
            return self.shards.codec.decode(columns, shard.tables, draw=self.draw)

    def fetch_block(self, number: int, *, all_draws: bool = False) -> Fetched:
        """The bytes that reading block `number` takes: far away that is most of the time.

        number: of the block, from 0.
        all_draws: whether `read_draws` is to read it, rather than `read_block`.

        Raises what `read_block` raises.
        """
        unit, within = self._place(number)
        shard, place = self.shards.of_unit(unit)
        with _naming(place, within):
            return shard.fetch(within, draw=None if all_draws else self.draw)

    def ahead(self) -> ReadAhead:
        """What reads blocks of this store while it fetches those that it is told to expect."""
        return ReadAhead(self)

    def read_draws(self, number: int, *, fetched: Fetched | None = None) -> Iterator[DocumentBlock]:
        """Block `number` at each draw in turn, whatever `draw` is; its files are read once.

        number: of the block, from 0.
        fetched: what `fetch_block` gave for it with all draws, if that was done.

        Raises what `read_block` raises.
        """
        unit, within = self._place(number)
        shard, place = self.shards.of_unit(unit)
        with _naming(place, within):
            columns = shard.block(within, fetched=fetched)
            for draw in range(self.spec.sparsifier.draw_count):
                yield self.shards.codec.decode(columns, shard.tables, draw=draw)

    def read_columns(self, number: int) -> tuple[Columns, Mapping[str, np.ndarray]]:
        """Block `number` as the integers that its codec made, and the tables of its shard.

        number: of the block, from 0.

        Raises what `read_block` raises.
        """
        unit, within = self._place(number)
        shard, place = self.shards.of_unit(unit)
        with _naming(place, within):
            return shard.block(within), shard.tables

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets (int64) of each document of block `number`; entries are not read.

        number: of the block, from 0.
        """
        documents_DC = self.read_documents(number)
        return documents_DC[:, 4].astype(np.int64), documents_DC[:, 5].astype(np.int64)

    def read_documents(self, number: int) -> np.ndarray:
        """uint64 [D, C]: the table of documents of block `number`; see `DOCUMENT_COLUMNS`.

        number: of the block, from 0.
        """
        unit, within = self._place(number)
        shard, place = self.shards.of_unit(unit)
        with _naming(place, within):
            return shard.documents(within)

    def unit_of(self, number: int) -> int:
        """The number of the work unit that block `number` belongs to: its place in `commits`."""
        return self._place(number)[0]

    def __len__(self) -> int:
        return self._document_stops[-1] if self._document_stops else 0

    @overload
    def __getitem__(self, index: int) -> StoredDocument: ...
    @overload
    def __getitem__(self, index: slice) -> list[StoredDocument]: ...

    def __getitem__(self, index: int | slice) -> StoredDocument | list[StoredDocument]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not hasattr(index, "__index__"):
            raise TypeError(
                "the documents of a store are numbered: the index is an integer or a slice, "
                f"not {type(index).__name__}"
            )
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"document {index} of a store of {len(self)}")
        number = bisect.bisect_right(self._document_stops, place)
        start = self._document_stops[number - 1] if number else 0
        return self._read_cached(number).document(place - start)

    def __iter__(self) -> Iterator[StoredDocument]:
        ahead = self.ahead()
        for number in ahead.in_turn(range(len(self.blocks))):
            yield from ahead.read_block(number).split()

    @cached_property
    def _document_stops(self) -> list[int]:
        stops: list[int] = np.cumsum(self.blocks.documents_B).tolist()
        return stops

    @cached_property
    def _read_cached(self) -> Callable[[int], DocumentBlock]:
        return lru_cache(_CACHED_BLOCKS)(self.read_block)

    def _place(self, number: int) -> tuple[int, int]:
        """The number of the unit that holds block `number` of the store, and the block's in it."""
        stops = self._block_stops
        if not 0 <= number < len(self.blocks):
            raise IndexError(f"block {number} of a store of {len(self.blocks)}")
        number = int(self._numbers[number]) if self.damaged else number
        unit = bisect.bisect_right(stops, number)
        return unit, number - (stops[unit - 1] if unit else 0)

    @cached_property
    def _block_stops(self) -> list[int]:
        if self.manifest is not None and self.manifest.units is not None:
            stops: list[int] = np.cumsum(self.manifest.units.blocks_U).tolist()
            return stops
        return list(accumulate(len(commit.blocks) for commit in self.commits))
