"""Dense distribution -> SparseTargets. One function for each sparsifier, one table of them.

Shapes: R targets, K entries, V vocabulary, B stored temperatures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch

from logitstore.errors import ModelError, SettingError
from logitstore.targets import EMPTY_TAIL, SparseTargets

__all__ = ["SPARSIFIERS", "TAIL_NODES", "Sparsifier", "check_k", "topk"]

# b = 1/T at which the tail's log-mass is kept; b = 0 is log(V - n) for free. Between them its mass
# is interpolated to 4e-4 (largest 4e-3) for any T in [1, 10], on teachers of 6 to 1.5 nats; without
# 1/8 a sharp teacher misses that fourfold at T = 3 (docs/decisions/002-tail-nodes.md).
TAIL_NODES = (1.0, 0.75, 0.5, 0.25, 0.125)

# A tail token this far below the tail's highest weighs e^-4000, which is 0; and 0 * -4000 is 0
# where 0 * -inf would be NaN.
_NOTHING = -4000.0

Sparsifier: TypeAlias = Callable[..., SparseTargets]


def check_k(k: int, *, vocab_size: int) -> None:
    """Refuse a K that no row can have."""
    if not 1 <= k <= vocab_size:
        raise SettingError(
            "--k must lie between 1 and the tokenizer's vocabulary",
            found=k,
            allowed=f"1..{vocab_size}",
        )


def topk(
    logits_RV: torch.Tensor, labels_R: torch.Tensor, *, k: int, tail_nodes: tuple[float, ...]
) -> SparseTargets:
    """The `k` most probable tokens of each row, and the log-mass of the rest at each node.

    `logits_RV` (float32) is used as scratch space. `tail_logmass_RB[:, i]` is
    `log(sum over the tail of p^b)` for b = `tail_nodes[i]`. A row with fewer than `k` positive
    probabilities is shorter. Raises ModelError where the logits are no distribution.
    """
    vocab_size = logits_RV.shape[1]
    check_k(k, vocab_size=vocab_size)
    # One more than is kept: the highest of the tail, by which the tail's own sums are scaled. A
    # tail mass taken as 1 - head would be noise for any row sharper than about 1e-6.
    top_RK = logits_RV.topk(min(k + 1, vocab_size), dim=-1)
    head_RK, ids_RK = top_RK.values[:, :k], top_RK.indices[:, :k]
    label_R = logits_RV.gather(1, labels_R[:, None])[:, 0]
    tail_top_R = _tail_top(top_RK.values, k)
    tail_RV = logits_RV.scatter_(1, ids_RK, -torch.inf)
    tail_RV.sub_(tail_top_R[:, None]).clamp_(min=_NOTHING)
    sums_RB, entropy_sum_R = _tail_sums(tail_RV, tail_nodes)
    log_z_R = torch.logaddexp(head_RK.logsumexp(-1), tail_top_R + sums_RB[:, 0].log())
    _check_finite(log_z_R)
    logprobs_RK = head_RK - log_z_R[:, None]
    return _targets(
        ids_RK,
        logprobs_RK,
        tail_logmass_RB=_tail_logmass(sums_RB[:, 1:], tail_top_R - log_z_R, tail_nodes),
        label_logprob_R=(label_R - log_z_R).clamp_(min=EMPTY_TAIL),
        entropy_R=_entropy(logprobs_RK, sums_RB[:, 0], entropy_sum_R, tail_top_R - log_z_R),
    )


SPARSIFIERS: dict[str, Sparsifier] = {"topk": topk}


def _tail_top(values_RK: torch.Tensor, k: int) -> torch.Tensor:
    """The highest logit of each row's tail; 0 where the tail holds nothing."""
    if values_RK.shape[1] <= k:
        return torch.zeros_like(values_RK[:, 0])
    top_R = values_RK[:, k]
    return torch.where(torch.isneginf(top_R), torch.zeros_like(top_R), top_R)


def _tail_sums(
    tail_RV: torch.Tensor, nodes: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """sum of e^(b x) over the row for b = 1 and each of `nodes` [R, 1 + B]; sum of x e^x [R]."""
    # Exponentials are the dear part (4 of 9 us a row at V = 8,192): one of them, e^(x/8), serves
    # all the usual nodes as its powers.
    eighths = [node * 8 for node in (1.0, *nodes)]
    if all(eighth in (1, 2, 4, 6, 8) for eighth in eighths):
        sums, exp_RV = _sums_of_eighths(tail_RV, eighths)
    else:
        sums = [tail_RV.mul(node).exp_().sum(-1) for node in (1.0, *nodes)]
        exp_RV = tail_RV.exp()
    return torch.stack(sums, dim=1), exp_RV.mul_(tail_RV).sum(-1)


def _sums_of_eighths(
    tail_RV: torch.Tensor, eighths: list[float]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    # In place, in two buffers: a fresh 4 MiB result costs more in page faults than in arithmetic.
    one_RV = (tail_RV / 8).exp_()
    sums = {1: one_RV.sum(-1)}
    two_RV = one_RV.mul_(one_RV)
    sums[2] = two_RV.sum(-1)
    four_RV = two_RV * two_RV
    sums[4] = four_RV.sum(-1)
    sums[6] = two_RV.mul_(four_RV).sum(-1)
    eight_RV = four_RV.mul_(four_RV)
    sums[8] = eight_RV.sum(-1)
    return [sums[round(eighth)] for eighth in eighths], eight_RV


def _tail_logmass(
    sums_RB: torch.Tensor, offset_R: torch.Tensor, nodes: tuple[float, ...]
) -> torch.Tensor:
    """log of sum of p^b over the tail: b (tail top - log Z) + log sum of e^(b x)."""
    nodes_B = torch.tensor(nodes, dtype=sums_RB.dtype, device=sums_RB.device)
    logmass_RB = nodes_B * offset_R[:, None] + sums_RB.log()
    return torch.where(sums_RB > 0, logmass_RB, EMPTY_TAIL)


def _entropy(
    logprobs_RK: torch.Tensor,
    tail_sum_R: torch.Tensor,
    tail_entropy_sum_R: torch.Tensor,
    offset_R: torch.Tensor,
) -> torch.Tensor:
    """-sum p log p over head and tail, in nats; with log p = x + offset in the tail."""
    head_RK = logprobs_RK.clamp(min=_NOTHING)
    head_R = torch.linalg.vecdot(head_RK.exp(), head_RK)
    tail_R = offset_R.exp() * (tail_entropy_sum_R + offset_R * tail_sum_R)
    return (-head_R - tail_R).clamp_(min=0)


def _check_finite(log_z_R: torch.Tensor) -> None:
    finite_R = torch.isfinite(log_z_R)
    if not bool(finite_R.all()):
        raise ModelError(
            "the teacher's logits are no distribution",
            found=f"log-sum-exp {float(log_z_R[~finite_R][0])}",
            allowed="finite",
            remedy="Try --dtype float32: half precision can overflow",
        )


def _targets(
    ids_RK: torch.Tensor, logprobs_RK: torch.Tensor, **scalars: torch.Tensor
) -> SparseTargets:
    used_RK = ~torch.isneginf(logprobs_RK)
    return SparseTargets(
        ids_RK=torch.where(used_RK, ids_RK, 0).cpu().numpy().astype(np.uint32),
        logprobs_RK=torch.where(used_RK, logprobs_RK, EMPTY_TAIL).cpu().numpy(),
        weights_RK=None,
        count_R=used_RK.sum(-1).cpu().numpy().astype(np.int32),
        **{name: value.float().cpu().numpy() for name, value in scalars.items()},
    )
