"""hidden: the state that enters the teacher's output layer, which tells the whole distribution.

The output layer is stored once, so each target is exact for any loss at any temperature, and every
other kind of targets can be made of it without the teacher. The K most probable tokens and the mass
of the tail stand beside it, made from the state as it is stored: a few bytes, for all that reads
entries.
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

__all__ = ["HIDDEN"]

_KIND = TargetKind(
    entries=Entries.EXACT, keeps_tail=True, weights_sum_to_one=False, keeps_state=True
)


def _draw(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    keys_R: np.ndarray,
    spec: SparsifierSpec,
) -> tuple[SparseTargets, ...]:
    """The `spec.k` most probable tokens of each row; whoever has the states puts them beside."""
    from logitstore.sparsify.heads import head_targets

    return (head_targets(logits_RV, labels_R, spec, kind=_KIND),)


HIDDEN = Sparsifier(
    name="hidden",
    summary="the teacher's last hidden state, which tells all tokens, and the K most probable ones",
    targets=_KIND,
    options={replace(K, help="Keep this many entries of each target beside its hidden state."): 8},
    room=("k",),
    codec="rank-delta/2",
    draw=_draw,
)
