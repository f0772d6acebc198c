"""LocalStorage: the objects of a storage as files below one folder.

A temporary file is written, synced, and given its name in one step, so that a process may be killed
at any moment and a machine may lose power:

    put              rename, which replaces
    put_if_absent    hard link, which fails where the name is taken
                     without hard links: rename, while holding the name's claim (`_claimed`)

This module alone knows paths and calls the file system; `corpus/`, `teacher/` and `cli/` apart.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import socket
import stat
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from logitstore.errors import ObjectMissing, SettingError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["LocalStorage"]

# What writers leave behind when they are killed: temporary files, claims, locks.
_LEFTOVER = re.compile(r"\..+\.([0-9a-f]{8}\.tmp|claim|lock)")
# File systems without hard links (exFAT, FUSE, some network mounts) answer with one of these.
_NO_LINKS = {
    errno.EPERM,
    errno.EXDEV,
    errno.EACCES,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
}
# Some of them cannot sync a folder either.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLAIM_SECONDS = 60.0  # a claim is held for milliseconds
_POLL_SECONDS = 0.05
_SWEPT = 100  # times that a write is begun again
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, slots=True, init=False)
class LocalStorage:
    """Files below one folder, which is made by the first `put`."""

    folder: Path

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        object.__setattr__(self, "folder", Path(folder))

    @staticmethod
    def of_uri(uri: str) -> LocalStorage:
        """The folder of a `file:///path` URI."""
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise SettingError("is no path on this machine", found=uri, allowed="file:///path")
        return LocalStorage(unquote(parts.path))

    @staticmethod
    def of_file(path: str | os.PathLike[str]) -> tuple[LocalStorage, str]:
        """The folder that holds, or will hold, the file `path`, and the file's name in it."""
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` follows links
        if absolute.is_dir() or not absolute.parent.is_dir():
            raise StorageError(
                "cannot be written", place=path, remedy="Name a file in a folder that is there"
            )
        return LocalStorage(Path(path).parent), absolute.name

    @property
    def uri(self) -> str:
        """The folder's path, as it was given."""
        return str(self.folder)

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        path = self._path(name)
        with _explained(path, reading=True):
            return path.read_bytes()

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Storage`. The file is opened once."""
        path = self._path(name)
        with _explained(path, reading=True), path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size  # no more is asked for, nor set aside
            return [_read(file.fileno(), start, min(stop, size)) for start, stop in ranges]

    def size(self, name: str) -> int | None:
        """See `Storage`."""
        path = self._path(name)
        with _explained(path):
            status = _status(path)
        return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None

    def list(self, prefix: str) -> Iterator[str]:
        """See `Storage`. Reads only folders that the prefix leads to."""
        start = self._path(prefix[: prefix.rfind("/")]) if "/" in prefix else self.folder
        for place, _, files in os.walk(start, onerror=self._refuse_unlisted):
            for file in files:
                name = (Path(place) / file).relative_to(self.folder).as_posix()
                if name.startswith(prefix) and not _LEFTOVER.fullmatch(file):
                    yield name

    def put(self, name: str, data: bytes) -> None:
        """See `Storage`."""
        path = self._path(name)

        def replace() -> bool:
            temporary = _write_temporary(path, data)
            try:
                temporary.replace(path)
            except OSError:
                _discard(temporary)
                raise
            _sync_folder(path.parent)
            return True

        _write(path, replace)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Storage`."""
        path = self._path(name)
        return _write(path, lambda: _status(path) is None and self._create(path, data))

    def delete(self, name: str) -> None:
        """See `Storage`. A folder that is empty now goes too."""
        path = self._path(name)
        with _explained(path):
            path.unlink(missing_ok=True)
        _remove_empty(path.parent, up_to=self.folder)

    def sweep(self) -> None:
        """See `Storage`."""
        for place, _, files in os.walk(self.folder, topdown=False):
            for file in filter(_LEFTOVER.fullmatch, files):
                _discard(Path(place) / file)
            _remove_empty(Path(place), up_to=self.folder)

    def sync(self) -> None:
        """Bring onto the disk what another library wrote below the folder."""
        with _explained(self.folder):
            for place, _, files in os.walk(self.folder):
                for file in files:
                    with (Path(place) / file).open("rb") as opened:
                        os.fsync(opened.fileno())
                _sync_folder(Path(place))
            _sync_folder(self.folder.parent)

    def _path(self, name: str) -> Path:
        if {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"{name!r} is no name of an object")
        return self.folder / name

    def _refuse_unlisted(self, error: OSError) -> None:
        """A folder that cannot be listed; one that has just gone is no error."""
        if isinstance(error, NotADirectoryError) and error.filename == str(self.folder):
            raise StorageError(
                "is a file, no folder", place=self.folder, remedy="Name a new folder"
            ) from error
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            with _explained(self.folder):
                raise error

    def _create(self, path: Path, data: bytes) -> bool:
        """Give a new file its name, unless that is taken."""
        temporary = _write_temporary(path, data)
        try:
            won = self._link(temporary, path)
        finally:
            _discard(temporary)
        if won:
            _sync_folder(path.parent)
        return won

    def _link(self, temporary: Path, path: Path) -> bool:
        try:
            os.link(temporary, path)
        except OSError as error:
            if _are_linked(temporary, path):
                return True  # and the reply of a network file system was lost
            if error.errno in _NO_LINKS:
                return self._rename_if_absent(temporary, path)
            if isinstance(error, FileExistsError):
                return False
            raise
        return True

    def _rename_if_absent(self, temporary: Path, path: Path) -> bool:
        """The same without hard links: who holds the name's claim looks, then renames."""
        claim = path.with_name(f".{path.name}.claim")
        while True:
            with self._claimed(claim, now=temporary) as is_ours:
                if _status(path) is not None:
                    return False
                if is_ours():
                    temporary.replace(path)
                    return True
            time.sleep(_POLL_SECONDS)

    @contextmanager
    def _claimed(self, claim: Path, *, now: Path) -> Iterator[Callable[[], bool]]:
        """Hold a claim, if it is free; gives a function that tells whether we hold it.

        A claim is an empty file that must not exist yet, and creating one is exclusive, across
        machines too; but the claim of a killed process would stand for ever. So each machine has a
        lock, which the kernel releases when its holder dies, and in the lock's file stands which
        claim the holder is about to make: who gets the lock and finds a claim named there removes
        it. A claim of another machine is removed when it is a minute old, by the clock of the file
        system, which touching `now` asks for.
        """
        with _Lock(self.folder) as lock:
            lock.note(claim)
            mine = _create_empty(claim)
            if mine is None:
                lock.note(None)
                os.utime(now)
                held = _status(claim)
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
        with suppress(OSError):
            self._descriptor = os.open(self.folder / f".{host}.lock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            except OSError:
                self.__exit__()
        with suppress(OSError):
            self._clear()
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
            if _LEFTOVER.fullmatch(left.name) and not left.is_absolute() and ".." not in left.parts:
                (self.folder / left).unlink(missing_ok=True)
            self.note(None)


@contextmanager
def _explained(path: Path, *, reading: bool = False) -> Iterator[None]:
    """What the file system refuses, as a StorageError with a way out."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        if reading and isinstance(error, _MISSING):
            raise ObjectMissing("file is missing", place=place) from error
        full = error.errno in _FULL
        raise StorageError(
            "no space left" if full else f"the file system refused: {error}",
            place=place,
            remedy="Make room and run the same command again: it resumes" if full else None,
        ) from error


def _write(path: Path, write: Callable[[], bool]) -> bool:
    """`write()` with the folder of `path` in place.

    Once more where a process that seals the store has swept our temporary file or the empty folder
    away.
    """
    with _explained(path):
        for _ in range(_SWEPT):
            try:
                _make_folder(path.parent)
                return write()
            except FileNotFoundError:
                continue
        raise FileNotFoundError(errno.ENOENT, "it goes while it is written", str(path))


def _write_temporary(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
    except OSError:
        _discard(temporary)
        raise
    return temporary


def _discard(leftover: Path) -> None:
    """Remove it if that can be done: it is in nobody's way, and sealing the store sweeps."""
    with suppress(OSError):
        leftover.unlink()


def _make_folder(folder: Path) -> None:
    """Each folder newly made on the way is durable in its parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # may be written to, not read: nothing more can be done
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _remove_empty(folder: Path, *, up_to: Path) -> None:
    """Remove `folder` and those above it, as far as they are empty."""
    with suppress(OSError):
        while folder != up_to:
            folder.rmdir()
            folder = folder.parent


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


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except _MISSING:
        return None


def _are_linked(one: Path, two: Path) -> bool:
    first, second = _status(one), _status(two)
    if first is None or second is None:
        return False
    return os.path.samestat(first, second) and first.st_nlink > 1


def _inode(path: Path) -> int | None:
    status = _status(path)
    return None if status is None else status.st_ino


def _read(descriptor: int, start: int, stop: int) -> bytes:
    data = os.pread(descriptor, max(0, stop - start), start)
    while 0 < len(data) < stop - start:
        more = os.pread(descriptor, stop - start - len(data), start + len(data))
        if not more:
            break
        data += more
    return data
