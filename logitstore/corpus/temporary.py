"""Temporary folders: one that cannot be made is told as every other refusal of the storage."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from logitstore.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["temporary_folder"]


@contextmanager
def temporary_folder() -> Iterator[str]:
    """A new folder, which is gone afterwards. Raises StorageError where none can be made."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="logitstore-")
    except OSError as error:
        raise StorageError(
            f"no temporary folder can be made: {error}",
            remedy="Make room, or name a folder in the environment variable TMPDIR",
        ) from error
    with folder as name:
        yield name
