"""Minus the log of the acceptance rate of speculative decoding, `-log sum min(p, q)`.

A token that the student drafts is accepted by the teacher with the probability `sum min(p, q)`
(Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", arXiv
2211.17192), which is 1 less the total variation. Samarin et al. 2026, "LK Losses: Direct Acceptance
Rate Optimization for Speculative Decoding" (arXiv 2602.23881), train drafts on minus its log: its
gradient is that of total variation divided by the rate, so it does not fade where little is
accepted.

A monotone function of an f-divergence, so a lower bound over a bucket: there more seems accepted
than is. It has a corner where student and teacher are equal, so its gradient falls like 1 / T, as
that of total variation does; T^2 would make it grow with T.

Shapes: N rows, K entries, R rows of whole distributions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore import EMPTY_TAIL
from trainer.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.base import DenseRows, LossInputs

__all__ = ["acceptance"]


def _divergence(inputs: LossInputs) -> Tensor:
    """In logs throughout: what is accepted may be less than float32 has a number for."""
    import torch

    teacher, student = inputs.teacher, inputs.student
    head_NK = teacher.log_head_NK.minimum(student.log_head_NK)
    head_NK = head_NK.masked_fill(~inputs.used_NK, EMPTY_TAIL)
    tail_N1 = teacher.log_tail_N.minimum(student.log_tail_N).unsqueeze(-1)
    return -torch.cat((head_NK, tail_N1), dim=-1).logsumexp(dim=-1)


def _reference(rows: DenseRows) -> Tensor:
    p, q = (rows.pooled(side).exp() for side in (rows.log_teacher_RV, rows.log_student_RV))
    return -(1 - (p - q).abs().sum(dim=1) / 2).log()


acceptance = Loss(
    name="acceptance",
    summary="Minus the log of the share that speculative decoding accepts: for draft models.",
    divergence=_divergence,
    reference=_reference,
    linear=False,
    tail="bucket",
    bound="lower",
    times_temperature_squared=False,
)
