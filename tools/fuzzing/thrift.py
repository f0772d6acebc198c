"""Thrift's compact protocol, as Parquet writes its footer and its page headers: apart and together.

A struct becomes a list of fields, so that any of them can be changed and all be written again.
Specified at github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Field", "Listed", "read_struct", "written_struct"]

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
_MOST_DEPTH = 16


@dataclass(kw_only=True, slots=True)
class Field:
    """A field of a struct."""

    number: int
    kind: int
    value: Any  # an integer, bytes, a list of fields, or `Listed`


@dataclass(kw_only=True, slots=True)
class Listed:
    """A list, or a set."""

    kind: int  # of its values
    values: list[Any]


class _Reader:
    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place

    def byte(self) -> int:
        if self.place >= len(self.data):
            raise ValueError("the struct has no end")
        self.place += 1
        return self.data[self.place - 1]

    def varint(self) -> int:
        found, shift = 0, 0
        while True:
            one = self.byte()
            found |= (one & 127) << shift
            if one < 128:
                return found
            shift += 7

    def zigzag(self) -> int:
        found = self.varint()
        return (found >> 1) ^ -(found & 1)

    def value(self, kind: int, depth: int) -> Any:
        if depth > _MOST_DEPTH:
            raise ValueError("the struct is nested too deep")
        if kind in _INTEGERS:
            return self.zigzag()
        if kind == _BYTE:
            return self.byte()
        if kind in (_BINARY, _DOUBLE):
            length = self.varint() if kind == _BINARY else 8
            self.place += length
            return self.data[self.place - length : self.place]
        if kind in (_LIST, _SET):
            head = self.byte()
            count = head >> 4 if head >> 4 < 15 else self.varint()
            values = [self.value(head & 15, depth + 1) for _ in range(count)]
            return Listed(kind=head & 15, values=values)
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_TRUE, _FALSE):  # in a list
            return self.byte()
        raise ValueError(f"type {kind}")

    def struct(self, depth: int) -> list[Field]:
        fields: list[Field] = []
        number = 0
        while head := self.byte():
            number = number + (head >> 4) if head >> 4 else self.zigzag()
            kind = head & 15
            alone = kind in (_TRUE, _FALSE)
            value = kind if alone else self.value(kind, depth)
            fields.append(Field(number=number, kind=kind, value=value))
        return fields


def read_struct(data: bytes, place: int = 0) -> tuple[list[Field], int]:
    """The fields of the struct that begins at `place`, and where it ends. ValueError if none."""
    reader = _Reader(data, place)
    return reader.struct(0), reader.place


def written_struct(fields: list[Field]) -> bytes:
    """The bytes of a struct; integers are cut off at 64 bits."""
    found, last = bytearray(), 0
    for field in fields:
        step = field.number - last
        found += bytes([(step << 4 | field.kind)]) if 0 < step < 16 else b""
        if not 0 < step < 16:
            found += bytes([field.kind]) + _zigzag(field.number)
        last = field.number
        if field.kind not in (_TRUE, _FALSE):
            found += _written(field.kind, field.value)
    return bytes(found) + b"\0"


def _written(kind: int, value: Any) -> bytes:
    if kind in _INTEGERS:
        return _zigzag(value)
    if kind == _BINARY:
        return _varint(len(value)) + value
    if kind == _DOUBLE:
        return bytes(value)
    if kind in (_LIST, _SET):
        count = len(value.values)
        head = bytes([count << 4 | value.kind]) if count < 15 else bytes([0xF0 | value.kind])
        body = b"".join(_written(value.kind, one) for one in value.values)
        return head + (b"" if count < 15 else _varint(count)) + body
    if kind == _STRUCT:
        return written_struct(value)
    return bytes([value & 255])


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _zigzag(value: int) -> bytes:
    value = (value + (1 << 63)) % (1 << 64) - (1 << 63)
    return _varint((value << 1) ^ (value >> 63) if value >= 0 else ((-value) << 1) - 1)
