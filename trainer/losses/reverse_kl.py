"""Reverse KL, student to teacher: it seeks the teacher's modes and leaves out what it cannot hold.

Not linear in the teacher, so it needs exact entries; over a bucket it is a lower bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.base import HeadTail

__all__ = ["reverse_kl"]


def _divergence(student: HeadTail, teacher: HeadTail, used_NK: Tensor) -> Tensor:
    """`sum_i q_i (log q_i - log p_i)` over the used entries and the bucket, [N]."""
    head_NK = student.log_head_NK.exp() * (student.log_head_NK - teacher.log_head_NK)
    tail_N = student.log_tail_N.exp() * (student.log_tail_N - teacher.log_tail_N)
    return head_NK.masked_fill(~used_NK, 0.0).sum(dim=-1) + tail_N


reverse_kl = Loss(divergence=_divergence, linear=False)
