"""What a sparse target does to a student's gradient: its angle to the dense one, and their norms.

With student q and target t the gradient of forward KL on the student's logits is `(sum t) q - t`,
which is `q - t` where t sums to 1. Dense distillation pulls towards the teacher's whole
distribution p. A target of weights (unbiased, sample, hybrid) pulls towards those weights, and
towards `(1 - sum t) q` beside them where they need not sum to 1. A head with its tail in one bucket
pulls towards p on the head and, with M the teacher's and Q the student's mass of the tail, towards
`q_j M / Q` on the tail, which is the gradient `q_j (1 - M / Q)` there.

Gradients are summed over many targets before they are compared, as an optimiser sums them over a
batch: what an unbiased target misses averages out in the sum, what a biased one misses adds up.

Shapes: R targets, K entries, V vocabulary, D width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from logitstore.targets.targets import SparseTargets

__all__ = ["GradientComparison"]

# Elements of a gradient that are widened to float64 at a time.
_BLOCK = 1 << 22


class GradientComparison:
    """The gradients of dense and of sparse distillation, summed over all targets that were added.

    Without a student it is the gradient on the logits of a uniform one, [V]; with hidden states
    and log-probabilities of a student it is the gradient on the weight of its output layer,
    [V, D], up to that layer's constant scale (the slope of a soft-cap is left out).
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._dense: Tensor | None = None
        self._sparse: Tensor | None = None

    def add(
        self,
        logprobs_RV: Tensor,
        targets: SparseTargets,
        *,
        hidden_RD: Tensor | None = None,
        student_logprobs_RV: Tensor | None = None,
        stored_RV: Tensor | None = None,
    ) -> None:
        """Add R targets; `logprobs_RV` (nats) is the teacher's dense log-softmax of each.

        Teacher, student and targets are at one temperature. In `targets` a bucket's log-mass at
        b = 1 is the first column of `tail_logmass_RB`. A student comes with both of its arrays, in
        every call or in none. ValueError where it does not. `stored_RV` (nats) are the whole stored
        distributions, where they are known: then no entry is looked at.
        """
        if (hidden_RD is None) != (student_logprobs_RV is None):
            raise ValueError("a student's hidden states and log-probabilities come together")
        if student_logprobs_RV is None:
            student_RV = torch.full_like(logprobs_RV, 1.0 / self._vocab_size)
        else:
            student_RV = student_logprobs_RV.to(logprobs_RV.dtype).exp()
        self._dense = _added(self._dense, student_RV - logprobs_RV.exp(), hidden_RD)
        pulled_RV = _pulled_towards(targets, student_RV) if stored_RV is None else stored_RV.exp()
        self._sparse = _added(self._sparse, student_RV.sub_(pulled_RV), hidden_RD)

    @property
    def angle(self) -> float:
        """Degrees between the two sums; NaN where one of them is zero or nothing was added.

        As twice the arc tangent of |a - b| / |a + b| of the unit vectors a, b (Kahan 2006), which
        keeps its digits where an arc cosine has lost them: below 0.02 degrees in float32.
        """
        dense_norm, sparse_norm = self._norms()
        if not dense_norm * sparse_norm > 0:
            return math.nan
        apart = together = 0.0
        for dense, sparse in self._blocks():
            dense, sparse = dense / dense_norm, sparse / sparse_norm
            apart += float((dense - sparse).square().sum())
            together += float((dense + sparse).square().sum())
        return math.degrees(2 * math.atan2(math.sqrt(apart), math.sqrt(together)))

    @property
    def norm_ratio(self) -> float:
        """Length of the sparse sum over that of the dense one; NaN where the dense one is zero."""
        dense_norm, sparse_norm = self._norms()
        return sparse_norm / dense_norm if dense_norm > 0 else math.nan

    def _norms(self) -> tuple[float, float]:
        dense_square = sparse_square = 0.0
        for dense, sparse in self._blocks():
            dense_square += float(dense.square().sum())
            sparse_square += float(sparse.square().sum())
        return math.sqrt(dense_square), math.sqrt(sparse_square)

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Both sums, piece by piece, in float64."""
        if self._dense is None or self._sparse is None:
            return
        for dense, sparse in zip(
            self._dense.flatten().split(_BLOCK), self._sparse.flatten().split(_BLOCK), strict=True
        ):
            yield dense.to(_wide(dense)), sparse.to(_wide(sparse))


def _pulled_towards(targets: SparseTargets, student_RV: Tensor) -> Tensor:
    """[R, V]: what each sparse target puts in the place of the teacher's distribution."""
    ids_RK = torch.from_numpy(targets.ids_RK.astype(np.int64)).to(student_RV.device)
    weights_RK = torch.from_numpy(targets.weights_RK).to(student_RV)  # 0 where it is padding
    if targets.kind.drawn:
        pulled_RV = torch.zeros_like(student_RV).scatter_add_(1, ids_RK, weights_RK)
        if not targets.kind.weights_sum_to_one:
            pulled_RV += (1 - weights_RK.sum(-1, keepdim=True)) * student_RV
        return pulled_RV
    used_RK = torch.from_numpy(targets.used_RK()).to(student_RV.device)
    # x - x is exactly 0, so the tail is what is left, summed without cancellation.
    head_RK = student_RV.gather(1, ids_RK) * used_RK
    pulled_RV = student_RV.scatter_add(1, ids_RK, -head_RK)
    teacher_R = torch.from_numpy(np.exp(targets.tail_logmass_RB[:, 0])).to(student_RV)
    student_R = pulled_RV.sum(-1)
    share_R = torch.where(student_R > 0, teacher_R / student_R, 0)
    return pulled_RV.mul_(share_R[:, None]).scatter_add_(1, ids_RK, weights_RK)


def _added(total: Tensor | None, rows_RV: Tensor, hidden_RD: Tensor | None) -> Tensor:
    """`total` with the gradient of R more targets: [V] in float64, [V, D] in float32."""
    if hidden_RD is None:
        sum_V = rows_RV.sum(0, dtype=_wide(rows_RV))
        return sum_V if total is None else total.add_(sum_V)
    hidden_RD = hidden_RD.float()
    if total is None:
        total = hidden_RD.new_zeros(rows_RV.shape[1], hidden_RD.shape[1])
    return total.addmm_(rows_RV.float().t(), hidden_RD)


def _wide(tensor: Tensor) -> torch.dtype:
    # Apple's GPUs have no float64.
    return torch.float32 if tensor.device.type == "mps" else torch.float64
