"""Tune: the bytes of each sparsifier and its error in the gradient, on one teacher and corpus.

The teacher runs once over a sample. Every setting makes its targets from the same logits, and its
bytes are measured on shards that are really written. The error is that of the gradient of
distillation with respect to the logits of a uniform student, which is the first step of training:

    error   |sparse - dense| / |dense| of the gradient of 2,048 targets, averaged over the sample:
            the error of one step, noise and bias together
    angle, norm ratio   between the gradients of the whole sample: most of the noise has averaged
            out, and the bias is left

Both are measured on the targets before the codec rounds them.

Shapes: R targets, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.corpus.temporary import temporary_folder
from logitstore.dumping.job import Job
from logitstore.dumping.states import state_dtype
from logitstore.dumping.work import at_document, by_document, draw_keys, is_finite
from logitstore.errors import NotFinite, SettingError
from logitstore.fidelity.pulls import PullSum, compare, relative_error
from logitstore.forecast.options import TUNE_OPTIONS
from logitstore.forecast.rough_bytes import layer_bytes, rough_bytes_per_target
from logitstore.forecast.samples import Sample, Sampled, Slices
from logitstore.forecast.tradeoff import MeasuredSparsifier, TradeOff, recommend
from logitstore.forecast.tradeoff_figure import draw
from logitstore.forecast.trials import TrialStore
from logitstore.options import takes
from logitstore.progress import Meter, OnProgress, tell_stage
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.store.local import LocalStorage
from logitstore.targets.documents import StoredDocument
from logitstore.targets.targets import SparseTargets
from logitstore.teacher.base import batches
from logitstore.teacher.torch_state import neutral_torch_state

if TYPE_CHECKING:
    import torch

    from logitstore.format.spec import SparsifierSpec

__all__ = ["tune"]

# The settings that are compared, as options of `logitstore dump`.
CANDIDATES: tuple[tuple[str, Mapping[str, Any]], ...] = tuple(
    (name, options) for name, one in SPARSIFIERS.items() for options in one.compared
)

# A job needs a sparsifier, which is replaced here by that of each setting.
_REPLACED = {"sparsify": "topk", "k": 1, "temperature": None}

_BATCH_TARGETS = 2048
# All settings together keep 840 entries of each target, of 9 bytes each: 250 MB.
_MOST_TARGETS = 32_768
_SLICES_PER_BATCH = 4
_VISIT_TOKENS = 1024
_GROWTH = 4  # each portion is at most this many times the last
_WRITING = 0.3  # share of the time that is left for writing the shards


@takes(TUNE_OPTIONS)
def tune(
    *,
    seconds: float,
    max_bytes: float | None,
    max_error: float | None,
    out: Path | None,
    on_progress: OnProgress | None,
    **options: Any,
) -> TradeOff:
    """Bytes and error of each setting for this teacher and corpus, and the recommended setting.

    Takes about `seconds` in addition to loading, or less: 32,768 targets are enough. Every option
    is explained below. Raises CorpusError, ModelError or SettingError.
    """
    job = Job.load(options | _REPLACED, on_progress=on_progress)
    _tell_of_hidden(job)
    with temporary_folder() as folder:
        tell_stage(on_progress, f"reading {job.corpus.name}")
        candidates = _Candidates(job, folder)
        candidates.run(seconds, on_progress)
        measured = candidates.measured()
    choice = recommend(measured, max_bytes=max_bytes, max_error=max_error)
    if out is not None:
        storage, name = LocalStorage.of_file(out)
        storage.put(name, draw(measured, choice.taken, name=name))
    return TradeOff(
        measured=measured,
        recommended=choice.taken,
        reason=choice.reason,
        unmet=choice.unmet,
        sample_documents=candidates.documents,
        sample_targets=candidates.targets,
        picture=None if out is None else str(out),
    )


def _tell_of_hidden(job: Job) -> None:
    """What hidden states would take: they are exact, so there is no error to compare."""
    head = getattr(job.teacher, "head", None)
    if head is None or not callable(job.options.on_note):
        return
    spec, width = sparsifier_spec("hidden"), head.weight_PD.shape[1]
    runs_in = str(head.weight_PD.dtype).removeprefix("torch.")
    state = state_dtype(runs_in, fidelity=job.options.fidelity)
    each = rough_bytes_per_target(spec, width=width, state=state)
    once = head.weight_VD.element_size() * head.weight_VD.numel()
    job.options.on_note(
        f"not compared, for it is exact: --sparsify hidden takes some {each:,.0f} bytes a target, "
        f"and {once:,} once or less"
    )
    job.options.on_note(
        f"not compared, for no target changes: each layer of --hidden-layers takes some "
        f"{layer_bytes(width=width, state=state):,.0f} bytes a target"
    )


def _fits(spec: SparsifierSpec, *, vocab_size: int) -> bool:
    """Whether the vocabulary has as many tokens as such targets have entries."""
    try:
        SPARSIFIERS[spec.name].check_vocabulary(spec, vocab_size=vocab_size)
    except SettingError:
        return False
    return True


class _Candidate:
    """One setting: its store, its targets that are not written yet, and its gradients."""

    def __init__(self, name: str, options: Mapping[str, Any], job: Job, folder: str) -> None:
        self.name, self.options, self.job = name, options, job
        self.store = TrialStore(folder, job)
        self.stored: list[tuple[Sampled, StoredDocument]] = []
        self.whole, self.batch = PullSum(job.vocab_size), PullSum(job.vocab_size)
        self.errors: list[float] = []

    def targets(self, logits_RV: torch.Tensor, labels_R: torch.Tensor, keys_R: Any) -> Any:
        """The targets that it makes, as `Draw` says; the logits stay unchanged."""
        spec = self.job.sparsifier
        (targets,) = SPARSIFIERS[spec.name].draw(logits_RV.clone(), labels_R, keys_R, spec)
        return targets

    def measured(self, dense: PullSum, *, targets: int, shards: int) -> MeasuredSparsifier:
        """Its measurements.

        Args:
            dense: The gradient of the dense distributions of the whole sample.
            targets: The targets of the store whose bytes are predicted.
            shards: The shards of that store.
        """
        costs = self.store.costs()
        comparison = compare(dense, self.whole)
        return MeasuredSparsifier(
            sparsify=self.name,
            options=self.options,
            bytes_per_target=costs.bytes(targets=targets, shards=shards) / targets,
            error=sum(self.errors) / len(self.errors),
            angle=comparison.angle,
            norm_ratio=comparison.norm_ratio,
            retained_mass=costs.retained_mass,
        )


class _Candidates:
    """All settings that fit the vocabulary, on one sample."""

    def __init__(self, job: Job, folder: str) -> None:
        self.documents = self.targets = 0
        slices = Slices.of(job, slice_tokens=max(1, job.options.batch_tokens // _SLICES_PER_BATCH))
        self._sample = Sample(job, slices, visit_tokens=_VISIT_TOKENS)
        self._job = job
        self._candidates: list[_Candidate] = []
        for number, (name, options) in enumerate(CANDIDATES):
            spec = sparsifier_spec(name, **options)
            if _fits(spec, vocab_size=job.vocab_size):
                own = job.with_sparsifier(spec)
                self._candidates.append(_Candidate(name, options, own, f"{folder}/{number}"))
        self._whole, self._batch = PullSum(job.vocab_size), PullSum(job.vocab_size)

    def run(self, seconds: float, on_progress: OnProgress | None) -> None:
        """Process portions of the sample by the teacher and every setting, then write them.

        Args:
            seconds: The time for all of it.
            on_progress: Is told of the targets that were compared, then of the shards written.
        """
        started = time.monotonic()
        settings = len(self._candidates)
        meter = Meter(on_progress, stage=f"comparing {settings} settings", unit="targets")
        tokens, teaching = _BATCH_TARGETS, seconds * (1 - _WRITING)
        while tokens > 0 and (taken := self._sample.take(tokens)):
            before = time.monotonic()
            documents = [one.document for one in taken]
            read = [document.as_read for document in documents]
            for batch in batches(read, batch_tokens=self._job.options.batch_tokens):
                self._dump([taken[place] for place in batch])
            now = time.monotonic()
            meter.tell(self.targets, fraction=min(1.0, (now - started) / seconds))
            per_token = (now - before) / sum(len(document) for document in documents)
            fitting = min(
                int((teaching - (now - started)) / per_token), _MOST_TARGETS - self.targets
            )
            tokens = 0 if fitting < _VISIT_TOKENS else min(fitting, _GROWTH * tokens)
        self._sample.refuse_empty()
        self._end_batch(last=True)
        meter = Meter(on_progress, stage="measuring the stored bytes", unit="settings")
        for number, one in enumerate(self._candidates):
            one.stored.sort(key=lambda pair: pair[0].place)
            like = self._sample.slices.kept[0].unit
            one.store.write([stored for _, stored in one.stored], like=like)
            one.stored.clear()
            meter.tell(number + 1, fraction=(number + 1) / settings)

    def measured(self) -> tuple[MeasuredSparsifier, ...]:
        """The measurements of all settings, in ascending order of bytes."""
        targets = round(self._sample.targets * self._sample.scale)
        shards = self._sample.slices.units
        measured = [
            one.measured(self._whole, targets=targets, shards=shards) for one in self._candidates
        ]
        return tuple(sorted(measured, key=lambda one: one.bytes_per_target))

    def _dump(self, batch: Sequence[Sampled]) -> None:
        """One batch of the teacher, without documents for which it gives no distributions.

        Raises NotFinite, which names the document, unless such are passed over.
        """
        if self._job.options.skip_bad:  # before: what is measured cannot be taken back
            batch = [one for one in batch if is_finite(self._job, one.document)]
        try:
            self._compare(batch)
        except NotFinite as error:
            for one in batch:
                if not is_finite(self._job, one.document):
                    source = self._job.corpus.name
                    raise at_document(error, one.document, source=source) from error
            raise

    def _compare(self, batch: Sequence[Sampled]) -> None:
        """Make, keep and measure the targets of every setting."""
        if not batch:
            return
        documents = [one.document for one in batch]
        keys_R = draw_keys(documents, self._job.sparsifier)
        parts: list[list[SparseTargets]] = [[] for _ in self._candidates]
        start = 0
        with neutral_torch_state():
            read = [document.as_read for document in documents]
            for logits_RV, labels_R in self._job.teacher.logits(read):
                chunk = slice(start, start + len(labels_R))
                for one, own in zip(self._candidates, parts, strict=True):
                    own.append(one.targets(logits_RV, labels_R, keys_R[chunk]))
                self._measure(logits_RV.softmax(-1), [own[-1] for own in parts])
                start = chunk.stop
        for one, own in zip(self._candidates, parts, strict=True):
            cut = by_document(documents, [SparseTargets.concatenate(own)])
            for sampled, (targets,) in zip(batch, cut, strict=True):
                stored = StoredDocument(document=sampled.document, targets=targets)
                one.stored.append((sampled, stored))
        self.documents += len(documents)
        self.targets += start

    def _measure(self, probs_RV: torch.Tensor, targets: Sequence[SparseTargets]) -> None:
        """Add rows to the gradients, and compare the gradients whenever a batch is full."""
        start = 0
        while start < len(probs_RV):
            rows = slice(start, min(len(probs_RV), start + _BATCH_TARGETS - len(self._batch)))
            self._batch.add_dense(probs_RV[rows])
            for one, own in zip(self._candidates, targets, strict=True):
                one.batch.add(own.rows(rows))
            if len(self._batch) == _BATCH_TARGETS:
                self._end_batch(last=False)
            start = rows.stop

    def _end_batch(self, *, last: bool) -> None:
        """Compare the gradients of the batch, unless it is the last of several and not full."""
        for one in self._candidates:
            if not last or not one.errors:
                one.errors.append(relative_error(compare(self._batch, one.batch)))
            one.whole.include(one.batch)
            one.batch = PullSum(self._job.vocab_size)
        self._whole.include(self._batch)
        self._batch = PullSum(self._job.vocab_size)
