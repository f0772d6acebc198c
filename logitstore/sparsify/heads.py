"""topk and topp: the most probable tokens, exactly, and the log-mass of everything else.

Shapes: R targets, K entries, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from logitstore.sparsify.distribution import NOTHING, check_finite, targets_of
from logitstore.sparsify.tail import tail_sums
from logitstore.targets import EMPTY_TAIL, SparseTargets

if TYPE_CHECKING:
    import numpy as np

    from logitstore.spec import SparsifierSpec

__all__ = ["topk", "topp"]


def topk(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    keys_R: np.ndarray,
    spec: SparsifierSpec,
) -> tuple[SparseTargets, ...]:
    """The `spec.k` most probable tokens of each row.

    A row with fewer positive probabilities is shorter.
    """
    return (_head(logits_RV, labels_R, spec),)


def topp(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    keys_R: np.ndarray,
    spec: SparsifierSpec,
) -> tuple[SparseTargets, ...]:
    """The fewest tokens of each row that hold `spec.top_p` of the mass, at most `spec.k`.

    The rule of nucleus sampling (Holtzman et al. 2020): the token that crosses the mass is in.
    """
    return (_head(logits_RV, labels_R, spec),)


def _head(logits_RV: torch.Tensor, labels_R: torch.Tensor, spec: SparsifierSpec) -> SparseTargets:
    """The head, cut where it holds `spec.top_p`, and its tail."""
    k = spec.k
    # One more than is kept: the highest of the tail, by which the tail's own sums are scaled.
    top_RK = logits_RV.topk(min(k + 1, logits_RV.shape[1]), dim=-1)
    head_RK, ids_RK = top_RK.values[:, :k], top_RK.indices[:, :k]
    kept_RK = ~torch.isneginf(head_RK)
    kept_RK[:, 0] = True  # a row without any finite logit is refused below
    if spec.top_p is not None:
        mass_RK = (head_RK - logits_RV.logsumexp(-1, keepdim=True)).exp().cumsum(-1)
        kept_RK[:, 1:] &= mass_RK[:, :-1] < spec.top_p
    label_R = logits_RV.gather(1, labels_R[:, None])[:, 0]
    tail_RV = logits_RV.scatter_(1, torch.where(kept_RK, ids_RK, ids_RK[:, :1]), -torch.inf)
    tail = tail_sums(tail_RV, _tail_top(top_RK.values, kept_RK), spec.tail_nodes)
    head_RK = head_RK.masked_fill(~kept_RK, -torch.inf)
    log_z_R = torch.logaddexp(head_RK.logsumexp(-1), tail.log_sum_R)
    check_finite(log_z_R)
    logprobs_RK = head_RK - log_z_R[:, None]
    return targets_of(
        ids_RK,
        logprobs_RK,
        used_RK=kept_RK,
        tail_logmass_RB=tail.logmass_RB(log_z_R, spec.tail_nodes),
        label_logprob_R=(label_R - log_z_R).clamp_(min=EMPTY_TAIL),
        entropy_R=(_entropy(logprobs_RK) + tail.entropy_R(log_z_R)).clamp_(min=0),
    )


def _tail_top(values_RN: torch.Tensor, kept_RK: torch.Tensor) -> torch.Tensor:
    """The highest logit that is not kept; -inf where none is left."""
    nothing_R1 = torch.full_like(values_RN[:, :1], -torch.inf)
    values_RN = torch.cat((values_RN, nothing_R1), dim=1)
    return values_RN.gather(1, kept_RK.sum(-1, keepdim=True))[:, 0]


def _entropy(logprobs_RK: torch.Tensor) -> torch.Tensor:
    """-sum p log p over the head, in nats."""
    head_RK = logprobs_RK.clamp(min=NOTHING)
    return -torch.linalg.vecdot(head_RK.exp(), head_RK)
