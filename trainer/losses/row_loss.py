"""The loss of a row, from the few logits and log-sum-exps that it depends on.

`L = (1 - alpha) CE + alpha T^2 D_T`, and every metric that a report shows. Nothing here is as wide
as the vocabulary, and the gradient is left to autograd.

Shapes: C rows of a chunk, K entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from trainer.losses.base import LossInputs
from trainer.losses.head_tail import MASKED_LOGIT, bucketed, kl_terms
from trainer.losses.teacher import exact_teacher, weighted_teacher
from trainer.losses.views import View, choose_view

if TYPE_CHECKING:
    from torch import Tensor

    from logitstore import SparsifierSpec
    from trainer.losses.base import HeadTail, Loss
    from trainer.losses.tensors import TargetTensors

__all__ = ["RowLoss"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLoss:
    """How a row's loss is put together from targets of `sparsifier`.

    Raises SettingError where they cannot serve the loss or the temperature.
    """

    loss: Loss
    alpha: float  # weight of the teacher's distribution; 1 - alpha is that of the true token
    temperature: float
    sparsifier: SparsifierSpec
    vocab_size: int
    view: View = field(init=False)

    def __post_init__(self) -> None:
        view = choose_view(self.sparsifier, loss=self.loss, temperature=self.temperature)
        object.__setattr__(self, "view", view)

    @property
    def factor(self) -> float:
        """T^2 for a loss that asks for it: what its divergence is multiplied by, alpha apart."""
        return self.temperature**2 if self.loss.times_temperature_squared else 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """What is summed; the parts of the divergence only where there is a bucket."""
        parts = ("kl_binary", "kl_head") if self.view is View.BUCKET else ()
        return ("loss", "ce", "divergence", "kl", *parts, "agreement", "judged")

    def entries(self, targets: TargetTensors) -> Tensor:
        """bool [C, K]: which entries stand for themselves; all others are of the bucket."""
        return targets.exact_NK if self.view is View.BUCKET else targets.used_NK

    def metrics(
        self,
        targets: TargetTensors,
        *,
        label_ids_C: Tensor,
        head_CK: Tensor,
        label_C: Tensor,
        rest_C: Tensor,
        top_C: Tensor,
        scaled_rest_C: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Every metric of every row, float32 [C]; "loss" is the one to differentiate.

        `head_CK` and `label_C` are logits, `rest_C` the log-sum-exp of all that are no entries,
        `top_C` the largest of them, and `scaled_rest_C` the log-sum-exp of the same logits over T,
        given where T is not 1.
        """
        entries_CK = self.entries(targets)
        scaled_rest_C = rest_C if scaled_rest_C is None else scaled_rest_C
        student = bucketed(head_CK / self.temperature, scaled_rest_C, entries_CK)
        teacher, constant_C = self._teacher(targets)
        ce_C = _log_total(head_CK, rest_C, entries_CK) - label_C
        inputs = LossInputs(
            student=student,
            teacher=teacher,
            used_NK=entries_CK,
            is_label_NK=entries_CK & (targets.ids_NK == label_ids_C[:, None]),
            log_label_N=label_C / self.temperature
            - _log_total(head_CK / self.temperature, scaled_rest_C, entries_CK),
        )
        divergence_C = self.loss.divergence(inputs) + constant_C
        with torch.no_grad():
            parts = kl_terms(student, teacher)
            parts["kl"] += constant_C
            agreement_C, judged_C = _agreement(targets, head_CK, top_C, entries_CK)
        values = parts | {
            "loss": (1.0 - self.alpha) * ce_C + self.alpha * self.factor * divergence_C,
            "ce": ce_C,
            "divergence": divergence_C,
            "agreement": agreement_C,
            "judged": judged_C,
        }
        return {name: values[name] for name in self.names}

    def _teacher(self, targets: TargetTensors) -> tuple[HeadTail, Tensor]:
        """The teacher, and what its divergences lack: 0 but for the entropy of weights."""
        if self.view is View.WEIGHTS:
            return weighted_teacher(targets)
        view = exact_teacher(
            targets,
            nodes=self.sparsifier.tail_nodes,
            temperature=self.temperature,
            vocab_size=self.vocab_size,
        )
        return view, torch.zeros_like(targets.entropy_N)


def _log_total(head_CK: Tensor, rest_C: Tensor, entries_CK: Tensor) -> Tensor:
    """The log-sum-exp over the whole vocabulary."""
    return torch.logaddexp(head_CK.masked_fill(~entries_CK, MASKED_LOGIT).logsumexp(dim=1), rest_C)


def _agreement(
    targets: TargetTensors, head_CK: Tensor, top_C: Tensor, entries_CK: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows where the teacher's likeliest token is the student's, and rows where it is known.

    It is known where an entry is exact: no drawn one is more likely than an exact one.
    """
    exact_CK = targets.exact_NK
    judged_C = exact_CK.any(dim=1)
    best_C1 = targets.logprobs_NK.masked_fill(~exact_CK, MASKED_LOGIT).argmax(dim=1, keepdim=True)
    likeliest_C = head_CK.detach().masked_fill(~entries_CK, MASKED_LOGIT).amax(dim=1).maximum(top_C)
    agreement_C = (head_CK.detach().gather(1, best_C1).squeeze(1) >= likeliest_C) & judged_C
    return agreement_C.float(), judged_C.float()
