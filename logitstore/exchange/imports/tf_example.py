"""tf.train.Example, read by its few rules, so that nobody needs TensorFlow for it.

Example { Features features = 1 }      Features { map<string, Feature> feature = 1 }
Feature { oneof: BytesList = 1, FloatList = 2, Int64List = 3 }, each with a packed list in 1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from logitstore.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["example_features"]

_LENGTH = 2  # wire type: a length, and as many bytes


def example_features(data: bytes, *, place: str) -> dict[str, np.ndarray | None]:
    """The features by name: float64 or int64 of one axis; None for bytes.

    data: of one Example.
    place: what an error names.

    Raises CorpusError for anything else.
    """
    try:
        found: dict[str, np.ndarray | None] = {}
        for _, features in _fields(memoryview(data), wanted=1):
            for _, entry in _fields(features, wanted=1):
                parts = dict(_fields(entry))
                name = bytes(parts.get(1, b"")).decode()
                if name in found:
                    raise ValueError(f"feature {name} is there twice")
                found[name] = _feature(parts.get(2, memoryview(b"")))
        return found
    except (ValueError, IndexError) as error:
        raise CorpusError(f"the record is no tf.train.Example: {error}", place=place) from error


def _feature(data: memoryview) -> np.ndarray | None:
    parts = list(_fields(data))
    if len(parts) != 1 or parts[0][0] not in (1, 2, 3):
        raise ValueError("a feature is no list")
    kind, content = parts[0]
    if kind == 1:
        return None
    packed = [bytes(part) for _, part in _fields(content, wanted=1)]
    joined = b"".join(packed)
    if kind == 2:
        return np.frombuffer(joined, dtype="<f4").astype(np.float64)
    return _varints(joined)


def _varints(data: bytes) -> np.ndarray:
    """int64: numbers of 7 bits a byte, the least significant first; the last has no top bit."""
    raw = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if not len(raw):
        return np.zeros(0, dtype=np.int64)
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise ValueError("a number is cut off")
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (ends - starts >= 10).any():
        raise ValueError("a number is too long")
    places = np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)
    parts = (raw & 0x7F).astype(np.uint64) << (7 * places).astype(np.uint64)
    return np.add.reduceat(parts, starts).astype(np.int64)


def _fields(data: memoryview, *, wanted: int | None = None) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each field; ValueError where one has no length or another number."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 != _LENGTH or (wanted is not None and key >> 3 != wanted):
            raise ValueError(f"field {key >> 3} of type {key & 7}")
        size, at = _varint(data, at)
        if size > len(data) - at:
            raise ValueError("a field is cut off")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number is too long")
