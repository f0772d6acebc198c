"""Estimate: what a dump would store and how long it would take, by dumping a sample of the corpus.

The sample goes the real way, from the corpus to sealed shards in a temporary folder. Targets are
extrapolated by bytes of the corpus, stored bytes by targets, shards and store, and time by targets:
the teacher has one thread and the encoding another, so of the two the slower sets the pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from logitstore.corpus.temporary import temporary_folder
from logitstore.dumping.job import Job
from logitstore.dumping.options import check_targets
from logitstore.dumping.work import stored_documents
from logitstore.forecast.options import ESTIMATE_OPTIONS
from logitstore.forecast.samples import Sample, Sampled, Slices
from logitstore.forecast.trials import TrialStore
from logitstore.options import takes
from logitstore.targets.documents import StoredDocument

__all__ = ["Estimate", "estimate"]

# Of a batch: a slice, which costs a look into the corpus, and a visit, which takes a part of it.
_SLICES_PER_BATCH = 4
_VISITS_PER_BATCH = 16
_GROWTH = 4  # of portions, while time allows; the first one only warms the teacher up
# Until a shard was written: encoding takes 5-60 us a target beside a teacher's 130 and more.
_ENCODING_GUESS = 0.3
# Targets that wait for their neighbours in the corpus before they are written.
_MOST_WAITING = 65_536
# Of the time, for counting more of the corpus than the teacher sees: 1 us a token.
_COUNTING = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A dump of the whole corpus, as its sample predicts it."""

    documents: int
    targets: int
    bytes: int
    bytes_per_target: float
    seconds: float  # on this machine, loading included
    retained_mass: float  # of a target, in exact entries
    units: int
    sample_documents: int
    sample_targets: int


@takes(ESTIMATE_OPTIONS, check=check_targets)
def estimate(
    *, seconds: float, on_fraction: Callable[[float], None] | None, **options: Any
) -> Estimate:
    """What `logitstore.dump` with the same options would make of the corpus, and in what time.

    Dumps a sample for about `seconds`, beside loading the teacher and one pass over the corpus; all
    of a corpus that can be dumped in that time. Raises CorpusError, ModelError or SettingError as a
    dump does.
    """
    started = time.monotonic()
    job = Job.load(options)
    loaded = time.monotonic()
    slice_tokens = max(1, job.options.batch_tokens // _SLICES_PER_BATCH)
    slices = Slices.of(job, slice_tokens=slice_tokens)
    sliced = time.monotonic()
    with temporary_folder() as folder:
        trial = _Trial(job, slices, folder)
        trial.run(seconds, on_fraction or (lambda _: None))
        # A dump reads the corpus twice: to plan it, and unit by unit.
        return trial.estimate(fixed=loaded - started + 2 * (sliced - loaded))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Portion:
    """Documents that went through the teacher one after another, and the time that took."""

    tokens: int
    targets: int
    seconds: float


class _Trial:
    """A dump of as much of a corpus as fits a given time."""

    def __init__(self, job: Job, slices: Slices, folder: str) -> None:
        self._job = job
        self._visit_tokens = max(1, job.options.batch_tokens // _VISITS_PER_BATCH)
        self._sample = Sample(job, slices, visit_tokens=self._visit_tokens)
        self._store = TrialStore(folder, job)
        self._portions: list[_Portion] = []
        self._pending: list[tuple[Sampled, StoredDocument]] = []
        self._documents = 0

    def run(self, seconds: float, on_fraction: Callable[[float], None]) -> None:
        """Dump portions, each evenly spread over the corpus, until the time is used up."""
        started = time.monotonic()
        tokens = self._visit_tokens
        while tokens > 0 and (documents := self._sample.take(tokens)):
            self._dump(documents)
            self._write(whole_units=True)
            elapsed = time.monotonic() - started
            on_fraction(min(1.0, elapsed / seconds))
            tokens = self._next(seconds * (1 - _COUNTING) - elapsed)
        self._write(whole_units=False)
        self._sample.count(seconds=max(0.0, seconds - (time.monotonic() - started)))
        self._sample.refuse_empty()

    def estimate(self, *, fixed: float) -> Estimate:
        """The whole, by the sample. `fixed`: the seconds that any dump of the corpus takes."""
        sample, costs = self._sample, self._store.costs()
        targets = round(sample.targets * sample.scale)
        units = sample.slices.units
        size = round(costs.bytes(targets=targets, shards=units))
        return Estimate(
            documents=round(sample.documents * sample.scale),
            targets=targets,
            bytes=size,
            bytes_per_target=size / targets,
            seconds=fixed + self._work_seconds(targets, units),
            retained_mass=costs.retained_mass,
            units=units,
            sample_documents=self._documents,
            sample_targets=self._store.targets,
        )

    def _work_seconds(self, targets: int, units: int) -> float:
        """The first unit's forward pass, then the slower of the two threads, the last encoding."""
        per_target, tokenising = self._pace(), self._sample.seconds * self._sample.scale
        forward = (per_target * targets + tokenising) / units
        encoding = self._store.seconds / self._store.targets * targets / units
        # On a CPU the second thread takes its cores from the first.
        shared = encoding / torch.get_num_threads() if self._job.teacher.spec.device == "cpu" else 0
        return forward + (units - 1) * max(forward + shared, encoding) + encoding

    def _pace(self) -> float:
        """Seconds of teacher and sparsifier a target, from the first portion on that fills a batch.

        Where none does, by the last one.
        """
        full = [one.tokens >= self._job.options.batch_tokens for one in self._portions]
        counted = self._portions[full.index(True) :] if any(full) else self._portions[-1:]
        return sum(one.seconds for one in counted) / max(1, sum(one.targets for one in counted))

    def _next(self, seconds: float) -> int:
        """Tokens of the portion that fits the time left, once what is pending is written; or 0."""
        last = self._portions[-1]
        per_token = last.seconds / last.tokens
        encoding = _ENCODING_GUESS * self._pace()
        if self._store.targets:
            encoding = self._store.seconds / self._store.targets
        fitting = int((seconds - self._waiting * encoding) / (per_token + encoding))
        return 0 if fitting < self._visit_tokens else min(fitting, _GROWTH * last.tokens)

    @property
    def _waiting(self) -> int:
        return sum(stored.document.targets for _, stored in self._pending)

    def _dump(self, taken: Sequence[Sampled]) -> None:
        started = time.monotonic()
        documents = [one.document for one in taken]
        stored = stored_documents(self._job, documents)
        self._pending += zip(taken, stored, strict=True)
        self._documents += len(documents)
        self._portions.append(
            _Portion(
                tokens=sum(len(document) for document in documents),
                targets=sum(document.targets for document in documents),
                seconds=time.monotonic() - started,
            )
        )

    def _write(self, *, whole_units: bool) -> None:
        """Write what is pending, in the order of the corpus, a shard for each unit's worth."""
        if whole_units and self._waiting < _MOST_WAITING:
            return
        self._pending.sort(key=lambda one: one[0].place)
        part: list[tuple[Sampled, StoredDocument]] = []
        filled = 0.0
        for one in self._pending:
            part.append(one)
            filled += one[0].bytes
            if filled >= self._job.unit_bytes * (1 - 1e-6):  # bytes are shares, which round
                self._write_shard(part)
                part, filled = [], 0.0
        if part and not whole_units:
            self._write_shard(part)
            part = []
        self._pending = part

    def _write_shard(self, part: list[tuple[Sampled, StoredDocument]]) -> None:
        like = self._sample.slices.kept[part[0][0].place[0]].unit
        self._store.write([stored for _, stored in part], like=like)
