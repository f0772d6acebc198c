"""topk: the most probable tokens, exactly, and the log-mass of everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.sparsify.options import K
from logitstore.targets.kinds import Entries, TargetKind
from logitstore.targets.sparsifier import Sparsifier

if TYPE_CHECKING:
    import numpy as np
    import torch

    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.targets import SparseTargets

__all__ = ["TOPK"]

_KIND = TargetKind(entries=Entries.EXACT, keeps_tail=True, weights_sum_to_one=False)


def _draw(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    keys_R: np.ndarray,
    spec: SparsifierSpec,
) -> tuple[SparseTargets, ...]:
    """The `spec.k` most probable tokens of each row; fewer where fewer have any probability."""
    from logitstore.sparsify.heads import head_targets

    return (head_targets(logits_RV, labels_R, spec, kind=_KIND),)


TOPK = Sparsifier(
    name="topk",
    summary="the K most probable tokens, and the mass of the tail",
    targets=_KIND,
    options={K: 64},
    room=("k",),
    codec="rank-delta/2",
    older_codecs=("rank-delta/1",),
    draw=_draw,
    compared=tuple({"k": k} for k in (12, 25, 50, 64, 100)),
)
