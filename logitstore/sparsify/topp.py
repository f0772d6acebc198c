"""topp: the fewest tokens that hold a given mass, exactly, and the log-mass of everything else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from logitstore.options import Option
from logitstore.sparsify.options import K
from logitstore.targets.kinds import Entries, TargetKind
from logitstore.targets.sparsifier import Sparsifier

if TYPE_CHECKING:
    import numpy as np
    import torch

    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.targets import SparseTargets

__all__ = ["TOPP"]

_KIND = TargetKind(entries=Entries.EXACT, keeps_tail=True, weights_sum_to_one=False)
_MOST = replace(K, help="Keep at most this many entries of each target.")
_TOP_P = Option(
    name="top_p",
    kind=float,
    help="Keep the fewest tokens whose probabilities sum to at least this.",
    above=0,
    most=1,
)


def _draw(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    keys_R: np.ndarray,
    spec: SparsifierSpec,
) -> tuple[SparseTargets, ...]:
    """The fewest tokens of each row that hold `top_p` of the mass, at most `spec.k`.

    As in nucleus sampling (Holtzman et al. 2020), the token that crosses the mass is included.
    """
    from logitstore.sparsify.heads import head_targets

    return (head_targets(logits_RV, labels_R, spec, kind=_KIND, top_p=spec.options["top_p"]),)


TOPP = Sparsifier(
    name="topp",
    summary="the fewest tokens that hold a mass of --top-p, and the mass of the tail",
    targets=_KIND,
    options={_MOST: 64, _TOP_P: 0.98},
    room=("k",),
    codec="rank-delta/2",
    older_codecs=("rank-delta/1",),
    draw=_draw,
    compared=tuple({"k": 64, "top_p": top_p} for top_p in (0.9, 0.98)),
)
