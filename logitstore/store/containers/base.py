"""The contract of a container: how the integer columns of a shard lie in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    def tables(self) -> Mapping[str, np.ndarray]:
        """The shard's tables by name, each uint32 of one axis."""
        ...

    def block(self, number: int, *, draw: int | None = None) -> Columns:
        """The columns of block `number`, equal to those that were written.

        With `draw`, a container that can may leave out the entries of the other draws.
        """
        ...

    def documents(self, number: int) -> np.ndarray:
        """uint64 [D, C]: the table of documents of block `number` alone."""
        ...

    def column_bytes(self) -> dict[str, int]:
        """Stored bytes of each column; what belongs to none of them stands under "container"."""
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
        tables: Mapping[str, np.ndarray],
        *,
        draws: int = 1,
        by_entry: bool = False,
    ) -> None:
        """Lay out `blocks`, whose rows hold the entries of `draws` draws, and `tables`.

        `by_entry` asks a container that can to lay the n-th entries of all rows side by side, for
        rows that have little in common with their neighbours.
        """
        ...

    def open(
        self,
        folder: Path,
        *,
        blocks: Sequence[BlockCounts],
        objects: Sequence[StoredObject],
        entries: Sequence[str],
    ) -> ShardReader:
        """The shard in `folder`, which must hold what the commit says of it.

        `entries` names the columns of entries, which not every container can tell from scalars.
        """
        ...
