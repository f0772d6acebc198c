"""What every sparsifier needs: a check of its logits, and targets from torch tensors.

Shapes: R targets, K entries, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitstore.errors import NotFinite
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets, none_sampled

if TYPE_CHECKING:
    from logitstore.targets.kinds import TargetKind

__all__ = ["LOWEST_NATS", "check_finite", "targets_of"]

# Nats below the highest logit of the row. A token this far below weighs e^-4000, which is 0, and
# 0 * -4000 is 0 where 0 * -inf would be NaN.
LOWEST_NATS = -4000.0


def check_finite(log_z_R: torch.Tensor) -> None:
    """Raise NotFinite where a row is not a distribution.

    Args:
        log_z_R: The log-sum-exp of each row, or its highest logit.
    """
    finite_R = torch.isfinite(log_z_R)
    if not bool(finite_R.all()):
        raise NotFinite(
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
    """`SparseTargets` from torch tensors, with the padding and the types that they must have.

    Args:
        ids_RK: Token ids of the entries, integers. Those in use come first in each row.
        logprobs_RK: Log-probability of an exact entry, logarithm of the weight of a drawn entry.
        kind: The kind of the targets, as the sparsifier declares it.
        used_RK: bool, which entries are in use.
        exact_RK: bool, which entries have the teacher's probability.
        scalars: The other columns of `SparseTargets` by name: tail_logmass_RB, label_logprob_R and
            entropy_R.
    """
    ids_RK = torch.where(used_RK, ids_RK, 0)
    sampled_RK = none_sampled(*ids_RK.shape)
    if kind.drawn:
        sampled_RK = (used_RK & ~exact_RK).cpu().numpy()
    found: dict[str, Any] = {name: value.float().cpu().numpy() for name, value in scalars.items()}
    return SparseTargets(
        kind=kind,
        ids_RK=ids_RK.cpu().numpy().astype(np.uint32),
        logprobs_RK=torch.where(used_RK, logprobs_RK, EMPTY_TAIL).float().cpu().numpy(),
        sampled_RK=sampled_RK,
        count_R=used_RK.sum(-1).cpu().numpy().astype(np.int32),
        **found,
    )
