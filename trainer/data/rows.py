"""Rows: the documents of a bin as the rows of one forward pass.

Several documents share a row. Position ids that start again at 0 separate them, without attention
mask and cache (with either, transformers lets one document see another). A row is as wide as the
longest document of the bin: attention over one row of 4,096 tokens costs eight times as much as
over eight rows of 512. Only flash attention, which knows where documents end, gets a single row. A
model that does not separate the documents of a row, such as a recurrent one, gets one row for each.
A model that has other numbers once a row is longer than a border (LongRoPE) reads short documents
and long ones in a pass each.

Shapes: B rows, W tokens of a row, D documents of a bin, R targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitstore import ModelError, SettingError, SparseTargets
from logitstore.plumbing import LengthClasses, evaluating, hidden_states, sparsifier_of
from trainer.data.averaged import AveragedTargets
from trainer.data.spans import SpanTargets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from logitstore import Document, StoreSpec
    from logitstore.plumbing import StoredHead
    from trainer.data.selection import RowWeights

__all__ = ["Batch", "RowLayout", "choose_border", "choose_layout", "lay_out"]


class RowLayout(Enum):
    """How documents share the rows of a forward pass."""

    ROWS = "rows"  # several in a row as wide as the longest
    ONE_ROW = "one row"
    PADDED = "padded"  # one in a row


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """One forward pass: what the model reads, which rows of its output count, and their targets.

    `at_R` are indices into the flattened hidden states: target r is predicted from the token before
    it, so the last token of a document predicts nothing.
    """

    input_ids_BW: torch.Tensor  # int64; padding is at the right, where no token sees it
    position_ids_BW: torch.Tensor | None  # None where no two documents share a row
    at_R: torch.Tensor  # int64
    labels_R: torch.Tensor  # int64, the token that really follows
    # R rows; None where nothing counts, or no teacher was asked. Spans where its tokens are others.
    targets: SparseTargets | SpanTargets | AveragedTargets | None
    step_targets: int  # counted targets of the optimiser step, over all its batches and ranks
    tokens: int  # of its documents, without padding
    spec: StoreSpec | None = None  # of the store that the targets come from
    temperature: float = 1.0  # at which targets were drawn, where they were
    after: dict[str, Any] | None = None  # see `ends_step`
    # Rows and width of each pass that the model makes over it, in order; empty is one over all.
    passes: tuple[tuple[int, int], ...] = ()
    filled_BW: torch.Tensor | None = None  # bool: positions that hold a token of a document
    selected_R: torch.Tensor | None = None  # bool: which targets count in the soft part; None: all
    # What the loss of each row is multiplied by, once it is known how many targets of the step are
    # selected; None is 1.
    weights: RowWeights | None = None
    # float32, nats: with which each label was drawn; None where that is not known of all.
    sampler_logprobs_R: torch.Tensor | None = None
    # The teacher's output layer, where the targets are hidden states.
    teacher_head: StoredHead | None = None

    def __post_init__(self) -> None:
        """Raise SettingError where the parts are not of one batch, or not of one store."""
        rows = len(self.labels_R)
        if self.at_R.shape != (rows,) or self.labels_R.shape != (rows,):
            raise _misfit(
                "at_R and labels_R differ in length", found=f"{len(self.at_R)} and {rows} rows"
            )
        sampled = self.sampler_logprobs_R
        if sampled is not None and sampled.shape != (rows,):
            raise _misfit(
                "sampler_logprobs_R and labels_R differ in length", found=len(sampled), allowed=rows
            )
        if self.targets is not None and len(self.targets) != rows:
            raise _misfit(
                "targets and labels_R differ in length", found=len(self.targets), allowed=rows
            )
        positions = self.input_ids_BW.numel()
        if not _within(self.at_R, positions):
            raise _misfit("at_R points outside of input_ids_BW", allowed=f"0 to {positions - 1}")
        if (
            self.position_ids_BW is not None
            and self.position_ids_BW.shape != self.input_ids_BW.shape
        ):
            raise _misfit(
                "position_ids_BW has another shape than input_ids_BW",
                found=tuple(self.position_ids_BW.shape),
                allowed=tuple(self.input_ids_BW.shape),
            )
        if self.selected_R is not None and self.selected_R.shape != (rows,):
            raise _misfit(
                "selected_R and labels_R differ in length",
                found=len(self.selected_R),
                allowed=rows,
            )
        if self.spec is not None:
            _refuse_other_store(self, self.spec)

    @property
    def ends_step(self) -> bool:
        """Whether it is the last batch of an optimiser step.

        `after` is then the state with which `Batches.load_state_dict` continues after it.
        """
        return self.after is not None

    def hidden(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the output layer sees of all positions, [B x W, D]; 0 in what no pass reads.

        Args:
            model: The student.
            inputs: `model_inputs`, on the model's device.
        """
        ids_BW = inputs["input_ids"]
        others = {name: value for name, value in inputs.items() if name != "input_ids"}
        if not self.passes:
            return hidden_states(model, ids_BW, **others).flatten(0, 1)
        parts, start = [], 0
        for rows, width in self.passes:
            cut = (slice(start, start + rows), slice(width))
            parts.append(
                hidden_states(
                    model, ids_BW[cut], **{name: value[cut] for name, value in others.items()}
                )
            )
            start += rows
        return self.flattened(parts)

    def flattened(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """What each pass gave, [B, W, D], as that of all positions, [B x W, D].

        Args:
            parts: Of the passes, in order; 0 stands in what no pass reads.
        """
        width = self.input_ids_BW.shape[1]
        padded = [torch.nn.functional.pad(one, (0, 0, 0, width - one.shape[1])) for one in parts]
        return (padded[0] if len(padded) == 1 else torch.cat(padded)).flatten(0, 1)

    @property
    def filled(self) -> list[torch.Tensor | None]:
        """The positions of each pass that hold a token of a document; None where all do."""
        if self.filled_BW is None:
            return [None] * max(1, len(self.passes))
        if not self.passes:
            return [self.filled_BW]
        rows = torch.split(self.filled_BW, [rows for rows, _ in self.passes])
        return [part[:, :width] for part, (_, width) in zip(rows, self.passes, strict=True)]

    @property
    def model_inputs(self) -> dict[str, torch.Tensor]:
        """The arguments of the model's forward pass, by name."""
        inputs = {"input_ids": self.input_ids_BW}
        if self.position_ids_BW is not None:
            inputs["position_ids"] = self.position_ids_BW
        return inputs


def _within(numbers: torch.Tensor, stop: int) -> bool:
    """Whether all of `numbers` are from 0 up and below `stop`."""
    return not len(numbers) or bool((numbers >= 0).all() and (numbers < stop).all())


def _misfit(problem: str, *, found: object = None, allowed: object = None) -> SettingError:
    return SettingError(problem, place="batch", found=found, allowed=allowed)


def _refuse_other_store(batch: Batch, spec: StoreSpec) -> None:
    """Raise SettingError where a batch holds what a store of `spec` cannot hold."""
    size = spec.tokenizer.vocab_size
    for name, ids in (("labels_R", batch.labels_R), ("input_ids_BW", batch.input_ids_BW.flatten())):
        if not _within(ids, size):
            raise _misfit(
                f"{name} holds ids that the store's vocabulary has not",
                found=f"ids up to {int(ids.max())}",
                allowed=f"0 to {size - 1}",
            )
    targets = batch.targets
    if targets is None or isinstance(targets, SpanTargets):
        return
    parts: tuple[SparseTargets, ...] = (
        targets.parts if isinstance(targets, AveragedTargets) else (targets,)
    )
    for one in parts:
        _refuse_other_targets(one, spec)


def _refuse_other_targets(targets: SparseTargets, spec: StoreSpec) -> None:
    size = spec.tokenizer.vocab_size
    declared = sparsifier_of(spec.sparsifier).targets
    if targets.kind != declared:
        raise _misfit(
            "the targets are of another kind than the store's", found=targets.kind, allowed=declared
        )
    nodes = len(spec.sparsifier.tail_nodes)
    if targets.tail_logmass_RB.shape[1] != nodes:
        raise _misfit(
            "the targets hold another number of tail log-masses than the store's",
            found=targets.tail_logmass_RB.shape[1],
            allowed=nodes,
        )
    if int(targets.ids_RK.max(initial=0)) >= size:
        raise _misfit(
            "the targets hold ids that the store's vocabulary has not",
            found=int(targets.ids_RK.max(initial=0)),
            allowed=f"0 to {size - 1}",
        )


def lay_out(
    documents: Sequence[Document],
    *,
    layout: RowLayout,
    targets: Sequence[SparseTargets] | Sequence[SpanTargets] | Sequence[AveragedTargets] = (),
    step_targets: int | None = None,
    border: int | None = None,
) -> Batch:
    """Documents, and the targets of each, as one batch.

    Without documents it is a batch of one token that does not count: every rank has to take part in
    every backward pass, even if it has nothing to learn from.

    Args:
        documents: The documents, in the order of their targets.
        layout: How documents share rows.
        targets: The targets of each document; none where there is no teacher.
        step_targets: Targets of the whole optimiser step. Default: those of these documents.
        border: Documents up to this length are read in one pass, longer ones in another. There are
            always both, for each rank must make as many. Default: one pass for all.
    """
    lengths = [len(document) for document in documents]
    groups = [_rows(lengths, group, layout) for group in _by_border(lengths, border)]
    if border is not None:
        groups = [group or [[]] for group in groups]
    widths = [max((sum(lengths[one] for one in row) for row in rows), default=1) for rows in groups]
    rows = [row for group in groups for row in group]
    width = max(widths)
    input_ids_BW = np.zeros((max(1, len(rows)), max(1, width)), dtype=np.int64)
    # Positions continue in the padding: transformers takes a restart for packed documents.
    position_ids_BW = np.tile(np.arange(input_ids_BW.shape[1]), (len(input_ids_BW), 1))
    filled_BW = np.zeros(input_ids_BW.shape, dtype=bool)
    flat_D = np.zeros(len(documents), dtype=np.int64)
    for number, row in enumerate(rows):
        start = 0
        for one in row:
            input_ids_BW[number, start : start + lengths[one]] = documents[one].input_ids_L
            filled_BW[number, start : start + lengths[one]] = True
            position_ids_BW[number, start:] = np.arange(input_ids_BW.shape[1] - start)
            flat_D[one] = number * input_ids_BW.shape[1] + start
            start += lengths[one]
    counted = [np.flatnonzero(document.counted_L) for document in documents]
    at_R = _concatenate([start + at - 1 for start, at in zip(flat_D, counted, strict=True)])
    labels_R = _concatenate(
        [one.input_ids_L[at].astype(np.int64) for one, at in zip(documents, counted, strict=True)]
    )
    return Batch(
        input_ids_BW=torch.from_numpy(input_ids_BW),
        position_ids_BW=None if layout is RowLayout.PADDED else torch.from_numpy(position_ids_BW),
        at_R=torch.from_numpy(at_R),
        labels_R=torch.from_numpy(labels_R),
        targets=_joined(targets) if len(at_R) else None,
        step_targets=len(at_R) if step_targets is None else step_targets,
        tokens=sum(lengths),
        sampler_logprobs_R=_sampler_logprobs(documents),
        filled_BW=torch.from_numpy(filled_BW),
        passes=()
        if border is None
        else tuple((len(rows), max(1, one)) for rows, one in zip(groups, widths, strict=True)),
    )


def _by_border(lengths: list[int], border: int | None) -> list[list[int]]:
    """The documents of each pass."""
    numbers = list(range(len(lengths)))
    if border is None:
        return [numbers]
    short = [number for number in numbers if lengths[number] <= border]
    return [short, [number for number in numbers if lengths[number] > border]]


def _rows(lengths: list[int], numbers: list[int], layout: RowLayout) -> list[list[int]]:
    """The documents of each row: the longest first, each in the first row that has room for it."""
    if layout is RowLayout.ONE_ROW:
        return [numbers] if numbers else []
    if layout is RowLayout.PADDED:
        return [[number] for number in numbers]
    rows: list[list[int]] = []
    room: list[int] = []
    numbers_by_length = sorted(numbers, key=lambda number: -lengths[number])
    for number in numbers_by_length:
        place = next((row for row, free in enumerate(room) if free >= lengths[number]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(lengths[numbers_by_length[0]])
        rows[place].append(number)
        room[place] -= lengths[number]
    return rows


def _joined(
    targets: Sequence[SparseTargets] | Sequence[SpanTargets] | Sequence[AveragedTargets],
) -> SparseTargets | SpanTargets | AveragedTargets | None:
    """The targets of all documents; None where there is no teacher.

    Documents of several stores may have room for different numbers of entries.
    """
    if not targets:
        return None
    if isinstance(targets[0], SparseTargets):
        k = max(one.k for one in targets)  # type: ignore[union-attr]
        targets = [one.widened(k) for one in targets]  # type: ignore[union-attr]
    joined: SparseTargets | SpanTargets | AveragedTargets = targets[0].concatenate(targets)  # type: ignore[arg-type]
    return joined


def _sampler_logprobs(documents: Sequence[Document]) -> torch.Tensor | None:
    """With which each counted token was drawn; None where a document does not know it."""
    known = [one.sampler_logprobs_R for one in documents if one.sampler_logprobs_R is not None]
    if not known or len(known) < len(documents):
        return None
    return torch.from_numpy(np.concatenate(known).astype(np.float32))


def _concatenate(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def choose_border(model: PreTrainedModel, *, max_length: int) -> int | None:
    """The length beyond which documents need a pass of their own; None where all may share one.

    Args:
        model: The student.
        max_length: The most tokens of a document.

    Raises ModelError for a model of whose documents each length would need a pass of its own.
    """
    with torch.no_grad(), evaluating(model):
        classes = LengthClasses(model)
    border = classes.border
    if border is None or max_length <= border:
        return None
    if classes.stretches:
        raise ModelError(
            "the student has other numbers for each length of a row, and cannot learn from "
            "documents of unlike length",
            place=f"model {model.config.model_type}",
            found=f"documents of up to {max_length} tokens",
            allowed=f"up to {border}" if border else "another student",
            remedy="Dump with a smaller --max-length" if border else None,
        )
    return border


def choose_layout(model: PreTrainedModel, *, vocab_size: int) -> RowLayout:
    """The cheapest layout in which a document has the same hidden states as when it is alone.

    It is measured by a short forward pass, not looked up: a recurrent model keeps its state from
    one document to the next, some models ignore position ids, and others refuse them.

    Args:
        model: The student.
        vocab_size: The number of ids that the model is sure to know.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 11
    shorter, longer = min(9, context), min(11, context)
    first = torch.arange(shorter) % vocab_size
    second = torch.arange(3, 3 + longer) % vocab_size
    together = torch.cat([first, second])[None].to(model.device)
    positions = torch.cat([torch.arange(shorter), torch.arange(longer)])[None].to(model.device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            packed = hidden_states(model, together, position_ids=positions)[0, shorter:].float()
            alone = hidden_states(model, together[:, shorter:])[0].float()
    except (TypeError, ValueError):  # a forward without position ids
        return RowLayout.PADDED
    finally:
        model.train(was_training)
    # Rounding makes a difference of 1e-6 of the largest value in float32 and of 1e-2 in bfloat16;
    # a document that sees another one, of 1e-3 even in a model with fresh weights.
    slack = 1e-4 if model.dtype == torch.float32 else 3e-2
    if not (packed - alone).abs().max() <= slack * alone.abs().max():
        return RowLayout.PADDED
    attention = getattr(model.config, "_attn_implementation", None) or ""
    return RowLayout.ONE_ROW if "flash" in attention else RowLayout.ROWS
