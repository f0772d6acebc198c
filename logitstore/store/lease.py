"""Leases: notes that a process works on a unit or on a store, so that others stay away from it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from logitstore.errors import StorageError
from logitstore.store.layout import LEASES
from logitstore.store.liveness import is_alive

if TYPE_CHECKING:
    from logitstore.format.plan import WorkUnit
    from logitstore.store.storage import Storage

__all__ = ["Lease", "StoreLease", "is_at_work"]

_LEASE_SECONDS = 60.0  # one this old belongs to nobody
_RENEW_SECONDS = 10.0
_CLAIM = f"{LEASES}begin.json"

# Of the store leases and claims that this process holds: a process id does not tell its threads
# apart.
_HELD: set[str] = set()


class Lease:
    """A note that a process works on a unit. Advisory: it saves double work, nothing rests on it.

    storage: of the store.
    unit: the one to work on.

    It lapses when its process is gone from this machine, or when nobody has renewed it for a
    minute. One that cannot be read or written counts as free, and stops nobody.
    """

    def __init__(self, storage: Storage, unit: WorkUnit) -> None:
        self.storage = storage
        self.name = f"{LEASES}{unit.name}.json"
        self._renewed = 0.0

    def take(self) -> bool:
        """Whether the unit is free to work on; if so it is now ours."""
        if not _lapsed(_owner(self.storage, self.name)):
            return False
        self._write()
        return True

    def holder(self) -> str | None:
        """Whose note is there, as a message names it; None where there is none to be read."""
        owner = _owner(self.storage, self.name)
        return None if owner is None else f"process {owner.get('pid')} on {owner.get('host')}"

    def renew(self) -> None:
        """Say that we are still at work; called often, it writes once in ten seconds."""
        if time.monotonic() - self._renewed > _RENEW_SECONDS:
            self._write()

    def release(self) -> None:
        """Give the unit back."""
        with suppress(StorageError):
            self.storage.delete(self.name)

    def _write(self) -> None:
        self._renewed = time.monotonic()
        with suppress(StorageError):
            self.storage.put(self.name, _note())


class StoreLease:
    """A note that a process works on a store, and a hash of the settings that it works with.

    storage: of the store.
    settings: a hash of the spec that we work by.

    While one is there, nobody begins the store anew with other settings. It lapses as a `Lease`.
    """

    def __init__(self, storage: Storage, *, settings: str) -> None:
        self.storage = storage
        self.settings = settings
        self._key = secrets.token_hex(8)
        self.name = f"{LEASES}store-{self._key}.json"
        self._renewed = 0.0

    def take(self) -> None:
        """Write the note, if the storage takes it."""
        _HELD.add(self._key)
        self._write()

    def renew(self) -> None:
        """Say that we are still at work; called often, it writes once in ten seconds."""
        if time.monotonic() - self._renewed > _RENEW_SECONDS:
            self._write()

    def release(self) -> None:
        """Say that our work is done."""
        _HELD.discard(self._key)
        with suppress(StorageError):
            self.storage.delete(self.name)

    def is_alone(self) -> bool:
        """Whether our own note is there, and nobody works on the store with other settings."""
        if _owner(self.storage, self.name) is None:
            return False
        owners = [_owner(self.storage, name) for name in _listed(self.storage) - {self.name}]
        return all(
            _lapsed(owner) or (owner or {}).get("settings") == self.settings for owner in owners
        )

    def claim(self) -> bool:
        """Whether we alone may begin the store anew now; of several callers one is told so."""
        owner = _owner(self.storage, _CLAIM)
        if owner is not None and _lapsed(owner):  # a killed process left it
            self.storage.delete(_CLAIM)
        return self.storage.put_if_absent(_CLAIM, _note(key=self._key, settings=self.settings))

    def release_claim(self) -> None:
        """Let others begin the store anew."""
        with suppress(StorageError):
            self.storage.delete(_CLAIM)

    def _write(self) -> None:
        self._renewed = time.monotonic()
        with suppress(StorageError):
            self.storage.put(self.name, _note(key=self._key, settings=self.settings))


def is_at_work(storage: Storage) -> bool:
    """Whether any process works on the store in `storage` now, as far as leases tell.

    storage: of the store.
    """
    return not all(_lapsed(_owner(storage, name)) for name in _listed(storage))


def _listed(storage: Storage) -> set[str]:
    with suppress(StorageError):
        return set(storage.list(LEASES))
    return set()


def _note(**more: str) -> bytes:
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time(), **more}
    return json.dumps(owner).encode()


def _owner(storage: Storage, name: str) -> dict[str, Any] | None:
    """Who holds the lease of that name; None where it cannot be read."""
    try:
        owner = json.loads(storage.read(name))
    except (StorageError, ValueError, RecursionError):
        return None
    return owner if isinstance(owner, dict) else None


def _lapsed(owner: dict[str, Any] | None) -> bool:
    if owner is None:
        return True
    try:
        if owner.get("key") in _HELD:
            return False
        if abs(time.time() - owner["time"]) > _LEASE_SECONDS:
            return True
        if owner["host"] != socket.gethostname():
            return False
        if owner["pid"] == os.getpid():
            return True
        return not is_alive(owner["pid"])
    except (ValueError, LookupError, TypeError, OverflowError):
        return True
