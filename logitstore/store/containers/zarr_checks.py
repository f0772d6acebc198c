"""What the arrays of a Zarr shard may be: codecs, rows and room, checked before a chunk is read.

A store may come from anywhere, and Zarr would run any codec and set aside any memory that the
metadata of an array asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.errors import CorruptionError
from logitstore.format.columns import DOCUMENT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import zarr

    from logitstore.format.blocks import BlockCounts
    from logitstore.store.containers.base import ShardLimits

__all__ = ["BY_ENTRY", "check_codecs", "check_room", "check_rows"]

BY_ENTRY = (0, 2, 1)  # the order of axes in which the n-th entries of all rows are neighbours
_WIDTH, _MOST_SCALARS = 4, 128  # bytes of an integer; columns of scalars
_CHAIN = ["bytes", "zstd", "crc32c"]
_INDEX_CHAIN = ["bytes", "crc32c"]


def check_codecs(array: zarr.Array, *, place: str) -> None:
    """Refuse all codecs but those of `write`, so that no other codec of a store is ever run."""
    metadata: Any = array.metadata
    sharding = [codec.to_dict() for codec in metadata.codecs]
    names = [codec["name"] for codec in sharding]
    inner: list[Any] = []
    if names == ["sharding_indexed"]:
        chain = sharding[0]["configuration"]
        inner = [[codec["name"] for codec in chain[part]] for part in ("codecs", "index_codecs")]
        first = chain["codecs"][0]
        if first["name"] == "transpose" and tuple(first["configuration"]["order"]) == BY_ENTRY:
            del inner[0][0]
    if inner != [_CHAIN, _INDEX_CHAIN] or array.dtype not in (np.uint8, np.uint64):
        raise CorruptionError(
            "array has another type or other codecs than this format's",
            place=place,
            found=f"{array.dtype}, {names}, {inner}",
            allowed=f"uint8 or uint64, sharding of {_CHAIN} and {_INDEX_CHAIN}",
        )


def check_rows(name: str, array: zarr.Array, blocks: Sequence[BlockCounts], *, place: str) -> None:
    """Refuse another shape than the commit implies: a store cannot ask for more memory."""
    rows = {
        "entries": [block.targets for block in blocks],
        "scalars": [block.targets for block in blocks],
        "tokens": [block.tokens for block in blocks],
        "documents": [block.documents for block in blocks],
    }.get(name)
    axis = 0 if name == "documents" else 1
    if rows is None or (array.chunks[axis], array.shape[axis]) == (
        max(rows),
        len(rows) * max(rows),
    ):
        return
    raise CorruptionError(
        "array is of another shape than its commit says",
        place=place,
        found=f"{array.shape} in chunks of {array.chunks}",
        allowed=f"{len(rows)} blocks of {max(rows)}",
    )


def check_room(
    name: str, array: zarr.Array, limits: ShardLimits, *, columns: int, place: str
) -> None:
    """Refuse more planes, wider rows or longer tables than a shard of this store has."""
    shape, chunks = array.shape, array.chunks
    allowed = {
        "entries": (_WIDTH * columns, shape[1], limits.entries),
        "scalars": (_WIDTH * _MOST_SCALARS, shape[-1]),
        "tokens": (_WIDTH + 1, shape[-1]),
        "documents": (shape[0], len(DOCUMENT_COLUMNS)),
    }.get(name, (_WIDTH, limits.table))
    small = len(shape) == len(allowed) and all(
        one <= most for one, most in zip(shape, allowed, strict=True)
    )
    if not small or any(one > whole for one, whole in zip(chunks, shape, strict=True)):
        raise CorruptionError(
            "array is larger than a shard of this store can be",
            place=place,
            found=f"{shape} in chunks of {chunks}",
            allowed=f"up to {allowed}",
        )
