"""How near a student's distributions are to the ones that a store keeps of its teacher.

What a store does not keep exactly is one bucket: KL is then a lower bound, the acceptance an upper
one. Entries that were drawn give an unbiased estimate of KL instead.

Shapes: R rows of a chunk, K entries, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from logitstore import EMPTY_TAIL
from trainer.losses import (
    MASKED_LOGIT,
    View,
    bucketed,
    choose_view,
    exact_teacher,
    forward_kl,
    kl_terms,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from logitstore import SparsifierSpec
    from trainer.losses import HeadTail, TargetTensors

__all__ = ["Comparison"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Student beside teacher at `temperature`, as targets of `sparsifier` know the teacher.

    Raises SettingError where these targets do not serve the temperature.
    """

    sparsifier: SparsifierSpec
    temperature: float
    vocab_size: int
    _view: View = field(init=False)

    def __post_init__(self) -> None:
        view = choose_view(self.sparsifier, loss=forward_kl, temperature=self.temperature)
        object.__setattr__(self, "_view", view)

    @property
    def knows_entropy(self) -> bool:
        """Whether the stored entropies are those at `temperature`: else they are those at 1."""
        return self._view is View.WEIGHTS or self.temperature == 1

    def sums(self, logits_RV: Tensor, targets: TargetTensors) -> dict[str, Tensor]:
        """Sums over the rows for `means`; overwrites `logits_RV`, the student's."""
        ids_RK, exact_RK = targets.ids_NK, targets.exact_NK
        # Values are stored in steps, so the teacher's likeliest may be several: each is agreement.
        stored_RK = targets.logprobs_NK.masked_fill(~exact_RK, EMPTY_TAIL)
        best_RK = exact_RK & (stored_RK == stored_RK.amax(dim=-1, keepdim=True))
        agreed_R = ((ids_RK == logits_RV.argmax(dim=-1, keepdim=True)) & best_RK).any(dim=-1)
        teacher = exact_teacher(
            targets,
            nodes=self.sparsifier.tail_nodes,
            temperature=self.temperature,
            vocab_size=self.vocab_size,
        )
        logits_RV.div_(self.temperature)
        kl_R = self._estimated_kl(logits_RV, targets) if self._view is View.WEIGHTS else None
        student = _student(logits_RV, ids_RK, exact_RK)
        kl_R = kl_terms(student, teacher)["kl"] if kl_R is None else kl_R
        shared_R = torch.minimum(student.log_head_NK, teacher.log_head_NK).exp().sum(dim=-1)
        shared_R += torch.minimum(student.log_tail_N, teacher.log_tail_N).exp()
        return {
            "kl": kl_R.double().sum(),
            "acceptance": shared_R.double().sum(),
            "bucket": teacher.log_tail_N.exp().double().sum(),
            "agreed": agreed_R.sum(),
            "judged": exact_RK.any(dim=-1).sum(),
        }

    def means(self, sums: Mapping[str, float], *, targets: int) -> dict[str, float | None]:
        """Per target: kl in nats, acceptance, and top-1 agreement over rows with exact entries.

        A row without one says nothing of the teacher's likeliest token; where no row has one,
        agreement and acceptance are None.
        """
        judged = sums["judged"]
        return {
            "kl": sums["kl"] / targets,
            "top1_agreement": sums["agreed"] / judged if judged else None,
            "acceptance": sums["acceptance"] / targets if judged else None,
        }

    def bounds(self, sums: Mapping[str, float]) -> dict[str, str]:
        """Which means are no exact values, and what they are instead."""
        if not sums["bucket"]:
            return {}
        kl = {"kl": "estimate" if self._view is View.WEIGHTS else "lower"}
        return kl | ({"acceptance": "upper"} if sums["judged"] else {})

    def _estimated_kl(self, scaled_RV: Tensor, targets: TargetTensors) -> Tensor:
        """Cross-entropy with the weights, less the teacher's entropy: [R], unbiased."""
        log_q_RK = scaled_RV.gather(1, targets.ids_NK) - scaled_RV.logsumexp(dim=-1, keepdim=True)
        weights_RK = targets.logprobs_NK.exp().masked_fill(~targets.used_NK, 0.0)
        return -(weights_RK * log_q_RK).sum(dim=-1) - targets.entropy_N


def _student(scaled_RV: Tensor, ids_RK: Tensor, exact_RK: Tensor) -> HeadTail:
    """The student over the exact entries and the bucket of all else; overwrites `scaled_RV`."""
    entries_RK = scaled_RV.gather(1, ids_RK)
    # What is no exact entry may be padding, which names any id: the row's first one stands in, and
    # in a row without one that id keeps its logit.
    first_R1 = exact_RK.int().argmax(dim=-1, keepdim=True)
    inside_RK = torch.where(exact_RK, ids_RK, ids_RK.gather(1, first_R1))
    out_RK = torch.where(
        exact_RK.any(dim=-1, keepdim=True), MASKED_LOGIT, entries_RK.gather(1, first_R1)
    )
    rest_R = scaled_RV.scatter_(1, inside_RK, out_RK.expand_as(inside_RK)).logsumexp(dim=-1)
    return bucketed(entries_RK, rest_R, exact_RK)
