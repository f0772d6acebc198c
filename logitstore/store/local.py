"""LocalStorage: the objects of a storage as files below one folder.

A temporary file is written, synced, and given its name in one step, so that a process may be killed
at any moment and a machine may lose power:

    put              rename, which replaces
    put_if_absent    hard link, which fails where the name is taken
                     without hard links: rename, while holding the name's claim (`claims.py`)

The folder is resolved once, so that a later change of the working directory moves no store;
messages show it as it was given. Paths stand here, in `claims.py` and in `durable.py` alone, apart
from `corpus/`, `teacher/` and `cli/`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from logitstore.errors import ObjectMissing, SettingError, StorageError, no_room
from logitstore.store.claims import LEFTOVER, MISSING, rename_if_absent, status
from logitstore.store.durable import (
    discard,
    make_folder,
    remove_empty,
    sync_folder,
    write_temporary,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["LocalStorage"]

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
_SWEPT = 100  # times that a write is begun again


@dataclass(frozen=True, slots=True, init=False)
class LocalStorage:
    """Files below one folder, which is made by the first `put`.

    folder: its path; a relative one is taken from the working directory of now.
    """

    folder: Path  # absolute
    uri: str  # the folder's path, as it was given

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        given = Path(folder)
        if not _is_path(str(given)):
            raise SettingError("no file system has such a path", found=repr(str(given)))
        object.__setattr__(self, "uri", str(given))
        try:
            object.__setattr__(self, "folder", given.absolute())
        except OSError as error:  # the working directory was removed
            raise StorageError(
                "a relative path leads nowhere: the working directory is gone", place=given
            ) from error

    @staticmethod
    def of_uri(uri: str) -> LocalStorage:
        """The folder of a `file:///path` URI.

        uri: as the user wrote it.
        """
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise SettingError("is no path on this machine", found=uri, allowed="file:///path")
        return LocalStorage(unquote(parts.path))

    @staticmethod
    def of_file(path: str | os.PathLike[str]) -> tuple[LocalStorage, str]:
        """The folder that holds, or will hold, the file `path`, and the file's name in it.

        path: of a file that need not be there.
        """
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` follows links
        if not _is_path(str(path)) or absolute.is_dir() or not absolute.parent.is_dir():
            raise StorageError(
                "cannot be written", place=path, remedy="Name a file in a folder that is there"
            )
        if absolute.exists() and not absolute.is_file():
            raise StorageError(
                "is no file but a device or a pipe", place=path, remedy="Name a file"
            )
        return LocalStorage(Path(path).parent), absolute.name

    def path_of(self, name: str) -> Path:
        """Where the file of an object lies, for what reads it by its path.

        name: of the object.
        """
        return self._path(name)

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        path = self._path(name)
        with self._explained(path, reading=True):
            self._refuse_no_file(path)
            return path.read_bytes()

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Storage`. The file is opened once."""
        path = self._path(name)
        with self._explained(path, reading=True):
            self._refuse_no_file(path)
        with self._explained(path, reading=True), path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size  # no more is asked for, nor set aside
            return [_read(file.fileno(), start, min(stop, size)) for start, stop in ranges]

    def size(self, name: str) -> int | None:
        """See `Storage`."""
        path = self._path(name)
        with self._explained(path):
            found = status(path)
        return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else None

    def modified(self, name: str) -> float | None:
        """Seconds since 1970 at which the file was written; None where there is none.

        name: of the object.
        """
        path = self._path(name)
        with self._explained(path):
            found = status(path)
        return None if found is None else found.st_mtime

    def list(self, prefix: str) -> Iterator[str]:
        """See `Storage`. Reads only folders that the prefix leads to."""
        start = self._path(prefix[: prefix.rfind("/")]) if "/" in prefix else self.folder
        self._refuse_linked(start)
        for place, _, files in os.walk(start, onerror=self._refuse_unlisted):
            for file in files:
                name = (Path(place) / file).relative_to(self.folder).as_posix()
                if name.startswith(prefix) and not LEFTOVER.fullmatch(file):
                    yield name

    def put(self, name: str, data: bytes) -> None:
        """See `Storage`."""
        self.put_pieces(name, lambda: [data], size=len(data))

    def put_pieces(self, name: str, pieces: Callable[[], Iterable[bytes]], *, size: int) -> None:
        """As `put`, from pieces that are never in memory together.

        name: of the object.
        pieces: gives its bytes, from the first on each time that it is called. What that raises is
            raised, and nothing is stored.
        size: how many bytes there are, for what a full disk says.
        """
        path = self._path(name)

        def replace() -> bool:
            self._refuse_no_file(path)  # to put a file in a device's place would take it away
            temporary = write_temporary(path, pieces())
            try:
                temporary.replace(path)
            except OSError:
                discard(temporary)
                raise
            sync_folder(path.parent)
            return True

        self._write(path, replace, size=size)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Storage`."""
        path = self._path(name)

        def create() -> bool:
            won = status(path) is None and self._create(path, data)
            if not won:
                self._refuse_other(path)
            # Also what another has put: it may not have come to this yet, and been killed.
            sync_folder(path.parent)
            return won

        return self._write(path, create, size=len(data))

    def sync_names(self, prefix: str) -> None:
        """Make the objects durable that others have put right below a folder and that are seen.

        prefix: the folder, with a `/` at its end.
        """
        folder = self._path(prefix.rstrip("/"))
        with self._explained(folder):
            if folder.is_dir():
                sync_folder(folder)

    def delete(self, name: str) -> None:
        """See `Storage`. A folder that is empty now goes too."""
        path = self._path(name)
        self._refuse_linked(path.parent)
        with self._explained(path):
            path.unlink(missing_ok=True)
        remove_empty(path.parent, up_to=self.folder)

    def sweep(self) -> None:
        """See `Storage`."""
        for place, _, files in os.walk(self.folder, topdown=False):
            for file in filter(LEFTOVER.fullmatch, files):
                discard(Path(place) / file)
            remove_empty(Path(place), up_to=self.folder)

    def sync(self) -> None:
        """Bring onto the disk what another library wrote below the folder."""
        with self._explained(self.folder):
            for place, _, files in os.walk(self.folder):
                for file in files:
                    with (Path(place) / file).open("rb") as opened:
                        os.fsync(opened.fileno())
                sync_folder(Path(place))
            sync_folder(self.folder.parent)

    def _path(self, name: str) -> Path:
        if {"", ".", ".."} & set(name.split("/")) or "\0" in name:
            raise ValueError(f"{name!r} is no name of an object")
        return self.folder / name

    @contextmanager
    def _explained(
        self, path: Path, *, reading: bool = False, size: int | None = None
    ) -> Iterator[None]:
        """What the file system refuses, as a StorageError with a way out.

        size: bytes that are to be written, where there are any.
        """
        try:
            yield
        except OSError as error:
            place = self._shown(error.filename or path)
            if reading and isinstance(error, MISSING):
                raise ObjectMissing("file is missing", place=place) from error
            if (full := no_room(error)) is not None:
                raise self._full(path, error, full, size=size) from error
            reason = error.strerror or error
            raise StorageError(f"the file system refused: {reason}", place=place) from error

    def _full(self, path: Path, error: OSError, told: str, *, size: int | None) -> StorageError:
        """That there is no room: how much there is, and how much it would take."""
        free = None
        with suppress(OSError, StopIteration):
            there = next(one for one in path.parents if one.is_dir())
            if error.errno == errno.ENOSPC:
                free = f"{shutil.disk_usage(there).free:,} bytes free"
                if os.statvfs(there).f_files and not os.statvfs(there).f_favail:
                    free = "no inode free, of which each file takes one"
        return StorageError(
            told,
            place=self._shown(error.filename or path),
            found=free,
            allowed=None if size is None else f"{size:,} or more for this file",
            remedy="Make room and run the same command again: it resumes",
        )

    def _refuse_linked(self, folder: Path) -> None:
        """Raise StorageError where a folder below the storage's own is a link to elsewhere.

        Files may be links, as in the cache of a hub, and are read through linked folders too. But
        what is swept, deleted or written there would be somebody else's.
        """
        while folder != self.folder:
            with self._explained(folder):
                linked = folder.is_symlink()
            if linked:
                raise StorageError(
                    "a folder of a store is a link: nothing behind it is listed or changed",
                    place=self._shown(folder),
                    remedy="Move what it leads to into its place",
                )
            folder = folder.parent

    def _refuse_no_file(self, path: Path) -> None:
        """Raise StorageError for a device or a pipe, which may have no end or never begin."""
        found = status(path)
        if (
            found is not None
            and not stat.S_ISREG(found.st_mode)
            and not stat.S_ISDIR(found.st_mode)
        ):
            raise StorageError("this is no file", place=self._shown(path))

    def _refuse_other(self, path: Path) -> None:
        """Raise StorageError for what has the name of an object and is none, nor will ever be."""
        found = status(path)
        leads_nowhere = found is None and path.is_symlink()
        if leads_nowhere or (found is not None and not stat.S_ISREG(found.st_mode)):
            raise StorageError(
                "this is a link that leads nowhere" if leads_nowhere else "this is no file",
                place=self._shown(path),
                remedy="Remove it and run the same command again",
            )

    def _shown(self, path: str | os.PathLike[str]) -> str:
        """A path as the user knows it: below the folder as it was given."""
        below = Path(path)
        if not below.is_relative_to(self.folder):
            return str(path)
        return str(Path(self.uri) / below.relative_to(self.folder))

    def _write(self, path: Path, write: Callable[[], bool], *, size: int) -> bool:
        """`write()` with the folder of `path` in place.

        Once more where a process that seals the store has swept our temporary file or the empty
        folder away.
        """
        self._refuse_linked(path.parent)
        with self._explained(path, size=size):
            for _ in range(_SWEPT):
                try:
                    make_folder(path.parent, root=self.folder)
                    return write()
                except FileNotFoundError:
                    continue
            reason = "it was removed while it was written"
            if not path.parent.is_dir():
                reason = "no folder can be made there"
            raise FileNotFoundError(errno.ENOENT, reason, str(path))

    def _refuse_unlisted(self, error: OSError) -> None:
        """A folder that cannot be listed; one that has just gone is no error."""
        if isinstance(error, NotADirectoryError) and error.filename == str(self.folder):
            raise StorageError(
                "is a file, no folder", place=self.uri, remedy="Name a new folder"
            ) from error
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            with self._explained(self.folder):
                raise error

    def _create(self, path: Path, data: bytes) -> bool:
        """Give a new file its name, unless that is taken."""
        temporary = write_temporary(path, [data])
        try:
            return self._link(temporary, path)
        finally:
            discard(temporary)

    def _link(self, temporary: Path, path: Path) -> bool:
        try:
            os.link(temporary, path)
        except OSError as error:
            if _are_linked(temporary, path):
                return True  # and the reply of a network file system was lost
            if error.errno in _NO_LINKS:
                return rename_if_absent(self.folder, temporary, path)
            if isinstance(error, FileExistsError):
                return False
            raise
        return True


def _is_path(text: str) -> bool:
    """Whether it can be one: no zero byte, and no half of a surrogate pair but for odd bytes."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _are_linked(one: Path, two: Path) -> bool:
    first, second = status(one), status(two)
    if first is None or second is None:
        return False
    return os.path.samestat(first, second) and first.st_nlink > 1


def _read(descriptor: int, start: int, stop: int) -> bytes:
    data = os.pread(descriptor, max(0, stop - start), start)
    while 0 < len(data) < stop - start:
        more = os.pread(descriptor, stop - start - len(data), start + len(data))
        if not more:
            break
        data += more
    return data
