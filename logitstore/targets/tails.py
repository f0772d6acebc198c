"""The mass of a tail at any temperature, interpolated between the nodes at which it is stored.

A target keeps `f(b) = log sum_{i in tail} p_i^b` at a few nodes b = 1/T, and `f(0) = log(V - n)`
need not be stored. Between the nodes f is interpolated by a polynomial through those around b
(`interpolation.py`). The error of the tail's mass at the worst T from 1 to 10, mean over rows of
two real teachers, K = 8 to 64, their logits times 1 to 2.5 (docs/decisions/008-tail-nodes.md):

    nodes 1, 3/4, 1/2, 1/4, 1/8                         1.2e-2
    nodes 16, 14, 11, 8, 6, 5, 4, 3, 2, in sixteenths   2.7e-4

Cubic Hermite pieces, splines and polynomials in a power of b or in log(b + c) were not better.

Shapes: R targets, K entries, B stored temperatures, X interpolation points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from logitstore.errors import SettingError
from logitstore.targets.interpolation import chosen_points, polynomial_weights
from logitstore.targets.targets import EMPTY_TAIL

if TYPE_CHECKING:
    from torch import Tensor

    from logitstore.targets.kinds import TargetKind

__all__ = ["TAIL_TEMPERATURES", "rest_logmass", "tail_logmass_at"]

# Between these the mass of a tail is interpolated; beyond them it must be stored.
TAIL_TEMPERATURES = (1.0, 10.0)

_SAME_NODE = 1e-6
_FLOAT32 = 2.0**-24  # half the distance from 1 to the next float32


def tail_logmass_at(
    temperature: float,
    tail_logmass_RB: Tensor,
    *,
    nodes: tuple[float, ...],
    vocab_size: int,
    count_R: Tensor,
) -> Tensor:
    """float32 [R]: `log sum over the tail of p^(1/T)`, exact where 1/T is one of the `nodes`.

    Args:
        temperature: T, above 0.
        tail_logmass_RB: The stored log-masses, one column for each node.
        nodes: b = 1/T of each column, falling from 1; empty where no tail is stored.
        vocab_size: The number of tokens, V.
        count_R: How many entries of each row do not belong to the tail.

    Raises SettingError for a temperature that is neither that of a node nor between 1 and 10; where
    the only node is that of T = 1, which says nothing of others, for any but that.
    """
    b = 1.0 / temperature
    for column, node in enumerate(nodes):
        if abs(node - b) < _SAME_NODE:
            return tail_logmass_RB[:, column].float()
    _check_range(nodes, b)
    left_R = (vocab_size - count_R).clamp(min=1)
    points_RX = torch.cat((tail_logmass_RB.float(), left_R.float().log().unsqueeze(-1)), dim=-1)
    chosen = chosen_points((*nodes, 0.0), b)
    columns = [(*nodes, 0.0).index(point) for point in chosen]
    weights_X = torch.tensor(
        polynomial_weights(chosen, b), dtype=torch.float32, device=points_RX.device
    )
    tail_R = (points_RX[:, columns] * weights_X).sum(dim=-1)
    empty_R = (tail_logmass_RB <= EMPTY_TAIL / 2).any(dim=-1) | (count_R >= vocab_size)
    return tail_R.masked_fill(empty_R, EMPTY_TAIL)


def rest_logmass(
    kind: TargetKind,
    logprobs_RK: Tensor,
    *,
    used_RK: Tensor,
    exact_RK: Tensor,
    vocab_size: int,
) -> Tensor:
    """[R], nats: the log-mass of all tokens that are no exact entry, where no tail is kept.

    Weights that sum to 1 tell it: it is the sum of the drawn ones, which keeps its digits however
    sharp the row. Otherwise the drawn ones have the right sum on average alone, and the mass is
    1 less that of the exact entries.

    Args:
        kind: The kind of the targets; it keeps no tail.
        logprobs_RK: Nats: log-probabilities of exact entries, logarithms of drawn weights.
        used_RK: bool: which entries are in use.
        exact_RK: bool: which entries are in use and hold the teacher's own probability.
        vocab_size: V; where all V tokens are exact entries the rest is empty.
    """
    if kind.weights_sum_to_one:
        drawn_RK = used_RK & ~exact_RK
        return logprobs_RK.masked_fill(~drawn_RK, EMPTY_TAIL).logsumexp(-1)
    # 1 - p of the largest entry comes from its logarithm: rounded to float32, p itself may be 1.
    known_RK = logprobs_RK.masked_fill(~exact_RK, EMPTY_TAIL)
    top_R, place_R = known_RK.max(-1)
    beside_top_R = -torch.expm1(top_R)
    others_RK = known_RK.scatter(1, place_R[:, None], EMPTY_TAIL).exp()
    rest_R = (beside_top_R - others_RK.sum(-1)).maximum(_FLOAT32 * beside_top_R)
    full_R = exact_RK.sum(-1) >= vocab_size
    return rest_R.log().clamp(min=EMPTY_TAIL).masked_fill(full_R, EMPTY_TAIL)


def _check_range(nodes: tuple[float, ...], b: float) -> None:
    lowest, highest = TAIL_TEMPERATURES
    if nodes == (1.0,):
        raise SettingError(
            "this store cannot serve the temperature: it knows the tail's mass at one alone",
            place="--temperature",
            found=f"{1 / b:g}",
            allowed="1",
        )
    highest_b = min(1 / lowest, max(nodes, default=1 / lowest))
    if not nodes or not 1 / highest - _SAME_NODE <= b <= highest_b + _SAME_NODE:
        least = 1 / highest_b
        stored = [f"{1 / node:g}" for node in nodes if not least <= 1 / node <= highest]
        others = f", or a stored one: {', '.join(stored)}" if stored else ""
        raise SettingError(
            "this store cannot serve the temperature",
            place="--temperature",
            found=f"{1 / b:g}",
            allowed=f"{least:g} to {highest:g}{others}"
            if nodes
            else "none: the store keeps no tail's mass",
            remedy="Take a temperature in that range" if nodes else "Dump with --sparsify hybrid",
        )
