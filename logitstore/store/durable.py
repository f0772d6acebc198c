"""Files and folders that outlive a loss of power: written, synced, durable where they lie.

A file is durable when its bytes are synced and, behind that, the folder that holds its name.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from logitstore.store.claims import status

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["discard", "make_folder", "remove_empty", "sync_folder", "write_temporary"]

# Some file systems cannot sync a folder.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_DURABLE: dict[Path, int] = {}  # folders that this process knows to be on the disk: their inodes
_MOST_DURABLE = 4096  # of them


def write_temporary(path: Path, pieces: Iterable[bytes]) -> Path:
    """A new file beside `path` that holds `pieces`, synced: to be renamed or linked.

    path: of the file to be.
    pieces: its bytes; after an error of theirs there is no file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb", buffering=0) as file:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
    except BaseException:
        discard(temporary)
        raise
    return temporary


def discard(leftover: Path) -> None:
    """Remove it if that can be done: it is in nobody's way, and sealing the store sweeps.

    leftover: a temporary file.
    """
    with suppress(OSError):
        leftover.unlink()


def make_folder(folder: Path, *, root: Path) -> None:
    """Make `folder` and those above it, each durable in its parent from `root` on.

    folder: its path.
    root: folders above it are the user's; nothing is done about one that is there.

    One that is there is not yet durable for sure: who made it may have been killed before it was.
    """
    found = status(folder)
    if (
        found is not None
        and stat.S_ISDIR(found.st_mode)
        and (_DURABLE.get(folder) == found.st_ino or not folder.is_relative_to(root))
    ):
        return
    make_folder(folder.parent, root=root)
    with suppress(FileExistsError):
        folder.mkdir()
    sync_folder(folder.parent)
    if len(_DURABLE) >= _MOST_DURABLE:
        _DURABLE.clear()
    _DURABLE[folder] = folder.stat().st_ino


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable, where the file system can do so.

    folder: its path.
    """
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


def remove_empty(folder: Path, *, up_to: Path) -> None:
    """Remove `folder` and those above it, as far as they are empty.

    folder: its path.
    up_to: one above it, which stays.
    """
    with suppress(OSError):
        while folder != up_to:
            folder.rmdir()
            _DURABLE.pop(folder, None)
            folder = folder.parent
