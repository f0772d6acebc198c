"""A new store of units that are copied or made of blocks: by any number of processes, resumed.

As a dump: a unit is written into a fresh attempt, durable, read back, and committed; what is
committed is not done again; sealing reads every object once more and compares its hash.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from logitstore.dumping.ending import telling_what_is_kept
from logitstore.editing.blocks import (
    EncodedBlock,
    decoded,
    joined_shard,
    packed,
    some_documents,
)
from logitstore.editing.copying import copy_unit
from logitstore.editing.planning import Planned, plan_of
from logitstore.editing.sources import is_made, refuse_other_edit
from logitstore.errors import CorruptionError, StoreError
from logitstore.format.edits import EDITS, IMPORT, ROUNDED, earlier_codecs
from logitstore.format.generation import GENERATION
from logitstore.format.plan import Plan, WorkUnit
from logitstore.format.spec import StoreSpec
from logitstore.progress import Meter, tell_stage
from logitstore.store.begin import lease_of
from logitstore.store.commit import StoreWriter
from logitstore.store.commits import refuse_lost_files
from logitstore.store.head import read_head
from logitstore.store.lease import Lease
from logitstore.store.way_out import telling_the_way_out
from logitstore.store.writer import UnitWriter, sums_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from logitstore.codec import Codec
    from logitstore.format.columns import Columns
    from logitstore.format.edits import Edit
    from logitstore.format.manifest import Manifest
    from logitstore.progress import OnProgress
    from logitstore.store.layout import StoreLayout
    from logitstore.store.lease import StoreLease
    from logitstore.store.reader import Store

__all__ = ["Edited", "NewStore", "Recode", "as_they_are", "read_parts"]

_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Edited:
    """What an edit left behind."""

    uri: str  # where the new store lies
    fingerprint: str
    documents: int
    targets: int
    bytes: int
    units: int
    copied_units: int  # byte by byte, by this run
    copied_bytes: int
    recoded_units: int  # by this run
    new_targets: int  # that a teacher gave in this run
    seconds: float

    @property
    def found_finished(self) -> bool:
        """Whether this run had nothing to do."""
        return not (self.copied_units or self.recoded_units or self.new_targets)


class Recode(Protocol):
    """Makes the blocks of a unit, all of one shard, from those of its parts."""

    def __call__(self, blocks: Sequence[EncodedBlock], spec: StoreSpec) -> list[EncodedBlock]:
        """The blocks as the codec of `spec` has them."""
        ...


def as_they_are(codec: Codec) -> Recode:
    """Takes integers over as they are; blocks of several shards get one ranking.

    codec: of the sources and of the new store.
    """

    def recode(blocks: Sequence[EncodedBlock], spec: StoreSpec) -> list[EncodedBlock]:
        shard = joined_shard(blocks, codec)
        columns = packed(shard, block_targets=spec.block_targets)
        return [EncodedBlock(one, shard[0].tables) for one in columns]

    return recode


def read_parts(planned: Planned, sources: Sequence[Store]) -> list[EncodedBlock]:
    """The blocks that a unit is made of, with the documents that were chosen alone.

    planned: a unit that is not copied.
    sources: the stores, by number.
    """
    found = []
    for part in planned.parts:
        store = sources[part.source]
        try:
            columns, tables = store.read_columns(part.block)
            block = EncodedBlock(_in_order(columns, store), tables)
            found.append(some_documents(block, part.chosen_D))
        except CorruptionError as error:
            error.place = f"{store.uri}, block {part.block}: {error.place}"
            raise
    return found


def _in_order(columns: Columns, store: Store) -> Columns:
    """The columns in the codec's order, whatever that of the container: bytes depend on it."""
    sampled = store.spec.text.sampler_logprobs
    scalars, entries = columns.scalars, columns.entries
    layers = () if store.spec.states is None else store.spec.states.names
    return replace(
        columns,
        states={name: columns.states[name] for name in layers},
        entries={name: entries[name] for name in store.shards.codec.entries},
        scalars={
            name: scalars[name]
            for name in store.shards.codec.scalar_names(sampler_logprobs=sampled)
        },
    )


@dataclass(frozen=True, slots=True)
class Begun:
    """A new store that has its spec and its plan."""

    store: StoreWriter
    writer: UnitWriter
    spec: StoreSpec
    plan: Plan
    lease: StoreLease


@dataclass(frozen=True, slots=True)
class Dumping:
    """Units that no source has: they follow those that are made of sources."""

    units: tuple[WorkUnit, ...] = ()
    run: Callable[[Begun], int] = lambda _: 0  # writes them; how many targets it gave


@dataclass(frozen=True, kw_only=True, slots=True)
class NewStore:
    """A store that is to be made of others."""

    layout: StoreLayout
    spec: StoreSpec
    planned: Sequence[Planned]
    sources: Sequence[Store]
    edits: Sequence[Edit]
    recode: Recode
    dumping: Dumping = Dumping()

    def write(self, *, on_progress: OnProgress | None) -> Edited:
        """Write what is missing of it, and seal it.

        on_progress: told how far it is.

        Raises SpecError where another store lies there, CorruptionError where a source is damaged,
        StorageError; what is committed stays, and the same call goes on with it.
        """
        started, layout = time.monotonic(), self.layout
        plan = Plan(units=(*plan_of(self.planned).units, *self.dumping.units))
        spec = replace(self.spec, provenance=self._provenance())
        counts: Counter[str] = Counter()
        with telling_the_way_out(layout):
            if is_made(layout, spec, self.edits):
                refuse_lost_files(layout, layout.read_plan())
            lease = lease_of(layout, spec)
            try:
                lease.take()
                store = StoreWriter(layout)
                files = self.sources[0].tokenizer_files()
                store.begin(spec, plan, files, lease=lease, head=self._head)
                refuse_other_edit(layout, spec, self.edits)
                with telling_what_is_kept(layout, plan):
                    begun = Begun(store, UnitWriter.of(store, spec), spec, plan, lease)
                    _Work(self, begun, counts).run(on_progress)
                    new_targets = self.dumping.run(begun)
                    manifest = _sealed(store, plan, on_progress)
            finally:
                lease.release()
        return Edited(
            uri=layout.uri,
            fingerprint=manifest.fingerprint,
            documents=manifest.documents,
            targets=manifest.targets,
            bytes=manifest.bytes,
            units=len(plan.units),
            copied_units=counts["copied"],
            copied_bytes=counts["bytes"],
            recoded_units=counts["recoded"],
            new_targets=new_targets,
            seconds=time.monotonic() - started,
        )

    def _head(self) -> bytes:
        """The output layer of the teacher, which is that of every source."""
        source = self.sources[0]
        return read_head(source.layout, source.head.head)

    def _provenance(self) -> dict[str, Any]:
        """What the new store says of its making, and of what its sources were made of."""
        sources = [one.spec for one in self.sources]
        rounded = earlier_codecs(*sources, place=self.sources[0].uri)
        now = [one.codec for one in sources if one.codec != self.spec.codec]
        rounded += [one for one in now if one not in rounded]
        imports = [one.provenance[IMPORT] for one in sources if IMPORT in one.provenance]
        one_kind = all(one == imports[0] for one in imports)
        generation = [one.provenance.get(GENERATION) for one in sources]
        one_teacher = all(one == generation[0] for one in generation)
        return {
            **_machine(),
            EDITS: [one.to_json() for one in self.edits],
            **({ROUNDED: [asdict(one) for one in rounded]} if rounded else {}),
            **({GENERATION: generation[0]} if generation[0] and one_teacher else {}),
            **({IMPORT: imports[0] if one_kind else {"several": imports}} if imports else {}),
        }


@dataclass(frozen=True, slots=True)
class _Work:
    """One process's share."""

    new: NewStore
    begun: Begun
    counts: Counter[str]

    def run(self, on_progress: OnProgress | None) -> None:
        """Write every unit that nobody else writes, until all are committed."""
        whole = max(1, sum(one.targets for one in self.new.planned))
        done = self._committed()
        meter = Meter(on_progress, stage="writing", unit="targets", fraction=done / whole)
        written = 0
        while missing := self._missing():
            ours = 0
            for planned in missing:
                if self._write_leased(planned):
                    ours += 1
                    written += planned.targets
                    place = f"unit {int(planned.unit.name) + 1} of {len(self.new.planned)}"
                    share = min(1.0, (done + written) / whole)
                    meter.tell(written, fraction=share, detail=place)
            if not ours:
                self.begun.lease.renew()
                time.sleep(_POLL_SECONDS)  # all that is missing is in other hands

    def _committed(self) -> int:
        missing = {id(one) for one in self._missing()}
        return sum(one.targets for one in self.new.planned if id(one) not in missing)

    def _missing(self) -> list[Planned]:
        layout = self.begun.store.layout
        if layout.sealed():
            return []
        return [one for one in self.new.planned if layout.read_commit(one.unit) is None]

    def _write_leased(self, planned: Planned) -> bool:
        """Whether the unit was ours to write; it is committed then."""
        lease = Lease(self.begun.store.layout.storage, planned.unit)
        if self.begun.store.layout.read_commit(planned.unit) is not None or not lease.take():
            return False
        try:
            self.begun.store.write_by(
                self.begun.spec, planned.unit, lambda: self._write(planned, lease)
            )
        finally:
            lease.release()
        return True

    def _write(self, planned: Planned, lease: Lease) -> bool:
        def renew() -> None:
            lease.renew()
            self.begun.lease.renew()

        renew()
        if planned.copied is not None:
            number, unit = planned.copied
            source = self.new.sources[number]
            won = copy_unit(source, unit, self.begun.writer, planned.unit, on_object=renew)
            self.counts["copied"] += 1
            self.counts["bytes"] += sum(one.size for one in source.commits[unit].objects)
            return won
        self.counts["recoded"] += 1
        read = read_parts(planned, self.new.sources)
        if not sum(one.targets for one in read):
            return self.begun.writer.write_nothing(planned.unit, skipped=planned.skipped)
        blocks = self.new.recode(read, self.begun.spec)
        del read
        return self.begun.writer.write_columns(
            planned.unit,
            [one.columns for one in blocks],
            blocks[0].tables,
            sums=_checked_sums(blocks, self.begun.writer.codec, renew),
            skipped=planned.skipped,
        )


def _checked_sums(
    blocks: Sequence[EncodedBlock], codec: Codec, renew: Callable[[], None]
) -> dict[str, float]:
    """The sums of what is written, each block and document of which is read as readers will."""
    sums: Counter[str] = Counter()
    for block in blocks:
        renew()
        read = decoded(block, codec)
        for stored in read.split():
            del stored  # building it checks that tokens, mask and targets belong together
        sums.update(sums_of([read]))
    return dict(sums)


def _sealed(store: StoreWriter, plan: Plan, on_progress: OnProgress | None) -> Manifest:
    tell_stage(on_progress, "sealing the store")
    if not any(commit.blocks for commit in store.committed(plan)):
        raise StoreError("none of the documents has a target", place=store.layout.uri)
    return store.seal(plan)


def _machine() -> dict[str, Any]:
    """When and by which versions a store was made."""
    packages = {}
    for package in ("logitstore", "zarr", "pyarrow", "numcodecs"):
        with suppress(ImportError):
            packages[package] = version(package)
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **packages,
    }
