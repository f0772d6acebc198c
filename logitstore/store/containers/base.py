"""The contract of a container: how the integer columns of a shard lie in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from logitstore.format.columns import Columns
from logitstore.format.manifest import BlockCounts, StoredObject

__all__ = ["Container", "ShardReader"]


class ShardReader(Protocol):
    """An open shard. Threads may read from it at the same time.

    Every byte is checked against a checksum as it is read: a changed byte raises CorruptionError
    that names the file, or never changes a value.
    """

    @property
    def ranking_V(self) -> np.ndarray:
        """uint32 [V]: the shard's table of ids by rank."""
        ...

    def block(self, number: int, *, draw: int | None = None) -> Columns:
        """The columns of block `number`, equal to those that were written.

        With `draw`, a container that can may leave out the entries of the other draws.
        """
        ...

    def documents(self, number: int) -> np.ndarray:
        """uint64 [D, C]: the table of documents of block `number` alone."""
        ...


class Container(Protocol):
    """One way to lay out a shard. Two containers given equal columns give back equal columns.

    `write` creates files below an empty folder and returns nothing; equal input gives equal bytes.
    It neither syncs nor hashes: that is the writer's. A shard's scalars are the same names in every
    block.
    """

    def write(
        self,
        folder: Path,
        blocks: Sequence[Columns],
        ranking_V: np.ndarray,
        *,
        draws: int = 1,
        sampled: bool = False,
    ) -> None:
        """Lay out `blocks`, whose rows hold the entries of `draws` draws, below `folder`.

        `sampled` says that rows are more like chance than like their neighbours, for a container
        that lays such entries out in another way.
        """
        ...

    def open(
        self, folder: Path, *, blocks: Sequence[BlockCounts], objects: Sequence[StoredObject]
    ) -> ShardReader:
        """The shard in `folder`, which must hold what the commit says of it."""
        ...

    def column_bytes(self, folder: Path) -> dict[str, int]:
        """Stored bytes of each column; what belongs to none of them stands under "container"."""
        ...
