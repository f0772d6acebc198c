"""Forward KL that weighs more what is below the teacher's likeliest tokens.

With the n likeliest tokens apart and all others as the rest, `KL = KL(n tokens and the rest as one)
+ P KL(inside the rest)`, P being the teacher's mass of the rest. Wherever the teacher is sure the
second part is next to nothing; here it has a weight of its own, and with 1 this is forward KL. The
aim is that of Dasgupta, Cohn and Baldwin 2026, "Don't Ignore the Tail: Decoupling top-K
Probabilities for Efficient Language Model Distillation" (arXiv 2602.20816); the formula is this
project's own.

The rest is the other kept tokens and the bucket. So a store must keep more than n tokens of a
target; a row that has no more of them is taken as forward KL does. Merging outcomes of the rest
makes the second part smaller and leaves the first: a lower bound. Not linear in the teacher, which
decides what is apart. Quadratic near the teacher, so the gradient falls like 1 / T^2.

Shapes: N rows, K entries, R rows of whole distributions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from logitstore import EMPTY_TAIL
from logitstore.plumbing import Option
from trainer.losses.base import Loss
from trainer.losses.decoupled import TAIL_WEIGHT
from trainer.losses.forward_kl import kl_to_student

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.base import DenseRows, HeadTail, LossInputs

__all__ = ["tail_reweighted"]

_MODES = Option(
    name="modes",
    kind=int,
    help="How many of the teacher's likeliest tokens stand apart from the rest.",
    least=1,
)


def _divergence(inputs: LossInputs, *, modes: int, tail_weight: float) -> Tensor:
    whole_N = kl_to_student(inputs.student, inputs.teacher, inputs.used_NK)
    return whole_N + (tail_weight - 1.0) * _inside_rest(inputs, modes)


def _inside_rest(inputs: LossInputs, modes: int) -> Tensor:
    """KL inside the rest, times the teacher's mass of the rest, [N]."""
    log_p_NK = inputs.teacher.log_head_NK.masked_fill(~inputs.used_NK, EMPTY_TAIL)
    apart_NM = log_p_NK.topk(min(modes, log_p_NK.shape[1]), dim=1).indices
    rest_NK = inputs.used_NK.scatter(1, apart_NM, False)
    log_p_NK1, log_q_NK1 = (_rest(side, rest_NK) for side in (inputs.teacher, inputs.student))
    rest_gap_N1 = log_p_NK1.logsumexp(1, keepdim=True) - log_q_NK1.logsumexp(1, keepdim=True)
    return (log_p_NK1.exp() * (log_p_NK1 - log_q_NK1 - rest_gap_N1)).sum(dim=1)


def _rest(side: HeadTail, rest_NK: Tensor) -> Tensor:
    """The log-probabilities of the entries of the rest and of the bucket, [N, K + 1]."""
    import torch

    head_NK = side.log_head_NK.masked_fill(~rest_NK, EMPTY_TAIL)
    return torch.cat((head_NK, side.log_tail_N.unsqueeze(-1)), dim=1)


def _reference(rows: DenseRows, *, modes: int, tail_weight: float) -> Tensor:
    import torch

    log_p_RV1, log_q_RV1 = rows.pooled(rows.log_teacher_RV), rows.pooled(rows.log_student_RV)
    p_RV1, q_RV1, gap_RV1 = log_p_RV1.exp(), log_q_RV1.exp(), log_p_RV1 - log_q_RV1
    has_tail_R1 = ~rows.kept_RV.all(dim=1, keepdim=True)
    order_RV = rows.log_teacher_RV.masked_fill(~rows.kept_RV, -torch.inf).argsort(descending=True)
    apart_RV = torch.zeros_like(rows.kept_RV).scatter(1, order_RV[:, :modes], True)
    apart_RV1 = torch.cat((apart_RV & rows.kept_RV, torch.zeros_like(has_tail_R1)), dim=1)
    rest_RV1 = torch.cat((rows.kept_RV, has_tail_R1), dim=1) & ~apart_RV1
    mass_R = (p_RV1 * rest_RV1).sum(dim=1)
    rest_gap_R = (mass_R / (q_RV1 * rest_RV1).sum(dim=1)).log()
    first_R = (p_RV1 * gap_RV1 * apart_RV1).sum(dim=1) + mass_R * rest_gap_R
    second_R = (p_RV1 * gap_RV1 * rest_RV1).sum(dim=1) - mass_R * rest_gap_R
    return first_R + tail_weight * second_R


tail_reweighted = Loss(
    name="tail_reweighted",
    summary="Forward KL that weighs more what is below the teacher's likeliest tokens.",
    divergence=_divergence,
    reference=_reference,
    linear=False,
    tail="bucket",
    bound="lower",
    times_temperature_squared=True,
    options={
        _MODES: 1,
        replace(
            TAIL_WEIGHT,
            help="The weight of the KL inside the tokens that do not stand apart; 1 is forward KL.",
        ): 2.0,
    },
    sets_apart=_MODES.name,
)
