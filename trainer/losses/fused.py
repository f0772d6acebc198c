"""Hidden states, an output layer and sparse targets in; a loss and its gradient out, no [N, V].

`L = (1 - alpha) CE + alpha T^2 D_T`, summed over rows; T^2 where the loss declares it. Of a chunk
of rows (`chunked.py`) the logits at the target's entries and at the label are picked out, and what
is left becomes one log-sum-exp of the tail. The loss is a small differentiable function of those
few numbers, so autograd gives its gradient on them; the gradient on every tail logit is that of the
log-sum-exp times a softmax that already stands in the buffer.

The tail's log-sum-exp is taken over the tail alone: as `log(1 - head)` it would be NaN in float32
wherever the head holds all but 1e-8 of the mass. A student may have more columns than there are
tokens; those have a log-sum-exp of their own.

Shapes: N packed tokens (rows), C rows of a chunk, K entries, V vocabulary, P >= V logit columns,
D width, B stored temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from logitstore import SettingError
from logitstore.plumbing import sparsifier_of
from trainer.losses.chunked import (
    ChunkExp,
    LossSums,
    Objective,
    chunk_rows_of,
    chunked_loss,
    exponentiate,
)
from trainer.losses.head_tail import MASKED_LOGIT
from trainer.losses.row_loss import RowLoss
from trainer.losses.samples import unsampled
from trainer.losses.tensors import TargetTensors
from trainer.losses.views import View
from trainer.losses.whole import WholeObjective, whole_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from logitstore import SparsifierSpec
    from logitstore.plumbing import LMHead
    from trainer.data.selection import RowWeights
    from trainer.losses.base import Loss

__all__ = ["LossSums", "TargetTensors", "sparse_distillation_loss", "sparse_objective"]


def sparse_distillation_loss(
    hidden_ND: Tensor,
    head: LMHead,
    targets: TargetTensors,
    label_ids_N: Tensor,
    *,
    alpha: float,
    temperature: float,
    loss: Loss,
    sparsifier: SparsifierSpec,
    vocab_size: int,
    weights: RowWeights | None = None,
    sampler_logprobs_N: Tensor | None = None,
    chunk_rows: int | None = None,
    teacher: LMHead | None = None,
) -> LossSums:
    """`(1 - alpha) CE + alpha T^2 D_T` of N counted rows, summed.

    Args:
        hidden_ND: The student's last hidden states of the counted rows.
        head: Its output layer.
        targets: The stored targets of the rows; those of `temperature` where they were drawn.
        label_ids_N: int64: the true tokens.
        alpha: Weight of the divergence, 0 to 1; the rest is that of the true tokens.
        temperature: T, of both distributions in the divergence.
        loss: The divergence; T^2 stands before it where it declares so.
        sparsifier: The one that made the targets.
        vocab_size: V. Further columns of `head` are columns of the student's softmax that hold no
            token.
        weights: What the two parts of each row's loss are multiplied by; None is 1.
        sampler_logprobs_N: Nats: with which each true token was drawn; needed by losses of sampled
            tokens, and looked at by no other.
        chunk_rows: Rows of a chunk. Default: about 64 MiB of logits, and half of it where the
            teacher's are formed too.
        teacher: The teacher's output layer, on the device of `targets`, where these hold its hidden
            states; otherwise it is not looked at.

    Differentiable once, in `hidden_ND` and the head's parameters: the gradients are formed here and
    only scaled in backward; without grad mode nothing but the values is computed. Raises
    SettingError where the targets cannot serve the temperature or the loss.
    """
    objective = sparse_objective(
        targets,
        label_ids_N,
        alpha=alpha,
        temperature=temperature,
        loss=loss,
        sparsifier=sparsifier,
        vocab_size=vocab_size,
        weights=weights,
        sampler_logprobs_N=sampler_logprobs_N,
        chunk_rows=chunk_rows or _rows_of(head, sparsifier),
        teacher=teacher,
    )
    return chunked_loss(hidden_ND, head, objective)


def sparse_objective(
    targets: TargetTensors,
    label_ids_N: Tensor,
    *,
    alpha: float,
    temperature: float,
    loss: Loss,
    sparsifier: SparsifierSpec,
    vocab_size: int,
    chunk_rows: int,
    weights: RowWeights | None = None,
    sampler_logprobs_N: Tensor | None = None,
    teacher: LMHead | None = None,
) -> Objective:
    """What `sparse_distillation_loss` makes of logits.

    Args:
        targets: As for all arguments, see there.
        label_ids_N: int64: the true tokens.
        alpha: Weight of the divergence.
        temperature: T.
        loss: The divergence.
        sparsifier: The one that made the targets.
        vocab_size: V.
        chunk_rows: Rows of a chunk.
        weights: What the two parts of each row's loss are multiplied by.
        sampler_logprobs_N: Nats: with which each true token was drawn.
        teacher: The teacher's output layer, where the targets hold its hidden states.
    """
    if loss.of_samples and sampler_logprobs_N is None:
        raise unsampled(loss)
    row_loss = RowLoss(
        loss=loss,
        alpha=alpha,
        temperature=temperature,
        sparsifier=sparsifier,
        vocab_size=vocab_size,
    )
    if row_loss.view is View.WHOLE:
        return WholeObjective(
            targets=targets,
            teacher=_given(teacher),
            label_ids_N=label_ids_N,
            sampler_logprobs_N=sampler_logprobs_N,
            row_loss=row_loss,
            weights=weights,
            chunk_rows=chunk_rows,
        )
    return _SparseObjective(
        targets=targets,
        label_ids_N=label_ids_N,
        sampler_logprobs_N=sampler_logprobs_N,
        row_loss=row_loss,
        weights=weights,
        chunk_rows=chunk_rows,
    )


def _rows_of(head: LMHead, sparsifier: SparsifierSpec) -> int:
    whole = sparsifier_of(sparsifier).targets.keeps_state
    return whole_rows(head.vocab_size) if whole else chunk_rows_of(head.vocab_size)


def _given(teacher: LMHead | None) -> LMHead:
    if teacher is None:
        raise SettingError(
            "the targets are hidden states of a teacher whose output layer is not given",
            place="batch",
            remedy="Take batches of `training_batches`, which know the store's",
        )
    return teacher


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _SparseObjective:
    """The loss of rows from the entries of their targets."""

    targets: TargetTensors
    label_ids_N: Tensor
    sampler_logprobs_N: Tensor | None
    row_loss: RowLoss
    weights: RowWeights | None
    chunk_rows: int

    @property
    def names(self) -> tuple[str, ...]:
        return self.row_loss.names

    @property
    def buffers(self) -> int:
        return 1 if self.row_loss.temperature == 1.0 else 2

    def chunks(self, rows: int) -> Iterator[slice]:
        for start in range(0, rows, self.chunk_rows):
            yield slice(start, min(start + self.chunk_rows, rows))

    def turn(self, chunk: slice, z_CP: Tensor, *room: Tensor, with_grad: bool) -> dict[str, Tensor]:
        """The chunk's sums; see `Objective`. Where T is not 1, `room` is for logits / T."""
        targets = self.targets.rows(chunk)
        # What is no entry stands in for the row's first one: what is written to its place is
        # written once more, and what is added there is 0.
        entries_CK = self.row_loss.entries(targets)
        first_C1 = entries_CK.int().argmax(dim=1, keepdim=True)
        ids_CK = torch.where(entries_CK, targets.ids_NK, targets.ids_NK.gather(1, first_C1))
        labels_C1 = self.label_ids_N[chunk, None]
        head_CK, label_C = z_CP.gather(1, ids_CK), z_CP.gather(1, labels_C1).squeeze(1)
        drawn = {}
        if self.row_loss.needs_drawn:
            drawn["used_CK"] = z_CP.gather(1, targets.ids_NK)
        z_CP.scatter_(1, ids_CK, MASKED_LOGIT)
        parts = self._parts(z_CP, room[0] if room else None)
        leaves = {"head_CK": head_CK, "label_C": label_C}
        leaves |= {f"{part.name}_C": part.exp.log_sum_C for part in parts}
        # The largest logit of all that are no entries, padding too: the student may mean it.
        top_C = torch.stack([part.top_C for part in parts]).amax(dim=0)
        constants: dict[str, Any] = {"top_C": top_C, "label_ids_C": labels_C1.squeeze(1), **drawn}
        if self.weights is not None:
            constants["weights"] = self.weights.rows(chunk)
        if self.sampler_logprobs_N is not None:
            constants["sampler_C"] = self.sampler_logprobs_N[chunk]
        sums, grads = self._rows(targets, leaves, constants, with_grad=with_grad)
        if grads:
            for part in parts:
                part.add_slope(grads[f"{part.name}_C"])
            z_CP.scatter_add_(1, ids_CK, grads["head_CK"])
            z_CP.scatter_add_(1, labels_C1, grads["label_C"][:, None])
        return sums

    def _parts(self, z_CP: Tensor, scaled_CP: Tensor | None) -> list[_Part]:
        """The log-sum-exps that the loss depends on; `z_CP` and `scaled_CP` become their slopes.

        Those over T come first: the buffer of logits is overwritten by the others, to which they
        are added.
        """
        edge, temperature = self.row_loss.vocab_size, self.row_loss.temperature
        columns = {"rest": slice(0, edge)}
        if z_CP.shape[1] > edge:
            columns["padding"] = slice(edge, None)
        scaled, plain = [], []
        for name, part in columns.items():
            z_CX = z_CP[:, part]
            top_C = z_CX.amax(dim=1)
            if scaled_CP is not None:
                found = exponentiate(z_CX, top_C, scaled_CP[:, part], temperature)
                scaled.append(_Part(f"scaled_{name}", top_C, found, z_CX, temperature))
            found = exponentiate(z_CX, top_C, z_CX, 1.0)
            plain.append(_Part(name, top_C, found, z_CX, 1.0))
        return plain + scaled

    def _rows(
        self,
        targets: TargetTensors,
        leaves: dict[str, Any],
        constants: dict[str, Any],
        *,
        with_grad: bool,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The chunk's sums, and the loss's gradient on the few numbers that it depends on."""
        with torch.set_grad_enabled(with_grad):
            if with_grad:
                leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
            rows = self.row_loss.metrics(targets, **constants, **leaves)
            sums = {name: value.sum() for name, value in rows.items()}
            values = tuple(leaves.values())
            grads = torch.autograd.grad(sums["loss"], values) if with_grad else ()
        found = dict(zip(leaves, grads, strict=False))
        return {name: value.detach() for name, value in sums.items()}, found


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The log-sum-exp of some columns over a temperature, and where its slope is gathered."""

    name: str  # of the number that the row's loss takes
    top_C: Tensor
    exp: ChunkExp
    slope_CX: Tensor  # of these columns; at T = 1 it is the buffer of the exponentials
    temperature: float

    def add_slope(self, grad_C: Tensor) -> None:
        """Turn the gradient on the log-sum-exp into that on its logits."""
        scaled_C1 = (grad_C / (self.temperature * self.exp.sum_C))[:, None]
        if self.slope_CX is self.exp.exp_CV:
            self.slope_CX.mul_(scaled_C1)
        else:
            self.slope_CX.addcmul_(self.exp.exp_CV, scaled_C1)
