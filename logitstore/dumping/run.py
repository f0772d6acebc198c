"""Dump: the units of a job, from the corpus to committed shards, by any number of processes.

The forward pass has the main thread. Encoding, compressing and syncing a finished unit runs beside
it in one other thread, which costs 5-10 us a target against 130 us of a five-million-parameter
teacher on two cores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from logitstore.corpus.tokenizer import tokenizer_files
from logitstore.dumping.description import store_spec
from logitstore.dumping.ending import telling_what_is_kept
from logitstore.dumping.job import Job
from logitstore.dumping.options import DUMP_OPTIONS, check_targets
from logitstore.dumping.progress import Tally
from logitstore.dumping.states import head_of
from logitstore.dumping.work import read_documents, stored_documents
from logitstore.dumping.writing import WritingThread
from logitstore.errors import CorpusError, CorruptionError
from logitstore.format.manifest import Commit
from logitstore.format.plan import Plan, WorkUnit
from logitstore.format.rules import TargetRule
from logitstore.format.spec import StoreSpec
from logitstore.options import takes
from logitstore.progress import OnProgress, tell_stage
from logitstore.store.begin import holds_head, holds_rows, is_abandoned, lease_of, settle
from logitstore.store.commit import StoreWriter, refuse_foreign_storage
from logitstore.store.commits import refuse_lost_files
from logitstore.store.layout import SPEC, StoreLayout
from logitstore.store.lease import Lease, StoreLease
from logitstore.store.settings import refuse_other_spec
from logitstore.store.storage import StorageLike
from logitstore.store.way_out import telling_the_way_out
from logitstore.store.writer import UnitWriter
from logitstore.targets.documents import Document, StoredDocument
from logitstore.teacher.opening import is_teacher

__all__ = ["DumpSummary", "Work", "dump"]

_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpSummary:
    """What a dump left behind."""

    uri: str  # where the store lies
    fingerprint: str
    documents: int
    targets: int
    bytes: int
    skipped: int  # records left out
    seconds: float
    new_targets: int  # dumped by this run; 0 where the store was finished already
    layer_bytes: int = 0  # of `bytes`: the teacher's output layer, which a store has once


@takes(DUMP_OPTIONS, check=check_targets)
def dump(
    *, out: StorageLike, no_check: bool, on_progress: OnProgress | None, **options: Any
) -> DumpSummary:
    """Run a teacher over a corpus once and leave a sealed store in `out`.

    The same call again takes up an unfinished store where it stopped and leaves a finished one as
    it is; several processes may make it at the same time. Raises CorpusError, ModelError,
    SettingError, SpecError, StoreError or StorageError, and loses nothing committed before.
    """
    layout = StoreLayout.at(out)
    with telling_the_way_out(layout):
        return _dump(layout, no_check=no_check, on_progress=on_progress, **options)


def _dump(
    layout: StoreLayout, *, no_check: bool, on_progress: OnProgress | None, **options: Any
) -> DumpSummary:
    started = time.monotonic()
    refuse_foreign_storage(layout.storage)
    stored = _stored_plan(layout)
    begun = layout.read_spec() if stored is not None else None
    if stored is not None and layout.sealed():
        refuse_lost_files(layout, stored)
    job = Job.load(options, begun=begun, on_progress=on_progress, with_weights=begun is None)
    # Records in memory are cut anew, which costs nothing beside a teacher: others are noticed then.
    if stored is None or job.corpus.in_memory:
        tell_stage(on_progress, f"reading {job.corpus.name}")
        plan = job.plan()
    else:
        plan = stored
    if begun is not None:
        job = _go_on(job, layout, begun, plan, on_progress)
    spec = store_spec(job, plan)
    lease = lease_of(layout, spec)
    try:
        lease.take()
        work = Work.begin(layout, job, plan, spec, lease)
        tally = Tally(layout=layout, plan=plan, on_progress=on_progress)
        with telling_what_is_kept(layout, plan):
            work.run(tally)
            # All of it may have been done by others, after they have begun the store anew.
            settle(layout, spec, plan)
            tell_stage(on_progress, "sealing the store")
            _refuse_nothing(work.store.committed(plan), place=layout.uri, positions=job.positions)
            manifest = work.store.seal(plan, check=not no_check)
        return DumpSummary(
            uri=layout.uri,
            fingerprint=manifest.fingerprint,
            documents=manifest.documents,
            targets=manifest.targets,
            bytes=manifest.bytes,
            skipped=sum(commit.skipped for commit in work.store.committed(plan)),
            seconds=time.monotonic() - started,
            new_targets=tally.targets,
            layer_bytes=0
            if job.states is None or job.states.head is None
            else job.states.head.size,
        )
    finally:
        lease.release()


def _go_on(
    job: Job,
    layout: StoreLayout,
    begun: StoreSpec,
    plan: Plan,
    on_progress: OnProgress | None,
) -> Job:
    """The job of a store that is gone on with, checked before its teacher is loaded, if it must be.

    Raises SpecError where other settings were given than those of `begun`, and CorpusError where
    the corpus is seen to be another than that of the plan.
    """
    if not job.corpus.in_memory:
        job.corpus.compare(plan, limit=begun.corpus.limit)
    # Without a context the most tokens of a document are not known yet, and layers without a depth.
    has_layers = job.states is not None and bool(job.states.layers)
    known = job.teacher.context is not None and has_layers == (job.layers is not None)
    if known and holds_rows(layout):
        settings = store_spec(job, plan, teacher=begun.teacher)
        refuse_other_spec(begun, settings, place=layout.place(SPEC))
        whole = layout.sealed() or all(layout.read_commit(unit) is not None for unit in plan.units)
        whole = whole and holds_head(layout, begun)
        given = job.options
        if whole and is_teacher(
            given.teacher, begun.teacher, device=given.device, dtype=given.dtype
        ):
            return job.not_loaded(begun.teacher)
    return job.loaded(on_progress)


def _stored_plan(layout: StoreLayout) -> Plan | None:
    """The plan of a store that is to be gone on with; None where there is none yet."""
    if not layout.planned() or is_abandoned(layout):
        return None
    try:
        return layout.read_plan()
    except CorruptionError:
        if layout.planned():
            raise
        return None  # another process has just begun the store anew


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One process's share of a dump."""

    store: StoreWriter
    writer: UnitWriter
    job: Job
    plan: Plan
    spec: StoreSpec
    lease: StoreLease

    @staticmethod
    def begin(
        layout: StoreLayout, job: Job, plan: Plan, spec: StoreSpec, lease: StoreLease
    ) -> Work:
        """The work on a store that now has its spec, its tokenizer and its plan."""
        store = StoreWriter(layout)
        files = tokenizer_files(job.tokenizer)
        store.begin(spec, plan, files, lease=lease, head=head_of(job.teacher))
        writer = UnitWriter.of(store, spec)
        return Work(store=store, writer=writer, job=job, plan=plan, spec=spec, lease=lease)

    def run(self, tally: Tally) -> None:
        """Dump every unit that nobody else dumps, until all are committed."""
        others: dict[str, str] = {}  # who works on units that are not ours, as last seen
        with WritingThread() as thread:
            while missing := self._missing():
                dumped = self._pass(missing, thread, tally, others)
                if not dumped and (rest := self._missing()):
                    self._wait(rest, tally, others)

    def _missing(self) -> list[WorkUnit]:
        layout = self.store.layout
        return [unit for unit in self.plan.units if layout.read_commit(unit) is None]

    def _wait(self, rest: list[WorkUnit], tally: Tally, others: dict[str, str]) -> None:
        """All that is missing is in other hands: look again a little later."""
        storage = self.store.layout.storage
        holders = {unit.name: Lease(storage, unit).holder() for unit in rest}
        others.update({name: one for name, one in holders.items() if one is not None})
        tally.waiting(rest[0], others.get(rest[0].name, "another process"))
        self.lease.renew()
        time.sleep(_POLL_SECONDS)

    def _pass(
        self,
        units: list[WorkUnit],
        thread: WritingThread,
        tally: Tally,
        others: Mapping[str, str],
    ) -> int:
        """Go once through `units`; how many of them were ours."""
        dumped = 0
        for unit in units:
            lease = Lease(self.store.layout.storage, unit)
            if self.store.layout.read_commit(unit) is not None or not lease.take():
                continue
            if unit.name in others and callable(self.job.options.on_note):
                self.job.options.on_note(
                    f"unit {unit.name}: {others[unit.name]} has given it up or died; taken over"
                )
            with _released_on_error(lease):
                stored, skipped = self._documents(unit, lease, tally, thread)
                write = partial(self._write, unit, stored, skipped, lease, tally)
                thread.begin(unit, write)
            dumped += 1
        thread.wait()
        return dumped

    def _documents(
        self, unit: WorkUnit, lease: Lease, tally: Tally, thread: WritingThread
    ) -> tuple[list[StoredDocument], int]:
        """The unit's documents with their targets, and how many records were skipped."""
        tally.reading(unit)
        documents, skipped = read_documents(self.job, self.job.read(unit))
        tally.read(unit)

        def on_batch(batch: Sequence[Document]) -> None:
            thread.check()
            lease.renew()
            self.lease.renew()
            tally.batch(unit, batch, documents)

        found = stored_documents(self.job, documents, source=unit.source, on_batch=on_batch)
        # A document may have no target left where some positions alone are kept.
        stored = [one for one in found if one is not None and one.document.targets]
        bad = {
            document.record for document, one in zip(documents, found, strict=True) if one is None
        }
        return stored, skipped + len(bad)

    def _write(
        self,
        unit: WorkUnit,
        stored: list[StoredDocument],
        skipped: int,
        lease: Lease,
        tally: Tally,
    ) -> None:
        with _released_on_error(lease):
            self.store.write_by(
                self.spec, unit, lambda: self.writer.write(unit, stored, skipped=skipped)
            )
        lease.release()
        tally.unit_done()


@contextmanager
def _released_on_error(lease: Lease) -> Iterator[None]:
    try:
        yield
    except BaseException:
        lease.release()
        raise


def _refuse_nothing(commits: Sequence[Commit], *, place: str, positions: TargetRule | None) -> None:
    """Raise CorpusError where no unit has a row: there is nothing to seal."""
    if any(commit.blocks for commit in commits):
        return
    if positions is not None:
        raise CorpusError(
            "no target of the corpus is kept",
            place=place,
            found=f"--positions {positions}",
            remedy="Take other positions and another --out: a share such as entropy:0.2 keeps some "
            "of each document",
        )
    raise CorpusError(
        "no record of the corpus gave a target",
        place=place,
        found=f"{sum(commit.skipped for commit in commits)} records skipped",
    )
