"""What every sparsifier needs of a dense distribution, and the targets made of it.

Shapes: R targets, K entries, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from logitstore.errors import ModelError
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets

if TYPE_CHECKING:
    from logitstore.format.spec import SparsifierSpec

__all__ = ["NOTHING", "Sparsifier", "check_finite", "targets_of"]

# A token this far below the row's highest weighs e^-4000, which is 0; and 0 * -4000 is 0 where
# 0 * -inf would be NaN.
NOTHING = -4000.0

# (logits_RV, labels_R, keys_R, spec) -> one SparseTargets for each draw that the spec names.
# `logits_RV` (float32) is the sparsifier's to overwrite. `keys_R` (uint64) are what its draws hang
# on. Raises ModelError where the logits are no distribution.
Sparsifier: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor, np.ndarray, "SparsifierSpec"], tuple[SparseTargets, ...]
]


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
    used_RK: torch.Tensor,
    sampled_RK: torch.Tensor | None = None,
    **scalars: torch.Tensor,
) -> SparseTargets:
    """The columns as numpy arrays, the entries in use first in each row, the rest padding."""
    ids_RK = torch.where(used_RK, ids_RK, 0)
    return SparseTargets(
        ids_RK=ids_RK.cpu().numpy().astype(np.uint32),
        logprobs_RK=torch.where(used_RK, logprobs_RK, EMPTY_TAIL).float().cpu().numpy(),
        sampled_RK=None if sampled_RK is None else (sampled_RK & used_RK).cpu().numpy(),
        count_R=used_RK.sum(-1).cpu().numpy().astype(np.int32),
        **{name: value.float().cpu().numpy() for name, value in scalars.items()},
    )
