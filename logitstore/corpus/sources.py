"""Sources: files of text and JSONL as streams of raw records with exact positions.

A source knows where its records lie and what its bytes are, nothing of what they mean. It streams
all of its records, for a plan, or gives those of one slice, for a work unit. Both go through the
same cutting code, and where a record ends depends on no byte behind it, so a slice read alone falls
into the same records as the whole source did.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

import pyarrow as pa

from logitstore.corpus.records import BadRecord, shortened
from logitstore.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = [
    "Field",
    "FieldRule",
    "GzipCursor",
    "LineFile",
    "RawRecord",
    "Source",
    "TextFile",
    "reading",
]

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
class Field:
    """The field of a record that holds its text, or its chat."""

    name: str
    chat: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldRule:
    """Which field to take: the named one, else whichever of "text" and "messages" is there."""

    text: str | None = None
    messages: str | None = None

    def choose(self, names: Collection[str], *, place: str) -> Field:
        """The field to take of a record with fields `names`; `BadRecord` where it is missing.

        names: of the record's fields.
        place: source and line, for messages.
        """
        if self.text is not None or self.messages is not None:
            chosen = Field(name=self.text or self.messages or "", chat=self.text is None)
            if chosen.name in names:
                return chosen
            raise BadRecord("the field is missing", found=_listed(names), allowed=chosen.name)
        if "text" in names and "messages" in names:
            raise CorpusError(
                "records have both a text and a messages field",
                place=place,
                remedy="Name the one to use with --text-field or --messages-field",
            )
        if "text" in names or "messages" in names:
            chat = "messages" in names
            return Field(name="messages" if chat else "text", chat=chat)
        raise BadRecord(
            "no text and no messages field; --text-field or --messages-field names another",
            found=_listed(names),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRecord:
    """One record as it lies in its source."""

    content: object  # bytes of a line or a section; the value of a table's column
    hashed: bytes  # its share of the bytes that a work unit's hash covers
    size: int  # positions that it takes: bytes, or one row
    lines: int  # lines, or rows, that it takes
    ends: bool  # a text ends with it


class Source(Protocol):
    """One file, or one table, of a corpus."""

    name: str
    rule: FieldRule

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


class TextFile:
    """A running text. Its records are sections: whole lines, cut between paragraphs if possible.

    name: what messages call it.
    path: where it lies.

    A section is cut before a line with text in it, at the first blank line past 16 KiB or at the
    first line past 32 KiB. A unit's hash covers its bytes and, where the file ends with it, one
    zero byte more: a text that has grown since the plan was made no longer ends there.
    """

    def __init__(self, *, name: str, path: Path) -> None:
        self.name = name
        self.rule = FieldRule(text="text")
        self._path = path

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
        """The section's text, its line ends made `\\n`.

        raw: one of this file's sections.
        """
        return {"text": _decoded(cast("bytes", raw.content)).replace("\r\n", "\n")}


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


class GzipCursor:
    """The one decompressing stream that a corpus keeps open.

    A gzip file can only be entered at its front, so reaching unit n costs n units of decompression.
    Kept open, the stream gives units read in order for a single pass.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._stream: gzip.GzipFile | None = None

    def read(self, path: Path, start: int, stop: int) -> bytes:
        """Decompressed bytes `start` to `stop` of `path`; fewer where it ends before.

        path: of a gzip file.
        start: the first byte.
        stop: the byte behind the last.
        """
        stream = self._at(path)
        try:
            stream.seek(start)
            return stream.read(stop - start)
        except BaseException:
            self._close()
            raise

    def _at(self, path: Path) -> gzip.GzipFile:
        if self._stream is None or self._path != path:
            self._close()
            self._stream, self._path = gzip.GzipFile(path), path
        return self._stream

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None


class LineFile:
    """JSONL, one record a line, plain or gzipped; positions are those of the plain bytes.

    name: what messages call it.
    path: where it lies.
    rule: which field to take.
    gzipped: the corpus' open stream, where the file is gzipped.
    """

    def __init__(
        self, *, name: str, path: Path, rule: FieldRule, gzipped: GzipCursor | None
    ) -> None:
        self.name = name
        self.rule = rule
        self._path = path
        self._gzipped = gzipped

    def records(self) -> Iterator[RawRecord]:
        """All lines."""
        with reading(self.name), self._open() as file:
            yield from self._lines(file, start=0)

    def slice(self, start: int, stop: int) -> list[RawRecord]:
        """The lines between two bytes of the decompressed file.

        start: the first byte.
        stop: the byte behind the last.
        """
        with reading(self.name):
            if self._gzipped is not None:
                data = self._gzipped.read(self._path, start, stop)
            else:
                with self._path.open("rb") as file:
                    file.seek(start)
                    data = file.read(stop - start)
        return list(self._lines(io.BytesIO(data), start=start))

    def row(self, raw: RawRecord) -> dict[str, Any]:
        """The line's JSON object.

        raw: one of this file's lines.
        """
        text = _decoded(cast("bytes", raw.content))
        if not text.strip():
            raise BadRecord("the line is empty")
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"the line is no JSON: {error}", found=shortened(text)) from error
        if not isinstance(content, dict):
            raise BadRecord("the line is no JSON object", found=shortened(content))
        return content

    def _open(self) -> BinaryIO:
        plain = self._gzipped is None
        return cast("BinaryIO", self._path.open("rb") if plain else gzip.GzipFile(self._path))

    def _lines(self, file: BinaryIO, *, start: int) -> Iterator[RawRecord]:
        position, number = start, 0
        while line := file.readline(_LINE_LIMIT_BYTES + 1):
            number += 1
            if len(line) > _LINE_LIMIT_BYTES:
                raise CorpusError(
                    "a line is too long for a record",
                    place=f"{self.name}:{number}",
                    allowed=f"{_LINE_LIMIT_BYTES} bytes",
                    remedy="JSONL has one JSON object a line; convert the file first",
                )
            content = line.removeprefix(_BOM) if position == 0 else line
            yield RawRecord(content=content, hashed=line, size=len(line), lines=1, ends=True)
            position += len(line)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Makes a `CorpusError` of whatever goes wrong while the source `name` is read.

    name: what messages call the source.
    """
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(
            f"the file cannot be read: {reason}",
            place=name,
            remedy="Check that it is complete and of the kind that its name says",
        ) from error


def _decoded(data: bytes) -> str:
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


def _listed(names: Collection[str]) -> str:
    return shortened(", ".join(map(str, names)) or "no field")
