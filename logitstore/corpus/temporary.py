"""Temporary folders: one that cannot be made is told as every other refusal of the storage."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from logitstore.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["remove_temporary_folders", "temporary_folder"]

_MADE: set[str] = set()


@contextmanager
def temporary_folder() -> Iterator[str]:
    """A new folder, which is gone afterwards. Raises StorageError where none can be made."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="logitstore-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(
            f"no temporary folder can be made: {error}",
            remedy="Make room, or name a folder in the environment variable TMPDIR",
        ) from error
    _MADE.add(folder.name)
    try:
        with folder as name:
            yield name
    finally:
        _MADE.discard(folder.name)


def remove_temporary_folders() -> None:
    """Remove those of a process that is about to end at once."""
    for name in list(_MADE):
        shutil.rmtree(name, ignore_errors=True)
