"""Reverse KL, student to teacher: mode-seeking, the student gives nothing to unlikely tokens.

Not linear in the teacher, so it needs exact entries; over a bucket it is a lower bound.

Shapes: N rows, K entries, R rows of whole distributions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.base import DenseRows, LossInputs

__all__ = ["reverse_kl"]


def _divergence(inputs: LossInputs) -> Tensor:
    """`sum_i q_i (log q_i - log p_i)` over the used entries and the bucket, [N]."""
    student, teacher = inputs.student, inputs.teacher
    head_NK = student.log_head_NK.exp() * (student.log_head_NK - teacher.log_head_NK)
    tail_N = student.log_tail_N.exp() * (student.log_tail_N - teacher.log_tail_N)
    return head_NK.masked_fill(~inputs.used_NK, 0.0).sum(dim=-1) + tail_N


def _reference(rows: DenseRows) -> Tensor:
    log_p, log_q = rows.pooled(rows.log_teacher_RV), rows.pooled(rows.log_student_RV)
    return (log_q.exp() * (log_q - log_p)).sum(dim=1)


reverse_kl = Loss(
    name="reverse_kl",
    summary="KL from student to teacher: the student keeps to the teacher's likeliest tokens.",
    divergence=_divergence,
    reference=_reference,
    linear=False,
    tail="bucket",
    bound="lower",
    times_temperature_squared=True,
)
