"""Heads of fewer entries: what a dump with a smaller K would have kept of the same distribution.

The K most probable tokens of a row are the first of its K' > K, and the tail's log-mass at a node b
is that of the larger head with the entries added that are dropped:

    log sum_{tail of K} p^b = logaddexp(log sum_{tail of K'} p^b, log sum_{dropped} p^b)

Stored log-probabilities are rounded, so among entries that round to the same code it is open which
were the larger ones; the one that stands first is kept.

Shapes: R targets, K entries, B stored temperatures.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from logitstore.targets.targets import EMPTY_TAIL, SparseTargets, none_sampled

if TYPE_CHECKING:
    from logitstore.targets.kinds import TargetKind

__all__ = ["lowered"]


def lowered(
    targets: SparseTargets, k: int, *, nodes: tuple[float, ...], kind: TargetKind
) -> SparseTargets:
    """The `k` most probable exact entries of each row; drawn ones are left out.

    targets: with at least one exact entry in each row, and a tail that is all but these.
    k: 1 or more.
    nodes: b of each column of the tail.
    kind: of the result, whose entries are all exact.
    """
    exact_RK = targets.exact_RK()
    logprobs_RK = np.where(exact_RK, targets.logprobs_RK, -np.inf)
    order_RK = np.argsort(-logprobs_RK, axis=1, kind="stable")
    sorted_RK = np.take_along_axis(logprobs_RK, order_RK, axis=1)
    kept_RK, dropped_RK = sorted_RK[:, :k], sorted_RK[:, k:].astype(np.float64)
    kept_RK = _padded(kept_RK, k, -np.inf)
    used_RK = np.isfinite(kept_RK)
    ids_RK = _padded(np.take_along_axis(targets.ids_RK, order_RK[:, :k], axis=1), k, 0)
    return replace(
        targets,
        kind=kind,
        ids_RK=np.where(used_RK, ids_RK, 0).astype(np.uint32),
        logprobs_RK=np.where(used_RK, kept_RK, EMPTY_TAIL).astype(np.float32),
        sampled_RK=none_sampled(*kept_RK.shape),
        count_R=used_RK.sum(axis=1).astype(np.int32),
        tail_logmass_RB=_with_dropped(targets.tail_logmass_RB, dropped_RK, nodes),
    )


def _padded(values_RK: np.ndarray, k: int, value: float) -> np.ndarray:
    """The values with so many columns."""
    width = max(0, k - values_RK.shape[1])
    return np.pad(values_RK, ((0, 0), (0, width)), constant_values=value)


def _with_dropped(
    tail_RB: np.ndarray, dropped_RK: np.ndarray, nodes: tuple[float, ...]
) -> np.ndarray:
    """float32 [R, B]: the log-masses of tails that hold more entries, -inf where there is none."""
    found_RB = np.where(tail_RB <= EMPTY_TAIL, -np.inf, tail_RB.astype(np.float64))
    for column, node in enumerate(nodes):
        for dropped_R in dropped_RK.T:  # a column of all rows at a time takes no other memory
            found_RB[:, column] = np.logaddexp(found_RB[:, column], node * dropped_R)
    return np.where(np.isneginf(found_RB), EMPTY_TAIL, found_RB).astype(np.float32)
