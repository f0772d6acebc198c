"""Thrift's compact protocol as trees that can be changed: what the footers of Parquet are made of.

A struct is a dict, number of a field -> `Field`. Only for tools that attack files: what is read is
trusted, what is written may be anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Field", "read_struct", "write_struct"]

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)


@dataclass(slots=True)
class Field:
    """The value of one field: an integer, bytes, a struct, or a list of such fields."""

    kind: int
    value: Any


def read_struct(data: bytes, at: int = 0) -> tuple[dict[int, Field], int]:
    """The struct that begins at `at`, and where it ends."""
    found: dict[int, Field] = {}
    number = 0
    while data[at]:
        kind, step = data[at] & 15, data[at] >> 4
        at += 1
        if not step:
            step, at = _read_number(data, at)
            number = 0
        number += step
        found[number], at = _read_value(data, at, kind)
    return found, at + 1


def write_struct(fields: dict[int, Field]) -> bytes:
    """The bytes of a struct."""
    parts, before = [], 0
    for number, one in sorted(fields.items()):
        step = number - before
        near = 0 < step < 16
        kind = _TRUE if one.kind in (_TRUE, _FALSE) and one.value else one.kind
        kind = _FALSE if one.kind in (_TRUE, _FALSE) and not one.value else kind
        parts.append(bytes([(step << 4 if near else 0) | kind]))
        if not near:
            parts.append(_number(number))
        parts.append(b"" if one.kind in (_TRUE, _FALSE) else _value(one))
        before = number
    return b"".join([*parts, b"\0"])


def _read_value(data: bytes, at: int, kind: int) -> tuple[Field, int]:
    if kind in (_TRUE, _FALSE):
        return Field(kind, kind == _TRUE), at
    if kind in _INTEGERS:
        number, at = _read_varint(data, at)
        return Field(kind, number >> 1 ^ -(number & 1)), at
    if kind == _BINARY:
        size, at = _read_varint(data, at)
        return Field(kind, data[at : at + size]), at + size
    if kind in (_LIST, _SET):
        size, inner = data[at] >> 4, data[at] & 15
        at += 1
        if size == 15:
            size, at = _read_varint(data, at)
        items = []
        for _ in range(size):
            one, at = _read_value(data, at, inner)
            items.append(one)
        return Field(kind, (inner, items)), at
    if kind == _STRUCT:
        inside, at = read_struct(data, at)
        return Field(kind, inside), at
    width = {_BYTE: 1, _DOUBLE: 8}[kind]
    return Field(kind, data[at : at + width]), at + width


def _value(one: Field) -> bytes:
    if one.kind in _INTEGERS:
        return _number(one.value)
    if one.kind == _BINARY:
        return _varint(len(one.value)) + bytes(one.value)
    if one.kind in (_LIST, _SET):
        inner, items = one.value
        return b"".join([bytes([0xF0 | inner]), _varint(len(items)), *map(_value, items)])
    return write_struct(one.value) if one.kind == _STRUCT else bytes(one.value)


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    number, at = _read_varint(data, at)
    return number >> 1 ^ -(number & 1), at


def _number(value: int) -> bytes:
    return _varint((value << 1 ^ value >> 127) & (1 << 64) - 1)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return number, at


def _varint(number: int) -> bytes:
    parts = []
    while number >= 128:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])
