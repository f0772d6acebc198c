"""JSON files that hold one array of records, read a record at a time.

A record's bytes reach from the end of the one before it to its own end, so the comma between two
belongs to the second.
"""

from __future__ import annotations

import codecs
import io
import json
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from logitstore.corpus.records import BadRecord, shortened
from logitstore.corpus.sources import RawRecord, reading
from logitstore.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logitstore.corpus.sources import FileBytes

__all__ = ["ArrayFile", "holds_array"]

_PIECE_BYTES = 1 << 16
# As for a line of JSONL: a record must fit in memory.
_RECORD_LIMIT = 64 << 20
_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder()


def holds_array(file: BinaryIO) -> bool:
    """Whether the first character of `file`, which is read from its start, opens an array."""
    return file.read(4096).decode("utf-8-sig", errors="replace").lstrip(_SPACE).startswith("[")


class ArrayFile:
    """A .json file, plain or compressed, with one array of objects; positions are plain bytes."""

    def __init__(self, *, name: str, data: FileBytes) -> None:
        self.name = name
        self._data = data

    def records(self) -> Iterator[RawRecord]:
        """All elements of the array."""
        with reading(self.name), self._data.open() as file:
            yield from _elements(file, self.name, opened=False, ends=True)

    def slice(self, start: int, stop: int) -> list[RawRecord]:
        """The elements between two bytes of the file."""
        with reading(self.name):
            data = self._data.read(start, stop)
            return list(_elements(io.BytesIO(data), self.name, opened=start > 0, ends=False))

    def row(self, raw: RawRecord) -> dict[str, Any]:
        """The element, which is an object."""
        content = json.loads(cast("bytes", raw.content))
        if not isinstance(content, dict):
            raise BadRecord("the element of the array is no object", found=shortened(content))
        return content


def _elements(file: BinaryIO, name: str, *, opened: bool, ends: bool) -> Iterator[RawRecord]:
    """The elements of an array that is `opened` before `file` begins, and ends in it or not."""
    text = _Window(file, name)
    while mark := text.skip_to_mark(",\ufeff" if opened else "\ufeff"):
        if not opened:
            if mark != "[":
                raise text.fault("the file holds no array of records", mark)
            opened = True
            text.at += 1
        elif mark == "]":
            return
        else:
            yield text.element()
    if ends:
        raise text.fault("the array does not end", "the end of the file")


class _Window:
    """The part of a file that is being parsed; `at` is where parsing stands in it."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.at = 0
        self._file = file
        self._name = name
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text = ""
        self._line = 1
        self._ended = False

    def skip_to_mark(self, passed: str) -> str:
        """The next character that is neither white space nor `passed`; empty at the end."""
        passed += _SPACE
        while True:
            while self.at < len(self._text):
                if self._text[self.at] not in passed:
                    return self._text[self.at]
                self.at += 1
            if not self._read(_PIECE_BYTES):
                return ""

    def element(self) -> RawRecord:
        """The element that begins here, with what stands between it and the one before."""
        size = _PIECE_BYTES
        while True:
            try:
                _, end = _DECODER.raw_decode(self._text, self.at)
                if end < len(self._text) or not self._read(size):
                    break
            except (ValueError, RecursionError) as error:
                if len(self._text) - self.at > _RECORD_LIMIT or not self._read(size):
                    raise self.fault(f"an element of the array is no JSON: {error}") from error
            size *= 2
        taken, content = self._text[:end], self._text[self.at : end]
        self._text, self.at = self._text[end:], 0
        lines = taken.count("\n")
        self._line += lines
        data = taken.encode()
        return RawRecord(
            content=content.encode(),
            hashed=data,
            size=len(data),
            lines=lines,
            ends=True,
            lead=lines - content.count("\n"),
        )

    def fault(self, problem: str, found: object = None) -> CorpusError:
        line = self._line + self._text.count("\n", 0, self.at)
        return CorpusError(
            problem,
            place=f"{self._name}:{line}",
            found=found or shortened(self._text[self.at : self.at + 60]),
            remedy="Give an array of objects, or one object a line",
        )

    def _read(self, size: int) -> bool:
        """Read on; whether there was anything to read."""
        if self._ended:
            return False
        data = self._file.read(size)
        self._ended = not data
        try:
            self._text += self._decode(data, self._ended)
        except UnicodeDecodeError as error:
            raise self.fault(f"the text is no UTF-8: {error.reason}") from error
        return not self._ended
