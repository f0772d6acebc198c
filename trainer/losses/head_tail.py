"""A distribution over entries and one bucket of all other tokens: normalising and comparing it.

Shapes: N packed tokens (rows), K entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from logitstore import EMPTY_TAIL
from trainer.losses.base import HeadTail

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MASKED_LOGIT", "bucketed", "kl_terms"]

# The logit of a token that must have a probability of 0. Finite, so that the difference of two of
# them is 0 and not NaN; no model's logits come near it.
MASKED_LOGIT = -1.0e30


def bucketed(logits_NK: Tensor, log_rest_N: Tensor, used_NK: Tensor) -> HeadTail:
    """Entries and bucket with a total probability of 1.

    Args:
        logits_NK: Nats: log-masses of the entries, up to one constant in each row.
        log_rest_N: Nats: log-mass of all other tokens together, up to the same constant.
        used_NK: bool: which entries are in use; the others get a probability of 0.
    """
    masses_NK1 = torch.cat(
        (logits_NK.masked_fill(~used_NK, MASKED_LOGIT), log_rest_N.unsqueeze(-1)), dim=-1
    )
    logprobs_NK1 = masses_NK1.log_softmax(dim=-1).clamp(min=EMPTY_TAIL)
    return HeadTail(log_head_NK=logprobs_NK1[:, :-1], log_tail_N=logprobs_NK1[:, -1])


def kl_terms(student: HeadTail, teacher: HeadTail) -> dict[str, Tensor]:
    """Forward KL of each row, "kl", and its two parts, "kl_binary" and "kl_head", each [N].

    `KL = KL_bin(M || Q) + (1 - M) KL(head)`, where M and Q are the masses of the teacher's and the
    student's bucket, KL_bin is that of two outcomes, head or bucket, and KL(head) that of the
    distributions inside the head. The KL over the whole vocabulary has a third part, `M KL(tail)`,
    which a bucket does not show: that is why forward KL here is a lower bound.

    Args:
        student: The student over entries and bucket.
        teacher: The teacher over the same.
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
