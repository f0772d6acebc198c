"""Generalised Jensen-Shannon divergence: between forward and reverse KL, by a weight `beta`.

Agarwal et al. 2024, "On-Policy Distillation of Language Models: Learning from Self-Generated
Mistakes" (arXiv 2306.13649): with teacher p, student q and their mixture `m = beta p + (1 - beta)
q`, it is `beta KL(p || m) + (1 - beta) KL(q || m)`. At beta 0 and 1 that is nothing at all; there
this is forward KL and reverse KL, as in TRL's GKD trainer, whose values these are. They are no
limits: near the ends the divergence nears `beta KL(p || q)` and `(1 - beta) KL(q || p)`, so at beta
0.1 its gradient is about a tenth of that of forward KL. It is at most log 2.

An f-divergence, so a lower bound over a bucket. Near p it is `beta (1 - beta) / 2` times the
chi-squared distance: quadratic as KL is, so its gradient falls like 1 / T^2 and T^2 restores it.
TRL does not multiply by T^2.

Shapes: N rows, K entries, R rows of whole distributions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from logitstore.plumbing import Option
from trainer.losses.base import Loss
from trainer.losses.forward_kl import forward_kl
from trainer.losses.reverse_kl import reverse_kl

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.base import DenseRows, LossInputs

__all__ = ["jensen_shannon"]

_BETA = Option(
    name="beta",
    kind=float,
    help="The share of the teacher in the mixture with the student: 0 is forward KL, 1 is reverse "
    "KL, and in between the gradient is smaller, by about beta or 1 - beta near the ends.",
    least=0,
    most=1,
)


def _divergence(inputs: LossInputs, *, beta: float) -> Tensor:
    if beta in (0.0, 1.0):
        return (reverse_kl if beta else forward_kl).divergence(inputs)
    teacher, student = inputs.teacher, inputs.student
    head_NK = _terms(teacher.log_head_NK, student.log_head_NK, beta)
    tail_N = _terms(teacher.log_tail_N, student.log_tail_N, beta)
    return head_NK.masked_fill(~inputs.used_NK, 0.0).sum(dim=-1) + tail_N


def _terms(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """`beta p log(p / m) + (1 - beta) q log(q / m)` of each outcome."""
    log_m = mixed(log_p, log_q, beta)
    return beta * log_p.exp() * (log_p - log_m) + (1.0 - beta) * log_q.exp() * (log_q - log_m)


def mixed(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """`log(share p + (1 - share) q)`, finite where both are `EMPTY_TAIL`.

    Args:
        log_p: Nats.
        log_q: Nats.
        share: Above 0 and below 1.
    """
    return (log_p + math.log(share)).logaddexp(log_q + math.log1p(-share))


def _reference(rows: DenseRows, *, beta: float) -> Tensor:
    if beta in (0.0, 1.0):
        return (reverse_kl if beta else forward_kl).reference(rows)
    p, q = (rows.pooled(side).exp() for side in (rows.log_teacher_RV, rows.log_student_RV))
    m = beta * p + (1 - beta) * q
    return (beta * p * (p / m).log() + (1 - beta) * q * (q / m).log()).sum(dim=1)


jensen_shannon = Loss(
    name="jensen_shannon",
    summary="Generalised Jensen-Shannon divergence: between forward and reverse KL, by --beta.",
    divergence=_divergence,
    reference=_reference,
    linear=False,
    tail="bucket",
    bound="lower",
    times_temperature_squared=True,
    options={_BETA: 0.5},
)
