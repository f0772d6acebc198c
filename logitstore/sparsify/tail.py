"""The log-mass of a tail at every stored node, and its part of the entropy, in two passes.

Shapes: R targets, V vocabulary, B stored temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from logitstore.sparsify.distribution import NOTHING
from logitstore.targets import EMPTY_TAIL

__all__ = ["TAIL_NODES", "TailSums", "tail_sums"]

# b = 1/T at which the tail's log-mass is kept; b = 0 is log(V - n) for free. Between them its mass
# is interpolated to 4e-4 (largest 4e-3) for any T in [1, 10], on teachers of 6 to 1.5 nats; without
# 1/8 a sharp teacher misses that fourfold at T = 3 (docs/decisions/002-tail-nodes.md).
TAIL_NODES = (1.0, 0.75, 0.5, 0.25, 0.125)


@dataclass(frozen=True, kw_only=True, slots=True)
class TailSums:
    """Sums over the tails of R rows, of exponentials of x = z - top."""

    top_R: torch.Tensor
    sum_R: torch.Tensor  # of e^x
    sums_RB: torch.Tensor  # of e^(b x) for each node b
    x_RV: torch.Tensor
    exp_RV: torch.Tensor

    @property
    def log_sum_R(self) -> torch.Tensor:
        """log of the sum of e^z; -inf for an empty tail."""
        return self.top_R + self.sum_R.log()

    def logmass_RB(self, log_z_R: torch.Tensor, nodes: tuple[float, ...]) -> torch.Tensor:
        """log of sum of p^b over the tail: b (top - log Z) + log sum of e^(b x)."""
        nodes_B = torch.tensor(nodes, dtype=log_z_R.dtype, device=log_z_R.device)
        logmass_RB = nodes_B * (self.top_R - log_z_R)[:, None] + self.sums_RB.log()
        return torch.where(self.sums_RB > 0, logmass_RB, EMPTY_TAIL)

    def entropy_R(self, log_z_R: torch.Tensor) -> torch.Tensor:
        """-sum p log p over the tail, in nats; log p = x + offset."""
        offset_R = self.top_R - log_z_R
        weighted_R = torch.linalg.vecdot(self.exp_RV, self.x_RV)
        # An empty tail has no top, so its offset means nothing and may be anything.
        offset_R = offset_R.masked_fill(self.sum_R == 0, 0.0)
        return -offset_R.exp() * (weighted_R + offset_R * self.sum_R)


def tail_sums(tail_RV: torch.Tensor, top_R: torch.Tensor, nodes: tuple[float, ...]) -> TailSums:
    """Overwrites `tail_RV`, logits with -inf for what is no tail; `top_R` are the highest of them.

    Taken over the tail alone: a mass of 1 - head would be noise for a row sharper than 1e-6.
    """
    top_R = torch.where(torch.isneginf(top_R), torch.zeros_like(top_R), top_R)
    tail_RV.sub_(top_R[:, None]).clamp_(min=NOTHING)
    # Exponentials are the dear part (4 of 9 us a row at V = 8,192): one of them, e^(x/8), serves
    # all the usual nodes as its powers.
    eighths = [node * 8 for node in (1.0, *nodes)]
    if all(eighth in (1, 2, 4, 6, 8) for eighth in eighths):
        sums, exp_RV = _sums_of_eighths(tail_RV, eighths)
    else:
        sums = [tail_RV.mul(node).exp_().sum(-1) for node in (1.0, *nodes)]
        exp_RV = tail_RV.exp()
    return TailSums(
        top_R=top_R,
        sum_R=sums[0],
        sums_RB=torch.stack(sums[1:], dim=1),
        x_RV=tail_RV,
        exp_RV=exp_RV,
    )


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
