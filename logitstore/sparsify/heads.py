"""Heads: the most probable tokens of each row, exactly, and the log-mass of everything else.

Shapes: R targets, K entries, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from logitstore.sparsify.distribution import targets_of
from logitstore.sparsify.split import Split
from logitstore.targets.targets import EMPTY_TAIL

if TYPE_CHECKING:
    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.kinds import TargetKind
    from logitstore.targets.targets import SparseTargets

__all__ = ["head_targets"]


def head_targets(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    spec: SparsifierSpec,
    *,
    kind: TargetKind,
    top_p: float | None = None,
) -> SparseTargets:
    """The most probable tokens of each row, and the tail's log-mass at `spec.tail_nodes`.

    A row with fewer than `spec.k` tokens of any probability is shorter.

    Args:
        logits_RV: float32 logits of the rows; they are overwritten.
        labels_R: int64, the tokens that really follow.
        spec: The spec: how many tokens are kept at most, and the nodes of the tail.
        kind: The kind of the targets, as the sparsifier declares it.
        top_p: A row ends with the token at which its mass reaches this; None for no such limit.

    Raises ModelError where a row is not a distribution.
    """
    label_R = logits_RV.gather(1, labels_R[:, None])[:, 0]
    split = Split.of(logits_RV, spec.k, nodes=spec.tail_nodes)
    log_z_R = split.log_z_R
    logprobs_RK = split.values_RK - log_z_R[:, None]
    kept_RK, tail = ~torch.isneginf(split.values_RK), split.rest
    if top_p is not None:
        kept_RK[:, 1:] &= logprobs_RK.exp().cumsum(-1)[:, :-1] < top_p
        tail = tail.joined(split.values_RK.masked_fill(kept_RK, -torch.inf), spec.tail_nodes)
    return targets_of(
        split.ids_RK,
        logprobs_RK,
        kind=kind,
        used_RK=kept_RK,
        exact_RK=kept_RK,
        tail_logmass_RB=tail.logmass_RB(log_z_R, spec.tail_nodes),
        label_logprob_R=(label_R - split.top_R - log_z_R).clamp_(min=EMPTY_TAIL),
        entropy_R=split.entropy_R(log_z_R),
    )
