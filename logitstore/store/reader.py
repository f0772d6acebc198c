"""A store as a read-only sequence of documents, verified as it is read."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np

from logitstore.codec import Codec, codec_for
from logitstore.errors import CorruptionError, StoreError
from logitstore.format.manifest import BlockCounts, Commit, Manifest, store_fingerprint
from logitstore.format.spec import FORMAT, StoreSpec
from logitstore.store.containers import CONTAINERS, ShardReader
from logitstore.store.files import sha256_of
from logitstore.store.layout import Layout
from logitstore.targets.documents import DocumentBlock, StoredDocument

__all__ = ["Store", "load_store", "open_store", "seal_faults"]

# Decoded blocks kept for access by index: a block of 65,536 rows at K = 64 is 34 MB.
_CACHED_BLOCKS = 4
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


def open_store(uri: str | Path, *, allow_partial: bool = False) -> Store:
    """The store at `uri`, a folder.

    An unsealed store is refused unless `allow_partial`: then it is read as far as its units are
    committed. Raises StoreError where there is no store, CorruptionError where it is damaged.
    """
    store = load_store(uri, allow_partial=allow_partial)
    fault = next(seal_faults(store), None)
    if fault is not None:
        raise fault
    return store


def load_store(uri: str | Path, *, allow_partial: bool = False) -> Store:
    """The store at `uri` as its small objects tell of it, not compared with its manifest."""
    try:
        return _load(Layout(Path(uri)), allow_partial=allow_partial)
    except MALFORMED as error:
        raise CorruptionError(f"the store's JSON is malformed: {error!r}", place=uri) from error


def _load(layout: Layout, *, allow_partial: bool) -> Store:
    spec = layout.read_spec()
    codec_for(spec)
    if spec.container not in CONTAINERS:
        raise CorruptionError(
            "unknown container",
            place=layout.spec_path,
            found=spec.container,
            allowed=", ".join(CONTAINERS),
        )
    if not layout.sealed() and not allow_partial:
        raise StoreError(
            "the store is not finished: it has no manifest.json",
            place=layout.folder,
            remedy="Run the same `logitstore dump` again to finish it; from Python, "
            "allow_partial=True reads what is there",
        )
    commits = [layout.read_commit(unit) for unit in layout.read_plan().units]
    if layout.sealed() and None in commits:
        raise CorruptionError("a commit of a sealed store is missing", place=layout.commits)
    return Store(
        layout=layout,
        spec=spec,
        commits=tuple(commit for commit in commits if commit is not None),
        manifest=layout.read_manifest() if layout.sealed() else None,
    )


def seal_faults(store: Store) -> Iterator[CorruptionError]:
    """Where the small objects of a sealed store are not the ones that its manifest seals.

    Their hashes, the totals and the fingerprint are compared, so a changed digit of the spec cannot
    change what the shards are decoded to.
    """
    manifest = store.manifest
    if manifest is None:
        return
    place = store.layout.manifest_path
    shards = {
        f"data/{commit.folder}/{one.path}": one.sha256
        for commit in store.commits
        for one in commit.objects
    }
    layout = store.layout
    small = {path.relative_to(layout.folder).as_posix() for path in layout.small_files()}
    for name in sorted(set(manifest.objects) ^ small ^ set(shards)):
        yield CorruptionError("store and manifest do not hold the same", place=place, found=name)
    for name, sha256 in manifest.objects.items():
        found = shards.get(name) or _hash(layout.folder / name)
        if found != sha256:
            yield CorruptionError(
                "file is missing or has changed since the store was sealed",
                place=store.folder / name,
                found=f"sha256 {found}",
                allowed=sha256,
            )
    facts: dict[str, int | str] = {
        name: sum(getattr(block, name) for block in store.blocks)
        for name in ("documents", "tokens", "targets")
    }
    stored = sum(one.size for commit in store.commits for one in commit.objects)
    own = [path for path in layout.small_files() if layout.tokenizer not in path.parents]
    facts |= {
        "bytes": stored + sum(path.stat().st_size for path in own),
        "format": FORMAT,
        "fingerprint": fingerprint_of(store),
    }
    for name, fact in facts.items():
        if getattr(manifest, name) != fact:
            found = getattr(manifest, name)
            yield CorruptionError(f"{name} is another", place=place, found=found, allowed=fact)


def fingerprint_of(store: Store) -> str:
    """The fingerprint by what the store holds, whatever its manifest says."""
    return store_fingerprint(store.spec, store.commits)


def _hash(path: Path) -> str | None:
    return sha256_of(path) if path.is_file() else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Store(Sequence[StoredDocument]):
    """The documents of a store, in corpus order: `len`, `[i]`, iteration, and whole blocks."""

    layout: Layout
    spec: StoreSpec
    commits: tuple[Commit, ...]
    manifest: Manifest | None  # None: not sealed
    draw: int = 0  # of those that each target has, the one that is read

    @property
    def folder(self) -> Path:
        """Where the store lies."""
        return self.layout.folder

    @property
    def tokenizer_folder(self) -> Path:
        """The tokenizer that the store's ids belong to, as transformers saves it."""
        return self.layout.tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """Names the content: the same dump twice has the same one."""
        if self.manifest is not None:
            return self.manifest.fingerprint
        return fingerprint_of(self)

    @cached_property
    def blocks(self) -> tuple[BlockCounts, ...]:
        """Documents, tokens and targets of each block, in store order."""
        return tuple(block for commit in self.commits for block in commit.blocks)

    @property
    def targets(self) -> int:
        """How many targets the store holds."""
        return sum(block.targets for block in self.blocks)

    def with_draw(self, draw: int) -> Store:
        """The same store, read at draw number `draw`; see `SparsifierSpec.draw_number`."""
        if not 0 <= draw < self.spec.sparsifier.draws:
            raise StoreError(
                "the store does not hold that draw",
                place=self.folder,
                found=draw,
                allowed=f"0..{self.spec.sparsifier.draws - 1}",
            )
        return replace(self, draw=draw)

    def read_block(self, number: int) -> DocumentBlock:
        """Block `number`, decoded. Raises CorruptionError that names the file."""
        commit, within = self._place(number)
        try:
            shard = self._shard(commit)
            columns = shard.block(within, draw=self.draw)
            return self._codec.decode(columns, shard.tables, draw=self.draw)
        except MALFORMED as error:
            place = f"{self.layout.shard(commit)}, block {within}"
            raise CorruptionError(f"block is malformed: {error!r}", place=place) from error
        except CorruptionError as error:
            place = f"{self.layout.shard(commit)}, block {within}, {error.place}"
            raise CorruptionError(
                error.problem, place=place, found=error.found, allowed=error.allowed
            ) from error

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets (int64) of each document of block `number`; entries are not read."""
        commit, within = self._place(number)
        try:
            documents_DC = self._shard(commit).documents(within)
            return documents_DC[:, 4].astype(np.int64), documents_DC[:, 5].astype(np.int64)
        except MALFORMED as error:
            place = f"{self.layout.shard(commit)}, block {within}"
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

    @cached_property
    def _shards(self) -> dict[str, ShardReader]:
        return {}

    def _shard(self, commit: Commit) -> ShardReader:
        if commit.unit not in self._shards:
            container = CONTAINERS[self.spec.container]
            shard = container.open(
                self.layout.shard(commit),
                blocks=commit.blocks,
                objects=commit.objects,
                entries=self._codec.entries,
            )
            self._codec.check_tables(shard.tables)
            self._shards[commit.unit] = shard
        return self._shards[commit.unit]

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
