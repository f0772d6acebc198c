"""`evaluate`: how good a model is on held-out text, and how near to the teacher of a store.

Everything is summed in float64 over chunks of rows; no `[targets, V]` exists beyond a chunk. What
a store knows of the teacher decides which figures are exact, which are bounds or estimates, and
which it cannot give.

Shapes: R rows of a chunk, V vocabulary, D width.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from logitstore import ModelError, SettingError, StoreError
from logitstore.plumbing import (
    Fields,
    LengthClasses,
    LMHead,
    Meter,
    OnProgress,
    TextRules,
    evaluating,
    most_damaged,
    open_corpus,
    options_of,
    takes,
    tell_stage,
    tokenize,
    vocab_size,
)
from trainer.data.answer_files import labels_only
from trainer.data.rows import RowLayout, choose_layout, lay_out
from trainer.data.store import as_store
from trainer.evaluation.comparison import Comparison
from trainer.evaluation.options import EvalOptions
from trainer.evaluation.reading import Counted, without_skipping
from trainer.evaluation.spread import Spread
from trainer.evaluation.subject import Subject
from trainer.losses import TargetTensors, draw_for
from trainer.training import run_folder
from trainer.training.damage import refuse_no_view, told
from trainer.training.run_result import refuse_changed_weights, weight_hashes
from trainer.training.state_files import EVALUATION, warn, write_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import PreTrainedModel

    from logitstore import Document, SparseTargets, StoreSpec
    from trainer.data.rows import Batch

    _Pair: TypeAlias = tuple[Document, SparseTargets | None]

__all__ = ["evaluate"]

_CHUNK_BYTES = 256 << 20  # of one float32 [R, V]; three of them are alive at a time
_BINS = 15  # of confidence, equal in width: Guo et al. 2017
_UNIT_BYTES = 4 << 20
_LONGEST = 1024
_OF_A_TEACHER = ("kl", "top1_agreement", "acceptance", "teacher_loss", "teacher_entropy")
_MOST_NATS = 700.0  # e^710 is more than a float holds


@takes(options_of(EvalOptions))
def evaluate(**values: Any) -> dict[str, Any]:
    """Measure a model on a store or on plain text.

    Losses and KL are in nats per target; `kl`, `top1_agreement` (of the most probable token with
    the teacher's) and `acceptance` (`sum_i min(p_i, q_i)`, the chance that speculative decoding
    keeps a drafted token, Leviathan et al. 2023) are None with `data`, where there is no teacher.
    `ece` is the expected calibration error of the most probable token in 15 equal bins.

    `bounds` says which figures are a "lower" or an "upper" bound, for what is not stored exactly is
    compared as one bucket, and which an "estimate". `coding_errors` says by how much the rounding
    of stored values may have moved them: the exact value is at least a lower bound less its coding
    error, at most an upper one plus its coding error (trainer/evaluation/comparison.py derives it).
    A bound without a coding error is one at a temperature where the tail's mass is interpolated.
    `standard_errors` are those of means over targets, by the spread over the `documents`.

    A store of drawn targets is read at its first draw for `temperature`. `teacher_entropy` is that
    at `temperature`, and None where the store knows only the one at 1. Rows without any exact entry
    are left out of `top1_agreement`; where no row has one, as in a store of `sample`, it and
    `acceptance` are None; so is a `perplexity` that is too large for a float. Of an imported store
    `teacher_loss` and `teacher_entropy` are None, and without the mass of its entries `kl` and
    `acceptance`.

    A loaded model is left in the mode that it was in. The result is written to `eval.json` in
    `out`, or in `model` where that is a run and `logits` a store: text and answers must not take
    the place of a comparison with the teacher. There it also names the weights that were measured,
    by their sha256. With `skip_damaged`, `damaged` holds number, place and problem of each block
    that was left out. Raises SettingError, StoreError (also where weights of a finished run have
    changed), ModelError (also where a loss is no finite number); TokenizerError where model and
    store do not match.
    """
    options = EvalOptions(**values)
    # What the store cannot serve is refused before a model may have to be fetched.
    stored = None
    if options.logits is not None:
        stored = _from_store(options)
    subject = Subject.of(options)
    if subject.folder is not None:
        refuse_changed_weights(subject.folder)
    out = options.out
    compared = stored is not None and stored.comparison is not None
    if out is None and compared and subject.folder is not None:
        out = subject.folder if (subject.folder / "run.json").is_file() else None
    if out is not None:
        run_folder.refuse_unwritable(out)
    source = stored or _from_text(subject.open_tokenizer(), options)
    tell_stage(options.on_progress, f"loading {Path(subject.name).name}")
    model = subject.open_model(source.spec)
    with evaluating(model):
        result = _measure(
            model, source, batch_tokens=options.batch_tokens, on_progress=options.on_progress
        )
    result |= {"model": subject.name, "store": source.fingerprint, "data": options.data}
    if source.damaged:
        result["damaged"] = [list(astuple(one)) for one in source.damaged]
    if out is not None:
        weights = None if subject.folder is None else weight_hashes(subject.folder)
        write_state(out / "eval.json", {"format": EVALUATION, "weights": weights} | result)
    return result


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _EvalData:
    """Documents, with targets where there is a teacher."""

    documents: Iterable[_Pair]
    read: Counted[Any]  # what the documents are made from
    vocab_size: int
    spec: StoreSpec | None
    comparison: Comparison | None
    fingerprint: str | None
    damaged: tuple[Any, ...] = ()  # blocks of the store that were left out


def _from_store(options: EvalOptions) -> _EvalData:
    named = str(options.model) if isinstance(options.model, str | Path) else None
    tokenizer = options.tokenizer if hasattr(options.tokenizer, "get_vocab") else None
    source: Any = options.logits
    store = as_store(source, model=named, tokenizer=tokenizer, max_memory=options.max_memory)
    if options.skip_damaged is not None:
        refuse_no_view(store)
        store = store.sound(most_damaged(options.skip_damaged), on_progress=options.on_progress)
        if store.damaged:
            warn(told(store, store.damaged))
    if labels_only(store.spec):
        return _from_answers(store, options)
    temperature = options.temperature
    sparsifier, size = store.spec.sparsifier, store.spec.tokenizer.vocab_size
    comparison = Comparison.of(store.spec, temperature=temperature)
    if not sum(one.targets for one in store.blocks):
        raise StoreError(
            "the store holds no targets to measure on", place=f"store {store.fingerprint[:12]}"
        )
    draw = draw_for(sparsifier, temperature=temperature, epoch=0)
    if draw != store.draw:
        store = store.with_draw(draw)
    read = Counted(store, total=len(store))
    return _EvalData(
        documents=((stored.document, stored.targets) for stored in read),
        read=read,
        vocab_size=size,
        spec=store.spec,
        comparison=comparison,
        fingerprint=store.fingerprint,
        damaged=getattr(store, "damaged", ()),
    )


def _from_answers(store: Any, options: EvalOptions) -> _EvalData:
    """Answers have no teacher to compare with."""
    if options.temperature != 1:
        raise SettingError(
            "these are answers without a teacher's distributions, so --temperature has no effect",
            found=f"{options.temperature:g}",
            remedy="Leave --temperature out",
        )
    read = Counted(store, total=len(store))
    return _EvalData(
        documents=((stored.document, None) for stored in read),
        read=read,
        vocab_size=store.spec.tokenizer.vocab_size,
        spec=store.spec,
        comparison=None,
        fingerprint=store.fingerprint,
    )


def _from_text(tokenizer: Any, options: EvalOptions) -> _EvalData:
    corpus = open_corpus(
        str(options.data),
        fields=Fields(text=options.text_field, messages=options.messages_field),
    )
    units = corpus.plan(unit_bytes=_UNIT_BYTES, limit=None).units
    records = Counted(
        (record for unit in units for record in corpus.read(unit, skip_bad=False)),
        total=sum(unit.records for unit in units),
    )
    rules = TextRules(max_length=options.max_length or _LONGEST)
    return _EvalData(
        documents=(
            (one, None)
            for one in without_skipping(tokenize(records, tokenizer, rules=rules, skip_bad=False))
        ),
        read=records,
        vocab_size=vocab_size(tokenizer),
        spec=None,
        comparison=None,
        fingerprint=None,
    )


@dataclass(kw_only=True, slots=True)
class _Totals:
    """What has been counted so far."""

    values: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    bins_3B: torch.Tensor = field(
        default_factory=lambda: torch.zeros(3, _BINS, dtype=torch.float64)
    )  # confidence, correct, count of each bin
    spread: Spread = field(default_factory=Spread)

    def add(self, **sums: torch.Tensor | float) -> None:
        for name, value in sums.items():
            self.values[name] += float(value)


def _measure(
    model: PreTrainedModel,
    source: _EvalData,
    *,
    batch_tokens: int,
    on_progress: OnProgress | None,
) -> dict[str, Any]:
    head = LMHead.checked(model, vocab_size=source.vocab_size)
    layout = choose_layout(model, vocab_size=source.vocab_size)
    sums = _Totals()
    with torch.inference_mode():
        lengths = LengthClasses(model)
    meter = Meter(on_progress, stage="measuring", unit="tokens")
    began = time.perf_counter()
    with torch.inference_mode():
        for pairs in _batches(source.documents, lengths=lengths, batch_tokens=batch_tokens):
            batch = _laid_out(pairs, layout)
            inputs = {name: value.to(model.device) for name, value in batch.model_inputs.items()}
            lengths.forget()
            hidden_ND = batch.hidden(model, inputs)
            rows = _BatchMeasure(head=head, comparison=source.comparison, lengths=_targets(pairs))
            rows.add(hidden_ND[batch.at_R.to(model.device)], batch, sums)
            sums.add(tokens=batch.tokens)
            meter.tell(int(sums.values["tokens"]), fraction=source.read.fraction)
    return _result(
        sums,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        seconds=time.perf_counter() - began,
        comparison=source.comparison,
    )


def _batches(
    documents: Iterable[_Pair], *, lengths: LengthClasses, batch_tokens: int
) -> Iterator[list[_Pair]]:
    """Documents for a forward pass each: as many as fit and may meet, at least one."""
    for pairs in _in_order(documents, batch_tokens=batch_tokens):
        for places in lengths.groups([len(document) for document, _ in pairs]):
            yield [pairs[place] for place in places]


def _in_order(documents: Iterable[_Pair], *, batch_tokens: int) -> Iterator[list[_Pair]]:
    waiting: list[_Pair] = []
    tokens = 0
    for document, targets in documents:
        if waiting and tokens + len(document) > batch_tokens:
            yield waiting
            waiting, tokens = [], 0
        waiting.append((document, targets))
        tokens += len(document)
    if waiting:
        yield waiting


def _targets(pairs: Iterable[_Pair]) -> torch.Tensor:
    """int64 [D]: how many tokens of each document count."""
    return torch.tensor([int(document.counted_L.sum()) for document, _ in pairs])


def _laid_out(pairs: list[_Pair], layout: RowLayout) -> Batch:
    return lay_out(
        [document for document, _ in pairs],
        layout=layout,
        targets=[targets for _, targets in pairs if targets is not None],
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _BatchMeasure:
    """A model's distributions, and the teacher's where there is one, of D documents."""

    head: LMHead
    comparison: Comparison | None
    lengths: torch.Tensor  # int64 [D]: their targets, which are the rows of the batch

    def add(self, hidden_RD: torch.Tensor, batch: Batch, sums: _Totals) -> None:
        """Count every target of a batch, a chunk of rows at a time."""
        rows = max(1, _CHUNK_BYTES // (4 * self.head.vocab_size))
        labels_R = batch.labels_R.to(hidden_RD.device)
        teacher = None if batch.targets is None else TargetTensors.of(batch.targets)
        if batch.targets is not None:
            sums.add(
                teacher_loss=-batch.targets.label_logprob_R.sum(dtype="float64"),
                teacher_entropy=batch.targets.entropy_R.sum(dtype="float64"),
            )
        document_R = torch.arange(len(self.lengths)).repeat_interleave(self.lengths)
        by_document: dict[str, torch.Tensor] = {"targets": self.lengths.double()}
        for start in range(0, len(labels_R), rows):
            chunk = slice(start, start + rows)
            logits_RV = self.head.logits(hidden_RD[chunk])
            found = self._add_labels(logits_RV, labels_R[chunk], sums)
            if teacher is not None and self.comparison is not None:
                targets = teacher.rows(chunk).to(logits_RV.device)
                compared = self.comparison.rows(logits_RV, targets)
                sums.add(**{name: value_R.sum() for name, value_R in compared.items()})
                found |= compared
            for name, value_R in found.items():
                sum_D = by_document.setdefault(name, torch.zeros_like(by_document["targets"]))
                sum_D.index_add_(0, document_R[chunk], value_R.double().cpu())
        sums.spread.add(by_document)

    def _add_labels(
        self, logits_RV: torch.Tensor, labels_R: torch.Tensor, sums: _Totals
    ) -> dict[str, torch.Tensor]:
        """Count what needs no teacher; gives the loss of each row, float64 [R]."""
        log_total_R = logits_RV.logsumexp(dim=-1)
        label_R = logits_RV.gather(1, labels_R[:, None])[:, 0] - log_total_R
        _check_finite(label_R)
        top_R, id_R = logits_RV.max(dim=-1)
        confidence_R = (top_R - log_total_R).exp().double().cpu()
        correct_R = (id_R == labels_R).double().cpu()
        sums.add(targets=len(labels_R), loss=-label_R.double().sum())
        bin_R = (confidence_R * _BINS).long().clamp(max=_BINS - 1)
        for row, value_R in zip(
            sums.bins_3B, (confidence_R, correct_R, torch.ones_like(correct_R)), strict=True
        ):
            row.index_add_(0, bin_R, value_R)
        return {"loss": -label_R.double()}


def _check_finite(label_R: torch.Tensor) -> None:
    finite_R = label_R.isfinite()
    if not bool(finite_R.all()):
        raise ModelError(
            "the model's loss of a target is no finite number",
            found=-float(label_R[~finite_R][0]),
            remedy="Where a run has diverged, train again with a smaller --lr",
        )


def _result(
    sums: _Totals, *, parameters: int, seconds: float, comparison: Comparison | None
) -> dict[str, Any]:
    values = sums.values
    targets = int(values["targets"])
    if not targets:
        raise SettingError("the text holds no token to predict", place="--data")
    near: dict[str, float | None] = dict.fromkeys(_OF_A_TEACHER)
    if comparison is not None:
        near |= comparison.means(values, targets=targets)
        if comparison.knows_whole:
            near["teacher_loss"] = values["teacher_loss"] / targets
        if comparison.knows_entropy:
            near["teacher_entropy"] = values["teacher_entropy"] / targets
    loss = values["loss"] / targets
    confidence_B, correct_B, count_B = sums.bins_3B
    return {
        "parameters": parameters,
        "documents": sums.spread.ratios["loss"].documents,
        "targets": targets,
        "temperature": None if comparison is None else comparison.temperature,
        "loss": loss,
        "perplexity": math.exp(loss) if loss < _MOST_NATS else None,
        "kl": near["kl"],
        "top1_agreement": near["top1_agreement"],
        "ece": float((confidence_B - correct_B).abs().sum()) / targets,
        "acceptance": near["acceptance"],
        "tokens_per_second": values["tokens"] / seconds,
        "teacher_loss": near["teacher_loss"],
        "teacher_entropy": near["teacher_entropy"],
        "bounds": {} if comparison is None else comparison.bounds(values),
        "coding_errors": (
            {} if comparison is None else comparison.coding_errors(values, targets=targets)
        ),
        "standard_errors": sums.spread.standard_errors(),
        "reliability": [
            {
                "confidence": float(confidence_B[place] / count_B[place]),
                "accuracy": float(correct_B[place] / count_B[place]),
                "count": int(count_B[place]),
            }
            for place in range(_BINS)
            if count_B[place]
        ],
    }
