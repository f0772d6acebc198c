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
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from logitstore import ModelError, SettingError, SparseTargets, StoreError
from logitstore.plumbing import (
    LengthClasses,
    LMHead,
    Meter,
    OnProgress,
    evaluating,
    options_of,
    takes,
    tell_stage,
)
from trainer.data.rows import choose_layout
from trainer.data.store import teacher_head_of
from trainer.evaluation.across import measure_spans
from trainer.evaluation.harness import measure_tasks
from trainer.evaluation.keeping import Place
from trainer.evaluation.material import from_store, from_text
from trainer.evaluation.options import EvalOptions
from trainer.evaluation.passes import laid_out, passes, targets_of
from trainer.evaluation.spread import Spread
from trainer.evaluation.subject import Subject
from trainer.evaluation.tasks import open_tasks
from trainer.evaluation.yardstick import MOST_NATS, Yardstick
from trainer.losses import TargetTensors, whole_targets
from trainer.training.run_record import learnt_stores, read_record
from trainer.training.run_result import refuse_changed_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer.data.rows import Batch
    from trainer.evaluation.comparison import Comparison
    from trainer.evaluation.material import EvalData

__all__ = ["evaluate"]

_CHUNK_BYTES = 256 << 20  # of one float32 [R, V]; three of them are alive at a time
# Of one of some fifteen, where all tokens are entries.
_WHOLE_CHUNK_BYTES = 32 << 20
_BINS = 15  # of confidence, equal in width: Guo et al. 2017
_OF_A_TEACHER = ("kl", "top1_agreement", "acceptance", "teacher_loss", "teacher_entropy")
_MEANS = {  # a figure -> the sums over each document whose ratio it is
    "loss": ("loss", "targets"),
    "kl": ("kl", "targets"),
    "top1_agreement": ("agreed", "judged"),
    "acceptance": ("acceptance", "targets"),
}


@takes(options_of(EvalOptions))
def evaluate(**values: Any) -> dict[str, Any]:
    """Measure a model on a store, on plain text, or by tasks.

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

    `yardstick` compares as quantised models are compared with their originals, where there is a
    teacher: `teacher_perplexity`, `perplexity_ratio`, `log_perplexity_ratio`; `p_change`, the true
    token's probability less that of the teacher, `p_change_rms` and `p_change_quantiles`; and
    `kl_quantiles`, over exact entries and one bucket, with their mean `bucketed_kl` (`kl` is
    another quantity where it is estimated from draws), None without exact entries. It has
    `bounds`, `coding_errors` and `standard_errors` of its own; without `quantiles_exact` they are
    within 2^-12 of themselves (trainer/evaluation/yardstick.py, quantiles.py).

    A store of drawn targets is read at its first draw for `temperature`. `teacher_entropy` is that
    at `temperature`, and None where the store knows only the one at 1. `judged` targets have an
    exact entry, which tells the teacher's most probable token: `top1_agreement` is that of these,
    an "estimate" where they are not all, and None where they are fewer than nine of ten. Where none
    is, as in a store of `sample`, `acceptance` is None, too, and where most of the teacher's mass
    is not kept and the bound is 0.995 or more, which says nothing; so is a `perplexity` that is too
    large for a float. Of an imported store `teacher_loss`, `teacher_entropy` and `yardstick` are
    None, and without the mass of its entries `kl` and `acceptance`.

    With `tasks` the model answers those of lm-evaluation-harness instead, and all figures are the
    harness's own: `tasks` (task -> metric -> value, METRIC_stderr beside it, which is None of one
    item), `higher_is_better` likewise; `items`, how many were asked and a hash of them;
    `num_fewshot`, `task_versions`, `harness` (docs/evaluation.md).

    A loaded model is left in the mode that it was in. The result is kept by its name in `evals/`,
    and a comparison with a store, or whatever has a folder `out`, also in `eval.json` unless `name`
    is given: text and answers must not take the place of a comparison with the teacher
    (trainer/evaluation/keeping.py). There it also names the weights that were measured,
    by their sha256. With `skip_damaged`, `damaged` holds number, place and problem of each block
    that was left out; `trained_on` says whether the model is of a run that has learnt from that
    very store: it may know the noise of its draws by heart, and then KL and agreement look better
    than they are. A model of another tokenizer than the store's is measured over spans of text:
    `bits_per_byte` beside `teacher_bits_per_byte` of the same bytes, and `span_kl`
    (docs/cross-tokenizer.md). Raises SettingError, StoreError (also where weights of a finished run
    have changed), ModelError (also where a loss is no finite number); TokenizerError where model
    and store do not match; CorpusError for items of tasks that cannot be read.
    """
    options = EvalOptions(**values)
    # What the store or the tasks cannot serve is refused before a model may have to be fetched.
    stored = None if options.logits is None else from_store(options)
    tasks = None if options.tasks is None else open_tasks(options)
    subject = Subject.of(options)
    if subject.place is not None:
        refuse_changed_weights(subject.place)
    place = Place.of(options, model=subject.place, store=stored)
    if tasks is not None:
        result = measure_tasks(subject, tasks, options)
    else:
        source = stored or from_text(subject.open_tokenizer(), options, context=subject.context)
        result = _measured(subject, source, options)
        result["data"] = None if options.data is None else str(options.data)
        result.setdefault("store", source.fingerprint)
        if stored is not None:
            result["trained_on"] = _learnt(subject.place, str(result["store"]))
        if source.damaged:
            result["damaged"] = [list(astuple(one)) for one in source.damaged]
    result["model"] = subject.name
    place.keep(result, model=subject.place)
    return result


def _learnt(place: Path | None, store: str) -> bool:
    """Whether the model in a folder is of a run that has learnt from that very store."""
    record = None
    with suppress(StoreError):  # a run.json of something else says nothing of it
        record = read_record(place) if place is not None and place.is_dir() else None
    return record is not None and store in learnt_stores(record)


def _measured(subject: Subject, source: EvalData, options: EvalOptions) -> dict[str, Any]:
    """What is measured on documents, in the model's own tokens or over spans of text."""
    other = None
    if source.comparison is not None and source.spec is not None:
        other = subject.other_tokenizer(source, source.spec)
    if other is not None:
        return measure_spans(subject, source, other, options)
    tell_stage(options.on_progress, f"loading {Path(subject.name).name}")
    model = subject.open_model(source)
    with evaluating(model):
        return _measure(
            model, source, batch_tokens=options.batch_tokens, on_progress=options.on_progress
        )


@dataclass(kw_only=True, slots=True)
class _Totals:
    """What has been counted so far."""

    values: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    bins_3B: torch.Tensor = field(
        default_factory=lambda: torch.zeros(3, _BINS, dtype=torch.float64)
    )  # confidence, correct, count of each bin
    spread: Spread = field(default_factory=lambda: Spread(figures=_MEANS))
    yardstick: Yardstick = field(default_factory=Yardstick)

    def add(self, **sums: torch.Tensor | float) -> None:
        for name, value in sums.items():
            self.values[name] += float(value)


def _measure(
    model: PreTrainedModel,
    source: EvalData,
    *,
    batch_tokens: int,
    on_progress: OnProgress | None,
) -> dict[str, Any]:
    head = LMHead.checked(model, vocab_size=source.vocab_size).whole
    layout = choose_layout(model, vocab_size=source.vocab_size)
    teacher_head = None
    if source.comparison is not None and source.comparison.whole:
        stored = teacher_head_of(source.store)
        teacher_head = None if stored is None else stored.on(model.device)
    sums = _Totals()
    with torch.inference_mode():
        lengths = LengthClasses(model)
    meter = Meter(on_progress, stage="measuring", unit="tokens")
    began = time.perf_counter()
    with torch.inference_mode():
        for pairs in passes(source.documents, lengths=lengths, batch_tokens=batch_tokens):
            batch = laid_out(pairs, layout)
            inputs = {name: value.to(model.device) for name, value in batch.model_inputs.items()}
            lengths.forget()
            hidden_ND = batch.hidden(model, inputs)
            rows = _BatchMeasure(
                head=head,
                comparison=source.comparison,
                lengths=targets_of(pairs),
                teacher_head=teacher_head,
            )
            rows.add(hidden_ND[batch.at_R.to(model.device)], batch, sums)
            sums.add(tokens=batch.tokens)
            meter.tell(int(sums.values["tokens"]), fraction=source.read.fraction)
    return _result(
        sums,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        seconds=time.perf_counter() - began,
        comparison=source.comparison,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _BatchMeasure:
    """A model's distributions, and the teacher's where there is one, of D documents."""

    head: LMHead
    comparison: Comparison | None
    lengths: torch.Tensor  # int64 [D]: their targets, which are the rows of the batch
    teacher_head: LMHead | None = None  # where the targets are the teacher's hidden states

    def add(self, hidden_RD: torch.Tensor, batch: Batch, sums: _Totals) -> None:
        """Count every target of a batch, a chunk of rows at a time."""
        size = _CHUNK_BYTES if self.teacher_head is None else _WHOLE_CHUNK_BYTES
        rows = max(1, size // (4 * self.head.vocab_size))
        labels_R = batch.labels_R.to(hidden_RD.device)
        teacher = None
        if isinstance(batch.targets, SparseTargets):
            teacher = TargetTensors.of(batch.targets)
            label_R = torch.from_numpy(batch.targets.label_logprob_R)
            if self.teacher_head is None:
                sums.add(
                    teacher_loss=-batch.targets.label_logprob_R.sum(dtype="float64"),
                    teacher_entropy=batch.targets.entropy_R.sum(dtype="float64"),
                )
        document_R = torch.arange(len(self.lengths)).repeat_interleave(self.lengths)
        by_document: dict[str, torch.Tensor] = {"targets": self.lengths.double()}
        kept = defaultdict(list)
        for start in range(0, len(labels_R), rows):
            chunk = slice(start, start + rows)
            logits_RV = self.head.logits(hidden_RD[chunk])
            found = self._add_labels(logits_RV, labels_R[chunk], sums)
            if teacher is not None and self.comparison is not None:
                targets = teacher.rows(chunk).to(logits_RV.device)
                teacher_R = label_R[chunk]
                if self.teacher_head is not None:
                    targets = whole_targets(targets, self.teacher_head)
                    known = self.comparison.whole_sums(targets, labels_R[chunk])
                    sums.add(**{name: value_R.sum() for name, value_R in known.items()})
                    teacher_R = -known["teacher_loss"]
                compared = self.comparison.rows(logits_RV, targets)
                sums.add(**{name: value_R.sum() for name, value_R in compared.items()})
                found |= compared
                if self.comparison.knows_whole:
                    found |= sums.yardstick.rows(found["loss"], teacher_R)
                    for name in ("least_kl", "p_change"):
                        kept[name].append(found[name])
            for name, value_R in found.items():
                sum_D = by_document.setdefault(name, torch.zeros_like(by_document["targets"]))
                sum_D.index_add_(0, document_R[chunk], value_R.double().cpu())
        sums.spread.add(by_document)
        if kept:
            sums.yardstick.add(
                by_document,
                kl_R=torch.cat(kept["least_kl"]),
                change_R=torch.cat(kept["p_change"]),
                lengths_D=self.lengths,
            )

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
    measured = comparison if comparison is not None and comparison.knows_whole else None
    loss = values["loss"] / targets
    perplexity = math.exp(loss) if loss < MOST_NATS else None
    unknown = {name for name in _OF_A_TEACHER if near[name] is None}
    errors = sums.spread.standard_errors()
    errors = {name: error for name, error in errors.items() if name not in unknown}
    if perplexity is not None and "loss" in errors:
        errors["perplexity"] = perplexity * errors["loss"]
    confidence_B, correct_B, count_B = sums.bins_3B
    return {
        "parameters": parameters,
        "documents": sums.spread.ratios["loss"].documents,
        "targets": targets,
        "temperature": None if comparison is None else comparison.temperature,
        "loss": loss,
        "perplexity": perplexity,
        "kl": near["kl"],
        "top1_agreement": near["top1_agreement"],
        "judged": None if comparison is None else int(values["judged"]),
        "ece": float((confidence_B - correct_B).abs().sum()) / targets,
        "acceptance": near["acceptance"],
        "tokens_per_second": values["tokens"] / seconds,
        "teacher_loss": near["teacher_loss"],
        "teacher_entropy": near["teacher_entropy"],
        "bounds": {} if comparison is None else comparison.bounds(values, targets=targets),
        "coding_errors": (
            {} if comparison is None else comparison.coding_errors(values, targets=targets)
        ),
        "standard_errors": errors,
        "yardstick": None if measured is None else sums.yardstick.result(measured, values),
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
