"""What targets pull a uniform student towards, summed over many; and how far sparse ones go astray.

The gradient of distillation on the logits of a uniform student q = 1/V is q less the pull of the
target, so of any number of targets only the mean pull need be kept. Weights w pull towards
themselves, and each token towards `(1 - sum w) / V` more where they need not sum to 1. Of a head
with a bucket of mass M over n entries, each other token is pulled towards M / (V - n).
`GradientComparison` says the same of targets one by one.

Shapes: R targets, K entries, V vocabulary.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from logitstore.fidelity.gradients import GradientComparison
from logitstore.targets.kinds import Entries, TargetKind
from logitstore.targets.targets import SparseTargets

__all__ = ["PullSum", "compare", "relative_error"]

_TINY = 1e-30  # its logarithm is finite, and it weighs nothing compared with 1/V
_DENSE = TargetKind(entries=Entries.WEIGHTED, keeps_tail=False, weights_sum_to_one=True)


class PullSum:
    """The pulls of targets on a uniform student, added up."""

    def __init__(self, vocab_size: int) -> None:
        self._sum_V = np.zeros(vocab_size)
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    @property
    def mean_V(self) -> np.ndarray:
        """float64 [V]."""
        return self._sum_V / max(1, self._rows)

    def add_dense(self, probs_RV: torch.Tensor) -> None:
        """Add the teacher's own distributions: `probs_RV`, each row of which sums to 1."""
        self._sum_V += probs_RV.sum(0).cpu().numpy()
        self._rows += len(probs_RV)

    def add(self, targets: SparseTargets) -> None:
        """Add sparse targets, of any kind."""
        vocab_size = len(self._sum_V)
        used_RK, pull_RK = targets.used_RK(), targets.weights_RK.astype(np.float64)
        if targets.kind.drawn and not targets.kind.weights_sum_to_one:
            self._sum_V += (1 - pull_RK.sum(axis=1)).sum() / vocab_size
        share_R = targets.tail_share_R(vocab_size=vocab_size)
        self._sum_V += share_R.sum()
        pull_RK -= share_R[:, None]
        ids, pulls = targets.ids_RK[used_RK], pull_RK[used_RK]
        self._sum_V += np.bincount(ids, weights=pulls, minlength=vocab_size)
        self._rows += len(targets)

    def include(self, other: PullSum) -> None:
        """Add the targets of `other`, which is of the same vocabulary."""
        self._sum_V += other._sum_V
        self._rows += other._rows


def compare(dense: PullSum, sparse: PullSum) -> GradientComparison:
    """The mean gradients of `dense` and of `sparse` targets, on the logits of a uniform student."""
    comparison = GradientComparison(len(dense.mean_V))
    logs_1V = np.log(np.maximum(dense.mean_V, _TINY)).astype(np.float32)[None, :]
    comparison.add(torch.from_numpy(logs_1V), _as_targets(sparse.mean_V))
    return comparison


def relative_error(comparison: GradientComparison) -> float:
    """|sparse - dense| / |dense| of the two gradients in `comparison`.

    It follows from the ratio of their lengths and their angle by the law of cosines.
    """
    ratio, half = comparison.norm_ratio, math.radians(comparison.angle) / 2
    return math.sqrt((1 - ratio) ** 2 + 4 * ratio * math.sin(half) ** 2)


def _as_targets(mean_V: np.ndarray) -> SparseTargets:
    """One target that pulls towards `mean_V`."""
    return SparseTargets(
        ids_RK=np.arange(len(mean_V), dtype=np.uint32)[None, :],
        logprobs_RK=np.log(np.maximum(mean_V, _TINY)).astype(np.float32)[None, :],
        sampled_RK=np.ones((1, len(mean_V)), dtype=bool),
        kind=_DENSE,
        count_R=np.array([len(mean_V)], dtype=np.int32),
        tail_logmass_RB=np.zeros((1, 0), dtype=np.float32),
        label_logprob_R=np.zeros(1, dtype=np.float32),
        entropy_R=np.zeros(1, dtype=np.float32),
    )
