"""Leases: a note that a process works on a unit, so that another takes up a different one."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import TYPE_CHECKING

from logitstore.store.files import replace

if TYPE_CHECKING:
    from logitstore.format.plan import WorkUnit
    from logitstore.store.layout import Layout

__all__ = ["Lease"]

# A worker renews its lease every ten seconds at least, so one this old belongs to nobody.
_LEASE_SECONDS = 60.0


class Lease:
    """A note that a process works on a unit. Advisory: it saves double work, nothing rests on it.

    It lapses when its process is gone from this machine, or when nobody has renewed it for a
    minute.
    """

    def __init__(self, layout: Layout, unit: WorkUnit) -> None:
        self.path = layout.folder / "leases" / f"{unit.name}.json"

    def take(self) -> bool:
        """Whether the unit is free to work on; if so it is now ours."""
        if self.path.is_file() and not self._lapsed():
            return False
        owner = {"host": socket.gethostname(), "pid": os.getpid()}
        replace(self.path, json.dumps(owner).encode())
        return True

    def renew(self) -> None:
        """Say that we are still at work."""
        if self.path.is_file():
            os.utime(self.path)

    def release(self) -> None:
        """Give the unit back."""
        self.path.unlink(missing_ok=True)

    def _lapsed(self) -> bool:
        try:
            age = time.time() - self.path.stat().st_mtime
            owner = json.loads(self.path.read_bytes())
            if age > _LEASE_SECONDS:
                return True
            if owner["host"] != socket.gethostname():
                return False
            if owner["pid"] == os.getpid():
                return True
            os.kill(owner["pid"], 0)
        except (ProcessLookupError, FileNotFoundError, ValueError, KeyError, TypeError):
            return True
        except PermissionError:
            return False
        return False
