"""The loss of a row, from the few logits and log-sum-exps that it depends on.

`L = (1 - alpha) CE + alpha T^2 D_T`, and every metric that a report shows. Nothing here is as wide
as the vocabulary, and the gradient is left to autograd.

Shapes: C rows of a chunk, K entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from trainer.losses.base import LossInputs, SampledTokens
from trainer.losses.forward_kl import forward_kl
from trainer.losses.head_tail import MASKED_LOGIT, bucketed, kl_terms
from trainer.losses.teacher import exact_teacher, weighted_teacher, whole_teacher
from trainer.losses.views import View, choose_view, serves

if TYPE_CHECKING:
    from torch import Tensor

    from logitstore import SparsifierSpec
    from trainer.data.selection import RowWeights
    from trainer.losses.base import HeadTail, Loss
    from trainer.losses.tensors import TargetTensors

__all__ = ["RowLoss", "known_agreement"]

# Of the rows. Those that are left out are the flat ones, where students agree less, so an agreement
# over few rows is far too good; over 90 % of them it is off by a tenth at most.
_LEAST_JUDGED = 0.9


def known_agreement(agreed: float, *, judged: float, targets: float) -> float | None:
    """The share of rows whose likeliest token is the teacher's; None where too few rows tell that.

    Over all rows it lies between `agreed / targets` and `(agreed + targets - judged) / targets`.

    Args:
        agreed: How many of the judged rows agree.
        judged: How many rows tell the teacher's likeliest token.
        targets: How many rows there are.
    """
    return agreed / judged if judged and judged >= _LEAST_JUDGED * targets else None


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
    # How forward KL sees the targets: "kl" is taken so whatever the loss is, or runs with different
    # losses could not be compared. None where the targets do not tell it.
    kl_view: View | None = field(init=False)

    def __post_init__(self) -> None:
        view = choose_view(self.sparsifier, loss=self.loss, temperature=self.temperature)
        kl_view = None
        if serves(self.sparsifier, loss=forward_kl):
            kl_view = choose_view(self.sparsifier, loss=forward_kl, temperature=self.temperature)
        object.__setattr__(self, "view", view)
        object.__setattr__(self, "kl_view", kl_view)

    @property
    def factor(self) -> float:
        """T^2 for a loss that asks for it: what its divergence is multiplied by, alpha apart."""
        return self.temperature**2 if self.loss.times_temperature_squared else 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """What is summed; the parts of kl only where that is taken over head and bucket."""
        parts = {View.BUCKET: ("kl", "kl_binary", "kl_head"), None: ()}.get(self.kl_view, ("kl",))
        return ("loss", "ce", "divergence", *parts, "agreement", "judged")

    def entries(self, targets: TargetTensors) -> Tensor:
        """bool [C, K]: which entries of `targets` stand for themselves, outside the bucket."""
        return targets.used_NK if self.view is View.WEIGHTS else targets.exact_NK

    @property
    def needs_drawn(self) -> bool:
        """Whether `metrics` needs the logits of drawn entries beside those of `entries`.

        So it is where the loss is taken over head and bucket, and kl from the weights.
        """
        return self.kl_view is View.WEIGHTS and self.view is not View.WEIGHTS

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
        padding_C: Tensor | None = None,
        scaled_padding_C: Tensor | None = None,
        used_CK: Tensor | None = None,
        weights: RowWeights | None = None,
        sampler_C: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Every metric of every row, float32 [C]; "loss" is the one to differentiate.

        Args:
            targets: The targets of C rows; with all V tokens as entries where the view is whole.
            label_ids_C: int64: the true tokens.
            head_CK: The student's logits of the `entries` of `targets`; others are not looked at.
            label_C: Its logits of the true tokens.
            rest_C: The log-sum-exp of its logits of all tokens that are no entries.
            top_C: The largest logit of all columns that are no entries.
            scaled_rest_C: The log-sum-exp of the same logits over T; given where T is not 1.
            padding_C: The log-sum-exp of its columns that are no token; None where it has none.
            scaled_padding_C: The same over T; given where T is not 1 and there are such columns.
            used_CK: Its logits of all entries in use, drawn ones too; given where `needs_drawn`.
            weights: What the two parts of "loss" are multiplied by, and nothing else; None is 1.
            sampler_C: With which log-probability each true token was drawn, nats; needed by losses
                of sampled tokens.
        """
        entries_CK = self.entries(targets)
        scaled_rest_C = rest_C if scaled_rest_C is None else scaled_rest_C
        student = bucketed(head_CK / self.temperature, scaled_rest_C, entries_CK)
        teacher, constant_C = self._teacher(targets)
        total_C = _log_total(head_CK, rest_C, entries_CK)
        ce_C = total_C + _outside(total_C, padding_C) - label_C
        scaled_total_C = _log_total(head_CK / self.temperature, scaled_rest_C, entries_CK)
        outside_C = _outside(
            scaled_total_C, padding_C if self.temperature == 1 else scaled_padding_C
        )
        inputs = LossInputs(
            student=student,
            teacher=teacher,
            used_NK=entries_CK,
            is_label_NK=entries_CK & (targets.ids_NK == label_ids_C[:, None]),
            log_label_N=label_C / self.temperature - scaled_total_C,
            sampled=None
            if sampler_C is None
            else SampledTokens(log_teacher_N=targets.label_logprob_N, log_sampler_N=sampler_C),
        )
        divergence_C = self.loss.divergence(inputs) + outside_C
        if not self.loss.of_samples:
            divergence_C = divergence_C + constant_C
        with torch.no_grad():
            if self.kl_view is None:
                parts = {}
            elif used_CK is None:
                parts = kl_terms(student, teacher)
                parts["kl"] += constant_C + outside_C
                parts["kl_binary"] += outside_C
            else:
                log_q_CK = used_CK / self.temperature - scaled_total_C[:, None]
                parts = {"kl": _estimated_kl(targets, log_q_CK) + outside_C}
            agreement_C, judged_C = _agreement(targets, head_CK, top_C, entries_CK)
        values = parts | {
            "loss": self._loss(ce_C, divergence_C, weights),
            "ce": ce_C,
            "divergence": divergence_C,
            "agreement": agreement_C,
            "judged": judged_C,
        }
        return {name: values[name] for name in self.names}

    def _loss(self, ce_C: Tensor, divergence_C: Tensor, weights: RowWeights | None) -> Tensor:
        if weights is not None:
            ce_C, divergence_C = ce_C * weights.label_R, divergence_C * weights.soft_R
        return (1.0 - self.alpha) * ce_C + self.alpha * self.factor * divergence_C

    def _teacher(self, targets: TargetTensors) -> tuple[HeadTail, Tensor]:
        """The teacher, and what its divergences lack: 0 but for the entropy of weights."""
        if self.view is View.WHOLE:
            view = whole_teacher(targets, temperature=self.temperature)
            return view, torch.zeros_like(targets.entropy_N)
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


def _outside(total_C: Tensor, padding_C: Tensor | None) -> Tensor:
    """`-log(1 - m)` of the mass m that the student gives to columns that are no token, [C], nats.

    The teacher gives them none. Added to forward KL over the tokens it is forward KL over all
    columns; the others, some of which would be infinite, are charged the same.
    """
    if padding_C is None:
        return torch.zeros_like(total_C)
    return functional.softplus(padding_C - total_C)


def _estimated_kl(targets: TargetTensors, log_q_CK: Tensor) -> Tensor:
    """Forward KL from the weights of all entries, unbiased, [C]."""
    teacher, constant_C = weighted_teacher(targets)
    gap_CK = teacher.log_head_NK.exp() * (teacher.log_head_NK - log_q_CK)
    return gap_CK.masked_fill(~targets.used_NK, 0.0).sum(dim=1) + constant_C


def _agreement(
    targets: TargetTensors, head_CK: Tensor, top_C: Tensor, entries_CK: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows where the teacher's likeliest token is the student's, and rows where it is known.

    It is known where an entry is exact: no drawn one is more likely than an exact one. Values are
    stored in steps, so the likeliest may be several: each is agreement.
    """
    exact_CK, head_CK = targets.exact_NK, head_CK.detach()
    judged_C = exact_CK.any(dim=1)
    stored_CK = targets.logprobs_NK.masked_fill(~exact_CK, MASKED_LOGIT)
    best_CK = exact_CK & (stored_CK == stored_CK.amax(dim=1, keepdim=True))
    likeliest_C = head_CK.masked_fill(~entries_CK, MASKED_LOGIT).amax(dim=1).maximum(top_C)
    best_C = head_CK.masked_fill(~best_CK, MASKED_LOGIT).amax(dim=1)
    agreement_C = (best_C >= likeliest_C) & judged_C
    return agreement_C.float(), judged_C.float()
