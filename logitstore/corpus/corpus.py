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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.corpus.memory import MemorySource
from logitstore.corpus.records import BadRecord, Record, bad_record, shortened
from logitstore.corpus.sources import FieldRule, GzipCursor, LineFile, TextFile, reading
from logitstore.corpus.tables import ParquetTable, TableSource, load_hub
from logitstore.errors import CorpusError, SettingError
from logitstore.format.plan import Plan, WorkUnit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logitstore.corpus.sources import RawRecord, Source

__all__ = ["Corpus", "RecordReader", "Slice", "open_corpus"]

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
IN_MEMORY = "memory"  # the name of a corpus that is no file
_FIRST_RECORDS = 4
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[^/]*)?")


def open_corpus(
    data: object, *, text_field: str | None = None, messages_field: str | None = None
) -> Corpus:
    """The corpus that `data` names or is; nothing but table schemas is read yet.

    data: names of files and data sets, or records in memory, as below.
    text_field: the field that holds a text, or None.
    messages_field: the field that holds a chat, or None.

    `data` is a .txt, .jsonl, .jsonl.gz or .parquet file; a folder, whose usable files are taken in
    the order of their relative paths, hidden and other files being passed over; or a data set on
    the Hub as `org/name`, `org/name:configuration` or `org/name:configuration:split`, where an
    empty configuration means the default one and the split is "train" unless named. Or it is an
    iterable of strings and of dicts with the fields of a JSONL line, read once; that corpus and its
    one source are called "memory". A `Corpus` is taken as it is.

    Without a field named, a record's "text" or "messages" is taken, whichever it has.
    """
    if text_field is not None and messages_field is not None:
        raise CorpusError(
            "a text field and a messages field are both named",
            place=data if isinstance(data, str | Path) else IN_MEMORY,
            remedy="Give one of --text-field and --messages-field",
        )
    rule = FieldRule(text=text_field, messages=messages_field)
    if isinstance(data, Corpus):
        if rule not in (FieldRule(), data.rule):
            raise CorpusError(
                "the corpus is open already, with other fields", place=data.name, found=data.rule
            )
        return data
    if isinstance(data, str | Path):
        return _named_corpus(str(data), rule)
    if isinstance(data, bytes | Mapping) or not isinstance(data, Iterable):
        raise CorpusError(
            "this is no corpus",
            found=type(data).__name__,
            allowed="a path, a Hub data set, or an iterable of strings or dicts",
        )
    source = MemorySource(name=IN_MEMORY, rule=rule, records=data)
    return Corpus([source], name=IN_MEMORY, rule=rule)


def _named_corpus(data: str, rule: FieldRule) -> Corpus:
    path = Path(data)
    with reading(data):
        there = path.exists()
        sources = _local_sources(path, rule) if there else []
    if there:
        return Corpus(sources, name=path.name, rule=rule)
    if _HUB_ID.fullmatch(data) and not data.lower().endswith(SUFFIXES):
        split, table = load_hub(data)
        source = TableSource(name=split, rule=rule, table=table)
        return Corpus([source], name=data, rule=rule)
    raise CorpusError(
        "there is no such file or folder",
        place=data,
        allowed=f"a {', '.join(SUFFIXES)} file, a folder of them, or a Hub data set",
    )


def _local_sources(path: Path, rule: FieldRule) -> list[Source]:
    files = dict(sorted(_usable_files(path)))
    if not files:
        raise CorpusError(
            "the folder holds no file of text" if path.is_dir() else "this is no file of text",
            place=path,
            allowed=", ".join(SUFFIXES),
        )
    if rule.text is not None and all(file.name.lower().endswith(".txt") for file in files.values()):
        raise CorpusError(
            "plain text has no field of text, so --text-field has no effect",
            place=path,
            found=rule.text,
            remedy="Leave it out",
        )
    cursor = GzipCursor()
    return [_local_source(name, file, rule, cursor) for name, file in files.items()]


def _usable_files(path: Path) -> Iterator[tuple[str, Path]]:
    folder = path if path.is_dir() else path.parent
    for file in path.rglob("*") if path.is_dir() else [path]:
        name = file.relative_to(folder)
        hidden = file != path and any(part.startswith(".") for part in name.parts)
        if not hidden and file.name.lower().endswith(SUFFIXES) and file.is_file():
            yield name.as_posix(), file


def _local_source(name: str, path: Path, rule: FieldRule, cursor: GzipCursor) -> Source:
    suffix = path.name.lower()
    if suffix.endswith(".parquet"):
        return TableSource(name=name, rule=rule, table=ParquetTable(name=name, path=path))
    if suffix.endswith(".txt"):
        if rule.messages is not None:
            raise CorpusError(
                "plain text has no field of messages",
                place=name,
                found=rule.messages,
                remedy="Leave out --messages-field, or give JSONL or Parquet",
            )
        return TextFile(name=name, path=path)
    gzipped = cursor if suffix.endswith(".gz") else None
    return LineFile(name=name, path=path, rule=rule, gzipped=gzipped)


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
        self, sources: Sequence[Source], *, name: str = "corpus", rule: FieldRule | None = None
    ) -> None:
        self.name = name
        self.rule = rule or FieldRule()  # by which fields were chosen
        for one in (name, *(source.name for source in sources)):
            if not isinstance(one, str) or not one.isprintable():
                raise CorpusError("rename it: its name is no text", place=repr(one))
        self._sources = {source.name: source for source in sources}

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
            yield RecordReader(source=source, unit=unit, raw_records=few, skip_bad=skip_bad)

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
        return RecordReader(source=source, unit=unit, raw_records=records, skip_bad=skip_bad)


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
    """The records of one work unit, in order; `skipped` counts the bad ones passed over so far.

    source: where the records lie.
    unit: the slice of it.
    raw_records: those of the unit, in order.
    skip_bad: whether broken records are counted and passed over.
    """

    def __init__(
        self, *, source: Source, unit: WorkUnit, raw_records: Sequence[RawRecord], skip_bad: bool
    ) -> None:
        self.skipped = 0
        self._source = source
        self._unit = unit
        self._raw_records = raw_records
        self._skip_bad = skip_bad

    def __iter__(self) -> Iterator[Record]:
        self.skipped = 0
        line = self._unit.first_line
        for number, raw in enumerate(self._raw_records, start=self._unit.first_record):
            try:
                record = self._record(raw, number, line)
            except BadRecord as fault:
                if not self._skip_bad:
                    place = f"{self._source.name}:{line + fault.line}"
                    raise bad_record(
                        fault.problem, place=place, found=fault.found, allowed=fault.allowed
                    ) from fault
                self.skipped += 1
            else:
                yield record
            line += raw.lines

    def _record(self, raw: RawRecord, number: int, line: int) -> Record:
        row = self._source.row(raw)
        chosen = self._source.rule.choose(row, place=f"{self._source.name}:{line}")
        value = row[chosen.name]
        return Record(
            source=self._source.name,
            record=number,
            line=line,
            text=None if chosen.chat else _text(value, chosen.name),
            messages=_messages(value, chosen.name) if chosen.chat else None,
            ends=raw.ends,
        )


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise BadRecord(f"{name} is no text", found=shortened(value), allowed="a string")
    if not value.strip():
        raise BadRecord(f"{name} is empty", found=shortened(value))
    _refuse_unwritable(value, name)
    return value


def _messages(value: object, name: str) -> list[dict[str, Any]]:
    """The chat, without the nulls with which Parquet fills the fields that a message lacks."""
    whole = isinstance(value, list) and value and all(map(_is_message, value))
    if not isinstance(value, list) or not whole:
        raise BadRecord(
            f"{name} is no chat", found=shortened(value), allowed="a list of {role, content}"
        )
    for message in value:
        _refuse_unwritable(message["content"], name)
    return [{key: part for key, part in message.items() if part is not None} for message in value]


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(key), str) for key in ("role", "content")
    )


def _refuse_unwritable(text: str, name: str) -> None:
    """JSON can spell halves of surrogate pairs, which no tokenizer takes, and zero bytes."""
    if "\0" in text:
        raise BadRecord(f"{name} holds a zero byte", found=shortened(text))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(
            f"{name} holds half of a surrogate pair", found=shortened(text[error.start])
        ) from error
