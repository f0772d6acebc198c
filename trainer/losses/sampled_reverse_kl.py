"""Reverse KL estimated from sampled tokens: what a student said, judged by its teacher.

`KL(q || p)` of a row is a mean over tokens y that the student q draws. So one drawn token estimates
it, and of the teacher p nothing is needed but the probability of that token: no entries, no bucket,
no bias. It is the per-token form of on-policy distillation (Lu and Thinking Machines Lab 2025,
"On-Policy Distillation"; Gu et al. 2023, "MiniLLM", arXiv 2306.08543, with rewards summed over the
rest of the answer; Agarwal et al. 2023, "GKD", arXiv 2306.13649, with whole distributions): each
token has the advantage `log p(y) - log q(y)`, and nothing flows back from later tokens.

With y drawn from the sampler s, and `w = q(y) / s(y)`:

    value      w (p(y) / q(y) - 1 - log(p(y) / q(y)))      at least 0, and 0 where p(y) = q(y)
    gradient   w (log q(y) - log p(y)) grad log q(y)       which is that of the value

The value is w times the third estimator of Schulman 2020, "Approximating KL Divergence". Its mean
over s is `sum_y (p - q + q log(q / p)) = KL(q || p)` whatever s is, as long as s gives every token
something, so the mean of its gradient is that of reverse KL. Without w it would not be: that
estimator alone, with y held fixed, has the mean gradient of *forward* KL. Where the sampler is the
student itself, w is 1 and a store's answers are on-policy; while the student learns, and where
answers were drawn at another temperature, w corrects for it.

Weights are cut at `--max-weight`, as truncated importance sampling does (Ionides 2008; for language
models Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"). A
cut bounds what one token can do, so that the variance is bounded, and costs a bias: tokens that the
student now gives more than that many times what the sampler gave count as if it were that many
times. Where the student itself drew, no weight is cut in the first steps.

A sampler that leaves tokens out (top-k, top-p, min-p) or draws none (temperature 0) is corrected by
no weight: what was never drawn is never pushed down or up.

Shapes: N rows, R rows of whole distributions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.plumbing import Option
from trainer.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.base import DenseRows, LossInputs

__all__ = ["MAX_WEIGHT", "sampled_reverse_kl"]

MAX_WEIGHT = Option(
    name="max_weight",
    kind=float,
    help="The most that a sampled token weighs: its probability under the student over that under "
    "the model that drew it.",
    least=1,
)
_MOST_LOG = 80.0  # e^88 is the most that float32 has


def _divergence(inputs: LossInputs, *, max_weight: float) -> Tensor:
    """The value, with the gradient written out.

    Autograd would form it as a difference of terms `p / q`, which cancel to 0.3 of a nat in float32
    where p is e^15 times q.
    """
    import math

    import torch

    sampled = inputs.sampled
    if sampled is None:
        raise TypeError("the tokens are no samples: how they were drawn is not known")
    log_q_N = inputs.log_label_N
    with torch.no_grad():
        log_weight_N = (log_q_N - sampled.log_sampler_N).clamp(max=math.log(max_weight))
        weight_N, gap_N = log_weight_N.exp(), sampled.log_teacher_N - log_q_N
        # Where the teacher's probability is far the larger one, p / q alone may overflow.
        ratio_N = (log_weight_N + gap_N).clamp(max=_MOST_LOG).exp()
        far_N = ratio_N - weight_N * (1.0 + gap_N)
        value_N = torch.where(gap_N.abs() > 1.0, far_N, weight_N * (gap_N.expm1() - gap_N))
    return value_N - weight_N * gap_N * (log_q_N - log_q_N.detach())


def _reference(rows: DenseRows, *, max_weight: float) -> Tensor:
    """`(p - q + q log(q / p)) / s` at the drawn token, times how much its weight is cut."""
    label_R1 = rows.label_ids_R[:, None]
    p_R, q_R = (
        side.gather(1, label_R1).squeeze(1).exp()
        for side in (rows.log_teacher_RV, rows.log_student_RV)
    )
    s_R = rows.log_sampler_R.exp()  # type: ignore[union-attr]
    cut_R = (max_weight * s_R / q_R.detach()).clamp(max=1.0)
    return cut_R * (p_R - q_R + q_R * (q_R / p_R).log()) / s_R


sampled_reverse_kl = Loss(
    name="sampled_reverse_kl",
    summary="Reverse KL estimated from the tokens of answers whose sampler is known: on-policy.",
    divergence=_divergence,
    reference=_reference,
    linear=False,
    tail="unseen",
    bound="same",
    times_temperature_squared=True,
    options={MAX_WEIGHT: 2.0},
    of_samples=True,
)
