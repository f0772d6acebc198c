"""hybrid: a head that is always exact, tokens drawn from the rest, and the tail's log-mass."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from logitstore.options import Option
from logitstore.sparsify.options import MOST_ENTRIES, SEED, K
from logitstore.targets.kinds import Entries, TargetKind
from logitstore.targets.sparsifier import Sparsifier

if TYPE_CHECKING:
    import numpy as np
    import torch

    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.targets import SparseTargets

__all__ = ["HYBRID"]

_KIND = TargetKind(entries=Entries.WEIGHTED, keeps_tail=True, weights_sum_to_one=True)
_HEAD = replace(K, help="Keep this many of the most probable tokens exactly.")
_TAIL_DRAWS = Option(
    name="tail_draws",
    kind=int,
    help="Draw this many entries from the tail, besides those of --k.",
    least=1,
    most=MOST_ENTRIES,
)


def _draw(
    logits_RV: torch.Tensor, labels_R: torch.Tensor, keys_R: np.ndarray, spec: SparsifierSpec
) -> tuple[SparseTargets, ...]:
    """Like `unbiased`, but at least the first `k` entries are exact, and the tail is kept.

    The tail is everything that is not kept exactly, so drawn entries belong to it.
    """
    from logitstore.sparsify.sampling import Thresholded, all_draws

    nodes, least_exact = spec.tail_nodes, spec.k - int(spec.options["tail_draws"])
    return all_draws(
        logits_RV,
        labels_R,
        keys_R,
        spec,
        kind=_KIND,
        draw_of=lambda own_RV: Thresholded.of(
            own_RV, k=spec.k, nodes=nodes, least_exact=least_exact
        ),
    )


HYBRID = Sparsifier(
    name="hybrid",
    summary="the K most probable tokens, others drawn from the rest, and the mass of the tail",
    targets=_KIND,
    options={_HEAD: 8, _TAIL_DRAWS: 8, SEED: 0},
    room=("k", "tail_draws"),
    codec="rank-delta-weighted/2",
    older_codecs=("rank-delta-weighted/1",),
    draw=_draw,
    compared=tuple({"k": k, "tail_draws": m} for k, m in ((8, 8), (8, 16), (16, 16))),
)
