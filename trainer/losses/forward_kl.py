"""Forward KL, teacher to student: the loss of knowledge distillation, linear in the teacher.

Shapes: N rows, K entries, R rows of whole distributions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.base import DenseRows, HeadTail, LossInputs

__all__ = ["forward_kl", "kl_to_student"]


def kl_to_student(student: HeadTail, teacher: HeadTail, used_NK: Tensor) -> Tensor:
    """`sum_i p_i (log p_i - log q_i)` over the used entries and the bucket, [N], nats.

    Args:
        student: q, over entries and bucket.
        teacher: p, over the same.
        used_NK: bool: which entries are in use.
    """
    head_NK = teacher.log_head_NK.exp() * (teacher.log_head_NK - student.log_head_NK)
    tail_N = teacher.log_tail_N.exp() * (teacher.log_tail_N - student.log_tail_N)
    return head_NK.masked_fill(~used_NK, 0.0).sum(dim=-1) + tail_N


def _divergence(inputs: LossInputs) -> Tensor:
    return kl_to_student(inputs.student, inputs.teacher, inputs.used_NK)


def _reference(rows: DenseRows) -> Tensor:
    log_p, log_q = rows.pooled(rows.log_teacher_RV), rows.pooled(rows.log_student_RV)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


forward_kl = Loss(
    name="forward_kl",
    summary="KL from teacher to student: the student covers all that the teacher says.",
    divergence=_divergence,
    reference=_reference,
    linear=True,
    tail="bucket",
    bound="lower",
    times_temperature_squared=True,
)
