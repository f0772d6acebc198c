"""topk and topp: the most probable tokens, exactly, and the log-mass of everything else.

Shapes: R targets, K entries, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from logitstore.sparsify.distribution import targets_of
from logitstore.sparsify.split import Split
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets

if TYPE_CHECKING:
    import numpy as np

    from logitstore.format.spec import SparsifierSpec

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
    label_R = logits_RV.gather(1, labels_R[:, None])[:, 0]
    split = Split.of(logits_RV, spec.k, nodes=spec.tail_nodes)
    log_z_R = split.log_z_R
    logprobs_RK = split.values_RK - log_z_R[:, None]
    kept_RK, tail = ~torch.isneginf(split.values_RK), split.rest
    if spec.top_p is not None:
        kept_RK[:, 1:] &= logprobs_RK.exp().cumsum(-1)[:, :-1] < spec.top_p
        tail = tail.joined(split.values_RK.masked_fill(kept_RK, -torch.inf), spec.tail_nodes)
    return targets_of(
        split.ids_RK,
        logprobs_RK,
        used_RK=kept_RK,
        tail_logmass_RB=tail.logmass_RB(log_z_R, spec.tail_nodes),
        label_logprob_R=(label_R - split.top_R - log_z_R).clamp_(min=EMPTY_TAIL),
        entropy_R=split.entropy_R(log_z_R),
    )
