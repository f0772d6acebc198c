"""Sources: files of text and lines as streams of raw records with exact positions.

A source knows where its records lie and what its bytes are, nothing of what they mean. It streams
all of its records, for a plan, or gives those of one slice, for a work unit. Both go through the
same cutting code, and where a record ends depends on no byte behind it, so a slice read alone falls
into the same records as the whole source did.
"""

from __future__ import annotations

import csv
import io
import json
import os
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

import pyarrow as pa

from logitstore.corpus.compressed import COMPRESSIONS, StreamCursor, compression_of
from logitstore.corpus.records import BadRecord, shortened
from logitstore.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FileBytes", "LineFile", "RawRecord", "Source", "TextFile", "decoded", "reading"]

# A section of running text: about 8,000 tokens, so that eight pieces of 1,024 tokens share one
# tokeniser call and a cut, which costs the pieces beside it some context, comes once in eight.
_SECTION_BYTES = 32 << 10
# A line without end (a corpus in one line is common) is broken at a space about this often.
_FRAGMENT_BYTES = 16 << 10
# Blank lines stay with the section before them, up to here: ten gigabytes of them fit no memory.
_BLANK_LIMIT_BYTES = 1 << 20
# A JSONL line must fit in memory. The longest books are 10 MB; a single JSON object is no JSONL.
_LINE_LIMIT_BYTES = 64 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRecord:
    """One record as it lies in its source."""

    content: object  # bytes of a line or a section; the values of a table's row
    hashed: bytes  # its share of the bytes that a work unit's hash covers
    size: int  # positions that it takes: bytes, or one row
    lines: int  # lines, or rows, that it takes
    ends: bool  # a text ends with it
    lead: int = 0  # lines before its content


class Source(Protocol):
    """One file, or one table, of a corpus."""

    name: str

    def records(self) -> Iterator[RawRecord]:
        """All records, in order, in bounded memory."""

    def slice(self, start: int, stop: int) -> list[RawRecord]:
        """The records between two positions at which records begin.

        start: where the first record begins.
        stop: where the one behind the last begins.
        """

    def row(self, raw: RawRecord) -> dict[str, Any]:
        """The fields of a record; `BadRecord` if it cannot be read.

        raw: one of this source's records.
        """


class FileBytes:
    """The plain bytes of a file, which may be compressed.

    path: the file.
    cursor: the stream that all compressed files of a corpus share.
    """

    def __init__(self, path: Path, cursor: StreamCursor) -> None:
        self._path = path
        self._cursor = cursor
        self._compression = compression_of(path.name)

    def open(self) -> BinaryIO:
        """A stream of all of them, for the caller to close."""
        if self._compression is not None:
            return COMPRESSIONS[self._compression](self._path)
        return self._path.open("rb")

    def read(self, start: int, stop: int) -> bytes:
        """Those between two positions; fewer where the file ends before."""
        if self._compression is not None:
            return self._cursor.read(self._path, start, stop)
        with self._path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


class TextFile:
    """A running text. Its records are sections: whole lines, cut between paragraphs if possible.

    name: what messages call it.
    path: where it lies.

    A section is cut before a line with text in it, at the first blank line past 16 KiB or at the
    first line past 32 KiB. A unit's hash covers its bytes and, where the file ends with it, one
    zero byte more: a text that has grown since the plan was made no longer ends there.
    """

    def __init__(self, *, name: str, path: Path, field: str = "text") -> None:
        self.name = name
        self._path = path
        self._field = field  # what its text is called, where others are read from a field

    def records(self) -> Iterator[RawRecord]:
        """All sections."""
        with reading(self.name), self._path.open("rb") as file:
            yield from _text_records(file, start=0, end=os.fstat(file.fileno()).st_size)

    def slice(self, start: int, stop: int) -> list[RawRecord]:
        """The sections between two bytes of the file.

        start: the first byte.
        stop: the byte behind the last.
        """
        with reading(self.name), self._path.open("rb") as file:
            file.seek(start)
            data = io.BytesIO(file.read(stop - start))
            return list(_text_records(data, start=start, end=os.fstat(file.fileno()).st_size))

    def row(self, raw: RawRecord) -> dict[str, Any]:
        """The section's text, its line ends made `\\n`."""
        return {self._field: decoded(cast("bytes", raw.content)).replace("\r\n", "\n")}


def _text_records(file: BinaryIO, *, start: int, end: int) -> Iterator[RawRecord]:
    position = start
    for section in _sections(file):
        content = section.removeprefix(_BOM) if position == 0 else section
        position += len(section)
        ends = position == end
        yield RawRecord(
            content=content,
            hashed=section + b"\0" if ends else section,
            size=len(section),
            lines=section.count(b"\n"),
            ends=ends,
        )


def _sections(file: BinaryIO) -> Iterator[bytes]:
    parts: list[bytes] = []
    size, after_blank = 0, False
    for line in _lines(file):
        blank = not line.strip()
        room = _SECTION_BYTES // 2 if after_blank else _SECTION_BYTES
        if (size >= room and not blank) or size >= _BLANK_LIMIT_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
        parts.append(line)
        size += len(line)
        after_blank = blank
    if parts:
        yield b"".join(parts)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines, long ones in fragments that begin at a space or at least with a whole character."""
    while piece := file.readline(_FRAGMENT_BYTES):
        if len(piece) == _FRAGMENT_BYTES and not piece.endswith(b"\n"):
            stop = piece.rfind(b" ", 1)
            if stop < 0:
                stop = len(piece) - 1
                while stop > len(piece) - 4 and piece[stop] & 0xC0 == 0x80:  # inside a character
                    stop -= 1
            file.seek(stop - len(piece), os.SEEK_CUR)
            piece = piece[:stop]
        yield piece


class LineFile:
    """JSONL, one record a line, plain or compressed; positions are those of the plain bytes.

    A blank line is no record: its bytes belong to the record that follows.
    """

    def __init__(self, *, name: str, data: FileBytes) -> None:
        self.name = name
        self._data = data

    def records(self) -> Iterator[RawRecord]:
        """All lines that are not blank."""
        with reading(self.name), self._data.open() as file:
            yield from self._lines(file, start=0)

    def slice(self, start: int, stop: int) -> list[RawRecord]:
        """The lines between two bytes of the plain file."""
        with reading(self.name):
            data = self._data.read(start, stop)
        return list(self._lines(io.BytesIO(data), start=start))

    def row(self, raw: RawRecord) -> dict[str, Any]:
        """The line's JSON object."""
        text = decoded(cast("bytes", raw.content))
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"the line is no JSON: {error}", found=shortened(text)) from error
        if not isinstance(content, dict):
            raise BadRecord("the line is no JSON object", found=shortened(content))
        return content

    def _lines(self, file: BinaryIO, *, start: int) -> Iterator[RawRecord]:
        blank, lead = b"", 0
        number, first = 0, start == 0
        while line := file.readline(_LINE_LIMIT_BYTES + 1):
            number += 1
            content = line.removeprefix(_BOM) if first else line
            first = False
            if len(line) + len(blank) > _LINE_LIMIT_BYTES:
                raise CorpusError(
                    "a line is too long for a record",
                    place=f"{self.name}:{number}",
                    allowed=f"{_LINE_LIMIT_BYTES} bytes",
                    remedy="JSONL has one JSON object a line; convert the file first",
                )
            if not content.strip():
                blank, lead = blank + line, lead + 1
                continue
            data = blank + line
            yield RawRecord(
                content=content, hashed=data, size=len(data), lines=lead + 1, ends=True, lead=lead
            )
            blank, lead = b"", 0


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Makes a `CorpusError` of whatever goes wrong while the source `name` is read.

    name: what messages call the source.
    """
    try:
        yield
    except (
        OSError,
        EOFError,
        UnicodeDecodeError,
        zlib.error,
        csv.Error,
        pa.ArrowException,
    ) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(
            f"the file cannot be read: {reason}",
            place=name,
            remedy="Check that it is complete and of the kind that its name says",
        ) from error


def decoded(data: bytes) -> str:
    """UTF-8 bytes of a record as text; `BadRecord` where they are none, with the line."""
    zero = data.find(b"\0")
    if zero >= 0:
        problem = "the text holds a zero byte, so the file is binary or not UTF-8"
        raise BadRecord(problem, found=_around(data, zero), line=data.count(b"\n", 0, zero))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        found, line = _around(data, error.start), data.count(b"\n", 0, error.start)
        raise BadRecord("the text is no UTF-8", found=found, line=line) from error


def _around(data: bytes, position: int) -> str:
    return f"byte 0x{data[position]:02x} in {data[max(position - 10, 0) : position + 10]!r}"
