"""Forward KL to the head, where the true token gets the mass that the head lacks.

The "naive fix" of "Sparse Logit Sampling" (arXiv 2503.16870): biased towards the labels, but the
tail is no longer taught to be nothing. Linear in the teacher, but not to be had from drawn entries:
they leave no mass to give to the label.

Shapes: N rows, K entries, R rows of whole distributions, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore import EMPTY_TAIL
from trainer.losses.base import HeadTail, Loss
from trainer.losses.forward_kl import kl_to_student

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.base import DenseRows, LossInputs

__all__ = ["residual_to_label"]


def _divergence(inputs: LossInputs) -> Tensor:
    """Forward KL over one entry more: the true token, in use where it is no other entry."""
    import torch

    student, teacher = _tail_to_label(inputs)
    outside_N1 = ~inputs.is_label_NK.any(dim=1, keepdim=True)
    return kl_to_student(student, teacher, torch.cat((inputs.used_NK, outside_N1), dim=1))


def _tail_to_label(inputs: LossInputs) -> tuple[HeadTail, HeadTail]:
    """Student and teacher over K + 1 entries, the bucket's mass added to the true token's.

    Where the true token is an entry, that one grows; where it is none, the last entry stands for
    it. The student's bucket still holds a token that became an entry; the teacher's is empty, so a
    forward divergence does not look there.
    """
    import torch

    student, teacher = inputs.student, inputs.teacher
    inside_N = inputs.is_label_NK.any(dim=1)
    grown_NK = torch.logaddexp(teacher.log_head_NK, teacher.log_tail_N[:, None])
    head_NK = torch.where(inputs.is_label_NK, grown_NK, teacher.log_head_NK)
    sides = ((student.log_head_NK, inputs.log_label_N), (head_NK, teacher.log_tail_N))
    student_NK1, teacher_NK1 = (
        torch.cat((entries_NK, label_N.masked_fill(inside_N, EMPTY_TAIL)[:, None]), dim=1)
        for entries_NK, label_N in sides
    )
    return (
        HeadTail(log_head_NK=student_NK1, log_tail_N=student.log_tail_N),
        HeadTail(
            log_head_NK=teacher_NK1, log_tail_N=torch.full_like(teacher.log_tail_N, EMPTY_TAIL)
        ),
    )


def _reference(rows: DenseRows) -> Tensor:
    kept_RV = rows.log_teacher_RV.exp().masked_fill(~rows.kept_RV, 0.0)
    tail_R1 = rows.log_teacher_RV.exp().masked_fill(rows.kept_RV, 0.0).sum(dim=1, keepdim=True)
    p_RV = kept_RV.scatter_add(1, rows.label_ids_R[:, None], tail_R1)
    return (p_RV.xlogy(p_RV) - p_RV * rows.log_student_RV).sum(dim=1)


residual_to_label = Loss(
    name="residual_to_label",
    summary="Forward KL to the kept tokens, the mass that they lack given to the true token.",
    divergence=_divergence,
    reference=_reference,
    linear=True,
    tail="label",
    bound="none",
    times_temperature_squared=True,
)
