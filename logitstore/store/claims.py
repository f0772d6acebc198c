"""Claims: how a file gets a name that is still free, where the file system has no hard links.

Creating an empty file that must not exist is exclusive everywhere. Whoever created the claim of a
name may look whether the name is taken, and rename its own file to it.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LEFTOVER", "MISSING", "rename_if_absent", "status"]

# What writers leave behind when they are killed: temporary files, claims, locks.
LEFTOVER = re.compile(r"\..+\.([0-9a-f]{8}\.tmp|claim|lock)")
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

_CLAIM_SECONDS = 60.0  # a claim is held for milliseconds
_POLL_SECONDS = 0.05


def rename_if_absent(folder: Path, temporary: Path, path: Path) -> bool:
    """Give `temporary` the name `path`, unless that is taken; whether it was free.

    folder: that of the storage; both files lie below it.
    temporary: a file that is complete and synced.
    path: its name to be.

    Who holds the name's claim looks, then renames.
    """
    claim = path.with_name(f".{path.name}.claim")
    while True:
        with _claimed(folder, claim, now=temporary) as is_ours:
            if status(path) is not None:
                return False
            if is_ours():
                temporary.replace(path)
                return True
        time.sleep(_POLL_SECONDS)


@contextmanager
def _claimed(folder: Path, claim: Path, *, now: Path) -> Iterator[Callable[[], bool]]:
    """Hold a claim, if it is free; gives a function that tells whether we hold it.

    A claim is an empty file that must not exist yet, and creating one is exclusive, across
    machines too; but the claim of a killed process would stand for ever. So each machine has a
    lock, which the kernel releases when its holder dies, and in the lock's file stands which
    claim the holder is about to make: who gets the lock and finds a claim named there removes
    it. A claim of another machine is removed when it is a minute old, by the clock of the file
    system, which touching `now` asks for.
    """
    with _Lock(folder) as lock:
        lock.note(claim)
        mine = _create_empty(claim)
        if mine is None:
            lock.note(None)
            os.utime(now)
            held = status(claim)
            if held is not None and now.stat().st_mtime - held.st_mtime > _CLAIM_SECONDS:
                claim.unlink(missing_ok=True)
        try:
            yield lambda: mine is not None and _inode(claim) == mine
        finally:
            if mine is not None and _inode(claim) == mine:
                claim.unlink(missing_ok=True)
            lock.note(None)


class _Lock:
    """The lock of this machine in a folder, and a note in its file that outlives its holder.

    Where a file system knows no locks it holds nothing and notes nothing; without a note the claim
    of a killed process stands for a minute, and that is all.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor: int | None = None

    def __enter__(self) -> _Lock:
        host = re.sub(r"[^A-Za-z0-9-]", "_", socket.gethostname())
        try:
            with suppress(OSError):
                name = self.folder / f".{host}.lock"
                self._descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX)
                except OSError:
                    self.__exit__()
            with suppress(OSError):
                self._clear()
        except BaseException:  # Ctrl-C: this process may go on, and would wait for itself
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)  # releases the lock
            self._descriptor = None

    def note(self, file: Path | None) -> None:
        """Name the file that must go if this process is killed now."""
        if self._descriptor is None:
            return
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            if file is not None:
                os.pwrite(self._descriptor, bytes(file.relative_to(self.folder)), 0)

    def _clear(self) -> None:
        """Remove what the last holder has noted, who was killed."""
        if self._descriptor is not None:
            left = Path(os.fsdecode(os.pread(self._descriptor, 4096, 0)))
            if LEFTOVER.fullmatch(left.name) and not left.is_absolute() and ".." not in left.parts:
                (self.folder / left).unlink(missing_ok=True)
            self.note(None)


def _create_empty(path: Path) -> int | None:
    """The inode of a new empty file; None where the name is taken."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return None
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def status(path: Path) -> os.stat_result | None:
    """What the file system says of the file `path`; None where there is none."""
    try:
        return path.stat()
    except MISSING:
        return None


def _inode(path: Path) -> int | None:
    found = status(path)
    return None if found is None else found.st_ino
