"""What the documents of a Parquet shard may be, once they are read: no null, no stray length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from logitstore.errors import CorruptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TOKEN_LISTS", "check_lists", "check_numbers"]

TOKEN_LISTS = ("input_ids", "counted")


def check_numbers(table: pa.Table, *, place: str) -> None:
    """Raise CorruptionError for a null or a negative number among the documents or of a table.

    table: whose schema was checked.
    place: what an error names.
    """
    for name in table.column_names:
        column = table[name]
        lists = pa.types.is_list(column.type)
        nulls = column.null_count
        nulls += sum(chunk.values.null_count for chunk in column.chunks) if lists else 0
        negative = pa.types.is_int64(column.type) and (column.to_numpy() < 0).any()
        if nulls or negative:
            raise CorruptionError(
                "a column holds a null" if nulls else "a number is negative",
                place=f"{place}, {name}",
                allowed="0 or more",
            )


def check_lists(table: pa.Table, widths: Mapping[str, int], *, place: str) -> None:
    """Raise CorruptionError unless each list is as long as the row's `tokens` or `targets` say.

    table: the documents of a block.
    widths: how many values a token or target has in each column of lists.
    place: what an error names.
    """
    due = {name: table[name].to_numpy() for name in ("tokens", "targets")}
    for name, width in widths.items():
        each_D = due["tokens" if name in TOKEN_LISTS else "targets"]
        found_D = np.concatenate([np.diff(one.offsets.to_numpy()) for one in table[name].chunks])
        # Divided, for a product of numbers from anywhere may be any other.
        if not (found_D % width == 0).all() or not np.array_equal(found_D // width, each_D):
            raise CorruptionError(
                "a list is of another length than its document says",
                place=f"{place}, {name}",
                allowed=f"{width} values each" if width > 1 else None,
            )
