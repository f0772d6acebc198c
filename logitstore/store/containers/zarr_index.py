"""The index of a Zarr shard file: where each chunk lies, what binds it there, in which order.

The sharding codec of Zarr v3 lays a file out as its chunks, in any order, and an index at the end:
16 bytes for each chunk, its start and its length, and their crc32c.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CRC_BYTES", "ENTRY_BYTES", "blocks_together", "chunk_sums", "index_bytes", "spans_in"]

CRC_BYTES = 4
ENTRY_BYTES = 16


def index_bytes(count: int) -> int:
    """Bytes of the index of a file.

    count: of its chunks.
    """
    return count * ENTRY_BYTES + CRC_BYTES


def spans_in(index: bytes) -> list[tuple[int, int]]:
    """Where each chunk begins and ends.

    index: of the file, its crc32c at the end.
    """
    return [(start, start + length) for start, length in _entries(index).tolist()]


def chunk_sums(data: bytes, *, count: int) -> str:
    """What binds the chunks of an object to their places, as `StoredObject.chunks` says.

    data: an object of `count` chunks, which close with their crc32c.
    count: of the chunks.
    """
    index = data[-index_bytes(count) :]
    sums = [data[stop - CRC_BYTES : stop] for _, stop in spans_in(index)]
    return b"".join([*sums, index[-CRC_BYTES:]]).hex()


def blocks_together(data: bytes, grid: Sequence[int]) -> bytes:
    """The same file with the chunks of a block next to each other, its planes side by side.

    Zarr writes chunks along a Morton curve, which mixes planes with blocks: a block of 20 planes
    would lie in 20 places, each of which is a request where the file is far away.

    data: of an array [plane, row, ...], as Zarr writes it.
    grid: how many chunks it has along each axis: planes, blocks, draws.
    """
    count = math.prod(grid)
    entries_C2 = _entries(data[-index_bytes(count) :])
    numbers_PBD = np.arange(count).reshape(*grid[:2], -1)
    order_C = numbers_PBD.transpose(1, 2, 0).reshape(-1)
    starts_C, lengths_C = entries_C2[order_C].T
    chunks = [
        data[start : start + length]
        for start, length in zip(starts_C.tolist(), lengths_C.tolist(), strict=True)
    ]
    moved_C2 = entries_C2.copy()
    moved_C2[order_C, 0] = np.cumsum(lengths_C) - lengths_C
    index = moved_C2.tobytes()
    return b"".join([*chunks, index, google_crc32c.value(index).to_bytes(CRC_BYTES, "little")])


def _entries(index: bytes) -> np.ndarray:
    """uint64 [C, 2]: start and length of each chunk."""
    return np.frombuffer(index[:-CRC_BYTES], dtype="<u8").reshape(-1, 2)
