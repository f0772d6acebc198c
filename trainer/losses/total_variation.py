"""Total variation: half the sum of differences, `sum |p - q| / 2`.

Between 0 and 1: the share of tokens that speculative decoding would reject if the student drafted
for the teacher (Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding",
arXiv 2211.17192). `acceptance` is minus the log of the share that it would accept.

An f-divergence, so a lower bound over a bucket. It has a corner where student and teacher are
equal: its gradient does not get smaller as they come near each other, and falls like 1 / T. T^2
would make it grow with T, so nothing is multiplied.

Shapes: N rows, K entries, R rows of whole distributions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.base import DenseRows, LossInputs

__all__ = ["total_variation"]


def _divergence(inputs: LossInputs) -> Tensor:
    teacher, student = inputs.teacher, inputs.student
    head_NK = _distances(teacher.log_head_NK, student.log_head_NK)
    tail_N = _distances(teacher.log_tail_N, student.log_tail_N)
    return 0.5 * (head_NK.masked_fill(~inputs.used_NK, 0.0).sum(dim=-1) + tail_N)


def _distances(log_p: Tensor, log_q: Tensor) -> Tensor:
    """`|p - q|`, exact too where both are 1 but for 1e-9. 0 has no gradient."""
    return log_p.maximum(log_q).exp() * -(-(log_p - log_q).abs()).expm1()


def _reference(rows: DenseRows) -> Tensor:
    p, q = (rows.pooled(side).exp() for side in (rows.log_teacher_RV, rows.log_student_RV))
    return (p - q).abs().sum(dim=1) / 2


total_variation = Loss(
    name="total_variation",
    summary="Half the sum of differences: the share that speculative decoding would reject.",
    divergence=_divergence,
    reference=_reference,
    linear=False,
    tail="bucket",
    bound="lower",
    times_temperature_squared=False,
)
