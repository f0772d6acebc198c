"""A store as a read-only sequence of documents, verified as it is read."""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import TypeAlias, overload

import numpy as np

from logitstore.codec import Codec, codec_for
from logitstore.errors import (
    CorruptionError,
    StoreError,
)
from logitstore.format.manifest import BlockCounts, Commit, Manifest, store_fingerprint
from logitstore.format.spec import StoreSpec
from logitstore.store.containers import CONTAINERS, ShardReader, load_container
from logitstore.store.containers.base import fields_of
from logitstore.store.containers.limits import ShardLimits, check_sizes, shard_limits
from logitstore.store.layout import COMMITS, SPEC, TOKENIZER, StoreLayout
from logitstore.store.memory_limit import memory_limit
from logitstore.store.seal import seal_faults
from logitstore.store.storage import StorageLike
from logitstore.targets.documents import DocumentBlock, StoredDocument

__all__ = ["Store", "StoreLike", "as_store", "load_store", "open_store"]

StoreLike: TypeAlias = "Store | StorageLike"  # an open store, or what one is opened from

_TOKENIZER_CONFIG = "tokenizer_config.json"

# Decoded blocks kept for access by index: a block of 65,536 rows at K = 64 is 34 MB.
_CACHED_BLOCKS = 4
# Open shards kept: each holds its table of V ids and some 100 KB of indexes and metadata.
_SHARDS_BYTES, _SHARD_BYTES, _LEAST_SHARDS = 256 << 20, 100 << 10, 16
# What content that nobody wrote on purpose has been seen to raise below the explicit checks.
MALFORMED = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    OSError,
)


def open_store(
    uri: StorageLike, *, allow_partial: bool = False, max_memory: int | str | None = None
) -> Store:
    """The store at `uri`: a folder, a file:// URI, or a `Storage`.

    uri: a path, a URI or a `Storage`.
    allow_partial: whether an unsealed store is read as far as it goes.
    max_memory: what a block may take while it is read, in bytes or as in "8G"; None for half of the
        machine's memory. A shard with a larger block is refused before memory is set aside.

    An unsealed store is refused unless `allow_partial`: then it is read as far as its units are
    committed. Raises StoreError where there is no store, CorruptionError where it is damaged,
    SettingError for a URI that nothing serves.
    """
    store = load_store(uri, allow_partial=allow_partial, max_memory=max_memory)
    fault = next(seal_faults(store.layout, store.spec, store.commits, store.manifest), None)
    if fault is not None:
        raise fault
    return store


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
        raise _unsealed(source.uri)
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
        return replace(_load(layout, allow_partial=allow_partial), memory=memory)
    except MALFORMED as error:
        problem = f"the store's JSON is malformed: {error!r}"
        raise CorruptionError(problem, place=layout.uri) from error


def _load(layout: StoreLayout, *, allow_partial: bool) -> Store:
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
        raise _unsealed(layout.uri)
    commits = [layout.read_commit(unit) for unit in layout.read_plan().units]
    if layout.sealed() and None in commits:
        raise CorruptionError("a commit of a sealed store is missing", place=layout.place(COMMITS))
    return Store(
        layout=layout,
        spec=spec,
        commits=tuple(commit for commit in commits if commit is not None),
        manifest=layout.read_manifest() if layout.sealed() else None,
    )


def _unsealed(uri: str) -> StoreError:
    return StoreError(
        "the store is not finished: it has no manifest.json",
        place=uri,
        remedy="Run the same `logitstore dump` again to finish it; from Python, "
        "allow_partial=True reads what is there",
    )


def _at(place: str, error: CorruptionError) -> CorruptionError:
    """The same error, at a place that tells more."""
    whole = place if error.place is None else f"{place}, {error.place}"
    return CorruptionError(error.problem, place=whole, found=error.found, allowed=error.allowed)


def _asks_for_code(config: bytes) -> bool:
    try:
        return "auto_map" in json.loads(config)
    except (ValueError, RecursionError, TypeError):
        return False  # transformers will say what is wrong with it


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Store(Sequence[StoredDocument]):
    """The documents of a store, in corpus order: `len`, `[i]`, iteration, and whole blocks.

    It pickles, as what it was opened from: the other process opens shards of its own.
    """

    layout: StoreLayout
    spec: StoreSpec
    commits: tuple[Commit, ...]
    manifest: Manifest | None  # None: not sealed
    draw: int = 0  # of those that each target has, the one that is read
    memory: int | None = None  # bytes that reading a block may set aside; None: any number

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
        return self.layout.stored_bytes(self.commits)

    def tokenizer_files(self) -> dict[str, bytes]:
        """The tokenizer that the store's ids belong to: the files that transformers saves, by name.

        Written into a folder they are what `AutoTokenizer.from_pretrained` reads.
        """
        names = self.layout.tokenizer_names()
        files = {name.removeprefix(TOKENIZER): self.layout.read_small(name) for name in names}
        for name, data in files.items():
            if name == _TOKENIZER_CONFIG and _asks_for_code(data):
                raise CorruptionError(
                    "the tokenizer asks for code of its own to be run",
                    place=self.layout.place(f"{TOKENIZER}{name}"),
                    found="auto_map",
                    remedy="Dump with a tokenizer that transformers knows",
                )
        return files

    @cached_property
    def fingerprint(self) -> str:
        """Names the content: the same dump twice has the same one."""
        if self.manifest is not None:
            return self.manifest.fingerprint
        return store_fingerprint(self.spec, self.commits)

    @cached_property
    def blocks(self) -> tuple[BlockCounts, ...]:
        """Documents, tokens and targets of each block, in store order."""
        return tuple(block for commit in self.commits for block in commit.blocks)

    @property
    def targets(self) -> int:
        """How many targets the store holds."""
        return sum(block.targets for block in self.blocks)

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

    def read_block(self, number: int) -> DocumentBlock:
        """Block `number`, decoded. Raises CorruptionError that names the file.

        number: of the block, from 0.

        Raises StoreError where it takes more memory than reading may.
        """
        commit, within = self._place(number)
        with self._naming(commit, within):
            shard = self._shard(commit)
            columns = shard.block(within, draw=self.draw)
            return self._codec.decode(columns, shard.tables, draw=self.draw)

    def read_draws(self, number: int) -> Iterator[DocumentBlock]:
        """Block `number` at each draw in turn, whatever `draw` is; its files are read once.

        number: of the block, from 0.

        Raises what `read_block` raises.
        """
        commit, within = self._place(number)
        with self._naming(commit, within):
            shard = self._shard(commit)
            columns = shard.block(within)
            for draw in range(self.spec.sparsifier.draw_count):
                yield self._codec.decode(columns, shard.tables, draw=draw)

    @contextmanager
    def _naming(self, commit: Commit, within: int) -> Iterator[None]:
        """What reading a block raises, with the block as its place."""
        place = f"{self._shard_place(commit)}, block {within}"
        try:
            yield
        except MALFORMED as error:
            raise CorruptionError(f"block is malformed: {error!r}", place=place) from error
        except CorruptionError as error:
            raise _at(place, error) from error

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets (int64) of each document of block `number`; entries are not read.

        number: of the block, from 0.
        """
        commit, within = self._place(number)
        try:
            documents_DC = self._shard(commit).documents(within)
            return documents_DC[:, 4].astype(np.int64), documents_DC[:, 5].astype(np.int64)
        except MALFORMED as error:
            place = f"{self._shard_place(commit)}, block {within}"
            raise CorruptionError(f"documents are malformed: {error!r}", place=place) from error

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
        for number in range(len(self.blocks)):
            yield from self.read_block(number).split()

    @cached_property
    def _document_stops(self) -> list[int]:
        return list(accumulate(block.documents for block in self.blocks))

    @cached_property
    def _read_cached(self) -> Callable[[int], DocumentBlock]:
        return lru_cache(_CACHED_BLOCKS)(self.read_block)

    @cached_property
    def _codec(self) -> Codec:
        return codec_for(self.spec)

    def _shard(self, commit: Commit) -> ShardReader:
        return self._open_cached(commit.unit)

    @cached_property
    def _open_cached(self) -> Callable[[str], ShardReader]:
        """Open shards, the least recently used of which are let go: a store may have any number."""
        commits = {commit.unit: commit for commit in self.commits}
        each = _SHARD_BYTES + 4 * self.spec.tokenizer.vocab_size
        most = max(_LEAST_SHARDS, _SHARDS_BYTES // each)
        return lru_cache(most)(lambda unit: self._open_shard(commits[unit]))

    def check_sizes(self, commit: Commit) -> None:
        """Raise CorruptionError where the counts and sizes of a commit cannot all be true.

        commit: of this store.

        Raises StoreError for a block that takes more memory than reading may.
        """
        if commit.attempt is not None:
            check_sizes(
                self._limits,
                commit.blocks,
                commit.objects,
                columns=len(self._codec.entries),
                place=self._shard_place(commit),
            )

    @cached_property
    def _limits(self) -> ShardLimits:
        sampler_logprobs = self.spec.text.sampler_logprobs
        return shard_limits(self._codec, sampler_logprobs=sampler_logprobs, memory=self.memory)

    def _open_shard(self, commit: Commit) -> ShardReader:
        self.check_sizes(commit)
        shard = load_container(self.spec.container).open(
            self.layout.storage,
            self.layout.shard_prefix(commit),
            blocks=commit.blocks,
            objects=commit.objects,
            entries=self._codec.entries,
            limits=self._limits,
        )
        try:
            self._codec.check_tables(shard.tables)
        except CorruptionError as error:
            raise _at(self._shard_place(commit), error) from error
        return shard

    def _shard_place(self, commit: Commit) -> str:
        return self.layout.place(self.layout.shard_prefix(commit).rstrip("/"))

    def _place(self, number: int) -> tuple[Commit, int]:
        """The commit that holds block `number` of the store, and the block's number in it."""
        stops = self._block_stops
        if not 0 <= number < len(self.blocks):
            raise IndexError(f"block {number} of a store of {len(self.blocks)}")
        unit = bisect.bisect_right(stops, number)
        return self.commits[unit], number - (stops[unit - 1] if unit else 0)

    @cached_property
    def _block_stops(self) -> list[int]:
        return list(accumulate(len(commit.blocks) for commit in self.commits))
