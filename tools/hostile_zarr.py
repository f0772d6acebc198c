"""Hostile stores, one chunk of Zarr, or what an index says of one, at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Zstd

from tools.hostile_json import Kind
from tools.reseal import shard_folder

__all__ = ["zarr_kinds"]


def zarr_kinds(store: Path) -> Iterator[Kind]:
    """All kinds for the chunks and indexes of a sound store.

    store: its folder.
    """
    yield from _chunk_kinds(store)
    yield from _index_kinds(store)


def _arrays(store: Path) -> dict[str, str]:
    shard = shard_folder(store)
    files = [one for one in shard.rglob("*") if one.is_file() and one.name != "zarr.json"]
    return {one.relative_to(shard).parts[0]: one.relative_to(shard).as_posix() for one in files}


def _split(data: bytes, count: int) -> list[bytes]:
    index = np.frombuffer(data[-(16 * count + 4) : -4], dtype="<u8").reshape(-1, 2)
    return [data[start : start + size] for start, size in index.tolist()]


def _joined(chunks: list[bytes], index: list[tuple[int, int]] | None = None) -> bytes:
    starts = np.cumsum([0, *map(len, chunks)]).tolist()
    entries = index or [(start, len(one)) for start, one in zip(starts, chunks, strict=False)]
    table = np.array(entries, dtype="<u8").tobytes()
    return b"".join([*chunks, table, _crc(table)])


def _crc(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(4, "little")


def _sealed_chunk(data: bytes) -> bytes:
    return data + _crc(data)


def _of_array(folder: Path, *, name: str, change: Callable[[list[bytes], Any], bytes]) -> None:
    path = shard_folder(folder) / _arrays(folder)[name]
    metadata = json.loads((shard_folder(folder) / name / "zarr.json").read_text())
    inner = metadata["codecs"][0]["configuration"]["chunk_shape"]
    count = int(np.prod(np.array(metadata["shape"]) // np.array(inner)))
    path.write_bytes(change(_split(path.read_bytes(), count), (inner, metadata["data_type"])))


def _other_checksum(chunks: list[bytes], _: Any) -> bytes:
    return _joined([chunks[0][:-4] + b"evil", *chunks[1:]])


def _chunk_kinds(store: Path) -> Iterator[Kind]:
    """What the first chunk of each array is, with its checksum right."""

    def frame(change: Callable[[bytes], bytes]) -> Callable[[list[bytes], Any], bytes]:
        return lambda chunks, _: _joined([_sealed_chunk(change(chunks[0][:-4])), *chunks[1:]])

    def unpacked(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        return lambda data: Zstd(level=19).encode(change(bytes(Zstd().decode(data))))

    changes = {
        "unpacks to one byte more": unpacked(lambda data: data + b"\0"),
        "unpacks to one byte less": unpacked(lambda data: data[:-1]),
        "unpacks to 64 MB": unpacked(lambda _: bytes(64 << 20)),
        "unpacks to a gigabyte": lambda _: Zstd(level=19).encode(bytes(1 << 30)),
        "is zeros": unpacked(lambda data: bytes(len(data))),
        "is ones": unpacked(lambda data: b"\xff" * len(data)),
        "is empty": lambda _: b"",
        "is no frame": lambda _: b"evil" * 16,
        "is cut short": lambda data: data[: len(data) // 2],
        "is two frames": lambda data: data + data,
        "says 2^62 bytes": lambda data: data[:4] + b"\xe0" + b"\xff" * 7 + b"\x3f" + data[6:],
        "says 2^31 bytes": lambda data: data[:4] + b"\xa0" + b"\xff\xff\xff\x7f" + data[6:],
        "says no size": lambda data: data[:4] + b"\x00\x58" + data[6:],
        "has a window of 2 TB": lambda data: data[:4] + b"\x00\xff" + data[6:],
        "needs a dictionary": lambda data: data[:4] + b"\x23\xff\xff\xff\xff" + data[5:],
        "is a frame to skip": lambda data: b"\x50\x2a\x4d\x18\xff\xff\xff\x7f" + data,
    }
    for name in _arrays(store):
        for what, change in changes.items():
            yield Kind(
                area="Zarr chunks",
                name=f"{name}: the first chunk {what}",
                change=partial(_of_array, name=name, change=frame(change)),
                objects=True,
            )
        yield Kind(
            area="Zarr chunks",
            name=f"{name}: the checksum of a chunk is another",
            change=partial(_of_array, name=name, change=_other_checksum),
            objects=True,
        )


def _index_kinds(store: Path) -> Iterator[Kind]:
    """What the index of each array says of its first chunk, with its checksum right."""
    most = (1 << 64) - 1
    # (start, or what is added to it; size, or what is added to it)
    entries: dict[str, tuple[int | None, int | None, int, int]] = {
        "begins at 2^63": (1 << 63, None, 0, 0),
        "begins at 2^64 - 2": (most - 1, None, 0, 0),
        "has 2^63 bytes": (None, 1 << 63, 0, 0),
        "has 2^40 bytes": (None, 1 << 40, 0, 0),
        "has 2^64 - 1 bytes": (None, most, 0, 0),
        "has no bytes": (None, 0, 0, 0),
        "has three bytes": (None, 3, 0, 0),
        "is not there": (most, most, 0, 0),
        "begins one byte later": (None, None, 1, 0),
        "has one byte more": (None, None, 0, 1),
    }

    def with_entry(entry: tuple[int | None, int | None, int, int]) -> Any:
        def made(chunks: list[bytes], _: Any) -> bytes:
            sound = np.cumsum([0, *map(len, chunks)]).tolist()
            index = [(start, len(one)) for start, one in zip(sound, chunks, strict=False)]
            start, size, later, more = entry
            first = (
                index[0][0] + later if start is None else start,
                index[0][1] + more if size is None else size,
            )
            return _joined(chunks, [first, *index[1:]])

        return made

    def all_first(chunks: list[bytes], _: Any) -> bytes:
        return _joined(chunks, [(0, len(chunks[0]))] * len(chunks))

    others: dict[str, Any] = {
        "says that all are the first": all_first,
        "is short": lambda chunks, _: _joined(chunks)[:-20],
        "is of zeros": lambda chunks, _: b"".join(chunks) + bytes(16 * len(chunks) + 4),
        "is alone": lambda chunks, _: _joined(chunks)[-(16 * len(chunks) + 4) :],
        "stands behind a gap of 100 MB": lambda chunks, _: bytes(100 << 20) + _joined(chunks),
        "says that the last come first": lambda chunks, _: _joined(chunks[::-1]),
    }
    for name in _arrays(store):
        for what, entry in entries.items():
            yield Kind(
                area="Zarr indexes",
                name=f"{name}: the first chunk {what}",
                change=partial(_of_array, name=name, change=with_entry(entry)),
                objects=True,
            )
        for what, made in others.items():
            yield Kind(
                area="Zarr indexes",
                name=f"{name}: the index {what}",
                change=partial(_of_array, name=name, change=made),
                objects=True,
            )
