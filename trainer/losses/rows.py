"""The loss of a row, from the few logits and log-sum-exps that it depends on.

`L = (1 - alpha) CE + alpha T^2 D_T`, with every metric that a report shows beside it. Nothing here
is as wide as the vocabulary, and the gradient is left to autograd.

Shapes: C rows of a chunk, K entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from logitstore import EMPTY_TAIL, SettingError
from trainer.losses.base import NOTHING, HeadTail, Loss, bucketed, kl_terms
from trainer.losses.tail import teacher_head_tail

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.targets import TargetTensors

__all__ = ["RowLoss"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLoss:
    """How a row's loss is put together. `sampled` targets carry weights and have no bucket.

    Raises SettingError where sampled targets cannot serve the temperature or the loss.
    """

    loss: Loss
    alpha: float  # weight of the teacher's distribution; 1 - alpha is that of the true token
    temperature: float
    tail_nodes: tuple[float, ...]  # b = 1/T of each column of the targets' tail masses
    vocab_size: int
    sampled: bool

    def __post_init__(self) -> None:
        if self.sampled:
            _check_sampled(self.temperature, self.loss)

    @property
    def names(self) -> tuple[str, ...]:
        """What is summed; the parts of the divergence only where there is a bucket."""
        parts = () if self.sampled else ("kl_binary", "kl_head")
        return ("loss", "ce", "divergence", "kl", *parts, "agreement")

    def metrics(
        self,
        targets: TargetTensors,
        *,
        head_CK: Tensor,
        label_C: Tensor,
        rest_C: Tensor,
        top_C: Tensor,
        warm_rest_C: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Every metric of every row, float32 [C]; "loss" is the one to differentiate.

        `head_CK` and `label_C` are logits, `rest_C` the log-sum-exp of all that are no entries,
        `top_C` the largest of them, and `warm_rest_C` their log-sum-exp at T where T is not 1.
        """
        used_CK = targets.used_NK
        all_C = torch.logaddexp(head_CK.masked_fill(~used_CK, NOTHING).logsumexp(dim=1), rest_C)
        warm_rest_C = rest_C if warm_rest_C is None else warm_rest_C
        student = bucketed(head_CK / self.temperature, warm_rest_C, used_CK)
        teacher, constant_C = self._teacher(targets)
        ce_C = all_C - label_C
        divergence_C = self.loss.divergence(student, teacher, used_CK) + constant_C
        soft_C = self.temperature**2 * divergence_C
        with torch.no_grad():
            parts = kl_terms(student, teacher)
            parts["kl"] += constant_C
            agreement_C = _agreement(targets, head_CK, top_C)
        values = parts | {
            "loss": (1.0 - self.alpha) * ce_C + self.alpha * soft_C,
            "ce": ce_C,
            "divergence": divergence_C,
            "agreement": agreement_C,
        }
        return {name: values[name] for name in self.names}

    def _teacher(self, targets: TargetTensors) -> tuple[HeadTail, Tensor]:
        """The teacher, and what its divergences lack: 0 but for the entropy of sampled targets."""
        used_CK, weights_CK = targets.used_NK, targets.weights_NK
        if weights_CK is None:
            view = teacher_head_tail(
                logprobs_NK=targets.logprobs_NK,
                used_NK=used_CK,
                tail_logmass_NB=targets.tail_logmass_NB,
                nodes=self.tail_nodes,
                temperature=self.temperature,
                vocab_size=self.vocab_size,
                count_N=targets.count_N,
            )
            return view, torch.zeros_like(targets.entropy_N)
        log_CK = weights_CK.log().masked_fill(~used_CK, EMPTY_TAIL).clamp(min=EMPTY_TAIL)
        view = HeadTail(log_head_NK=log_CK, log_tail_N=torch.full_like(log_CK[:, 0], EMPTY_TAIL))
        # Its divergence is soft cross-entropy less the weights' own entropy; less the teacher's,
        # it is an unbiased estimate of the full one.
        return view, -targets.entropy_N - (log_CK.exp() * log_CK).sum(dim=1)


def _check_sampled(temperature: float, loss: Loss) -> None:
    if temperature != 1.0:
        raise SettingError(
            "sampled targets serve only the temperature at which they were drawn",
            place="--temperature",
            found=f"{temperature:g}",
            allowed="1",
            remedy="Dump with --sparsify topk for other temperatures.",
        )
    if not loss.linear:
        raise SettingError(
            "sampled targets serve only losses that are linear in the teacher",
            place="--loss",
            remedy="Use forward_kl, or dump with --sparsify topk.",
        )


def _agreement(targets: TargetTensors, head_CK: Tensor, top_C: Tensor) -> Tensor:
    """Rows where the teacher's likeliest entry is the student's likeliest token."""
    unused_CK = ~targets.used_NK
    best_C1 = targets.logprobs_NK.masked_fill(unused_CK, NOTHING).argmax(dim=1, keepdim=True)
    likeliest_C = head_CK.detach().masked_fill(unused_CK, NOTHING).amax(dim=1).maximum(top_C)
    return (head_CK.detach().gather(1, best_C1).squeeze(1) >= likeliest_C).float()
