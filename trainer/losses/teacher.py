"""The teacher that a stored target stands for, as a loss sees it.

Its exact entries come by their log-probabilities at any temperature, everything else as one bucket
by its interpolated mass; drawn entries come by their weights, without a bucket.

Shapes: N packed tokens (rows), K entries, B stored temperatures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from logitstore import EMPTY_TAIL
from logitstore.plumbing import Entries, rest_logmass, tail_logmass_at
from trainer.losses.base import HeadTail
from trainer.losses.head_tail import MASKED_LOGIT, bucketed

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.tensors import TargetTensors

__all__ = [
    "exact_teacher",
    "teacher_head_tail",
    "weighted_teacher",
    "whole_teacher",
]


def exact_teacher(
    targets: TargetTensors, *, nodes: tuple[float, ...], temperature: float, vocab_size: int
) -> HeadTail:
    """The teacher over its exact entries and one bucket, which holds the drawn ones too.

    The bucket is empty for shares, of whose mass nothing is known.

    Args:
        targets: What is stored of N rows.
        nodes: The b = 1/T at which `targets.tail_logmass_NB` is stored; empty where no tail is.
        temperature: T, of the result. Where no tail is kept it must be the one at which the
            targets were drawn, for entries and bucket are taken as they stand.
        vocab_size: V.

    Raises SettingError where the tail's mass cannot be had at `temperature`.
    """
    exact_NK = targets.exact_NK
    if targets.kind.entries is Entries.SHARES:
        no_tail_N = torch.full_like(targets.logprobs_NK[:, 0], MASKED_LOGIT)
        return bucketed(targets.logprobs_NK / temperature, no_tail_N, exact_NK)
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
    rest_N = rest_logmass(
        targets.kind,
        targets.logprobs_NK,
        used_RK=targets.used_NK,
        exact_RK=exact_NK,
        vocab_size=vocab_size,
    )
    return bucketed(targets.logprobs_NK, rest_N, exact_NK)


def weighted_teacher(targets: TargetTensors) -> tuple[HeadTail, Tensor]:
    """The weights of all entries as a teacher, and what must be added to a forward KL from it, [N].

    Forward KL from the weights w is soft cross-entropy less their own entropy, `sum w log w - sum
    w log q`. With the teacher's stored entropy in place of theirs it is an unbiased estimate of the
    KL over the whole vocabulary, since the mean of w over draws is the teacher's distribution.

    Args:
        targets: What is stored of N rows. Its weights need not sum to 1 in a row.
    """
    log_NK = targets.logprobs_NK.masked_fill(~targets.used_NK, EMPTY_TAIL)
    view = HeadTail(log_head_NK=log_NK, log_tail_N=torch.full_like(log_NK[:, 0], EMPTY_TAIL))
    return view, -targets.entropy_N - (log_NK.exp() * log_NK).sum(dim=1)


def whole_teacher(targets: TargetTensors, *, temperature: float) -> HeadTail:
    """The teacher over all tokens; its bucket is empty.

    Args:
        targets: Of which every token is an entry.
        temperature: T, of the result.
    """
    no_tail_N = torch.full_like(targets.logprobs_NK[:, 0], MASKED_LOGIT)
    return bucketed(targets.logprobs_NK / temperature, no_tail_N, targets.used_NK)


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

    Args:
        logprobs_NK: Nats at T = 1: the log-probabilities of the entries.
        used_NK: bool: which entries are in use.
        tail_logmass_NB: Nats: the log-mass of the tail at each of `nodes`.
        nodes: The b = 1/T at which `tail_logmass_NB` is stored. A temperature that is one of them
            is served exactly, others by interpolation.
        temperature: T, of the result.
        vocab_size: V.
        count_N: How many entries of each row are in use.

    Raises SettingError for a temperature that is neither a node nor between 1 and 10.
    """
    tail_N = tail_logmass_at(
        temperature, tail_logmass_NB, nodes=nodes, vocab_size=vocab_size, count_R=count_N
    )
    return bucketed(logprobs_NK.float() / temperature, tail_N, used_NK)
