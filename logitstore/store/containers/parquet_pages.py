"""The pages of a Parquet file, before Arrow unpacks them: what their headers say is bounded.

Arrow sets aside as many bytes as the header of a page says that it unpacks to, up to 2 GiB, before
it looks at what the page holds. Here the headers are read first. A file of this format has pages of
one kind: data of version 1 with a checksum, no dictionary, plain or split into byte streams. With
other encodings a page of 20 bytes can stand for 2^31 values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from logitstore.errors import CorruptionError

__all__ = ["Chunk", "check_pages"]

# Thrift's compact protocol, as parquet.thrift declares PageHeader: a byte for each field with its
# type and its distance to the field before, here five integers and the header of a data page.
_HEADER = (b"\x15", b"\x15", b"\x15", b"\x15", b"\x1c\x15", b"\x15", b"\x15", b"\x15")
_ENDS = (b"\x00\x00", b"\x1c\x00\x00\x00")  # without statistics, and with empty ones
_DATA_PAGE = 0
_PLAIN, _RLE, _BYTE_STREAM_SPLIT = 0, 3, 9
_MOST_VARINT = 5  # bytes of a number of 32 bits
# Levels say in two runs of bits which values are there; a page has a few bytes besides.
_LEVEL_BYTES, _PAGE_BYTES = 1, 64


class _Page(NamedTuple):
    kind: int
    unpacked: int  # bytes
    packed: int  # bytes
    values: int
    encoding: int
    levels: list[int]  # the encodings of what says which values there are, and of which row
    start: int  # of what follows the header


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """One column of one row group, as it lies in the file and as it may be."""

    name: str
    start: int
    stop: int
    values: int  # as the footer says
    width: int  # bytes of a value


def check_pages(data: memoryview, chunk: Chunk, *, place: str) -> None:
    """Raise CorruptionError unless a chunk has pages of this format, no larger than it says.

    data: the bytes of the chunk.
    chunk: what the footer says of it, which must have been checked.
    place: what an error names.
    """
    at = values = 0
    while at < len(data):
        page = _page(data, at, place=place)
        most = page.values * (chunk.width + _LEVEL_BYTES) + _PAGE_BYTES
        if (
            page.kind != _DATA_PAGE
            or page.encoding not in (_PLAIN, _BYTE_STREAM_SPLIT)
            or page.levels != [_RLE, _RLE]
        ):
            raise CorruptionError(
                "a page is of another kind or encoding than this format's",
                place=place,
                found=f"kind {page.kind}, encoding {page.encoding}",
                allowed=f"kind {_DATA_PAGE}, encodings {_PLAIN} and {_BYTE_STREAM_SPLIT}",
            )
        if not 0 <= page.values <= chunk.values - values or not 0 <= page.unpacked <= most:
            raise CorruptionError(
                "a page says to hold more than its column",
                place=place,
                found=f"{page.values:,} values in {page.unpacked:,} bytes",
                allowed=f"{chunk.values - values:,} values",
            )
        # What does not compress grows by a 128th.
        if not 0 <= page.packed <= min(len(data) - page.start, 2 * most):
            raise CorruptionError("a page reaches beyond its column", place=place)
        at, values = page.start + page.packed, values + page.values
    if values != chunk.values:
        raise CorruptionError(
            "the pages of a column hold another number of values",
            place=place,
            found=values,
            allowed=chunk.values,
        )


def _page(data: memoryview, at: int, *, place: str) -> _Page:
    """The header of the page at `at`, and where it ends."""
    numbers = []
    for tags in _HEADER:
        if data[at : at + len(tags)] != tags:
            raise CorruptionError("the header of a page is damaged", place=place)
        at += len(tags)
        number = shift = 0
        for byte in data[at : at + _MOST_VARINT]:
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        else:
            raise CorruptionError("the header of a page is damaged", place=place)
        numbers.append(number >> 1 ^ -(number & 1))
    for end in _ENDS:
        if data[at : at + len(end)] == end:
            kind, unpacked, packed, _, values, encoding, *levels = numbers
            return _Page(kind, unpacked, packed, values, encoding, levels, at + len(end))
    raise CorruptionError("the header of a page is damaged", place=place)
