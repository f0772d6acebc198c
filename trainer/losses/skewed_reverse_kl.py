"""Skewed reverse KL: from the student to a mixture of teacher and student.

Ko et al. 2024, "DistiLLM: Towards Streamlined Distillation for Large Language Models" (arXiv
2402.03898): with teacher p and student q, `KL(q || (1 - a) p + a q)`; they take a skew a of 0.1. A
token that the teacher gives almost nothing costs the student no more than `-log a`. With a skew of
0 it is reverse KL.

An f-divergence, so a lower bound over a bucket. Near p it is `(1 - a)^2` times reverse KL:
quadratic, so its gradient falls like 1 / T^2.

Shapes: N rows, K entries, R rows of whole distributions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.losses.base import HeadTail, Loss
from trainer.losses.forward_kl import kl_to_student
from trainer.losses.jensen_shannon import mixed
from trainer.losses.reverse_kl import reverse_kl
from trainer.losses.skewed_forward_kl import SKEW

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.base import DenseRows, LossInputs

__all__ = ["skewed_reverse_kl"]


def _divergence(inputs: LossInputs, *, skew: float) -> Tensor:
    if skew == 0.0:
        return reverse_kl.divergence(inputs)
    teacher, student = inputs.teacher, inputs.student
    mixture = HeadTail(
        log_head_NK=mixed(student.log_head_NK, teacher.log_head_NK, skew),
        log_tail_N=mixed(student.log_tail_N, teacher.log_tail_N, skew),
    )
    return kl_to_student(mixture, student, inputs.used_NK)


def _reference(rows: DenseRows, *, skew: float) -> Tensor:
    p, q = (rows.pooled(side).exp() for side in (rows.log_teacher_RV, rows.log_student_RV))
    return (q * (q / ((1 - skew) * p + skew * q)).log()).sum(dim=1)


skewed_reverse_kl = Loss(
    name="skewed_reverse_kl",
    summary="KL from student to a mixture of teacher and student, by --skew: bounded.",
    divergence=_divergence,
    reference=_reference,
    linear=False,
    tail="bucket",
    bound="lower",
    times_temperature_squared=True,
    options={SKEW: 0.1},
)
