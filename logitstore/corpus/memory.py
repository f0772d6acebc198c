"""Records in memory: strings, or dicts with the fields of a line of JSONL, one after another.

An iterable is read once and as far as it is asked for, so that a generator will do, and what was
read is kept. A unit's hash covers the field in use, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, islice
from typing import Any

from logitstore.corpus.fields import Fields
from logitstore.corpus.records import BadRecord, shortened
from logitstore.corpus.shapes import columns_of, shape_of
from logitstore.corpus.sources import RawRecord
from logitstore.errors import CorpusError

__all__ = ["MemorySource"]


class MemorySource:
    """An iterable of records; positions are their numbers.

    name: what messages call it.
    rule: which field to take.
    records: strings or dicts, read once.
    """

    def __init__(self, *, name: str, fields: Fields, records: Iterable[object]) -> None:
        self.name = name
        self._fields = fields
        self._rest = iter(records)
        self._read: list[object] = []

    def records(self) -> Iterator[RawRecord]:
        """All records."""
        for number in count():
            if not self._reach(number + 1):
                return
            yield self._raw(self._read[number])

    def slice(self, start: int, stop: int) -> list[RawRecord]:
        """Records `start` to `stop`.

        start: number of the first record.
        stop: number behind the last one.
        """
        self._reach(stop)
        return [self._raw(record) for record in self._read[start:stop]]

    def row(self, raw: RawRecord) -> dict[str, Any]:
        """The record's fields; a string is a text.

        raw: one of this source's records.
        """
        if isinstance(raw.content, Mapping):
            return dict(raw.content)
        if not isinstance(raw.content, str):
            raise BadRecord(
                "the record is neither a string nor a dict of fields", found=shortened(raw.content)
            )
        other = self._fields.messages or self._fields.tokens
        if other is not None:
            raise BadRecord("the record is a string and has no fields", allowed=other)
        return {self._fields.text or "text": raw.content}

    def _reach(self, number: int) -> bool:
        """Read on until `number` records are there; whether there are so many."""
        self._read.extend(islice(self._rest, max(0, number - len(self._read))))
        return len(self._read) >= number

    def _raw(self, record: object) -> RawRecord:
        try:
            text = json.dumps(
                self._hashed(record), sort_keys=True, separators=(",", ":"), default=_unhashed
            )
        except (TypeError, ValueError, RecursionError):  # keys of several types, or a circle
            text = _unhashed(record)
        return RawRecord(content=record, hashed=text.encode() + b"\n", size=1, lines=1, ends=True)

    def _hashed(self, record: object) -> object:
        """What the hash of a unit covers: the fields in use, of a record that has them."""
        if isinstance(record, str):
            return {self._fields.text or "text": record}
        if not isinstance(record, Mapping):
            return record
        names = [name for name in record if isinstance(name, str) and record[name] is not None]
        try:
            used = columns_of(shape_of(names, self._fields), self._fields, names)
        except (BadRecord, CorpusError):
            used = tuple(names)
        return {name: record[name] for name in used}


def _unhashed(value: object) -> str:
    """A value that JSON has no form for; its `repr` may hold an address."""
    return f"a {type(value).__name__}"
