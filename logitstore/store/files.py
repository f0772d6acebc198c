"""Files that are whole and on the disk or not there at all: put-if-absent, fsync, hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from logitstore.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TEMPORARY", "explain_io", "fsync_tree", "put_if_absent", "replace", "sha256_of"]

# What a killed process may leave beside its files.
TEMPORARY = ".*.tmp"

# File systems without hard links (some network and FUSE mounts) answer with one of these.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def put_if_absent(path: Path, data: bytes) -> bool:
    """Create `path` holding `data`, durably and in one step; False if it is there already.

    A temporary file is written and synced, then linked to its name: a link fails where the name is
    taken, so of any number of racing writers one wins, and no reader ever sees half a file.
    """
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except FileNotFoundError:
        # Another process that seals the store has swept our temporary file away: once more.
        return put_if_absent(path, data)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_exclusively(path, data)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_folder(path.parent)
    return True


def replace(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step, whatever stood there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write_temporary(path, data).replace(path)
    except FileNotFoundError:  # swept away, as above
        return replace(path, data)
    return _fsync_folder(path.parent)


def fsync_tree(folder: Path) -> None:
    """Bring every file below `folder`, and the folders themselves, onto the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            with (Path(place) / name).open("rb") as file:
                os.fsync(file.fileno())
        _fsync_folder(Path(place))
    _fsync_folder(folder.parent)


def sha256_of(path: Path) -> str:
    """The file's sha256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def explain_io(place: Path) -> Iterator[None]:
    """Turn what the file system refuses below `place` into a StorageError with a way out."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            "no space left" if full else f"the file system refused: {error}",
            place=error.filename or place,
            remedy="Make room and run the same command again: it resumes" if full else None,
        ) from error


def _write_temporary(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _create_exclusively(path: Path, data: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    _fsync_folder(path.parent)
    return True


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
