"""The seal: whether the small objects of a store are those that its manifest names."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from logitstore.errors import CorruptionError, LogitStoreError, ObjectMissing, StorageError
from logitstore.format.manifest import store_fingerprint
from logitstore.store.layout import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logitstore.format.manifest import Commit, Manifest
    from logitstore.format.spec import StoreSpec
    from logitstore.store.layout import StoreLayout

__all__ = ["seal_faults"]


def seal_faults(
    layout: StoreLayout, spec: StoreSpec, commits: Sequence[Commit], manifest: Manifest | None
) -> Iterator[LogitStoreError]:
    """Where the small objects of a sealed store are not the ones that its manifest seals.

    layout: where the store lies.
    spec: as store.json has it.
    commits: of its units, as they are read.
    manifest: as it is read; None for a store that is not sealed, which has no such fault.

    Their hashes, the totals and the fingerprint are compared, so a changed digit of the spec cannot
    change what the shards are decoded to. What cannot be read for now is a StorageError among them.
    """
    if manifest is None:
        return
    place = layout.place(MANIFEST)
    shards = {
        f"{layout.shard_prefix(commit)}{one.path}": one.sha256
        for commit in commits
        for one in commit.objects
    }
    try:
        small = set(layout.small_names(commits))
    except StorageError as error:
        yield error
    else:
        for name in sorted(set(manifest.objects) ^ small ^ set(shards)):
            yield CorruptionError(
                "store and manifest do not hold the same", place=place, found=name
            )
    for name, sha256 in manifest.objects.items():
        try:
            found = shards.get(name) or _hash(layout, name)
        except StorageError as error:
            yield error
            continue
        if found != sha256:
            yield CorruptionError(
                "file is missing or has changed since the store was sealed",
                place=layout.place(name),
                found=f"sha256 {found}",
                allowed=sha256,
            )
    facts: dict[str, int | str] = {
        name: sum(getattr(block, name) for commit in commits for block in commit.blocks)
        for name in ("documents", "tokens", "targets")
    }
    facts |= {"format": spec.format, "fingerprint": store_fingerprint(spec, commits)}
    try:
        facts["bytes"] = layout.stored_bytes(commits)
    except StorageError as error:
        yield error
    for name, fact in facts.items():
        if getattr(manifest, name) != fact:
            found = getattr(manifest, name)
            yield CorruptionError(f"{name} is another", place=place, found=found, allowed=fact)


def _hash(layout: StoreLayout, name: str) -> str | None:
    try:
        return hashlib.sha256(layout.read_small(name)).hexdigest()
    except ObjectMissing:
        return None
