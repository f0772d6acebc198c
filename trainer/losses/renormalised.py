"""Forward KL to the head renormalised to a mass of 1: what most top-k distillation does.

Biased: the student learns `t_i / mass` on the head and 0 on the tail, so it grows too sure of
itself ("Sparse Logit Sampling", arXiv 2503.16870). Here to be compared with, never the default.

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

__all__ = ["renormalised"]


def _divergence(inputs: LossInputs) -> Tensor:
    return kl_to_student(inputs.student, _without_tail(inputs.teacher), inputs.used_NK)


def _without_tail(teacher: HeadTail) -> HeadTail:
    """The head renormalised to a mass of 1, and an empty bucket."""
    log_mass_N1 = teacher.log_head_NK.logsumexp(dim=1, keepdim=True)
    return HeadTail(
        log_head_NK=(teacher.log_head_NK - log_mass_N1).clamp(min=EMPTY_TAIL),
        log_tail_N=teacher.log_tail_N.new_full(teacher.log_tail_N.shape, EMPTY_TAIL),
    )


def _reference(rows: DenseRows) -> Tensor:
    p_RV = rows.log_teacher_RV.exp().masked_fill(~rows.kept_RV, 0.0)
    mass_R1 = p_RV.sum(dim=1, keepdim=True)
    gap_RV = rows.log_teacher_RV - mass_R1.log() - rows.log_student_RV
    return (p_RV / mass_R1 * gap_RV).sum(dim=1)


renormalised = Loss(
    name="renormalised",
    summary="Forward KL to the kept tokens alone, their probabilities scaled up to 1: biased.",
    divergence=_divergence,
    reference=_reference,
    linear=False,
    tail="dropped",
    bound="none",
    times_temperature_squared=True,
)
