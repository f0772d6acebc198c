"""sample: independent draws with replacement; an entry weighs its share of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.options import Option
from logitstore.sparsify.options import MOST_ENTRIES, REPEATS, SEED
from logitstore.targets.kinds import Entries, TargetKind
from logitstore.targets.sparsifier import Sparsifier

if TYPE_CHECKING:
    import numpy as np
    import torch

    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.targets import SparseTargets

__all__ = ["SAMPLE"]

_KIND = TargetKind(entries=Entries.COUNTED, keeps_tail=False, weights_sum_to_one=True)
_DRAWS = Option(
    name="draws",
    kind=int,
    help="Draw this many tokens of each target, with replacement.",
    least=1,
    most=MOST_ENTRIES,
)


def _draw(
    logits_RV: torch.Tensor, labels_R: torch.Tensor, keys_R: np.ndarray, spec: SparsifierSpec
) -> tuple[SparseTargets, ...]:
    """`spec.k` draws from each row; equal ids are joined in one entry.

    "Sparse Logit Sampling" (arXiv 2503.16870), the teacher itself being the proposal.
    """
    from logitstore.sparsify.sampling import WithReplacement, all_draws

    return all_draws(
        logits_RV,
        labels_R,
        keys_R,
        spec,
        kind=_KIND,
        draw_of=lambda own_RV: WithReplacement.of(own_RV, draws=spec.k),
    )


SAMPLE = Sparsifier(
    name="sample",
    summary="tokens drawn with replacement, each weighing its share of the draws",
    targets=_KIND,
    options={_DRAWS: 50, REPEATS: 1, SEED: 0},
    room=("draws",),
    codec="rank-delta-counted/1",
    draw=_draw,
    compared=tuple({"draws": draws} for draws in (13, 50, 150)),
)
