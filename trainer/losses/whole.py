"""The loss of rows whose teacher is known whole: from its hidden states and its output layer.

Of a chunk of rows the teacher's logits are formed beside the student's, and become targets of
which every token is an entry and no tail is left. So each loss takes its own declared form, with
K = V and an empty bucket, and none is a bound. [N, V] never exists, neither of the student nor of
the teacher.

Shapes: N packed tokens (rows), C rows of a chunk, V vocabulary, P >= V logit columns of the
student, W width of the teacher's states, X columns that are no token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from logitstore import EMPTY_TAIL, SettingError
from logitstore.plumbing import refuse_not_finite
from trainer.losses.head_tail import MASKED_LOGIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from logitstore.plumbing import LMHead
    from trainer.data.selection import RowWeights
    from trainer.losses.row_loss import RowLoss
    from trainer.losses.tensors import TargetTensors

__all__ = ["WholeObjective", "whole_rows", "whole_targets"]

# A chunk's loss is taken by autograd over some fifteen arrays [C, V].
_CHUNK_BYTES = 32 << 20
_LEAST_ROWS = 64


def whole_rows(vocab_size: int) -> int:
    """Rows of a chunk: about 32 MiB of logits.

    Args:
        vocab_size: V.
    """
    return max(_LEAST_ROWS, _CHUNK_BYTES // (4 * vocab_size))


def whole_targets(targets: TargetTensors, teacher: LMHead) -> TargetTensors:
    """The same targets with all V tokens as entries, and the entropy that these tell.

    Args:
        targets: With their last hidden states, on the device of `teacher`.
        teacher: The output layer.

    Raises SettingError for targets without states, CorruptionError for what is no finite number.
    """
    if targets.state_NW is None:
        raise SettingError("the targets have no hidden states, which their kind has", place="batch")
    logits_NV = teacher.logits(targets.state_NW)
    refuse_not_finite(logits_NV)
    log_NV = logits_NV.log_softmax(dim=1)
    rows, size = log_NV.shape
    ids_V = torch.arange(size, device=log_NV.device)
    return replace(
        targets,
        ids_NK=ids_V.expand(rows, size),
        logprobs_NK=log_NV,
        sampled_NK=targets.sampled_NK.new_zeros(()).expand(rows, size),
        count_N=torch.full_like(targets.count_N, size),
        tail_logmass_NB=torch.full_like(targets.tail_logmass_NB, EMPTY_TAIL),
        entropy_N=-(log_NV.exp() * log_NV).sum(dim=1),
        state_NW=None,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WholeObjective:
    """The loss of rows from the teacher's whole distributions; see `Objective`."""

    targets: TargetTensors
    teacher: LMHead
    label_ids_N: Tensor
    sampler_logprobs_N: Tensor | None
    row_loss: RowLoss
    weights: RowWeights | None
    chunk_rows: int

    @property
    def names(self) -> tuple[str, ...]:
        """See `Objective`."""
        return self.row_loss.names

    @property
    def buffers(self) -> int:
        """See `Objective`: autograd has its own."""
        return 1

    def chunks(self, rows: int) -> Iterator[slice]:
        """See `Objective`."""
        for start in range(0, rows, self.chunk_rows):
            yield slice(start, min(start + self.chunk_rows, rows))

    def turn(self, chunk: slice, z_CP: Tensor, *room: Tensor, with_grad: bool) -> dict[str, Tensor]:
        """See `Objective`: the chunk's sums, and where asked for their gradient in `z_CP`."""
        del room
        edge = self.row_loss.vocab_size
        with torch.no_grad():
            targets = whole_targets(self.targets.rows(chunk), self.teacher)
            at_C1 = self.label_ids_N[chunk, None]
            log_labels_C = targets.logprobs_NK.gather(1, at_C1).squeeze(1)
            targets = replace(targets, label_logprob_N=log_labels_C)
        with torch.set_grad_enabled(with_grad):
            z_CV, padding_CX = (part.detach() for part in (z_CP[:, :edge], z_CP[:, edge:]))
            leaves = [z_CV, *([padding_CX] if padding_CX.shape[1] else [])]
            if with_grad:
                leaves = [leaf.requires_grad_() for leaf in leaves]
            rows = self.row_loss.metrics(
                targets,
                **self._inputs(chunk, z_CV, padding_CX if padding_CX.shape[1] else None),
            )
            sums = {name: value.sum() for name, value in rows.items()}
            grads = torch.autograd.grad(sums["loss"], leaves) if with_grad else ()
        for part, grad in zip((z_CP[:, :edge], z_CP[:, edge:]), grads, strict=False):
            part.copy_(grad)
        return {name: value.detach() for name, value in sums.items()}

    def _inputs(self, chunk: slice, z_CV: Tensor, padding_CX: Tensor | None) -> dict[str, Any]:
        """What `RowLoss.metrics` takes of the student, whose every token is an entry."""
        labels_C, temperature = self.label_ids_N[chunk], self.row_loss.temperature
        nothing_C = torch.full_like(z_CV[:, 0].detach(), MASKED_LOGIT)
        found: dict[str, Any] = {
            "label_ids_C": labels_C,
            "head_CK": z_CV,
            "label_C": z_CV.gather(1, labels_C[:, None]).squeeze(1),
            "rest_C": nothing_C,
            "top_C": nothing_C,
        }
        if self.weights is not None:
            found["weights"] = self.weights.rows(chunk)
        if self.sampler_logprobs_N is not None:
            found["sampler_C"] = self.sampler_logprobs_N[chunk]
        if padding_CX is not None:
            found["top_C"] = padding_CX.detach().amax(dim=1)
            found["padding_C"] = padding_CX.logsumexp(dim=1)
            if temperature != 1.0:
                found["scaled_padding_C"] = (padding_CX / temperature).logsumexp(dim=1)
        return found
