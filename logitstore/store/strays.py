"""Strays: objects beside a store that it does not name, and the removal of those that are garbage.

A killed attempt at a unit leaves objects in `data/` that no commit names. They are swept when the
store is sealed; `gc` does so at any other time. What stands elsewhere was put there by somebody
else: it is told, and left alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from logitstore.errors import StoreError
from logitstore.options import takes
from logitstore.store.layout import AUDIT, DATA, LEASES, MANIFEST, PULLED, README
from logitstore.store.lease import is_at_work
from logitstore.store.options import GC_OPTIONS
from logitstore.store.reader import Store, StoreLike, as_store, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Garbage", "gc", "strays"]


@runtime_checkable
class Dated(Protocol):
    """A storage that knows when its objects were written."""

    def modified(self, name: str) -> float | None:
        """Seconds since 1970 at which the object was written; None where there is none."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """What no commit of a store names, and whether it was removed."""

    names: tuple[str, ...]
    bytes: int
    kept: int  # objects that are too young to be garbage for sure
    removed: bool


def strays(store: Store) -> Iterator[str]:
    """The objects beside a store that it does not name, in order.

    store: open, sealed or not.

    Raises StorageError where they cannot be listed.
    """
    layout = store.layout
    known = {MANIFEST, README, AUDIT, PULLED, *layout.small_names(store.spec)}
    for commit in store.commits:
        known.add(layout.commit_name(commit.unit))
        known.update(f"{layout.shard_prefix(commit)}{one.path}" for one in commit.objects)
    for name in sorted(layout.storage.list("")):
        if name not in known and not name.startswith(LEASES):
            yield name


@takes(GC_OPTIONS)
def gc(store: StoreLike, *, yes: bool, grace: float) -> Garbage:
    """List what killed attempts left in a store, and with `yes` remove it: never anything else.

    Raises StoreError where there is no store, where a dump is at work on it, and where the storage
    does not tell how old the attempts of an unfinished store are.

    What is there is listed before leases are looked at, and commits are read after: whoever wrote
    something that is listed either is still at work, or has committed it by then, or never will.
    """
    storage = as_store(store, allow_partial=True).layout.storage
    listed = set(storage.list(DATA))
    at_work = is_at_work(storage)
    opened = open_store(storage, allow_partial=True)
    unfinished = opened.manifest is None
    if unfinished and at_work:
        raise StoreError(
            "a dump is at work on the store",
            place=opened.uri,
            remedy="Wait until it has ended: finishing a store sweeps it",
        )
    if unfinished and not isinstance(storage, Dated):
        raise StoreError(
            "the storage does not tell how old what it holds is, so an attempt may be under way",
            place=opened.uri,
            remedy="Finish the store: that sweeps it",
        )
    found = [name for name in strays(opened) if name in listed]
    old = [name for name in found if not unfinished or _age(storage, name) >= grace]
    size = sum(storage.size(name) or 0 for name in old)
    if yes:
        for name in old:
            storage.delete(name)
        storage.sweep()
    return Garbage(names=tuple(old), bytes=size, kept=len(found) - len(old), removed=yes)


def _age(storage: object, name: str) -> float:
    """Seconds since the object was written; none where it has just gone."""
    written = storage.modified(name) if isinstance(storage, Dated) else None
    return 0.0 if written is None else time.time() - written
