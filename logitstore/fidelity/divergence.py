"""How far stored targets are from live distributions, row by row.

Everything is taken in float64 (float32 on Apple's GPUs, which have no more), and the live tail is
summed over the tail itself: 1 - head would be noise for a sharp row.

Shapes: R targets, K entries, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from logitstore.sparsify.distribution import LOWEST_NATS, check_finite
from logitstore.targets.tails import tail_logmass_at
from logitstore.targets.targets import EMPTY_TAIL

if TYPE_CHECKING:
    from torch import Tensor

    from logitstore.targets.targets import SparseTargets

__all__ = ["StoredRows", "divergence", "live_logprobs"]


def live_logprobs(logits_RV: Tensor, *, temperature: float) -> Tensor:
    """float64 [R, V], nats: the log-softmax of `logits / temperature`, finite everywhere.

    A token without any chance gets -4000, whose mass is 0. ModelError where a row is no
    distribution.
    """
    wide = torch.float32 if logits_RV.device.type == "mps" else torch.float64
    wide_RV = logits_RV.to(wide) / temperature
    log_z_R = wide_RV.logsumexp(-1)
    check_finite(log_z_R)
    return wide_RV.sub_(log_z_R[:, None]).clamp_(min=LOWEST_NATS)


def divergence(live: Tensor, stored: Tensor) -> Tensor:
    """Each outcome's share of KL(live || stored), nats, of log-probabilities: p log(p / s) - p + s.

    The last two cancel in the sum over a row where both sum to 1. Where a stored row misses that by
    half a step they keep the divergence from falling below 0.
    """
    p = live.exp()
    return p * (live - stored) - p + stored.exp()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredRows:
    """Stored targets beside the live distributions `live_RV` of the same rows."""

    live_RV: Tensor  # nats, as `live_logprobs` gives them
    ids_RK: Tensor  # int64
    stored_RK: Tensor  # nats, as wide as `live_RV`
    used_RK: Tensor  # bool
    exact_RK: Tensor  # bool
    tail_logmass_RB: Tensor
    entropy_R: Tensor
    nodes: tuple[float, ...]
    rest_known: bool  # a tail is kept, or the weights sum to 1, so that what is drawn is the rest

    @staticmethod
    def of(targets: SparseTargets, live_RV: Tensor, *, nodes: tuple[float, ...]) -> StoredRows:
        """`targets`, their tail's log-mass kept at `nodes`, on the device of `live_RV`."""
        device = live_RV.device
        return StoredRows(
            live_RV=live_RV,
            ids_RK=torch.from_numpy(targets.ids_RK.astype(np.int64)).to(device),
            stored_RK=torch.from_numpy(targets.logprobs_RK).to(live_RV),
            used_RK=torch.from_numpy(targets.used_RK()).to(device),
            exact_RK=torch.from_numpy(targets.exact_RK()).to(device),
            tail_logmass_RB=torch.from_numpy(targets.tail_logmass_RB).to(device),
            entropy_R=torch.from_numpy(targets.entropy_R).to(live_RV),
            nodes=nodes,
            rest_known=targets.kind.keeps_tail or targets.kind.weights_sum_to_one,
        )

    def head_kl_R(self) -> Tensor:
        """nats: KL(live || stored) over the exact entries and one bucket of everything else.

        The stored bucket is the tail's mass at b = 1; where no tail is kept, that of the drawn
        entries. Where these are the rest in the mean only, the bucket is left out.
        """
        head_RK = divergence(self._live_RK(), self.stored_RK) * self.exact_RK
        if not self.rest_known:
            return head_RK.sum(-1)
        _, tail_R = self._split(self.live_RV.exp())
        tail_R = tail_R.log().clamp(min=LOWEST_NATS)
        return head_RK.sum(-1) + divergence(tail_R, self._stored_tail_R())

    def logprob_error_R(self) -> Tensor:
        """nats: the largest |log p live - log p stored| of the exact entries; 0 without any."""
        error_RK = (self._live_RK() - self.stored_RK).abs()
        return torch.where(self.exact_RK, error_RK, 0).amax(-1)

    def drawn_kl_R(self) -> Tensor:
        """nats: soft cross-entropy of live under the stored weights, less the stored entropy.

        Its mean over draws is KL(the teacher that was dumped || live): 0 for the same teacher, for
        the weights are unbiased. One row alone says nothing and may be negative.
        """
        weights_RK = self.stored_RK.exp() * self.used_RK
        return -(weights_RK * self._live_RK()).sum(-1) - self.entropy_R

    def tail_error_R(self, temperature: float) -> Tensor:
        """|stored - live| mass of the tail at `temperature`; each distribution sums to 1 there.

        SettingError where the store cannot serve that temperature.
        """
        b = 1.0 / temperature
        # Single precision serves a mass to 1e-6, and its exponentials take half the time.
        head_R, live_R = self._split(self.live_RV.float().mul_(b).exp_())
        stored_RK = (self.stored_RK * b).masked_fill(~self.exact_RK, EMPTY_TAIL)
        tail_R = self._tail_logmass_R(temperature)
        return (torch.sigmoid(tail_R - stored_RK.logsumexp(-1)) - live_R / (head_R + live_R)).abs()

    def exact_mass_R(self) -> Tensor:
        """The stored mass of the exact entries."""
        return (self.stored_RK.exp() * self.exact_RK).sum(-1)

    def _live_RK(self) -> Tensor:
        return self.live_RV.gather(1, self.ids_RK)

    def _split(self, mass_RV: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of `mass_RV`, which is overwritten, over the exact entries and over the rest."""
        # x - x is exactly 0, and padding takes nothing from the id it names.
        head_RK = mass_RV.gather(1, self.ids_RK) * self.exact_RK
        return head_RK.sum(-1), mass_RV.scatter_add_(1, self.ids_RK, -head_RK).sum(-1)

    def _stored_tail_R(self) -> Tensor:
        if self.nodes:
            return self._tail_logmass_R(1.0).to(self.stored_RK)
        drawn_RK = self.used_RK & ~self.exact_RK
        return self.stored_RK.masked_fill(~drawn_RK, EMPTY_TAIL).logsumexp(-1)

    def _tail_logmass_R(self, temperature: float) -> Tensor:
        return tail_logmass_at(
            temperature,
            self.tail_logmass_RB,
            nodes=self.nodes,
            vocab_size=self.live_RV.shape[1],
            count_R=self.exact_RK.sum(-1),
        )
