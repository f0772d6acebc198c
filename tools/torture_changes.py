"""Changes to the files of a store: bits that flip, files that are cut, pieces that swap places."""

from __future__ import annotations

import io
import json
import math
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping

__all__ = ["Change", "change", "equal_sizes", "swap"]

PAGE = 4096
_LONGER = 64  # bytes at most that a file grows by
_ENTRY, _CRC = 16, 4  # bytes: an entry of the index of a Zarr shard, and its checksum


@dataclass(frozen=True, slots=True)
class Change:
    """New bytes for files of a store; None removes one.

    what: told of it, with all that repeats it.
    root: the folder of the store.
    files: name in the store -> bytes; one that is not there is made.
    fitting: names of others that no longer fit what is changed: to name them is as good.
    """

    what: str
    root: Path
    files: Mapping[str, bytes | None]
    fitting: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.what} of {', '.join(self.files)}"

    def apply(self) -> None:
        """Write them."""
        for name, data in self.files.items():
            self._write(name, data)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The store is changed meanwhile, and as before then."""
        before = {name: self._read(name) for name in self.files}
        self.apply()
        try:
            yield
        finally:
            for name, data in before.items():
                self._write(name, data)

    @property
    def changes_bytes(self) -> bool:
        """Whether any file is another then."""
        return any(self._read(name) != data for name, data in self.files.items())

    @property
    def in_shards(self) -> bool:
        """Whether it changes bytes of shards or of the output layer alone, and no file's size."""
        return all(
            name.startswith(("data/", "head/"))
            and data is not None
            and len(data) == len(self._read(name) or b"")
            for name, data in self.files.items()
        )

    @property
    def vouched(self) -> bool:
        """Whether a sealed store vouches for a file that is changed: for all but the README."""
        return any(name != "README.md" for name in self.files)

    def is_named(self, message: str) -> bool:
        """Whether a message names a file that is changed, or the shard that holds it.

        message: of an error.
        """
        shards = ("/".join(name.split("/")[:2]) for name in self.files if name.startswith("data/"))
        return any(name in message for name in (*self.files, *self.fitting, *shards))

    def _read(self, name: str) -> bytes | None:
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def _write(self, name: str, data: bytes | None) -> None:
        path = self.root / name
        if data is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            return
        path.unlink(missing_ok=True)
        with suppress(OSError):  # as far as nothing else is there
            for folder in list(path.relative_to(self.root).parents)[:-1]:
                (self.root / folder).rmdir()


def change(root: Path, *, generator: random.Random) -> Change:
    """A flip of one bit, four times in five, or another change of one file of the store at `root`.

    root: the store's folder.
    generator: of what is changed how.
    """
    path = generator.choice(_files(root))
    data = path.read_bytes()
    name = path.relative_to(root).as_posix()
    kind = generator.choice(("flip",) * 16 + ("cut", "longer", "zeroed", "removed"))
    if kind == "removed" or not data:
        return Change("removal", root, {name: None})
    if kind == "cut":
        return Change("cut", root, {name: data[: generator.randrange(len(data))]})
    if kind == "longer":
        more = generator.randbytes(generator.randint(1, _LONGER))
        return Change("growth", root, {name: data + more})
    if kind == "zeroed":
        start = generator.randrange(len(data)) // PAGE * PAGE
        zeros = bytes(len(data[start : start + PAGE]))
        return Change(
            f"page of zeros at {start}", root, {name: data[:start] + zeros + data[start + PAGE :]}
        )
    place, bit = generator.randrange(len(data)), generator.randrange(8)
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return Change(f"flip of bit {bit} at {place}", root, {name: bytes(changed)})


def swap(root: Path, other: Path, *, generator: random.Random) -> Change:
    """Something of the store at `root` in the place of something else that is like it.

    root: the store's folder.
    other: the folder of a store of the same corpus and teacher, with other values.
    generator: of what is put where.
    """
    zarr = (root / "data").rglob("zarr.json")
    inside = (_chunks, _first_chunks) if any(zarr) else (_row_groups, _column_chunks)
    makers = (_between_units, _from_other, _unit_from_other, *inside)
    while True:
        made = generator.choice(makers)(root, other, generator)
        if made is not None and made.changes_bytes:
            return made


def equal_sizes(root: Path) -> Iterator[Change]:
    """Files of one role, of two units, that have the same size and other bytes, exchanged.

    root: the store's folder.
    """
    for one, two in combinations(_units(root).values(), 2):
        for pair in _pairs(one, two):
            made = _exchanged(root, [pair])
            if made.changes_bytes and made.in_shards:
                yield made


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def _units(root: Path) -> dict[str, list[str]]:
    """Unit -> the files of its shard and its commit, in order."""
    units: dict[str, list[str]] = {}
    for path in _files(root):
        name = path.relative_to(root).as_posix()
        if name.startswith(("data/", "commits/")):
            units.setdefault(name.split("/")[1][:6], []).append(name)
    return units


def _role(name: str) -> str:
    """What a file is in its unit."""
    return name.split("/", 2)[-1] if name.startswith("data/") else "commit"


def _pairs(one: list[str], two: list[str]) -> list[tuple[str, str]]:
    """The files of two units that have the same role."""
    roles = {_role(name): name for name in two}
    return [(name, roles[_role(name)]) for name in one if _role(name) in roles]


def _exchanged(root: Path, pairs: list[tuple[str, str]]) -> Change:
    files: dict[str, bytes | None] = {}
    for one, two in pairs:
        files |= {one: (root / two).read_bytes(), two: (root / one).read_bytes()}
    return Change("exchange", root, files)


def _between_units(root: Path, _: Path, generator: random.Random) -> Change:
    """One file of two units, or their shards, or the units with their commits."""
    one, two = generator.sample(sorted(_units(root).values()), 2)
    pairs = _pairs(one, two)
    shards = [pair for pair in pairs if pair[0].startswith("data/")]
    return _exchanged(root, generator.choice([shards, pairs, *([pair] for pair in pairs)]))


def _from_other(root: Path, other: Path, generator: random.Random) -> Change:
    """A file of the other store: an older attempt, other values, another seal."""
    units, others = _units(root), _units(other)
    pairs = [pair for unit in units for pair in _pairs(units[unit], others.get(unit, []))]
    small = ("store.json", "plan.json", "manifest.json")
    pairs += [(name, name) for name in small if (root / name).is_file()]
    name, found = generator.choice(pairs)
    sealed = ("store.json", "plan.json", "commits/") if name == "manifest.json" else ()
    return Change("another store's file", root, {name: (other / found).read_bytes()}, sealed)


def _unit_from_other(root: Path, other: Path, generator: random.Random) -> Change:
    """A whole unit of the other store, its commit in the place of ours."""
    units, others = _units(root), _units(other)
    unit = generator.choice(sorted(set(units) & set(others)))
    files = {name: (other / name).read_bytes() for name in others[unit]}
    return Change("another store's unit", root, files)


def _chunks(root: Path, _: Path, generator: random.Random) -> Change | None:
    """Two chunks of one object of a Zarr shard, under an index that fits."""
    path = generator.choice(_chunked(root))
    chunks = _parsed_chunks(path)
    if len(chunks) < 2:
        return None
    one, two = generator.sample(range(len(chunks)), 2)
    chunks[one], chunks[two] = chunks[two], chunks[one]
    name = path.relative_to(root).as_posix()
    return Change(f"exchange of chunks {one} and {two}", root, {name: _joined_chunks(chunks)})


def _first_chunks(root: Path, _: Path, generator: random.Random) -> Change:
    """The first chunks of two objects, under indexes that fit."""
    paths = generator.sample(_chunked(root), 2)
    first, second = (_parsed_chunks(path) for path in paths)
    first[0], second[0] = second[0], first[0]
    files = {
        path.relative_to(root).as_posix(): _joined_chunks(chunks)
        for path, chunks in zip(paths, (first, second), strict=True)
    }
    return Change("exchange of first chunks", root, files)


def _chunked(root: Path) -> list[Path]:
    """The objects of Zarr shards that hold chunks."""
    paths = (path for path in _files(root) if "data" in path.relative_to(root).parts)
    return [path for path in paths if path.name != "zarr.json"]


def _parsed_chunks(path: Path) -> list[bytes]:
    """The chunks of an object by the index that closes it, as the sharding codec lays it out."""
    data = path.read_bytes()
    array = next(one for one in path.parents if (one / "zarr.json").is_file())
    described = json.loads((array / "zarr.json").read_text())
    outer = described["chunk_grid"]["configuration"]["chunk_shape"]
    inner = described["codecs"][0]["configuration"]["chunk_shape"]
    count = math.prod(-(-one // two) for one, two in zip(outer, inner, strict=True))
    index = np.frombuffer(data[-_CRC - count * _ENTRY : -_CRC], dtype="<u8").reshape(-1, 2)
    return [data[start : start + size] for start, size in index.tolist()]


def _joined_chunks(chunks: list[bytes]) -> bytes:
    sizes = [len(one) for one in chunks]
    starts = np.cumsum([0, *sizes[:-1]])
    index = np.stack([starts, sizes], axis=1).astype("<u8").tobytes()
    return b"".join(chunks) + index + google_crc32c.value(index).to_bytes(_CRC, "little")


def _row_groups(root: Path, _: Path, generator: random.Random) -> Change | None:
    """Two row groups of a Parquet file, written anew."""
    path, file = _parquet(root, generator)
    order = list(range(file.num_row_groups))
    if len(order) < 2:
        return None
    one, two = generator.sample(order, 2)
    order[one], order[two] = order[two], order[one]
    written = io.BytesIO()
    options = {"compression": "zstd", "write_page_checksum": True}
    with pq.ParquetWriter(written, file.schema_arrow, **options) as writer:
        for number in order:
            writer.write_table(file.read_row_group(number))
    name = path.relative_to(root).as_posix()
    return Change(f"exchange of row groups {one} and {two}", root, {name: written.getvalue()})


def _column_chunks(root: Path, _: Path, generator: random.Random) -> Change | None:
    """The bytes of two column chunks of equal size in a Parquet file."""
    path, file = _parquet(root, generator)
    ranges: dict[int, list[int]] = {}  # size -> starts
    for group in range(file.num_row_groups):
        for column in range(file.metadata.num_columns):
            chunk = file.metadata.row_group(group).column(column)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            ranges.setdefault(chunk.total_compressed_size, []).append(start)
    pairs = [(size, starts) for size, starts in sorted(ranges.items()) if len(starts) > 1]
    if not pairs:
        return None
    size, starts = generator.choice(pairs)
    one, two = generator.sample(starts, 2)
    data = bytearray(path.read_bytes())
    data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]
    name = path.relative_to(root).as_posix()
    return Change(f"exchange of {size} bytes at {one} and {two}", root, {name: bytes(data)})


def _parquet(root: Path, generator: random.Random) -> tuple[Path, pq.ParquetFile]:
    path = generator.choice(sorted((root / "data").glob("*/documents.parquet")))
    return path, pq.ParquetFile(path)
