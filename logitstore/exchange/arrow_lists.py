"""Rows of targets as Arrow columns: lists of numbers, without a loop over rows.

Shapes: R targets, K entries, D documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from logitstore.targets.targets import SparseTargets

__all__ = ["by_length", "entries_of", "ragged", "sorted_entries"]


def by_length(values: Any, lengths: np.ndarray) -> pa.Array:
    """large_list: `values` end to end, cut into lists.

    values: an Arrow or NumPy array.
    lengths: of each list.
    """
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    flat = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    return pa.LargeListArray.from_arrays(pa.array(offsets), flat)


def ragged(values_RK: np.ndarray, used_RK: np.ndarray, *, null_RK: Any = None) -> pa.Array:
    """large_list [R]: the used values of each row.

    values_RK: of any type.
    used_RK: bool.
    null_RK: bool, which of them nobody knows.
    """
    mask = None if null_RK is None else null_RK[used_RK]
    return by_length(pa.array(values_RK[used_RK], mask=mask), used_RK.sum(axis=1))


def sorted_entries(targets: SparseTargets, *, drawn: bool) -> SparseTargets:
    """The same targets, each row's exact entries by falling weight, then the drawn ones.

    targets: of a store.
    drawn: whether drawn entries are kept; else only exact ones and shares are.
    """
    from dataclasses import replace

    kept_RK = targets.used_RK() if drawn else targets.exact_RK()
    falling_RK = np.where(kept_RK, -targets.logprobs_RK, np.inf)
    order_RK = np.lexsort((falling_RK, targets.sampled_RK & kept_RK, ~kept_RK), axis=1)
    columns: dict[str, Any] = {
        name: np.take_along_axis(getattr(targets, name), order_RK, axis=1)
        for name in ("ids_RK", "logprobs_RK", "sampled_RK")
    }
    return replace(targets, count_R=kept_RK.sum(axis=1).astype(np.int32), **columns)


def entries_of(values_RK: np.ndarray, rows_D: np.ndarray) -> pa.Array:
    """large_list of large_list: of each document its rows, all of K values.

    values_RK: of the rows of all documents, end to end.
    rows_D: how many rows each has.
    """
    inner = by_length(values_RK.ravel(), np.full(len(values_RK), values_RK.shape[1]))
    return by_length(inner, rows_D)
