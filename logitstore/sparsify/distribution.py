"""What every sparsifier needs of a dense distribution, and the targets made of it.

Shapes: R targets, K entries, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from logitstore.errors import ModelError
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets, none_sampled

if TYPE_CHECKING:
    from logitstore.targets.kinds import TargetKind

__all__ = ["LOWEST_NATS", "check_finite", "targets_of"]

# Nats below the row's highest: a token this far down weighs e^-4000, which is 0; and 0 * -4000 is 0
# where 0 * -inf would be NaN.
LOWEST_NATS = -4000.0


def check_finite(log_z_R: torch.Tensor) -> None:
    """Refuse rows whose log-sum-exp is no number."""
    finite_R = torch.isfinite(log_z_R)
    if not bool(finite_R.all()):
        raise ModelError(
            "the teacher's logits are no distribution",
            found=f"log-sum-exp {float(log_z_R[~finite_R][0])}",
            allowed="finite",
            remedy="Try --dtype float32: half precision can overflow",
        )


def targets_of(
    ids_RK: torch.Tensor,
    logprobs_RK: torch.Tensor,
    *,
    kind: TargetKind,
    used_RK: torch.Tensor,
    exact_RK: torch.Tensor,
    **scalars: torch.Tensor,
) -> SparseTargets:
    """Targets of `kind` as numpy arrays, the entries in use first in each row, the rest padding.

    `exact_RK` says which entries have the teacher's probability; `scalars` are the other columns
    of `SparseTargets` by name.
    """
    ids_RK = torch.where(used_RK, ids_RK, 0)
    sampled_RK = none_sampled(*ids_RK.shape)
    if kind.drawn:
        sampled_RK = (used_RK & ~exact_RK).cpu().numpy()
    return SparseTargets(
        kind=kind,
        ids_RK=ids_RK.cpu().numpy().astype(np.uint32),
        logprobs_RK=torch.where(used_RK, logprobs_RK, EMPTY_TAIL).float().cpu().numpy(),
        sampled_RK=sampled_RK,
        count_R=used_RK.sum(-1).cpu().numpy().astype(np.int32),
        **{name: value.float().cpu().numpy() for name, value in scalars.items()},
    )
