"""The loss over spans from hidden states: `(1 - alpha) CE + alpha D`, no [N, V].

The student's log-probability of a span is the sum of those of its rows, so a chunk ends where a
span does. Cross-entropy is summed over all counted rows, D over spans (ALM) or aligned rows (ULD).

Shapes: N counted rows, C rows of a chunk, S spans, A aligned rows, M rows of the longest span,
K entries, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from trainer.losses.chunked import LossSums, chunk_rows_of, chunked_loss, exponentiate
from trainer.losses.teacher import exact_teacher
from trainer.losses.tensors import TargetTensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from logitstore.plumbing import LMHead
    from trainer.data.spans import SpanTargets
    from trainer.losses.span_loss import SpanLoss

__all__ = ["SpanTensors", "span_distillation_loss"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpanTensors:
    """Span targets as tensors; see `SpanTargets`."""

    starts_S: Tensor  # int64
    lengths_S: Tensor  # int64
    teacher_S: Tensor  # float32, nats
    aligned_A: Tensor  # int64
    targets: TargetTensors | None

    @staticmethod
    def of(targets: SpanTargets) -> SpanTensors:
        """The columns of `targets` as tensors on the CPU."""
        return SpanTensors(
            starts_S=torch.from_numpy(targets.starts_S),
            lengths_S=torch.from_numpy(targets.lengths_S),
            teacher_S=torch.from_numpy(targets.teacher_S),
            aligned_A=torch.from_numpy(targets.aligned_A),
            targets=None if targets.targets is None else TargetTensors.of(targets.targets),
        )

    def to(self, device: torch.device | str) -> SpanTensors:
        """The same on `device`."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("starts_S", "lengths_S", "teacher_S", "aligned_A")
        }
        targets = None if self.targets is None else self.targets.to(device)
        return replace(self, targets=targets, **moved)


def span_distillation_loss(
    hidden_ND: Tensor,
    head: LMHead,
    targets: SpanTensors,
    label_ids_N: Tensor,
    *,
    alpha: float,
    temperature: float,
    loss: SpanLoss,
    nodes: tuple[float, ...],
    teacher_vocab_size: int,
    chunk_rows: int | None = None,
) -> LossSums:
    """`(1 - alpha) CE + alpha D` of N counted rows, summed; `sums` has loss, ce and divergence.

    Args:
        hidden_ND: The student's last hidden states of the counted rows.
        head: Its output layer.
        targets: The spans of the rows.
        label_ids_N: int64: the true tokens, of the student's.
        alpha: Weight of the divergence; the rest is that of the true tokens.
        temperature: T of the divergence.
        loss: The divergence.
        nodes: The b = 1/T at which the store keeps the tail's log-mass.
        teacher_vocab_size: The number of the teacher's tokens.
        chunk_rows: Rows of a chunk, which a longer span exceeds. Default: about 64 MiB of logits.
    """
    rows_M = torch.arange(int(targets.lengths_S.max()) if len(targets.lengths_S) else 0)
    objective = _SpanObjective(
        targets=targets,
        label_ids_N=label_ids_N,
        loss=loss,
        alpha=alpha,
        temperature=temperature,
        nodes=nodes,
        teacher_vocab_size=teacher_vocab_size,
        rows_M=rows_M.to(targets.lengths_S.device),
        stops=_stops(
            targets, rows=len(hidden_ND), most=chunk_rows or chunk_rows_of(head.vocab_size)
        ),
    )
    return chunked_loss(hidden_ND, head, objective)


def _stops(targets: SpanTensors, *, rows: int, most: int) -> list[int]:
    """Where chunks end: after at most `most` rows, but not within a span."""
    starts_S = targets.starts_S.cpu()
    ends_S = starts_S + targets.lengths_S.cpu()
    stops, stop = [], 0
    while stop < rows:
        wanted = min(stop + most, rows)
        span = int(torch.searchsorted(ends_S, wanted, right=True))  # the first that ends behind it
        if span < len(starts_S) and int(starts_S[span]) < wanted:
            begin = int(starts_S[span])
            wanted = begin if begin > stop else int(ends_S[span])
        stops.append(wanted)
        stop = wanted
    return stops


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _SpanObjective:
    """The loss of rows from the spans that they form."""

    targets: SpanTensors
    label_ids_N: Tensor
    loss: SpanLoss
    alpha: float
    temperature: float
    nodes: tuple[float, ...]
    teacher_vocab_size: int
    rows_M: Tensor  # 0, 1, ... up to the longest span
    stops: list[int]

    @property
    def names(self) -> tuple[str, ...]:
        return ("loss", "ce", "divergence")

    @property
    def buffers(self) -> int:
        return 1

    def chunks(self, rows: int) -> Iterator[slice]:  # noqa: ARG002  (the stops are of these rows)
        for start, stop in zip([0, *self.stops], self.stops, strict=False):
            yield slice(start, stop)

    def turn(
        self, chunk: slice, z_CV: Tensor, *_room: Tensor, with_grad: bool
    ) -> dict[str, Tensor]:
        """The chunk's sums; see `Objective`."""
        labels_C1 = self.label_ids_N[chunk, None]
        leaves = {"label_C": z_CV.gather(1, labels_C1).squeeze(1)}
        ranked = self._ranked(chunk)
        if ranked is not None:
            rows_A, targets = ranked
            k = min(targets.ids_NK.shape[1], z_CV.shape[1])
            leaves["top_AK"], ids_AK = z_CV[rows_A].topk(k, dim=1)
        top_C = z_CV.amax(dim=1)
        total = exponentiate(z_CV, top_C, z_CV, 1.0)
        leaves["total_C"] = total.log_sum_C
        with torch.set_grad_enabled(with_grad):
            if with_grad:
                leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
            logprob_C = leaves["label_C"] - leaves["total_C"]
            ce = -logprob_C.sum()
            if ranked is None:
                divergence = self._of_spans(chunk, logprob_C)
            else:
                q_AK = (leaves["top_AK"] - leaves["total_C"][rows_A, None]).exp()
                divergence = self._of_ranks(targets, q_AK)
            loss = (1.0 - self.alpha) * ce + self.alpha * divergence
            grads = torch.autograd.grad(loss, tuple(leaves.values())) if with_grad else ()
        found = dict(zip(leaves, grads, strict=False))
        if found:
            z_CV.mul_((found["total_C"] / total.sum_C)[:, None])
            z_CV.scatter_add_(1, labels_C1, found["label_C"][:, None])
            if ranked is not None:
                z_CV.index_put_((rows_A[:, None], ids_AK), found["top_AK"], accumulate=True)
        return {"loss": loss.detach(), "ce": ce.detach(), "divergence": divergence.detach()}

    def _ranked(self, chunk: slice) -> tuple[Tensor, TargetTensors] | None:
        """The aligned rows in `chunk` and their targets; None where no loss asks for them."""
        if self.loss.of_ranks is None or self.targets.targets is None:
            return None
        rows_A, part = _within(self.targets.aligned_A, chunk)
        return rows_A, self.targets.targets.rows(part)

    def _of_spans(self, chunk: slice, logprob_C: Tensor) -> Tensor:
        """The divergence of the spans in `chunk`, summed."""
        if self.loss.of_spans is None or not len(self.rows_M):
            return logprob_C.sum() * 0.0
        starts_S, part = _within(self.targets.starts_S, chunk)
        lengths_S = self.targets.lengths_S[part]
        inside_SM = self.rows_M < lengths_S[:, None]
        rows_SM = (starts_S[:, None] + self.rows_M).clamp(max=len(logprob_C) - 1)
        log_q_S = logprob_C[rows_SM].masked_fill(~inside_SM, 0.0).sum(dim=1)
        return self.loss.of_spans(self.targets.teacher_S[part], log_q_S, self.temperature).sum()

    def _of_ranks(self, targets: TargetTensors, q_AK: Tensor) -> Tensor:
        """The divergence of aligned rows, summed, from the student's largest probabilities."""
        if self.loss.of_ranks is None:
            return q_AK.sum() * 0.0
        teacher = exact_teacher(
            targets,
            nodes=self.nodes,
            temperature=self.temperature,
            vocab_size=self.teacher_vocab_size,
        )
        p_AK = teacher.log_head_NK.exp().masked_fill(~targets.exact_NK, 0.0)
        p_AK = p_AK.sort(dim=1, descending=True).values
        ranks_K = torch.arange(p_AK.shape[1], device=p_AK.device)
        used_AK = ranks_K < targets.exact_NK.sum(dim=1, keepdim=True)
        k = q_AK.shape[1]
        return self.loss.of_ranks(p_AK[:, :k], q_AK, used_AK[:, :k]).sum()


def _within(rows: Tensor, chunk: slice) -> tuple[Tensor, slice]:
    """Those of rising `rows` in `chunk`, counted from its beginning, and where they stand."""
    edges = torch.tensor([chunk.start, chunk.stop], device=rows.device)
    first, stop = torch.searchsorted(rows, edges).tolist()
    part = slice(first, stop)
    return rows[part] - chunk.start, part
