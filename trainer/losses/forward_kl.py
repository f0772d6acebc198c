"""Forward KL, teacher to student: the loss of knowledge distillation, linear in the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.base import HeadTail

__all__ = ["forward_kl"]


def _divergence(student: HeadTail, teacher: HeadTail, used_NK: Tensor) -> Tensor:
    """`sum_i p_i (log p_i - log q_i)` over the used entries and the bucket, [N]."""
    head_NK = teacher.log_head_NK.exp() * (teacher.log_head_NK - student.log_head_NK)
    tail_N = teacher.log_tail_N.exp() * (teacher.log_tail_N - student.log_tail_N)
    return head_NK.masked_fill(~used_NK, 0.0).sum(dim=-1) + tail_N


forward_kl = Loss(divergence=_divergence, linear=True)
