"""The loss against the mean of several teachers, from the stored targets of each.

With teachers p_i of weights w_i and a loss that is linear in the teacher, the gradient of
`D(sum_i w_i p_i, q)` is `sum_i w_i` times that of `D(p_i, q)`. So nothing is lost where one teacher
has a token as an entry and another has it in its bucket: each is compared over its own entries and
bucket, from one projection of the student. What is shown is the mean of the divergences: of forward
KL that is the KL from the teachers' mean and a constant, how far they are from it themselves.

A loss of sampled tokens needs the mean's probability of one token, which is the mean of what the
stores hold. Other losses are refused: the mean of theirs is another loss, and the mean of the
distributions is not known where entries differ.

Shapes: N packed tokens (rows), C rows of a chunk, V logit columns, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from trainer.losses.chunked import LossSums, Objective, chunk_rows_of, chunked_loss
from trainer.losses.fused import sparse_objective
from trainer.losses.options import refuse_average

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from logitstore import SparsifierSpec
    from logitstore.plumbing import LMHead
    from trainer.losses.base import Loss
    from trainer.losses.tensors import TargetTensors

__all__ = ["averaged_distillation_loss"]


def averaged_distillation_loss(
    hidden_ND: Tensor,
    head: LMHead,
    *,
    targets: Sequence[TargetTensors],
    teacher_weights: Sequence[float],
    sparsifiers: Sequence[SparsifierSpec],
    label_ids_N: Tensor,
    loss: Loss,
    chunk_rows: int | None = None,
    **settings: Any,
) -> LossSums:
    """`(1 - alpha) CE + alpha T^2 sum_i w_i D_T(p_i, q)` of N counted rows, summed.

    Args:
        hidden_ND: The student's last hidden states of the counted rows.
        head: Its output layer.
        targets: The stored targets of the rows by each teacher.
        teacher_weights: The weight of each; they sum to 1.
        sparsifiers: The ones that made them.
        label_ids_N: int64: the true tokens.
        loss: The divergence; one that `refuse_average` lets pass.
        chunk_rows: Rows of a chunk. Default: about 64 MiB of logits.
        settings: The others of `sparse_distillation_loss`.

    Raises as that does, and SettingError for a loss that the mean cannot serve.
    """
    refuse_average(loss)
    if loss.of_samples:
        targets = _of_mean_labels(targets, teacher_weights)
    rows = chunk_rows or chunk_rows_of(head.vocab_size)
    parts = tuple(
        sparse_objective(
            one, label_ids_N, loss=loss, sparsifier=sparsifier, chunk_rows=rows, **settings
        )
        for one, sparsifier in zip(targets, sparsifiers, strict=True)
    )
    return chunked_loss(hidden_ND, head, _Averaged(parts=parts, weights=tuple(teacher_weights)))


def _of_mean_labels(
    targets: Sequence[TargetTensors], weights: Sequence[float]
) -> list[TargetTensors]:
    """The same targets, the true token's probability in each being that of the teachers' mean."""
    logs_PN = torch.stack([one.label_logprob_N for one in targets])
    log_weights_P1 = torch.tensor(weights, device=logs_PN.device).log()[:, None]
    mean_N = (logs_PN + log_weights_P1).logsumexp(dim=0)
    return [replace(one, label_logprob_N=mean_N) for one in targets]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Averaged:
    """The weighted sum of objectives of the same rows, each over logits of its own copy."""

    parts: tuple[Objective, ...]
    weights: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.parts[0].names

    @property
    def buffers(self) -> int:
        """Those of one part, the logits that all start from, and the sum of gradients."""
        return max(one.buffers for one in self.parts) + 2

    def chunks(self, rows: int) -> Iterator[slice]:
        return self.parts[0].chunks(rows)

    def turn(self, chunk: slice, z_CV: Tensor, *room: Tensor, with_grad: bool) -> dict[str, Tensor]:
        logits_CV, sum_CV, *rest = room
        logits_CV.copy_(z_CV)
        sum_CV.zero_()
        sums: dict[str, Tensor] = {}
        for weight, part in zip(self.weights, self.parts, strict=True):
            z_CV.copy_(logits_CV)
            found = part.turn(chunk, z_CV, *rest[: part.buffers - 1], with_grad=with_grad)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + weight * value
            if with_grad:
                sum_CV.add_(z_CV, alpha=weight)
        z_CV.copy_(sum_CV)
        return sums
