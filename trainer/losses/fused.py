"""Hidden states, an output layer and sparse targets in; a loss and its gradient out, no [N, V].

`L = (1 - alpha) CE + alpha T^2 D_T`, summed over rows; T^2 where the loss declares it. Rows go
through in chunks of about 64 MiB of logits: each chunk is projected once, the logits at the
target's entries and at the label are picked out, and what is left becomes one log-sum-exp of the
tail. The loss is a small differentiable function of those few numbers, so autograd gives its
gradient on them; the gradient on every tail logit is that of the log-sum-exp times a softmax that
already stands in the buffer. So the chunk is turned into its own gradient in place, and one
projection serves both directions.

The tail's log-sum-exp is taken over the tail alone: as `log(1 - head)` it would be NaN in float32
wherever the head holds all but 1e-8 of the mass.

Shapes: N packed tokens (rows), C rows of a chunk, K entries, V vocabulary, P >= V logit columns,
D width, B stored temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from logitstore import SettingError
from logitstore.plumbing import LMHead
from trainer.losses.head_tail import MASKED_LOGIT
from trainer.losses.row_loss import RowLoss
from trainer.losses.tensors import TargetTensors

if TYPE_CHECKING:
    from torch import Tensor

    from logitstore import SparsifierSpec
    from trainer.losses.base import Loss

__all__ = ["LossSums", "TargetTensors", "sparse_distillation_loss"]

_CHUNK_BYTES = 64 << 20
# Every chunk reads and writes the weight's gradient once: with 128 rows its product ran at 71
# GFLOP/s on one CPU core, with 512 at 79 (V = 131,072, D = 1,024); fewer rows would pay more.
_CHUNK_ROWS = 128


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LossSums:
    """Sums over `count` rows; dividing is the caller's.

    `sums` holds detached float32 scalars:

    * loss, ce (cross-entropy with the true tokens), divergence (that of the loss, without T^2);
    * kl: forward KL whatever the loss is, taken from the targets in one way for all losses: an
      unbiased estimate from the weights of targets that were drawn at T, else that over the exact
      entries and one bucket, a lower bound but for the rounding of stored values;
    * kl_binary and kl_head, where kl is over a bucket: its two parts, KL of the mass in the head
      against that in the bucket, and KL inside the head times the mass of the head;
    * agreement (rows whose likeliest token is the teacher's), judged (rows where that is known).
    """

    loss: Tensor  # float32 scalar with a gradient
    sums: dict[str, Tensor]
    count: int


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
    chunk_rows: int | None = None,
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
        chunk_rows: Rows of a chunk. Default: about 64 MiB of logits.

    Differentiable once, in `hidden_ND` and the head's parameters: the gradients are formed here and
    only scaled in backward; without grad mode nothing but the values is computed. Raises
    SettingError where the targets cannot serve the temperature or the loss.
    """
    context = _ChunkContext(
        head=head,
        targets=targets,
        label_ids_N=label_ids_N,
        row_loss=RowLoss(
            loss=loss,
            alpha=alpha,
            temperature=temperature,
            sparsifier=sparsifier,
            vocab_size=head.vocab_size,
        ),
        chunk_rows=chunk_rows or max(_CHUNK_ROWS, _CHUNK_BYTES // (4 * head.vocab_size)),
        with_grad=torch.is_grad_enabled(),
    )
    total, *values = _FusedLoss.apply(hidden_ND, head.weight_PD, head.bias_P, context)
    sums = dict(zip(context.row_loss.names, values, strict=True))
    return LossSums(loss=total, sums=sums, count=len(hidden_ND))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _ChunkContext:
    """What stays the same from chunk to chunk."""

    head: LMHead
    targets: TargetTensors
    label_ids_N: Tensor
    row_loss: RowLoss
    chunk_rows: int
    with_grad: bool


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_PD: Tensor,
        bias_P: Tensor | None,
        context: _ChunkContext,
    ) -> tuple[Tensor, ...]:
        inputs = (hidden_ND, weight_PD, bias_P)
        wanted = tuple(context.with_grad and needed for needed in ctx.needs_input_grad[:3])
        head = _in_computing_dtype(context.head, weight_PD, bias_P)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            chunked = _ChunkedPass(hidden_ND.detach(), head, context, wanted)
            sums = chunked.all_chunks()
        ctx.gradients = chunked.gradients
        ctx.dtypes = tuple(None if one is None else one.dtype for one in inputs)
        values = tuple(sums[name] for name in context.row_loss.names)
        ctx.mark_non_differentiable(*values)
        return (sums["loss"].clone(), *values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise SettingError(
                "the gradient of this loss was taken twice",
                remedy="Compute the loss again, or add the losses before backward.",
            )
        # In place: the weight's gradient is the largest buffer of all, and nobody else holds it.
        scaled = (
            None if gradient is None else gradient.mul_(grad_total).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return (*scaled, None)


class _ChunkedPass:
    """One pass over all chunks: the gradients grow in place, the sums are added up.

    Every gradient that is wanted exists from the start, float32 for the parameters, so that any
    number of rows, none included, gives one.
    """

    def __init__(
        self, hidden_ND: Tensor, head: LMHead, context: _ChunkContext, wanted: tuple[bool, ...]
    ) -> None:
        self._hidden_ND = hidden_ND
        self._head = head
        self._context = context
        inputs = (hidden_ND, head.weight_PD, head.bias_P)
        types = (hidden_ND.dtype, torch.float32, torch.float32)
        self.gradients = tuple(
            torch.zeros_like(one, dtype=dtype) if one is not None and needed else None
            for one, dtype, needed in zip(inputs, types, wanted, strict=True)
        )
        self._with_grad = any(wanted)

    def all_chunks(self) -> dict[str, Tensor]:
        """The sum of each metric over all rows; afterwards `gradients` are complete."""
        context, rows = self._context, len(self._hidden_ND)
        sums = {
            name: self._hidden_ND.new_zeros((), dtype=torch.float32)
            for name in context.row_loss.names
        }
        size = (min(rows, context.chunk_rows), context.head.vocab_size)
        buffers = [
            self._hidden_ND.new_empty(size, dtype=torch.float32)
            for _ in range(1 if context.row_loss.temperature == 1.0 else 2)
        ]
        for start in range(0, rows, context.chunk_rows):
            stop = min(start + context.chunk_rows, rows)
            views = [buffer[: stop - start] for buffer in buffers]
            for name, value in self._one_chunk(slice(start, stop), *views).items():
                sums[name] += value
        return sums

    def _one_chunk(
        self, chunk: slice, z_CV: Tensor, scaled_CV: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The chunk's sums. `z_CV` ends as its gradient; `scaled_CV` is room for logits / T."""
        targets = self._context.targets.rows(chunk)
        # What is no entry stands in for the row's first one: what is written to its place is
        # written once more, and what is added there is 0.
        entries_CK = self._context.row_loss.entries(targets)
        first_C1 = entries_CK.int().argmax(dim=1, keepdim=True)
        ids_CK = torch.where(entries_CK, targets.ids_NK, targets.ids_NK.gather(1, first_C1))
        labels_C1 = self._context.label_ids_N[chunk, None]
        self._head.logits(self._hidden_ND[chunk], out_NV=z_CV)
        slope_CV = self._slope(z_CV)
        head_CK, label_C = z_CV.gather(1, ids_CK), z_CV.gather(1, labels_C1).squeeze(1)
        drawn = {}
        if self._context.row_loss.needs_drawn:
            drawn["used_CK"] = z_CV.gather(1, targets.ids_NK)
        z_CV.scatter_(1, ids_CK, MASKED_LOGIT)
        top_C = z_CV.amax(dim=1)
        temperature = self._context.row_loss.temperature
        scaled = None if scaled_CV is None else _exponentiate(z_CV, top_C, scaled_CV, temperature)
        tail = _exponentiate(z_CV, top_C, z_CV, 1.0)
        leaves = {"head_CK": head_CK, "label_C": label_C, "rest_C": tail.log_sum_C}
        if scaled is not None:
            leaves["scaled_rest_C"] = scaled.log_sum_C
        sums, grads = self._rows(
            targets, leaves, top_C=top_C, label_ids_C=labels_C1.squeeze(1), **drawn
        )
        if grads:
            z_CV.mul_((grads["rest_C"] / tail.sum_C)[:, None])
            if scaled is not None:
                scaled_C = grads["scaled_rest_C"] / (temperature * scaled.sum_C)
                z_CV.addcmul_(scaled.exp_CV, scaled_C[:, None])
            z_CV.scatter_add_(1, ids_CK, grads["head_CK"])
            z_CV.scatter_add_(1, labels_C1, grads["label_C"][:, None])
            self._add_products(chunk, z_CV if slope_CV is None else z_CV.mul_(slope_CV))
        return sums

    def _rows(
        self, targets: TargetTensors, leaves: dict[str, Tensor], **constants: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The chunk's sums, and the loss's gradient on the few numbers that it depends on."""
        with torch.set_grad_enabled(self._with_grad):
            if self._with_grad:
                leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
            rows = self._context.row_loss.metrics(targets, **constants, **leaves)
            sums = {name: value.sum() for name, value in rows.items()}
            values = tuple(leaves.values())
            grads = torch.autograd.grad(sums["loss"], values) if self._with_grad else ()
        found = dict(zip(leaves, grads, strict=False))
        return {name: value.detach() for name, value in sums.items()}, found

    def _slope(self, z_CV: Tensor) -> Tensor | None:
        """The soft-cap's derivative, `1 - tanh^2`, while its value is still there."""
        if self._head.softcap is None or not self._with_grad:
            return None
        return (z_CV / self._head.softcap).square_().neg_().add_(1.0)

    def _add_products(self, chunk: slice, grad_CV: Tensor) -> None:
        """What the logits' gradient means for hidden states, weight and bias."""
        head, (hidden, weight, bias) = self._head, self.gradients
        low_CV = grad_CV.to(head.weight_PD.dtype)
        if hidden is not None:
            hidden[chunk] = torch.mm(low_CV, head.weight_VD).mul_(head.scale)
        if weight is not None:
            rows_CD = self._hidden_ND[chunk].to(low_CV.dtype) * head.scale
            _add_outer(weight[: head.vocab_size], low_CV, rows_CD)
        if bias is not None:
            bias[: head.vocab_size].add_(grad_CV.sum(dim=0), alpha=head.scale)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _TailExp:
    """`exp(z / T)` of a chunk and its sum, up to a factor per row, and the log of the true sum."""

    exp_CV: Tensor
    sum_C: Tensor
    log_sum_C: Tensor


def _exponentiate(z_CV: Tensor, top_C: Tensor, out_CV: Tensor, temperature: float) -> _TailExp:
    """Into `out_CV`, which may be `z_CV`; `top_C` are the rows' largest logits."""
    torch.sub(z_CV, top_C[:, None], out=out_CV)
    if temperature != 1.0:
        out_CV.div_(temperature)
    sum_C = out_CV.exp_().sum(dim=1)
    return _TailExp(exp_CV=out_CV, sum_C=sum_C, log_sum_C=top_C / temperature + sum_C.log())


def _add_outer(sum_VD: Tensor, grad_CV: Tensor, rows_CD: Tensor) -> None:
    """`sum_VD += grad_CV.T @ rows_CD`, in float32 whatever the factors are."""
    if grad_CV.dtype == sum_VD.dtype:
        torch.addmm(sum_VD, grad_CV.t(), rows_CD, out=sum_VD)
        return
    # The product of two bfloat16 factors needs room of its own: not more than a chunk takes.
    step = max(1, _CHUNK_BYTES // (4 * rows_CD.shape[1]))
    for start in range(0, len(sum_VD), step):
        part = slice(start, start + step)
        sum_VD[part] += grad_CV[:, part].t() @ rows_CD


def _in_computing_dtype(head: LMHead, weight_PD: Tensor, bias_P: Tensor | None) -> LMHead:
    """The head as autocast would have it, its parameters cast once for all chunks."""
    device = weight_PD.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else weight_PD.dtype
    return replace(
        head,
        weight_PD=weight_PD.detach().to(dtype),
        bias_P=None if bias_P is None else bias_P.detach().to(dtype),
    )
