"""The log-mass of the tail at every stored node, and its part of the entropy.

Shapes: R targets, P of them, K entries, V vocabulary, B stored temperatures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from logitstore.sparsify.distribution import LOWEST_NATS
from logitstore.targets.targets import EMPTY_TAIL

__all__ = ["TailSums", "tail_sums"]

_SIXTEENTHS = (2, 3, 4, 5, 6, 8, 11, 12, 14, 16)
_PIECE = 1 << 18  # numbers that are summed at once on a CPU
_LOG2_E = 1 / math.log(2)  # torch computes 2^x in 0.4 of the time of e^x


@dataclass(frozen=True, kw_only=True, slots=True)
class TailSums:
    """Sums over the tails of R rows, of exponentials of y = x - top."""

    top_R: torch.Tensor  # the highest x of each tail, or any number where a tail is empty
    sum_R: torch.Tensor  # of e^y
    weighted_R: torch.Tensor  # of y e^y
    sums_RB: torch.Tensor  # of e^(b y) for each node b

    @property
    def log_sum_R(self) -> torch.Tensor:
        """log of the sum of e^x; -inf for an empty tail."""
        return self.top_R + self.sum_R.log()

    def logmass_RB(self, log_z_R: torch.Tensor, nodes: tuple[float, ...]) -> torch.Tensor:
        """log of the sum of p^b over the tail: b (top - log Z) + log sum of e^(b y).

        Args:
            log_z_R: log of the sum of e^x over the whole row.
            nodes: b of each column, the same nodes as in `sums_RB`.
        """
        nodes_B = torch.tensor(nodes, dtype=log_z_R.dtype, device=log_z_R.device)
        logmass_RB = nodes_B * (self.top_R - log_z_R)[:, None] + self.sums_RB.log()
        return torch.where(self.sums_RB > 0, logmass_RB, EMPTY_TAIL)

    def entropy_R(self, log_z_R: torch.Tensor) -> torch.Tensor:
        """-sum p log p over the tail, in nats; `log_z_R` is the log-sum-exp of the whole row."""
        offset_R = self.top_R - log_z_R
        # log p = y + offset. An empty tail has no highest x, so its offset has no meaning.
        offset_R = offset_R.masked_fill(self.sum_R == 0, 0.0)
        return -offset_R.exp() * (self.weighted_R + offset_R * self.sum_R)

    def joined(self, values_RK: torch.Tensor, nodes: tuple[float, ...]) -> TailSums:
        """The sums of the tails with more entries added.

        Args:
            values_RK: x of the entries that are added; -inf where there is none.
            nodes: b of each column of `sums_RB`.
        """
        empty_R = self.sum_R == 0
        highest_R = torch.where(empty_R, -torch.inf, self.top_R).maximum(values_RK.amax(-1))
        top_R = highest_R.masked_fill(torch.isneginf(highest_R), 0.0)
        y_RK = values_RK - top_R[:, None]
        shift_R = torch.where(empty_R, 0.0, self.top_R - top_R)
        scale_R, exp_RK = shift_R.exp(), y_RK.exp()
        nodes_B = torch.tensor(nodes, dtype=top_R.dtype, device=top_R.device)
        return TailSums(
            top_R=top_R,
            sum_R=self.sum_R * scale_R + exp_RK.sum(-1),
            weighted_R=(self.weighted_R + shift_R * self.sum_R) * scale_R
            + torch.linalg.vecdot(exp_RK, y_RK.clamp(min=LOWEST_NATS)),
            sums_RB=self.sums_RB * (nodes_B * shift_R[:, None]).exp()
            + (nodes_B * y_RK[..., None]).exp().sum(1),
        )


def tail_sums(
    tail_RV: torch.Tensor,
    highest_R: torch.Tensor,
    *,
    base_R: torch.Tensor,
    nodes: tuple[float, ...],
) -> TailSums:
    """The sums over the tails of rows.

    They are taken over the tail itself and in its own scale: a mass of 1 - head would be rounding
    noise where the tail is lighter than 1e-6.

    Args:
        tail_RV: Logits of the tail, -inf elsewhere; they are overwritten with e^y.
        highest_R: The highest logit of each tail; -inf where a tail is empty.
        base_R: x is the logit minus this, so `top_R` of the result is relative to it.
        nodes: b = 1/T at which e^(b y) is summed.
    """
    # A tail of tokens that cannot occur is empty as well.
    empty_R = highest_R - base_R <= LOWEST_NATS
    highest_R = torch.where(empty_R, base_R, highest_R)
    top_R = highest_R - base_R
    tail_RV.sub_(highest_R[:, None]).clamp_(min=LOWEST_NATS)
    sixteenths = tuple(round(node * 16) for node in nodes)
    usual = tuple(one / 16 for one in sixteenths if one in _SIXTEENTHS) == nodes != ()
    # On a CPU a few rows at a time, in the same buffers, so that intermediate results stay in the
    # cache; results as large as the chunk would be written to newly mapped memory.
    rows = max(1, _PIECE // tail_RV.shape[1]) if tail_RV.device.type == "cpu" else len(tail_RV)
    scratch_6PV = tail_RV.new_empty(6 if usual else 2, min(rows, len(tail_RV)), tail_RV.shape[1])
    found = []
    for y_PV in tail_RV.split(rows):
        own_6PV = scratch_6PV[:, : len(y_PV)]
        found.append(
            _sums_of_sixteenths(y_PV, sixteenths, own_6PV)
            if usual
            else _sums(y_PV, nodes, *own_6PV)
        )
    sum_R, weighted_R, *sums_BR = (torch.cat(one) for one in zip(*found, strict=True))
    sums_RB = torch.stack(sums_BR, dim=1) if nodes else sum_R.new_zeros(len(sum_R), 0)
    sums_RB = sums_RB.masked_fill(empty_R[:, None], 0.0)  # e^(-4000 b) is above 0 where T is 40
    return TailSums(top_R=top_R, sum_R=sum_R, weighted_R=weighted_R, sums_RB=sums_RB)


def _sums(
    y_PV: torch.Tensor, nodes: tuple[float, ...], one_PV: torch.Tensor, other_PV: torch.Tensor
) -> list[torch.Tensor]:
    """Sums of e^y, of y e^y, and of e^(b y) for each node; y is overwritten with e^y."""
    of_nodes = [torch.mul(y_PV, node * _LOG2_E, out=one_PV).exp2_().sum(-1) for node in nodes]
    torch.mul(y_PV, _LOG2_E, out=one_PV).exp2_()
    weighted_P = torch.mul(y_PV, one_PV, out=other_PV).sum(-1)
    return [y_PV.copy_(one_PV).sum(-1), weighted_P, *of_nodes]


def _sums_of_sixteenths(
    y_PV: torch.Tensor, sixteenths: tuple[int, ...], powers_6PV: torch.Tensor
) -> list[torch.Tensor]:
    """As `_sums`. Exponentials cost the most time, so all are powers of one, e^(y/16).

    The sum of a power that is needed for nothing else is the scalar product of two others, which
    takes two thirds of the time of multiplying and summing.
    """
    e1_PV, e2_PV, e3_PV, e4_PV, e6_PV, e8_PV = powers_6PV
    torch.mul(y_PV, _LOG2_E / 16, out=e1_PV).exp2_()
    torch.mul(e1_PV, e1_PV, out=e2_PV)
    torch.mul(e1_PV, e2_PV, out=e3_PV)
    torch.mul(e2_PV, e2_PV, out=e4_PV)
    torch.mul(e3_PV, e3_PV, out=e6_PV)
    torch.mul(e4_PV, e4_PV, out=e8_PV)
    factors = {
        5: (e1_PV, e4_PV),
        11: (e3_PV, e8_PV),
        12: (e4_PV, e8_PV),
        14: (e6_PV, e8_PV),
    }
    held = {2: e2_PV, 3: e3_PV, 4: e4_PV, 6: e6_PV, 8: e8_PV}
    sums = {one: held[one].sum(-1) for one in sixteenths if one in held}
    sums |= {one: _vecdot(*factors[one]) for one in sixteenths if one in factors}
    e16_PV = torch.mul(e8_PV, e8_PV, out=e1_PV)
    sums[16] = e16_PV.sum(-1)
    weighted_P = _vecdot(y_PV, e16_PV)
    y_PV.copy_(e16_PV)
    return [sums[16], weighted_P, *(sums[one] for one in sixteenths)]


def _vecdot(one_PV: torch.Tensor, other_PV: torch.Tensor) -> torch.Tensor:
    """The scalar product of each row; on a CPU numpy's, which writes no product to memory."""
    if one_PV.device.type != "cpu":
        return torch.linalg.vecdot(one_PV, other_PV)
    return torch.from_numpy(np.vecdot(one_PV.numpy(), other_PV.numpy()))
