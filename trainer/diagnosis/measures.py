"""What is measured of every sampled target, and means over them.

Everything is kept for each target, in float64: a sample has thousands of them, not millions.

Shapes: R targets of a pass, C of a chunk, P columns of the student's head, K entries, D width.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitstore import ModelError
from logitstore.plumbing import LengthClasses, LMHead, Meter
from trainer.advice.kept import kept_of
from trainer.data.rows import choose_layout
from trainer.diagnosis.gradients import gradient_products
from trainer.evaluation.passes import laid_out, passes
from trainer.losses import TargetTensors, whole_rows, whole_targets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logitstore import Document, SparseTargets, StoredDocument
    from logitstore.plumbing import OnProgress, StoredHead
    from trainer.evaluation.comparison import Comparison
    from trainer.losses import Loss

__all__ = ["Objective", "measured"]

_CHUNK_BYTES = 128 << 20  # of one float32 [C, P]; three of them are alive at a time
_PASS_TOKENS = 2048


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Objective:
    """The loss that a student is measured with, on targets of one store."""

    loss: Loss
    temperature: float
    spec: Any  # of the store
    comparison: Comparison
    teacher_head: StoredHead | None  # where the targets are hidden states


def measured(
    model: Any,
    documents: Sequence[StoredDocument],
    objective: Objective,
    *,
    on_progress: OnProgress | None = None,
) -> dict[str, np.ndarray]:
    """Figures of each target, float64 [R], R over all documents, by name.

    * student_loss, teacher_loss: cross-entropy with the true token, nats
    * kl, and bucket, judged, agreed, tied: as `Comparison.rows` gives them
    * retained_mass and so on: as `kept_of` gives them
    * support_mass: the student's at the temperature, in the exact entries, or in all drawn ones
    * no_token_mass: the student's at T = 1, in columns that are no token
    * ce_ce, kd_kd, ce_kd: products of gradients, as `gradient_products` gives them
    * entropy: the teacher's, nats, at the temperature of its draw
    * position: of the true token in its document, from 1; label: its id
    * document: the number of its document, in the order measured

    Args:
        model: The student, in evaluation mode.
        documents: With their targets.
        objective: The loss.
        on_progress: Is told how far the work is.

    Raises ModelError for a loss that is no finite number.
    """
    vocab_size = objective.spec.tokenizer.vocab_size
    head = LMHead.checked(model, vocab_size=vocab_size).whole
    layout = choose_layout(model, vocab_size=vocab_size)
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    with torch.no_grad():
        lengths = LengthClasses(model)
        meter = Meter(on_progress, stage="measuring", unit="tokens")
        pairs_of = ((one.document, one.targets) for one in documents)
        number = tokens = 0
        for pairs in passes(pairs_of, lengths=lengths, batch_tokens=_PASS_TOKENS):
            batch = laid_out(pairs, layout)
            lengths.forget()
            number, tokens = number + len(pairs), tokens + batch.tokens
            if batch.targets is None:
                continue
            inputs = {name: value.to(model.device) for name, value in batch.model_inputs.items()}
            hidden_RD = batch.hidden(model, inputs)[batch.at_R.to(model.device)]
            targets: Any = batch.targets
            labels_R = batch.labels_R.to(model.device)
            sampler_R = batch.sampler_logprobs_R
            sampler_R = None if sampler_R is None else sampler_R.to(model.device)
            for name, value_R in _figures(
                hidden_RD,
                head,
                targets,
                labels_R,
                objective,
                sampler_R=sampler_R,
            ):
                found[name].append(value_R.double().cpu())
            for name, value_R in _places(pairs, first=number - len(pairs)):
                found[name].append(value_R.double())
            meter.tell(tokens, fraction=number / len(documents))
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def _figures(
    hidden_RD: torch.Tensor,
    head: LMHead,
    stored: SparseTargets,
    labels_R: torch.Tensor,
    objective: Objective,
    *,
    sampler_R: torch.Tensor | None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """The figures of the rows of a pass."""
    sparsifier, vocab_size = objective.spec.sparsifier, objective.spec.tokenizer.vocab_size
    stored_head = objective.teacher_head
    teacher = None if stored_head is None else stored_head.on(hidden_RD.device)
    targets = TargetTensors.of(stored).to(hidden_RD.device)
    yield "teacher_loss", -torch.from_numpy(stored.label_logprob_R)
    yield "entropy", targets.entropy_N
    yield "label", labels_R
    yield from kept_of(
        targets, sparsifier=sparsifier, temperature=objective.temperature, vocab_size=vocab_size
    ).items()
    yield from gradient_products(
        hidden_RD,
        head,
        targets,
        labels_R,
        loss=objective.loss,
        temperature=objective.temperature,
        sparsifier=sparsifier,
        vocab_size=vocab_size,
        sampler_logprobs_R=sampler_R,
        teacher=teacher,
    ).items()
    rows = max(1, _CHUNK_BYTES // (4 * head.vocab_size))
    rows = rows if teacher is None else min(rows, whole_rows(head.vocab_size))
    for start in range(0, len(labels_R), rows):
        chunk = slice(start, start + rows)
        logits_CP = head.logits(hidden_RD[chunk])
        targets_C = targets.rows(chunk)
        if teacher is not None:
            targets_C = whole_targets(targets_C, teacher)
        yield from _student(logits_CP, targets_C, labels_R[chunk], objective)
        yield from objective.comparison.rows(logits_CP, targets_C).items()


def _student(
    logits_CP: torch.Tensor, targets: TargetTensors, labels_C: torch.Tensor, objective: Objective
) -> Iterator[tuple[str, torch.Tensor]]:
    """What the student gives to the true token, to the kept entries, and to what is no token."""
    log_total_C = logits_CP.logsumexp(dim=1)
    loss_C = log_total_C - logits_CP.gather(1, labels_C[:, None])[:, 0]
    if not bool(loss_C.isfinite().all()):
        raise ModelError(
            "the model's loss of a target is no finite number",
            found=float(loss_C[~loss_C.isfinite()][0]),
            remedy="Where a run has diverged, train again with a smaller --lr",
        )
    yield "student_loss", loss_C
    padding_CX = logits_CP[:, objective.spec.tokenizer.vocab_size :]
    yield "no_token_mass", (padding_CX.logsumexp(dim=1) - log_total_C).exp()
    exact_CK = targets.exact_NK if targets.kind.has_exact else targets.used_NK
    scale = objective.temperature
    log_scaled_C1 = (logits_CP / scale).logsumexp(dim=1, keepdim=True)
    log_q_CK = logits_CP.gather(1, targets.ids_NK) / scale - log_scaled_C1
    yield "support_mass", log_q_CK.exp().masked_fill(~exact_CK, 0.0).sum(dim=1)


def _places(
    pairs: Sequence[tuple[Document, Any]], *, first: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """Where the true token of each row stands."""
    counted = [np.flatnonzero(document.counted_L) for document, _ in pairs]
    yield "position", torch.from_numpy(np.concatenate(counted))
    sizes = [len(one) for one in counted]
    yield "document", torch.from_numpy(np.repeat(first + np.arange(len(pairs)), sizes))
