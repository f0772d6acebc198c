"""A row of logits split in two: its k largest, and sums and weights of the rest.

Shapes: R targets, K entries, V vocabulary, B stored temperatures, G columns of a group, C groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from logitstore.sparsify.distribution import LOWEST_NATS, check_finite
from logitstore.sparsify.tail_sums import TailSums, tail_sums

__all__ = ["Split", "largest"]

_GROUP = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The k largest logits of each row and the rest, all relative to the highest of the row."""

    top_R: torch.Tensor  # the highest logit itself
    values_RK: torch.Tensor  # float32, falling from 0; -inf for tokens that cannot occur
    ids_RK: torch.Tensor
    rest: TailSums
    weights_RV: torch.Tensor  # float32, of the rest: e^(x - rest.top_R); 0 for the k largest

    @staticmethod
    def of(logits_RV: torch.Tensor, k: int, *, nodes: tuple[float, ...] = ()) -> Split:
        """The split of each row.

        Args:
            logits_RV: float32 logits; the array is overwritten and becomes `weights_RV`.
            k: How many of the largest logits are kept, 0 or more.
            nodes: b = 1/T at which the rest is summed.

        Raises ModelError where a row is not a distribution.
        """
        # One more than is kept: the highest of the rest, by which the sums of the rest are scaled.
        highest_RN, ids_RN = largest(logits_RV, min(k + 1, logits_RV.shape[1]))
        top_R1, ids_RK = highest_RN[:, :1], ids_RN[:, :k]
        check_finite(top_R1[:, 0])
        highest_RN = torch.nn.functional.pad(highest_RN, (0, 1), value=-torch.inf)
        logits_RV.scatter_(1, ids_RK, -torch.inf)
        values_RK = highest_RN[:, :k] - top_R1
        return Split(
            top_R=top_R1[:, 0],
            values_RK=values_RK.masked_fill(values_RK <= LOWEST_NATS, -torch.inf),
            ids_RK=ids_RK,
            rest=tail_sums(logits_RV, highest_RN[:, k], base_R=top_R1[:, 0], nodes=nodes),
            weights_RV=logits_RV,
        )

    @property
    def log_z_R(self) -> torch.Tensor:
        """log of the sum of e^x over the whole row, relative to `top_R`."""
        return torch.logaddexp(self.values_RK.logsumexp(-1), self.rest.log_sum_R)

    def entropy_R(self, log_z_R: torch.Tensor) -> torch.Tensor:
        """-sum p log p over the whole row, in nats; `log_z_R` as this split gives it."""
        logprobs_RK = (self.values_RK - log_z_R[:, None]).clamp(min=LOWEST_NATS)
        head_R = -torch.linalg.vecdot(logprobs_RK.exp(), logprobs_RK)
        return (head_R + self.rest.entropy_R(log_z_R)).clamp_(min=0)


class Largest(NamedTuple):
    """The largest values of each row, in descending order, and their columns."""

    values_RK: torch.Tensor
    ids_RK: torch.Tensor


def largest(values_RV: torch.Tensor, k: int) -> Largest:
    """The same as `values_RV.topk(k)`, in a fraction of its time.

    The k largest values are in the k groups with the largest maxima, so only these are searched. A
    group is every C-th column, so that the maxima of all groups take one pass over whole vectors.
    The best groups are found in the same way.

    Args:
        values_RV: Values of any float type.
        k: How many are wanted, at most the number of columns.
    """
    rows, vocab_size = values_RV.shape
    if vocab_size < 4 * _GROUP * k:
        return Largest(*values_RV.topk(k, dim=-1))
    groups = vocab_size // _GROUP
    grouped, of_best = _GROUP * groups, _GROUP * k
    values_RGC = values_RV[:, :grouped].unflatten(1, (_GROUP, groups))
    best_RK = largest(values_RGC.amax(1), k).ids_RK
    best_RGK = values_RGC.gather(2, best_RK[:, None].expand(rows, _GROUP, k))
    # Columns that fill no group are candidates by themselves.
    candidates_RN = torch.cat((best_RGK.flatten(1), values_RV[:, grouped:]), dim=1)
    found_RK, places_RK = candidates_RN.topk(k, dim=-1)
    of_groups_RK = best_RK.gather(1, places_RK % k) + places_RK // k * groups
    loose_RK = places_RK - of_best + grouped
    return Largest(found_RK, torch.where(places_RK < of_best, of_groups_RK, loose_RK))
