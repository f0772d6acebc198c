"""unbiased: tokens above a threshold exactly, others drawn without replacement at one weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.sparsify.options import REPEATS, SEED, K
from logitstore.targets.kinds import Entries, TargetKind
from logitstore.targets.sparsifier import Sparsifier

if TYPE_CHECKING:
    import numpy as np
    import torch

    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.targets import SparseTargets

__all__ = ["UNBIASED"]

_KIND = TargetKind(entries=Entries.WEIGHTED, keeps_tail=False, weights_sum_to_one=True)


def _draw(
    logits_RV: torch.Tensor, labels_R: torch.Tensor, keys_R: np.ndarray, spec: SparsifierSpec
) -> tuple[SparseTargets, ...]:
    """`spec.k` entries of each row; no other unbiased choice of K entries has less variance."""
    from logitstore.sparsify.sampling import Thresholded, all_draws

    return all_draws(
        logits_RV,
        labels_R,
        keys_R,
        spec,
        kind=_KIND,
        draw_of=lambda own_RV: Thresholded.of(own_RV, k=spec.k),
    )


UNBIASED = Sparsifier(
    name="unbiased",
    summary="the tokens above a threshold, and others drawn at one common weight",
    targets=_KIND,
    options={K: 16, REPEATS: 1, SEED: 0},
    room=("k",),
    codec="rank-delta-weighted/2",
    older_codecs=("rank-delta-weighted/1",),
    draw=_draw,
    compared=tuple({"k": k} for k in (8, 12, 16, 24, 32)),
)
