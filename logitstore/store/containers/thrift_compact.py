"""Thrift's compact protocol as trees: what the footers of Parquet files are written in.

A struct is a dict, number of a field -> `Field`. What is read may be anything: it is bounded by its
own bytes, and what ends too early raises IndexError, what makes no sense ValueError.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "BINARY",
    "BYTE",
    "FALSE",
    "I32",
    "I64",
    "LIST",
    "STRUCT",
    "TRUE",
    "Field",
    "read_struct",
    "write_struct",
]
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET = range(1, 11)
STRUCT = 12
_INTEGERS = (I16, I32, I64)
_WIDTHS = {BYTE: 1, DOUBLE: 8}
_DEEPEST = 16
_MOST_VARINT = 10  # bytes of 64 bits


class Field(NamedTuple):
    """A value: an integer, bytes, a bool, a struct, or of a list the kind and the values."""

    kind: int
    value: Any


def read_struct(data: bytes, at: int = 0, *, depth: int = 0) -> tuple[dict[int, Field], int]:
    """The struct that begins at `at`, and where it ends.

    data: from anywhere.
    at: a place in it.
    depth: of structs around it.
    """
    if depth > _DEEPEST:
        raise ValueError("structs are nested too deep")
    found: dict[int, Field] = {}
    number = 0
    while data[at]:
        kind, step = data[at] & 15, data[at] >> 4
        at += 1
        if not step:
            number, at = _read_number(data, at)
        number += step
        if number in found:
            raise ValueError(f"field {number} is there twice")
        found[number], at = _read_value(data, at, kind, depth)
    return found, at + 1


def write_struct(fields: dict[int, Field]) -> bytes:
    """The bytes of a struct."""
    parts, before = [], 0
    for number, one in sorted(fields.items()):
        step = number - before
        near = 0 < step < 16
        kind = (TRUE if one.value else FALSE) if one.kind in (TRUE, FALSE) else one.kind
        parts.append(bytes([(step << 4 if near else 0) | kind]))
        if not near:
            parts.append(_number(number))
        if one.kind not in (TRUE, FALSE):
            parts.append(_value(one))
        before = number
    return b"".join([*parts, b"\0"])


def _read_value(data: bytes, at: int, kind: int, depth: int) -> tuple[Field, int]:
    if kind in _INTEGERS:
        number, at = _read_number(data, at)
        return Field(kind, number), at
    if kind == STRUCT:
        inside, at = read_struct(data, at, depth=depth + 1)
        return Field(kind, inside), at
    if kind == BINARY:
        size, at = _read_varint(data, at)
        return Field(kind, _bytes(data, at, size)), at + size
    if kind in (LIST, SET):
        return _read_list(data, at, kind, depth)
    if kind in (TRUE, FALSE):
        return Field(kind, kind == TRUE), at
    if kind not in _WIDTHS:
        raise ValueError(f"no kind of value has the number {kind}")
    return Field(kind, _bytes(data, at, _WIDTHS[kind])), at + _WIDTHS[kind]


def _read_list(data: bytes, at: int, kind: int, depth: int) -> tuple[Field, int]:
    size, inner = data[at] >> 4, data[at] & 15
    at += 1
    if size == 15:
        size, at = _read_varint(data, at)
    if inner in (TRUE, FALSE) or size > len(data) - at:  # each value takes a byte or more
        raise ValueError("a list is longer than what holds it")
    items = []
    for _ in range(size):
        one, at = _read_value(data, at, inner, depth + 1)
        items.append(one)
    return Field(kind, (inner, items)), at


def _bytes(data: bytes, at: int, size: int) -> bytes:
    if size > len(data) - at:
        raise IndexError("bytes end too early")
    return data[at : at + size]


def _value(one: Field) -> bytes:
    if one.kind in _INTEGERS:
        return _number(one.value)
    if one.kind == BINARY:
        return _varint(len(one.value)) + bytes(one.value)
    if one.kind in (LIST, SET):
        inner, items = one.value
        return b"".join([bytes([0xF0 | inner]), _varint(len(items)), *map(_value, items)])
    return write_struct(one.value) if one.kind == STRUCT else bytes(one.value)


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    number, at = _read_varint(data, at)
    return number >> 1 ^ -(number & 1), at


def _number(value: int) -> bytes:
    return _varint((value << 1 ^ value >> 63) & (1 << 64) - 1)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = data[at]
    if number < 0x80:
        return number, at + 1
    number &= 0x7F
    for place in range(1, _MOST_VARINT):
        byte = data[at + place]
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    raise ValueError("an integer has more than 64 bits")


def _varint(number: int) -> bytes:
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])
