"""A cache on the disk of ranges that were read of remote objects: `LOGITSTORE_CACHE=folder`.

Processes share it. An entry is one file: a line that says what it is of, its sha256 and its bytes.
It is written under another name and then renamed, and compared with its sha256 when it is read, so
a process may be killed and a disk may rot: an entry is sound or it is dropped. Its name is a hash
of the object's URI, its version and the range, so no other version is taken for it, and no URI is
written.

    <folder>/<2 hex>/<62 hex>    an entry
    <folder>/ledger              bytes in the cache, as far as is known; whoever changes it locks it

Whatever the file system refuses later is as if there were no cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RangeCache"]

_MAGIC = b"logitstore-range/1 "
_HEAD = len(_MAGIC) + 64 + 1 + 64 + 1  # the name and the sha256 in hex, with a space and a line end
_TEMPORARY = ".part-"
_KEPT_SHARE = 0.9  # of the cap, when entries are removed


@dataclass(frozen=True, slots=True)
class RangeCache:
    """The entries in a folder; the least recently used go when they take more than the cap.

    folder: made when the first entry is kept.
    most: bytes of all entries.
    """

    folder: Path
    most: int

    def get(self, *key: object) -> bytes | None:
        """The bytes that were kept under a key; None where there are none, or damaged ones.

        key: what they are of: all that tells them from others.
        """
        name = _name(key)
        path = self._path(name)
        try:
            if not stat.S_ISREG(path.lstat().st_mode):  # a pipe would be waited for without end
                return None
            content = path.read_bytes()
        except OSError:
            return None
        head, data = content[:_HEAD], content[_HEAD:]
        if head != _head(name, data):
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # used now
        return data

    def put(self, data: bytes, *key: object) -> None:
        """Keep bytes under a key, if there is room and the file system lets us.

        data: what `get` is to give.
        key: what they are of.
        """
        size = _HEAD + len(data)
        if size > self.most // 2:
            return
        name = _name(key)
        path = self._path(name)
        with suppress(OSError):
            if path.exists():
                return
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked() as ledger:
                # Before it is written: who is killed in between leaves too much in the ledger,
                # which the next count of all files puts right, and never too little.
                total = _number(ledger) + size
                if total > self.most:
                    total = self._make_room(size) + size
                _write_number(ledger, total)
            temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
            try:
                temporary.write_bytes(_head(name, data) + data)
                temporary.rename(path)
            except OSError:
                with suppress(OSError):
                    temporary.unlink()
                raise

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name[2:]

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The ledger, while no other process changes it."""
        ledger = os.open(self.folder / "ledger", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(ledger, fcntl.LOCK_EX)
            yield ledger
        finally:
            os.close(ledger)

    def _make_room(self, size: int) -> int:
        """Remove what was used least recently until `size` bytes fit; the bytes that are left."""
        found = sorted(self._files())
        total = sum(bytes_ for _, bytes_, _ in found)
        for _, bytes_, path in found:
            if total + size <= self.most * _KEPT_SHARE:
                break
            with suppress(OSError):
                path.unlink()
                total -= bytes_
        return total

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """When each entry was used last, its bytes and its path; what killed writers left too."""
        for folder in self.folder.iterdir():
            if not folder.is_dir():
                continue
            for path in folder.iterdir():
                with suppress(FileNotFoundError):
                    status = path.stat()
                    yield status.st_mtime, status.st_size, path


def _name(key: tuple[object, ...]) -> str:
    return hashlib.sha256("\0".join(map(str, key)).encode()).hexdigest()


def _head(name: str, data: bytes) -> bytes:
    return b"%s%s %s\n" % (_MAGIC, name.encode(), hashlib.sha256(data).hexdigest().encode())


def _number(ledger: int) -> int:
    """What the ledger says; where that is no number, so many that all files are counted."""
    text = os.pread(ledger, 32, 0).strip()
    if not text:
        return 0
    return int(text) if text.isdigit() else 1 << 62


def _write_number(ledger: int, total: int) -> None:
    os.pwrite(ledger, b"%-31d\n" % total, 0)
