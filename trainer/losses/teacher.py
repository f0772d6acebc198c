"""The teacher that a stored target stands for, as a loss sees it.

Its exact entries come by their log-probabilities at any temperature, everything else as one bucket
by its interpolated mass; drawn entries come by their weights, without a bucket.

Shapes: N packed tokens (rows), K entries, B stored temperatures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from logitstore import EMPTY_TAIL
from logitstore.plumbing import tail_logmass_at
from trainer.losses.base import HeadTail
from trainer.losses.head_tail import bucketed

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.tensors import TargetTensors

__all__ = [
    "exact_teacher",
    "teacher_head_tail",
    "weighted_teacher",
]


def exact_teacher(
    targets: TargetTensors, *, nodes: tuple[float, ...], temperature: float, vocab_size: int
) -> HeadTail:
    """The teacher over its exact entries; a drawn one belongs to the bucket, as all others do.

    Where no tail is kept the bucket's mass is what the drawn entries weigh together, and
    `temperature` must be the one at which they were drawn.
    """
    exact_NK = targets.exact_NK
    if targets.kind.keeps_tail:
        return teacher_head_tail(
            logprobs_NK=targets.logprobs_NK,
            used_NK=exact_NK,
            tail_logmass_NB=targets.tail_logmass_NB,
            nodes=nodes,
            temperature=temperature,
            vocab_size=vocab_size,
            count_N=exact_NK.sum(dim=1),
        )
    drawn_NK = targets.used_NK & ~exact_NK
    drawn_N = targets.logprobs_NK.masked_fill(~drawn_NK, EMPTY_TAIL).logsumexp(dim=1)
    return bucketed(targets.logprobs_NK, drawn_N, exact_NK)


def weighted_teacher(targets: TargetTensors) -> tuple[HeadTail, Tensor]:
    """The weights of all entries as a teacher, and what is to be added to its divergences, [N].

    A divergence from the weights is soft cross-entropy less their own entropy; less the teacher's
    instead, it is an unbiased estimate of the full one.
    """
    log_NK = targets.logprobs_NK.masked_fill(~targets.used_NK, EMPTY_TAIL)
    view = HeadTail(log_head_NK=log_NK, log_tail_N=torch.full_like(log_NK[:, 0], EMPTY_TAIL))
    return view, -targets.entropy_N - (log_NK.exp() * log_NK).sum(dim=1)


def teacher_head_tail(
    *,
    logprobs_NK: Tensor,
    used_NK: Tensor,
    tail_logmass_NB: Tensor,
    nodes: tuple[float, ...],
    temperature: float,
    vocab_size: int,
    count_N: Tensor,
) -> HeadTail:
    """The teacher at `temperature`, over its entries and the bucket of everything else.

    `nodes` are the b = 1/T at which `tail_logmass_NB` is stored; a temperature that is one of them
    is served exactly. Raises SettingError for one that is neither a node nor between 1 and 10.
    """
    tail_N = tail_logmass_at(
        temperature, tail_logmass_NB, nodes=nodes, vocab_size=vocab_size, count_R=count_N
    )
    return bucketed(logprobs_NK.float() / temperature, tail_N, used_NK)
