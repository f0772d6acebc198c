"""The corpus: which text goes in, cut into work units without tokenising it, and read unit by unit.

A corpus is a list of sources: one file, the usable files of a folder, a Hub data set, or records in
memory. Planning streams through them once and notes where units begin and end, always between two
records, with the hash of each slice. Reading fetches a unit's slice, checks its hash, and only then
gives records.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.corpus.compressed import StreamCursor, compression_of
from logitstore.corpus.content import Record
from logitstore.corpus.fields import Fields
from logitstore.corpus.files import SUFFIXES, find_files, open_source
from logitstore.corpus.memory import MemorySource
from logitstore.corpus.records import BadRecord, bad_record
from logitstore.corpus.shapes import shape_of, teacher_chat
from logitstore.corpus.sources import reading
from logitstore.corpus.tables import TableSource, load_hub
from logitstore.errors import CorpusError, SettingError
from logitstore.format.plan import Plan, WorkUnit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logitstore.corpus.fields import Shape
    from logitstore.corpus.sources import RawRecord, Source
    from logitstore.format.answers import AnswersMetadata

__all__ = ["Corpus", "RecordReader", "Slice", "open_corpus"]

IN_MEMORY = "memory"  # the name of a corpus that is no file
_FIRST_RECORDS = 4
_BEHIND = 256  # bytes or rows that are looked at behind what a plan has of a source
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[^/]*)?")


def open_corpus(data: object, *, fields: Fields | None = None) -> Corpus:
    """The corpus that `data` names or is; of files, only the schemas of tables are read yet.

    data: a file, a folder or a pattern, as `find_files` takes them; several of them as a list of
        `Path`; a data set on the Hub as `org/name`, `org/name:configuration` or
        `org/name:configuration:split`, where an empty configuration means the default one and the
        split is "train" unless named. Or an iterable of strings, which are texts, and of dicts with
        the fields of a JSONL line, read once; that corpus and its one source are called "memory".
        A `Corpus` is taken as it is.
    fields: the fields of its records to read; by default those of the first shape that each has.

    Raises CorpusError where there is no such corpus, or it has not these fields.
    """
    wanted = fields or Fields()
    if len([name for name in (wanted.text, wanted.messages, wanted.tokens) if name]) > 1:
        raise CorpusError(
            "several fields are named, and a record is read from one",
            place=data if isinstance(data, str | Path) else IN_MEMORY,
            remedy="Give one of --text-field, --messages-field and --tokens-field",
        )
    if isinstance(data, Corpus):
        if wanted not in (Fields(), data.fields):
            raise CorpusError(
                "the corpus is open already, with other fields", place=data.name, found=data.fields
            )
        return data
    if isinstance(data, str | Path):
        return _named_corpus([str(data)], wanted)
    if isinstance(data, bytes | Mapping) or not isinstance(data, Iterable):
        raise CorpusError(
            "this is no corpus",
            found=type(data).__name__,
            allowed="a path, a Hub data set, or an iterable of strings or dicts",
        )
    if isinstance(data, list | tuple) and data and all(isinstance(one, Path) for one in data):
        return _named_corpus([str(one) for one in data], wanted)
    source = MemorySource(name=IN_MEMORY, fields=wanted, records=data)
    return Corpus([source], name=IN_MEMORY, fields=wanted)


def _named_corpus(names: Sequence[str], fields: Fields) -> Corpus:
    alone = names[0] if len(names) == 1 else ""
    with reading(alone or names[0]):
        there = Path(alone).exists()
    if _HUB_ID.fullmatch(alone) and not there and not alone.lower().endswith(SUFFIXES):
        split, table = load_hub(alone)
        source = TableSource(name=split, fields=fields, table=table)
        return Corpus([source], name=alone, fields=fields)
    files = find_files(names)
    if fields.text is not None and all(name.lower().endswith(".txt") for name in files.used):
        raise CorpusError(
            "plain text has no field of text, so --text-field has no effect",
            place=names[0],
            found=fields.text,
            remedy="Leave it out",
        )
    cursor = StreamCursor()
    return Corpus(
        [
            open_source(name, path, fields=fields, cursor=cursor)
            for name, path in files.used.items()
        ],
        name=", ".join(Path(name).name for name in names),
        fields=fields,
        unread=files.unread,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """A work unit, and the bytes of text it covers: of a table, those of its values as JSON."""

    unit: WorkUnit
    bytes: int


class Corpus:
    """Sources, in order. One thread reads it at a time.

    sources: files or tables, in order.
    name: what a store calls it.
    rule: by which the fields were chosen.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        name: str = "corpus",
        fields: Fields | None = None,
        unread: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.fields = fields or Fields()  # of its records, that are read
        self.unread = unread  # files beside its sources
        for one in (name, *(source.name for source in sources)):
            if not isinstance(one, str) or not one.isprintable():
                raise CorpusError("rename it: its name is no text", place=repr(one))
        self._sources = {source.name: source for source in sources}

    @property
    def answers(self) -> tuple[AnswersMetadata, ...]:
        """Who gave the answers that its files hold, each once; none of files that do not say."""
        found = [getattr(source, "answers", None) for source in self._sources.values()]
        listed: list[AnswersMetadata] = []
        for one in found:
            if one is not None and one not in listed:
                listed.append(one)
        return tuple(listed)

    @property
    def in_memory(self) -> bool:
        """Whether its records lie in memory."""
        return any(isinstance(source, MemorySource) for source in self._sources.values())

    @property
    def sources(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(self._sources)

    def plan(self, *, unit_bytes: int, limit: int | None) -> Plan:
        """Work units of about `unit_bytes` bytes each, over the first `limit` records, or all.

        unit_bytes: of a unit, about.
        limit: the most records, or None for all.

        A unit ends with the record that fills it, or with its source. Costs one pass over the
        sources, or over what `limit` leaves of them.
        """
        cut = self.cut(unit_bytes=unit_bytes, limit=limit)
        return Plan(units=tuple(one.unit for one in cut))

    def cut(self, *, unit_bytes: int, limit: int | None) -> Iterator[Slice]:
        """What `plan` plans, one unit after another, each as soon as it is known.

        unit_bytes: of a unit, about.
        limit: the most records, or None for all.
        """
        if unit_bytes < 1:
            raise SettingError("a work unit must hold a byte", found=unit_bytes, allowed=">= 1")
        if limit is not None and limit < 1:
            raise CorpusError(
                "no record is left of the corpus",
                place="--limit",
                found=limit,
                allowed=">= 1",
                remedy="Leave it out to take all of them",
            )
        number = 0
        for source in self._sources.values():
            if limit == 0:
                break
            for one in _units(source, unit_bytes=unit_bytes, limit=limit):
                yield replace(one, unit=replace(one.unit, name=f"{number:06d}"))
                limit = None if limit is None else limit - one.unit.records
                number += 1

    def first_records(self, *, limit: int | None, skip_bad: bool) -> Iterator[RecordReader]:
        """A reader of the first few records of each source, so that a fault is told early.

        limit: of the records that will be taken; where it is set, the first source alone is read.
        skip_bad: whether the reader passes over broken records.
        """
        sources = list(self._sources.values())
        for source in sources if limit is None else sources[:1]:
            draft, few = _Draft(), []
            for raw in islice(source.records(), min(limit or _FIRST_RECORDS, _FIRST_RECORDS)):
                draft.add(raw)
                few.append(raw)
            if not few:
                raise _nothing_in(source)
            unit = draft.unit(source.name).unit
            yield self._reader(source, unit, few, skip_bad)

    def compare(self, plan: Plan, *, limit: int | None) -> None:
        """Look whether this is still the corpus of `plan`, where that costs a few reads.

        plan: of a store that was begun.
        limit: the most records, or None for all, as when it was made.

        The first unit is compared and the last, and whether any source has grown: not where all
        before must be unpacked for it. All else is compared when it is read. Raises CorpusError.
        """
        last = {unit.source: unit for unit in plan.units}
        if limit is not None and sum(unit.records for unit in plan.units) >= limit:
            # The last source may have more, and so may there be more of them.
            last.pop(plan.units[-1].source)
        elif more := [name for name in self._sources if name not in last]:
            raise _grown(more[0])
        self.read(plan.units[0], skip_bad=True)
        if compression_of(plan.units[-1].source) is None:
            self.read(plan.units[-1], skip_bad=True)
        for name, unit in last.items():
            if compression_of(name) is None and self._goes_on(name, unit.stop):
                raise _grown(f"{name}, behind {unit.stop}")

    def _goes_on(self, name: str, position: int) -> bool:
        """Whether anything but space follows on a position of a source."""
        try:
            return bool(self._sources[name].slice(position, position + _BEHIND))
        except CorpusError:
            return True  # the first part of a record, which says nothing alone

    def read(self, unit: WorkUnit, *, skip_bad: bool) -> RecordReader:
        """The records of `unit`, whose bytes have been compared with the plan's hash.

        unit: one of the plan.
        skip_bad: whether broken records are passed over.
        """
        if unit.source not in self._sources:
            raise CorpusError(
                "the plan names a source that the corpus does not have",
                place=f"work unit {unit.name}",
                found=unit.source,
                remedy="Give the corpus with which the store was begun",
            )
        source = self._sources[unit.source]
        records = source.slice(unit.start, unit.stop)
        digest = hashlib.sha256()
        for raw in records:
            digest.update(raw.hashed)
        if digest.hexdigest() != unit.sha256 or len(records) != unit.records:
            raise CorpusError(
                "the corpus changed since the plan was made",
                place=f"{unit.source}, {unit.start} to {unit.stop} (work unit {unit.name})",
                found=f"sha256 {digest.hexdigest()}",
                allowed=unit.sha256,
                remedy="Bring back the corpus as it was, or begin another store",
            )
        return self._reader(source, unit, records, skip_bad)

    def _reader(
        self, source: Source, unit: WorkUnit, raw: Sequence[RawRecord], skip_bad: bool
    ) -> RecordReader:
        return RecordReader(
            source=source, unit=unit, raw_records=raw, fields=self.fields, skip_bad=skip_bad
        )


def _units(source: Source, *, unit_bytes: int, limit: int | None) -> Iterator[Slice]:
    draft = _Draft()
    for raw in islice(source.records(), limit if limit is None else min(limit, sys.maxsize)):
        draft.add(raw)
        if draft.filled >= unit_bytes:
            yield draft.unit(source.name)
            draft = draft.next()
    if draft.records:
        yield draft.unit(source.name)
    elif draft.start == 0:
        raise _nothing_in(source)


def _grown(place: str) -> CorpusError:
    return CorpusError(
        "the corpus has grown since the plan was made",
        place=place,
        remedy="Bring back the corpus as it was, or begin another store",
    )


def _nothing_in(source: Source) -> CorpusError:
    return CorpusError(
        "there is nothing in it", place=source.name, remedy="Leave it out of the corpus"
    )


@dataclass(kw_only=True, slots=True)
class _Draft:
    """A work unit while it is being filled."""

    start: int = 0
    first_record: int = 0
    first_line: int = 1
    records: int = 0
    lines: int = 0
    size: int = 0  # positions: bytes, or rows
    filled: int = 0  # bytes hashed
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, raw: RawRecord) -> None:
        self.records += 1
        self.lines += raw.lines
        self.size += raw.size
        self.filled += len(raw.hashed)
        self.digest.update(raw.hashed)

    def next(self) -> _Draft:
        return _Draft(
            start=self.start + self.size,
            first_record=self.first_record + self.records,
            first_line=self.first_line + self.lines,
        )

    def unit(self, source: str) -> Slice:
        unit = WorkUnit(
            name="",  # its place in the plan, given there
            source=source,
            start=self.start,
            stop=self.start + self.size,
            first_record=self.first_record,
            first_line=self.first_line,
            records=self.records,
            sha256=self.digest.hexdigest(),
        )
        return Slice(unit=unit, bytes=self.filled)


class RecordReader:
    """The records of one work unit, in order.

    `skipped` counts the bad ones passed over so far, `shapes` the records of each shape, `beside`
    those with messages that only the teacher reads.
    """

    def __init__(
        self,
        *,
        source: Source,
        unit: WorkUnit,
        raw_records: Sequence[RawRecord],
        fields: Fields,
        skip_bad: bool,
    ) -> None:
        self.skipped = self.beside = 0
        self.shapes: Counter[str] = Counter()
        self.first_skipped: dict[str, str] = {}  # problem -> the place of the first that has it
        self._source = source
        self._unit = unit
        self._raw_records = raw_records
        self._fields = fields
        self._skip_bad = skip_bad

    def __iter__(self) -> Iterator[Record]:
        self.skipped = self.beside = 0
        self.shapes.clear()
        line = self._unit.first_line
        for number, raw in enumerate(self._raw_records, start=self._unit.first_record):
            begins = line + raw.lead
            try:
                record = self._record(raw, number, begins)
            except BadRecord as fault:
                if not self._skip_bad:
                    place = f"{self._source.name}:{begins + fault.line}"
                    raise bad_record(
                        fault.problem,
                        place=place,
                        found=fault.found,
                        allowed=fault.allowed,
                        remedy=fault.remedy,
                    ) from fault
                self.skipped += 1
                self.first_skipped.setdefault(fault.problem, f"{self._source.name}:{begins}")
            else:
                yield record
            line += raw.lines

    def _record(self, raw: RawRecord, number: int, line: int) -> Record:
        row = self._source.row(raw)
        shape = self._shape(row, place=f"{self._source.name}:{line}")
        content = replace(shape.content(row, self._fields), teacher=teacher_chat(row, self._fields))
        self.shapes[shape.name] += 1
        self.beside += content.teacher is not None
        return Record(
            source=self._source.name, record=number, line=line, content=content, ends=raw.ends
        )

    def _shape(self, row: dict[str, Any], *, place: str) -> Shape:
        """The shape by the fields that are set; nulls count where nothing else is there."""
        try:
            names = [name for name, value in row.items() if value is not None]
            return shape_of(names, self._fields, place=place)
        except BadRecord:
            return shape_of(list(row), self._fields, place=place)
