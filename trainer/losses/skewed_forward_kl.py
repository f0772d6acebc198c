"""Skewed forward KL: from the teacher to a mixture of student and teacher.

Ko et al. 2024, "DistiLLM: Towards Streamlined Distillation for Large Language Models" (arXiv
2402.03898): with teacher p and student q, `KL(p || a p + (1 - a) q)`; they take a skew a of 0.1.
Where the student gives almost nothing to a token of the teacher's, forward KL and its gradient grow
without bound; this is at most `-log a`. With a skew of 0 it is forward KL.

An f-divergence, so a lower bound over a bucket. Near p it is `(1 - a)^2` times forward KL:
quadratic, so its gradient falls like 1 / T^2.

Shapes: N rows, K entries, R rows of whole distributions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.plumbing import Option
from trainer.losses.base import HeadTail, Loss
from trainer.losses.forward_kl import forward_kl, kl_to_student
from trainer.losses.jensen_shannon import mixed

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.base import DenseRows, LossInputs

__all__ = ["SKEW", "skewed_forward_kl"]

SKEW = Option(
    name="skew",
    kind=float,
    help="How much of the first distribution, teacher or student, is mixed into the second before "
    "the KL is taken: 0 is plain KL, more bounds it lower and makes its gradient smaller.",
    least=0,
    most=0.99,  # with a share of 1 there is nothing to learn
)


def _divergence(inputs: LossInputs, *, skew: float) -> Tensor:
    if skew == 0.0:
        return forward_kl.divergence(inputs)
    teacher, student = inputs.teacher, inputs.student
    mixture = HeadTail(
        log_head_NK=mixed(teacher.log_head_NK, student.log_head_NK, skew),
        log_tail_N=mixed(teacher.log_tail_N, student.log_tail_N, skew),
    )
    return kl_to_student(mixture, teacher, inputs.used_NK)


def _reference(rows: DenseRows, *, skew: float) -> Tensor:
    p, q = (rows.pooled(side).exp() for side in (rows.log_teacher_RV, rows.log_student_RV))
    return (p * (p / (skew * p + (1 - skew) * q)).log()).sum(dim=1)


skewed_forward_kl = Loss(
    name="skewed_forward_kl",
    summary="KL from teacher to a mixture of student and teacher, by --skew: bounded.",
    divergence=_divergence,
    reference=_reference,
    linear=False,
    tail="bucket",
    bound="lower",
    times_temperature_squared=True,
    options={SKEW: 0.1},
)
