"""Delimited text: .csv and .tsv files with a line of names, one record a row.

A row may take several lines where a value is quoted, so rows are found by the parser that reads
them and not by line ends.
"""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from logitstore.corpus.records import BadRecord
from logitstore.corpus.sources import RawRecord, decoded, reading
from logitstore.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logitstore.corpus.sources import FileBytes

__all__ = ["DelimitedFile"]

_VALUE_LIMIT = 64 << 20  # as for a line of JSONL
_BOM = b"\xef\xbb\xbf"


class DelimitedFile:
    """A table as text, plain or compressed; positions are plain bytes."""

    def __init__(self, *, name: str, delimiter: str, data: FileBytes) -> None:
        self.name = name
        self._delimiter = delimiter
        self._data = data
        with reading(name), data.open() as file:
            head = next(self._rows(file), None)
        if head is None:
            raise CorpusError(
                "there is nothing in it", place=name, remedy="Leave it out of the corpus"
            )
        self.columns = self._names(head)

    def records(self) -> Iterator[RawRecord]:
        """All rows below the names."""
        with reading(self.name), self._data.open() as file:
            yield from _below_names(self._rows(file))

    def slice(self, start: int, stop: int) -> list[RawRecord]:
        """The rows between two bytes of the file."""
        with reading(self.name):
            rows = self._rows(io.BytesIO(self._data.read(start, stop)))
            return list(_below_names(rows) if start == 0 else rows)

    def row(self, raw: RawRecord) -> dict[str, Any]:
        """The row's values by the names of their columns; an empty one is not there."""
        values = self._values(decoded(cast("bytes", raw.content)))
        if len(values) != len(self.columns):
            raise BadRecord(
                "the row has another number of values than there are names",
                found=len(values),
                allowed=len(self.columns),
            )
        return {name: value for name, value in zip(self.columns, values, strict=True) if value}

    def _names(self, head: RawRecord) -> list[str]:
        try:
            names = self._values(decoded(cast("bytes", head.content).removeprefix(_BOM)))
        except BadRecord as fault:
            raise CorpusError(fault.problem, place=f"{self.name}:1", found=fault.found) from None
        if len(set(names)) < len(names):
            raise CorpusError("several columns have one name", place=self.name, found=names)
        return names

    def _values(self, row: str) -> list[str]:
        csv.field_size_limit(_VALUE_LIMIT)
        try:
            return next(
                csv.reader(io.StringIO(row, newline=""), delimiter=self._delimiter, strict=True)
            )
        except csv.Error as error:
            raise BadRecord(f"the row cannot be read: {error}") from error

    def _rows(self, file: BinaryIO) -> Iterator[RawRecord]:
        """Rows, each with the blank lines before it; their bytes are looked at one by one."""
        csv.field_size_limit(_VALUE_LIMIT)
        taken: list[bytes] = []
        lines = (_noted(line, taken) for line in file)
        # Latin-1 has a character for each byte: quotes and delimiters are found, nothing is lost.
        for values in csv.reader(lines, delimiter=self._delimiter, strict=True):
            if values:
                data = b"".join(taken)
                content = data.lstrip(b"\r\n")
                yield RawRecord(
                    content=content,
                    hashed=data,
                    size=len(data),
                    lines=len(taken),
                    ends=True,
                    lead=data[: len(data) - len(content)].count(b"\n"),
                )
                taken.clear()


def _noted(line: bytes, taken: list[bytes]) -> str:
    taken.append(line)
    return line.decode("latin-1")


def _below_names(rows: Iterator[RawRecord]) -> Iterator[RawRecord]:
    """All but the first row, whose bytes join those of the next: a record begins at byte 0."""
    head = next(rows, None)
    for row in rows:
        if head is None:
            yield row
        else:
            yield replace(
                row,
                hashed=head.hashed + row.hashed,
                size=head.size + row.size,
                lines=head.lines + row.lines,
                lead=head.lines + row.lead,
            )
            head = None
