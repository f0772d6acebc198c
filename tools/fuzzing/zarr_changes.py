"""Changes of a Zarr shard whose checksums are right: of metadata, of chunks, of their index.

A data object is taken apart into the frames of its chunks and its index; what is changed is packed
again, and its crc32c computed, so that the change is met behind the checksums.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import pyarrow as pa

from tools.fuzzing.byte_changes import changed_bytes
from tools.fuzzing.json_changes import changed

if TYPE_CHECKING:
    from tools.fuzzing.choices import Choices
    from tools.fuzzing.stores import Objects

__all__ = ["changed_shard"]

_METADATA = "zarr.json"
_ENTRY_BYTES, _CRC_BYTES = 16, 4
_MOST_CHANGES, _MOST_UNPACKED = 3, 1 << 20


def changed_shard(shard: Objects, choices: Choices) -> Objects:
    """The objects of a shard, by their paths in it, with a few changes."""
    shard = dict(shard)
    for _ in range(1 + choices.below(_MOST_CHANGES)):
        paths = sorted(shard)
        if not paths:
            break
        path, kind = choices.one_of(paths), choices.below(16)
        if kind == 0:
            del shard[path]
        elif kind == 1:
            shard[choices.one_of((path + "x", "extra/" + path, "table/zarr.json"))] = shard[path]
        elif kind == 2:
            other = choices.one_of(paths)
            shard[path], shard[other] = shard[other], shard[path]
        elif kind == 3:
            shard[path] = changed_bytes(shard[path], choices)
        elif path.endswith(_METADATA):
            shard[path] = _changed_metadata(shard[path], choices)
        else:
            shard[path] = _changed_array(shard, path, choices)
    return shard


def _changed_metadata(data: bytes, choices: Choices) -> bytes:
    try:
        return json.dumps(changed(json.loads(data), choices)).encode()
    except (ValueError, RecursionError):
        return changed_bytes(data, choices)


def _changed_array(shard: Objects, path: str, choices: Choices) -> bytes:
    """The data object of an array, its chunks packed anew."""
    data = shard[path]
    try:
        frames, entries = _apart(
            data, _chunks(json.loads(shard[f"{path.split('/')[0]}/zarr.json"]))
        )
    except (ValueError, LookupError, TypeError, ArithmeticError):
        return changed_bytes(data, choices)
    number = choices.below(len(frames))
    kind = choices.below(4)
    if kind == 0:
        entries = _changed_index(entries, choices)
        return b"".join(frames) + _with_crc(entries.tobytes())
    body = frames[number][:-_CRC_BYTES]
    frames[number] = _with_crc(
        changed_bytes(body, choices) if kind == 1 else _repacked(body, choices)
    )
    return _together(frames)


def _chunks(metadata: Any) -> int:
    inner = metadata["codecs"][0]["configuration"]["chunk_shape"]
    return math.prod(metadata["shape"]) // math.prod(inner)


def _apart(data: bytes, count: int) -> tuple[list[bytes], np.ndarray]:
    """The frames of the chunks, each with its crc32c, and the index [chunk, start and length]."""
    index = data[-(count * _ENTRY_BYTES + _CRC_BYTES) : -_CRC_BYTES]
    entries = np.frombuffer(index, dtype="<u8").reshape(-1, 2).copy()
    frames = [data[start : start + length] for start, length in entries.tolist()]
    if not frames:
        raise ValueError("no chunks")
    return frames, entries


def _together(frames: list[bytes]) -> bytes:
    lengths = np.array([len(one) for one in frames], dtype="<u8")
    starts = np.cumsum(lengths) - lengths
    index = np.stack([starts, lengths], axis=1).astype("<u8")
    return b"".join(frames) + _with_crc(index.tobytes())


def _changed_index(entries: np.ndarray, choices: Choices) -> np.ndarray:
    for _ in range(1 + choices.below(3)):
        place = choices.below(entries.size)
        entries.flat[place] = choices.integer(int(entries.flat[place])) % (1 << 64)
    return entries


def _repacked(frame: bytes, choices: Choices) -> bytes:
    """A chunk's bytes changed and compressed: whole, in two frames, or without their length."""
    try:
        plain = pa.input_stream(pa.BufferReader(frame), compression="zstd").read(_MOST_UNPACKED)
    except (OSError, ValueError):
        plain = frame
    plain = changed_bytes(plain, choices)
    style = choices.below(4)
    if style == 1:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(plain)
        return bytes(sink.getvalue())
    if style == 2:
        half = len(plain) // 2
        return _compressed(plain[:half]) + _compressed(plain[half:])
    if style == 3:  # far more than the array has room for
        return _compressed(plain + bytes(choices.below(1 << 22)))
    return _compressed(plain)


def _compressed(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd", compression_level=1).compress(data, asbytes=True))


def _with_crc(data: bytes) -> bytes:
    return data + google_crc32c.value(data).to_bytes(_CRC_BYTES, "little")
