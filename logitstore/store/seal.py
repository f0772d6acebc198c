"""The seal: whether the objects that a manifest names are those that were sealed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError, LogitStoreError, ObjectMissing, StorageError
from logitstore.format.manifest import Totals, store_fingerprint
from logitstore.format.states import HEAD
from logitstore.store.layout import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from logitstore.format.manifest import Commit, Manifest
    from logitstore.format.spec import StoreSpec
    from logitstore.format.states import HeadSpec
    from logitstore.store.layout import StoreLayout

__all__ = ["seal_faults", "total_faults"]


def seal_faults(
    layout: StoreLayout, spec: StoreSpec, commits: Sequence[Commit], manifest: Manifest | None
) -> Iterator[LogitStoreError]:
    """Where the objects that a sealed store is opened by are not the ones that its manifest seals.

    layout: where the store lies.
    spec: as store.json has it.
    commits: of its units, as they are read; only those of an old format are looked at.
    manifest: as it is read; None for a store that is not sealed, which has no such fault.

    Hashes of store.json, plan.json and the tokenizer are compared, so a changed digit of the spec
    cannot change what the shards are decoded to. Of the output layer beside hidden states it is the
    size. Before logitstore/4 the manifest names each
    object, and its commits and totals are compared here as well. What cannot be read for now is a
    StorageError among the faults.
    """
    if manifest is None:
        return
    place = layout.place(MANIFEST)
    if manifest.format != spec.format:
        yield _differs("format", manifest.format, spec.format, place=place)
    shards: dict[str, str] = {}
    listed: set[str] = set()
    if manifest.units is None:
        listed = {layout.commit_name(commit.unit) for commit in commits}
        shards = {
            f"{layout.shard_prefix(commit)}{one.path}": one.sha256
            for commit in commits
            for one in commit.objects
        }
    try:
        listed.update(layout.small_names(spec))
    except StorageError as error:
        yield error
    else:
        yield from _name_faults(layout, manifest, listed | set(shards))
    if spec.states is not None and spec.states.head is not None:
        # Of a large vocabulary it is a gigabyte: its content is hashed when it is loaded.
        shards[HEAD] = spec.states.head.sha256
        yield from _head_faults(layout, spec.states.head)
    yield from _hash_faults(layout, manifest.objects, shards)
    if manifest.units is None:
        yield from total_faults(layout, spec, commits, manifest)


def _name_faults(
    layout: StoreLayout, manifest: Manifest, named: set[str]
) -> Iterator[LogitStoreError]:
    """Where the manifest names other files than the store has; what is missing is told by hash."""
    place = layout.place(MANIFEST)
    for name in sorted(named ^ set(manifest.objects)):
        if name in named:
            yield CorruptionError("the manifest does not name a file", place=place, found=name)
            continue
        try:
            there = layout.storage.size(name) is not None
        except StorageError as error:
            yield error
            continue
        if there:
            yield CorruptionError("the manifest names a file too many", place=place, found=name)


def _hash_faults(
    layout: StoreLayout, objects: Mapping[str, str], shards: Mapping[str, str]
) -> Iterator[LogitStoreError]:
    for name, sha256 in objects.items():
        try:
            found = shards.get(name) or _hash(layout, name)
        except StorageError as error:
            yield error
            continue
        if found is None:
            yield CorruptionError("file is missing", place=layout.place(name))
        elif found != sha256:
            yield CorruptionError(
                "file has changed since the store was sealed",
                place=layout.place(name),
                found=f"sha256 {found}",
                allowed=sha256,
            )


def _head_faults(layout: StoreLayout, head: HeadSpec) -> Iterator[LogitStoreError]:
    """Where the output layer is not there, or of another size."""
    try:
        size = layout.storage.size(HEAD)
    except StorageError as error:
        yield error
        return
    if size is None:
        yield CorruptionError("file is missing", place=layout.place(HEAD))
    elif size != head.size:
        yield CorruptionError(
            "file is of another size",
            place=layout.place(HEAD),
            found=f"{size} bytes",
            allowed=f"{head.size} bytes",
        )


def total_faults(
    layout: StoreLayout, spec: StoreSpec, commits: Iterable[Commit], manifest: Manifest
) -> Iterator[LogitStoreError]:
    """Where the totals and the fingerprint of a manifest are not those of its commits.

    layout: where the store lies.
    spec: as store.json has it.
    commits: all of them, as they are read; gone through once.
    manifest: as it is read.
    """
    place = layout.place(MANIFEST)
    identities: list[dict[str, Any]] = []
    sizes: list[int] = []

    def seen() -> Iterator[Commit]:
        for commit in commits:
            identities.append(commit.data_identity())
            sizes.append(layout.unit_bytes(commit))
            yield commit

    try:
        totals = Totals.of(seen())
        size = layout.stored_bytes(()) + sum(sizes)
    except StorageError as error:
        yield error
        return
    names = ["documents", "tokens", "targets"]
    if manifest.units is not None:
        names += ["skipped", "column_bytes", "sums"]
    facts: dict[str, Any] = {name: getattr(totals, name) for name in names}
    facts |= {"fingerprint": store_fingerprint(spec, identities), "bytes": size}
    for name, fact in facts.items():
        if getattr(manifest, name) != fact:
            yield _differs(name, getattr(manifest, name), fact, place=place)


def _differs(name: str, found: object, allowed: object, *, place: str) -> CorruptionError:
    return CorruptionError(f"{name} is another", place=place, found=found, allowed=allowed)


def _hash(layout: StoreLayout, name: str) -> str | None:
    try:
        return hashlib.sha256(layout.read_small(name)).hexdigest()
    except ObjectMissing:
        return None
