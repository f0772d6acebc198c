"""One pass over the output layer in chunks of rows: a loss and its gradient out, no [N, V].

Rows go through in chunks of about 64 MiB of logits. Each chunk is projected once; an objective
picks out of its logits what the loss depends on, and turns them into the loss's gradient in place.
So one projection serves both directions.

Shapes: N packed tokens (rows), C rows of a chunk, V columns that are formed, P >= V columns of the
model, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.autograd.function import once_differentiable

from logitstore import SettingError
from logitstore.plumbing import LMHead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["ChunkExp", "LossSums", "Objective", "chunk_rows_of", "chunked_loss", "exponentiate"]

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


class Objective(Protocol):
    """What is made of the logits of a chunk.

    `turn` gives the sum of each metric of `names` over the rows `chunk`, of which "loss" is the one
    to differentiate. Where `with_grad`, it leaves that sum's gradient on the logits in `z_CV`;
    else what it leaves there has no meaning. `room` are other buffers of that shape.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics that are summed, "loss" among them."""
        ...

    @property
    def buffers(self) -> int:
        """How many buffers as large as a chunk's logits it needs, those included."""
        ...

    def chunks(self, rows: int) -> Iterator[slice]:
        """The rows of each chunk, in order."""
        ...

    def turn(self, chunk: slice, z_CV: Tensor, *room: Tensor, with_grad: bool) -> dict[str, Tensor]:
        """The sums of a chunk; see above."""
        ...


def chunk_rows_of(vocab_size: int) -> int:
    """Rows of a chunk: about 64 MiB of logits.

    Args:
        vocab_size: V.
    """
    return max(_CHUNK_ROWS, _CHUNK_BYTES // (4 * vocab_size))


def chunked_loss(hidden_ND: Tensor, head: LMHead, objective: Objective) -> LossSums:
    """The loss of N rows and its other sums.

    Args:
        hidden_ND: The student's last hidden states of the rows.
        head: Its output layer.
        objective: What is made of the logits of a chunk.

    Differentiable once, in `hidden_ND` and the head's parameters: the gradients are formed here and
    only scaled in backward; without grad mode nothing but the values is computed.
    """
    context = _Context(head=head, objective=objective, with_grad=torch.is_grad_enabled())
    total, *values = _FusedLoss.apply(hidden_ND, head.weight_PD, head.bias_P, context)
    sums = dict(zip(objective.names, values, strict=True))
    return LossSums(loss=total, sums=sums, count=len(hidden_ND))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Context:
    """What stays the same from chunk to chunk."""

    head: LMHead
    objective: Objective
    with_grad: bool


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_PD: Tensor,
        bias_P: Tensor | None,
        context: _Context,
    ) -> tuple[Tensor, ...]:
        inputs = (hidden_ND, weight_PD, bias_P)
        wanted = tuple(context.with_grad and needed for needed in ctx.needs_input_grad[:3])
        head = _in_computing_dtype(context.head, weight_PD, bias_P)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            chunked = _ChunkedPass(hidden_ND.detach(), head, context.objective, wanted)
            sums = chunked.all_chunks()
        ctx.gradients = chunked.gradients
        ctx.dtypes = tuple(None if one is None else one.dtype for one in inputs)
        values = tuple(sums[name] for name in context.objective.names)
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
        self, hidden_ND: Tensor, head: LMHead, objective: Objective, wanted: tuple[bool, ...]
    ) -> None:
        self._hidden_ND = hidden_ND
        self._head = head
        self._objective = objective
        inputs = (hidden_ND, head.weight_PD, head.bias_P)
        types = (hidden_ND.dtype, torch.float32, torch.float32)
        self.gradients = tuple(
            torch.zeros_like(one, dtype=dtype) if one is not None and needed else None
            for one, dtype, needed in zip(inputs, types, wanted, strict=True)
        )
        self._with_grad = any(wanted)

    def all_chunks(self) -> dict[str, Tensor]:
        """The sum of each metric over all rows; afterwards `gradients` are complete."""
        sums = {
            name: self._hidden_ND.new_zeros((), dtype=torch.float32)
            for name in self._objective.names
        }
        chunks = list(self._objective.chunks(len(self._hidden_ND)))
        rows = max((chunk.stop - chunk.start for chunk in chunks), default=0)
        buffers = [
            self._hidden_ND.new_empty((rows, self._head.vocab_size), dtype=torch.float32)
            for _ in range(self._objective.buffers)
        ]
        for chunk in chunks:
            views = [buffer[: chunk.stop - chunk.start] for buffer in buffers]
            for name, value in self._one_chunk(chunk, *views).items():
                sums[name] += value
        return sums

    def _one_chunk(self, chunk: slice, z_CV: Tensor, *room: Tensor) -> dict[str, Tensor]:
        """The chunk's sums; its part of the gradients is added."""
        self._head.logits(self._hidden_ND[chunk], out_NV=z_CV)
        slope_CV = self._slope(z_CV)
        sums = self._objective.turn(chunk, z_CV, *room, with_grad=self._with_grad)
        if self._with_grad:
            self._add_products(chunk, z_CV if slope_CV is None else z_CV.mul_(slope_CV))
        return sums

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
class ChunkExp:
    """`exp(z / T)` of a chunk and its sum, up to a factor per row, and the log of the true sum."""

    exp_CV: Tensor
    sum_C: Tensor
    log_sum_C: Tensor


def exponentiate(z_CV: Tensor, top_C: Tensor, out_CV: Tensor, temperature: float) -> ChunkExp:
    """`exp(z / T)` of a chunk.

    Args:
        z_CV: Logits.
        top_C: The rows' largest.
        out_CV: Where it is written; may be `z_CV`.
        temperature: T.
    """
    torch.sub(z_CV, top_C[:, None], out=out_CV)
    if temperature != 1.0:
        out_CV.div_(temperature)
    sum_C = out_CV.exp_().sum(dim=1)
    return ChunkExp(exp_CV=out_CV, sum_C=sum_C, log_sum_C=top_C / temperature + sum_C.log())


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
