"""Leases: a note that a process works on a unit, so that another takes up a different one."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from logitstore.errors import StorageError
from logitstore.store.layout import LEASES

if TYPE_CHECKING:
    from logitstore.format.plan import WorkUnit
    from logitstore.store.storage import Storage

__all__ = ["Lease"]

_LEASE_SECONDS = 60.0  # one this old belongs to nobody
_RENEW_SECONDS = 10.0


class Lease:
    """A note that a process works on a unit. Advisory: it saves double work, nothing rests on it.

    It lapses when its process is gone from this machine, or when nobody has renewed it for a
    minute. One that cannot be read or written counts as free, and stops nobody.
    """

    def __init__(self, storage: Storage, unit: WorkUnit) -> None:
        self.storage = storage
        self.name = f"{LEASES}{unit.name}.json"
        self._renewed = 0.0

    def take(self) -> bool:
        """Whether the unit is free to work on; if so it is now ours."""
        if not self._lapsed():
            return False
        self._write()
        return True

    def renew(self) -> None:
        """Say that we are still at work; called often, it writes once in ten seconds."""
        if time.monotonic() - self._renewed > _RENEW_SECONDS:
            self._write()

    def release(self) -> None:
        """Give the unit back."""
        with suppress(StorageError):
            self.storage.delete(self.name)

    def _write(self) -> None:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        self._renewed = time.monotonic()
        with suppress(StorageError):
            self.storage.put(self.name, json.dumps(owner).encode())

    def _lapsed(self) -> bool:
        try:
            owner = json.loads(self.storage.read(self.name))
            if abs(time.time() - owner["time"]) > _LEASE_SECONDS:
                return True
            if owner["host"] != socket.gethostname():
                return False
            if owner["pid"] == os.getpid():
                return True
            os.kill(owner["pid"], 0)
        except PermissionError:
            return False  # a process of another user
        except (
            StorageError,
            ProcessLookupError,
            ValueError,
            LookupError,
            TypeError,
            OverflowError,
        ):
            return True
        return False
