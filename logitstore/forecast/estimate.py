"""Estimate: what a dump would store and how long it would take, from a dump of a sample.

The sample is processed as in a dump, from the corpus to sealed shards in a temporary folder. The
number of targets is extrapolated by bytes of the corpus, stored bytes by targets, shards and store,
and time by targets. Teacher and encoding have a thread each, so the slower of the two counts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from logitstore.corpus.temporary import temporary_folder
from logitstore.dumping.job import Job
from logitstore.dumping.options import check_targets
from logitstore.dumping.work import stored_documents
from logitstore.errors import CorpusError
from logitstore.forecast.options import ESTIMATE_OPTIONS
from logitstore.forecast.plan import CorpusPlan
from logitstore.forecast.plan import plan_only as plan_of
from logitstore.forecast.samples import Sample, Sampled, Slices
from logitstore.forecast.trials import TrialStore
from logitstore.options import takes
from logitstore.progress import Meter, OnProgress, tell_stage
from logitstore.targets.documents import StoredDocument

__all__ = ["Estimate", "estimate"]

# How many slices and visits are as large as a batch. Each visit reads a part of one slice.
_SLICES_PER_BATCH = 4
_VISITS_PER_BATCH = 16
# Each portion is at most this many times the last; the first, small one is slow, because the
# teacher allocates memory and selects kernels in it.
_GROWTH = 4
# Time of encoding as a share of the teacher's, until a shard was written: encoding takes 5-60 us
# per target, the teacher 130 and more.
_ENCODING_GUESS = 0.3
# Targets that are kept until their neighbours in the corpus are there, before they are written.
_MOST_WAITING = 65_536
# Share of the time for counting tokens of the corpus without the teacher: 1 us per token.
_COUNTING = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A dump of the whole corpus, as the sample predicts it."""

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
    *, seconds: float, plan_only: bool, on_progress: OnProgress | None, **options: Any
) -> Estimate | CorpusPlan:
    """What `logitstore.dump` with the same options would store, and how long it would take.

    A sample is dumped for about `seconds`, in addition to loading the teacher and reading the
    corpus once. A corpus that can be dumped in that time is dumped completely. Every option is
    explained below. With `plan_only` the weights of the teacher are not read. Raises CorpusError,
    ModelError or SettingError as a dump does.
    """
    if plan_only:
        return plan_of(options, on_progress=on_progress)
    started = time.monotonic()
    job = Job.load(options, on_progress=on_progress)
    loaded = time.monotonic()
    slice_tokens = max(1, job.options.batch_tokens // _SLICES_PER_BATCH)
    tell_stage(on_progress, f"reading {job.corpus.name}")
    slices = Slices.of(job, slice_tokens=slice_tokens)
    sliced = time.monotonic()
    with temporary_folder() as folder:
        trial = _Trial(job, slices, folder)
        trial.run(seconds, on_progress)
        tell_stage(on_progress, "measuring the stored bytes")
        # A dump reads the corpus twice: to plan it, and unit by unit.
        return trial.estimate(fixed=loaded - started + 2 * (sliced - loaded))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Portion:
    """Documents that the teacher has processed together, and the time that it took."""

    tokens: int
    targets: int
    seconds: float


class _Trial:
    """A dump of as much of a corpus as a given time allows."""

    def __init__(self, job: Job, slices: Slices, folder: str) -> None:
        self._job = job
        self._visit_tokens = max(1, job.options.batch_tokens // _VISITS_PER_BATCH)
        self._sample = Sample(job, slices, visit_tokens=self._visit_tokens)
        self._store = TrialStore(folder, job)
        self._portions: list[_Portion] = []
        self._pending: list[tuple[Sampled, StoredDocument]] = []
        self._documents = 0
        self._counted = self._kept_documents = 0  # targets that count, documents that have any left

    def run(self, seconds: float, on_progress: OnProgress | None) -> None:
        """Dump portions, each spread evenly over the corpus, until the time is used up.

        Args:
            seconds: The time for all portions.
            on_progress: Is told of the share of the time that has passed.
        """
        started = time.monotonic()
        meter = Meter(on_progress, stage="sampling", unit="targets")
        tokens = self._visit_tokens
        while tokens > 0 and (documents := self._sample.take(tokens)):
            self._dump(documents)
            self._write(whole_units=True)
            elapsed = time.monotonic() - started
            meter.tell(
                sum(one.targets for one in self._portions), fraction=min(1.0, elapsed / seconds)
            )
            tokens = self._next(seconds * (1 - _COUNTING) - elapsed)
        self._write(whole_units=False)
        tell_stage(on_progress, "counting the documents")
        self._sample.count(seconds=max(0.0, seconds - (time.monotonic() - started)))
        self._sample.refuse_empty()
        if not self._store.targets:
            raise CorpusError(
                "no target of the sample is kept",
                place=self._job.corpus.name,
                found=f"{self._counted:,} targets that count"
                + ("" if self._job.positions is None else f", --positions {self._job.positions}"),
            )

    def estimate(self, *, fixed: float) -> Estimate:
        """The estimate for the whole corpus.

        Args:
            fixed: The seconds of a dump that do not depend on the targets: loading and planning.
        """
        sample, costs = self._sample, self._store.costs()
        counted = sample.targets * sample.scale
        targets = round(counted * self._store.targets / self._counted)
        units = sample.slices.units
        size = round(costs.bytes(targets=targets, shards=units))
        return Estimate(
            documents=round(
                sample.documents * sample.scale * self._kept_documents / self._documents
            ),
            targets=targets,
            bytes=size,
            bytes_per_target=size / targets,
            seconds=fixed + self._work_seconds(round(counted), targets, units),
            retained_mass=costs.retained_mass,
            units=units,
            sample_documents=self._documents,
            sample_targets=self._store.targets,
        )

    def _work_seconds(self, counted: int, targets: int, units: int) -> float:
        """Seconds for all units: teacher of the first, the slower thread, encoding of the last.

        counted: targets that the teacher gives, of which `targets` are kept.
        """
        per_target, tokenising = self._pace(), self._sample.seconds * self._sample.scale
        forward = (per_target * counted + tokenising) / units
        encoding = self._store.seconds / self._store.targets * targets / units
        # On a CPU both threads compete for the cores.
        shared = encoding / torch.get_num_threads() if self._job.teacher.spec.device == "cpu" else 0
        return forward + (units - 1) * max(forward + shared, encoding) + encoding

    def _pace(self) -> float:
        """Seconds of teacher and sparsifier per target, from portions that fill a batch.

        Those after the first full one count too; where none is full, the last portion counts.
        """
        full = [one.tokens >= self._job.options.batch_tokens for one in self._portions]
        counted = self._portions[full.index(True) :] if any(full) else self._portions[-1:]
        return sum(one.seconds for one in counted) / max(1, sum(one.targets for one in counted))

    def _next(self, seconds: float) -> int:
        """Tokens of the next portion, 0 where no time is left after writing what is pending."""
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
        stored = stored_documents(self._job, documents, source=self._job.corpus.name)
        finite = [
            (one, found) for one, found in zip(taken, stored, strict=True) if found is not None
        ]
        kept = [pair for pair in finite if len(pair[1].targets)]
        self._pending += kept
        self._documents += len(documents)
        self._kept_documents += len(documents) - len(finite) + len(kept)
        self._counted += sum(one.document.targets for one, _ in finite)
        self._portions.append(
            _Portion(
                tokens=sum(len(document) for document in documents),
                targets=sum(document.targets for document in documents),
                seconds=time.monotonic() - started,
            )
        )

    def _write(self, *, whole_units: bool) -> None:
        """Write the pending documents in the order of the corpus, a shard for each full unit."""
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
