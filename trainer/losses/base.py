"""What a loss sees: a student and a teacher, summarised over the same entries and one bucket.

A distribution over V tokens is seen as the K entries of a stored target and a bucket that pools
everything else. A divergence between two such views is a lower bound of the divergence between the
distributions, and equal to it where the bucket is empty. A loss is a plain differentiable function
of the two views; the fused pass takes its gradient from autograd, so a new loss is one file and one
line of `LOSSES`.

Shapes: N packed tokens (rows), K entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from logitstore import EMPTY_TAIL

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["NOTHING", "HeadTail", "Loss", "bucketed", "kl_terms"]

# A logit that weighs nothing beside any other. Finite, so that a difference of two of them is 0
# and not NaN, and far enough out that no model's logits come near it.
NOTHING = -1.0e30


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeadTail:
    """Log-probabilities of K entries and of the bucket that holds everything else.

    Unused entries and empty buckets hold `EMPTY_TAIL`: finite, and exactly 0 after `exp`, so that
    `p * (log p - log q)` is 0 there and so is its gradient.
    """

    log_head_NK: Tensor  # float32, nats
    log_tail_N: Tensor  # float32, nats


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """A divergence between teacher and student, per row.

    `divergence(student, teacher, used_NK)` gives float32 [N] in nats, at least 0 and 0 for equal
    sides, and must be differentiable in the student. `linear` says that its gradient is linear in
    the teacher's probabilities: only such a loss is unbiased from drawn targets.

    `tail` says what becomes of the teacher's bucket before the loss sees it: it stays, it is
    dropped and the head renormalised, or its mass goes to the true token.
    """

    divergence: Callable[[HeadTail, HeadTail, Tensor], Tensor]
    linear: bool
    tail: Literal["bucket", "dropped", "label"] = "bucket"


def bucketed(logits_NK: Tensor, log_rest_N: Tensor, used_NK: Tensor) -> HeadTail:
    """Entries and bucket normalised to one; inputs are log-masses up to a constant per row."""
    masses_NK1 = torch.cat(
        (logits_NK.masked_fill(~used_NK, NOTHING), log_rest_N.unsqueeze(-1)), dim=-1
    )
    logprobs_NK1 = masses_NK1.log_softmax(dim=-1).clamp(min=EMPTY_TAIL)
    return HeadTail(log_head_NK=logprobs_NK1[:, :-1], log_tail_N=logprobs_NK1[:, -1])


def kl_terms(student: HeadTail, teacher: HeadTail) -> dict[str, Tensor]:
    """Forward KL per row, and its two parts: of head against bucket, and inside the head.

    `KL = KL_bin(M || Q) + (1 - M) KL(head)` with M and Q the two tail masses. The third part of
    the full divergence, `M KL(tail)`, is what a bucket cannot see.
    """
    p_NK = teacher.log_head_NK.exp()
    gap_NK = teacher.log_head_NK - student.log_head_NK
    tail_gap_N = teacher.log_tail_N - student.log_tail_N
    teacher_log_in_N = teacher.log_head_NK.logsumexp(dim=-1)
    log_in_gap_N = teacher_log_in_N - student.log_head_NK.logsumexp(dim=-1)
    tail_N = teacher.log_tail_N.exp() * tail_gap_N
    binary_N = tail_N + teacher_log_in_N.exp() * log_in_gap_N
    head_N = (p_NK * (gap_NK - log_in_gap_N.unsqueeze(-1))).sum(dim=-1)
    return {"kl": binary_N + head_N, "kl_binary": binary_N, "kl_head": head_N}
