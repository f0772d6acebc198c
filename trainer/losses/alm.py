"""Approximate likelihood matching: the probability of a span of text, by teacher and student.

Minixhofer, Vulic and Ponti 2025, "Universal Cross-Tokenizer Distillation via Approximate Likelihood
Matching" (arXiv 2503.20083): an f-divergence between the two outcomes that the next bytes are this
span, with probability p^(1/T), or are not. Here it is KL. Their temperature is 100. As T grows, T
times the loss nears `a log(a / b) - a + b` of the surprisals a and b of teacher and student, which
does not vanish for spans that are unlikely; so the loss is multiplied by T, and its gradient keeps
its size.

What is not here: their debiasing of outcomes, which needs the probability that a token begins with
a space, and a store has only a part of each distribution. `span_ends` stands for it.

Shapes: S spans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.losses.span_loss import SpanLoss

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["alm", "binary_kl"]

# Taken from every log-probability, so that no outcome is certain: log(1 - p) is finite then.
_EPSILON = 1e-6
_LOG_HALF = -0.6931


def binary_kl(log_p_S: Tensor, log_q_S: Tensor, temperature: float) -> Tensor:
    """`T KL` between "this span, p^(1/T)" and "another", of teacher and student, [S], nats.

    Args:
        log_p_S: Nats: the teacher's log-probability of each span.
        log_q_S: Nats: the student's.
        temperature: T.
    """
    log_p_S = log_p_S.clamp(max=0.0) / temperature - _EPSILON
    log_q_S = log_q_S.clamp(max=0.0) / temperature - _EPSILON
    this_S = log_p_S.exp() * (log_p_S - log_q_S)
    other_S = -log_p_S.expm1() * (_log_other(log_p_S) - _log_other(log_q_S))
    return temperature * (this_S + other_S)


def _log_other(log_p_S: Tensor) -> Tensor:
    """`log(1 - p)`, exact at both ends."""
    import torch

    near_one_S = log_p_S > _LOG_HALF
    # Each branch is given only what it can take: the gradient of the other one would be NaN.
    large_S = (-log_p_S.where(near_one_S, log_p_S.new_tensor(_LOG_HALF)).expm1()).log()
    small_S = torch.log1p(-log_p_S.where(~near_one_S, log_p_S.new_tensor(_LOG_HALF)).exp())
    return torch.where(near_one_S, large_S, small_S)


alm = SpanLoss(
    name="alm",
    summary="Likelihood of spans of text: for a student of another tokenizer.",
    of_spans=binary_kl,
)
