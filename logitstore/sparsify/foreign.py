"""The targets of other systems, as an import stores them: declared here, and never dumped.

    head      entries with the teacher's probabilities, and the mass of all else at T = 1
    shares    entries whose mass is not known: the distribution, given that it is one of them

Neither has the entropy or the true token's log-probability, which only the whole distribution
tells. A tail known at one temperature says nothing of others.

Shapes: R targets, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from logitstore.sparsify.options import K
from logitstore.targets.kinds import Entries, TargetKind
from logitstore.targets.sparsifier import Sparsifier

if TYPE_CHECKING:
    import numpy as np
    import torch

    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.targets import SparseTargets

__all__ = ["FOREIGN", "HEAD", "SHARES"]


def _head(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    keys_R: np.ndarray,
    spec: SparsifierSpec,
) -> tuple[SparseTargets, ...]:
    """What a system that keeps the `spec.k` most probable tokens hands over of these rows."""
    from logitstore.sparsify.heads import head_targets
    from logitstore.sparsify.topk import TOPK

    whole = head_targets(logits_RV, labels_R, spec, kind=TOPK.targets)
    unknown_R = whole.entropy_R * float("nan")
    return (replace(whole, kind=HEAD.targets, label_logprob_R=unknown_R, entropy_R=unknown_R),)


def _shares(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    keys_R: np.ndarray,
    spec: SparsifierSpec,
) -> tuple[SparseTargets, ...]:
    """The same with the entries' probabilities scaled up to 1."""
    import numpy as np

    from logitstore.targets.targets import EMPTY_TAIL

    (head,) = _head(logits_RV, labels_R, keys_R, replace(spec, tail_nodes=(1.0,)))
    log_mass_R = np.logaddexp.reduce(head.logprobs_RK, axis=1)
    shares_RK = np.where(head.used_RK(), head.logprobs_RK - log_mass_R[:, None], EMPTY_TAIL)
    none_RB = head.tail_logmass_RB[:, :0]
    return (
        replace(
            head,
            kind=SHARES.targets,
            logprobs_RK=shares_RK.astype(np.float32),
            tail_logmass_RB=none_RB,
        ),
    )


HEAD = Sparsifier(
    name="head",
    summary="what another system kept of it, and the mass of all else at T = 1",
    targets=TargetKind(
        entries=Entries.EXACT, keeps_tail=True, weights_sum_to_one=False, knows_whole=False
    ),
    options={K: 64},
    room=("k",),
    codec="rank-delta/2",
    draw=_head,
)
SHARES = Sparsifier(
    name="shares",
    summary="what another system kept of it, without the mass of that",
    targets=TargetKind(
        entries=Entries.SHARES, keeps_tail=False, weights_sum_to_one=True, knows_whole=False
    ),
    options={K: 64},
    room=("k",),
    codec="rank-delta/2",
    draw=_shares,
)
FOREIGN: dict[str, Sparsifier] = {one.name: one for one in (HEAD, SHARES)}
