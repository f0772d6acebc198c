"""The Zarr container: five Zarr v3 arrays per shard, one object each, one chunk per block.

Integers are stored as byte planes on a leading axis. A plane of high bytes is nearly all zeros, so
zstd compresses it as well as after a shuffle filter, and any Zarr reader can open the arrays,
because only core codecs are used. Rows, tokens and documents of a block are padded with zeros to
the largest block of the shard. Each draw of a target has chunks of its own, K entries wide.

    entries    uint8  [plane, row, K]    id_delta.0..  code.0..
    scalars    uint8  [plane, row]       floor.0 ..  tail_0.0 ..  label_logprob.0 ..  entropy.0 ..
    tokens     uint8  [plane, token]     id.0 ..  counted
    documents  uint64 [document, 6]
    states     uint8  [plane, row, W]    last.0 last.1 layer_6.0 ..   where there are hidden states
    ranking    uint8  [plane, V]         id.0 ..

There is an array like `ranking` for each table of the shard. Attribute `planes` names the planes:
`<column>.<byte>`, least significant byte first.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, TransposeCodec, ZstdCodec
from zarr.storage import MemoryStore

from logitstore.errors import CorruptionError
from logitstore.format.columns import DOCUMENT_COLUMNS, Columns, planes_needed
from logitstore.format.json import parse_json
from logitstore.store.containers.base import (
    add_container_bytes,
    check_block,
    check_names,
    fetch_parts,
    fields_of,
    missing_as_corruption,
    read_hashed,
)
from logitstore.store.containers.zarr_checks import (
    BY_ENTRY,
    CHUNKED,
    array_plans,
    check_group,
    check_metadata,
    chunked,
    object_names,
)
from logitstore.store.containers.zarr_index import (
    CRC_BYTES,
    blocks_together,
    chunk_sums,
    index_bytes,
    spans_in,
)
from logitstore.store.containers.zarr_objects import ObjectStore
from logitstore.store.storage import place_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zarr.core.buffer import Buffer

    from logitstore.format.blocks import BlockCounts
    from logitstore.format.manifest import StoredObject
    from logitstore.store.containers.base import Fetched
    from logitstore.store.containers.limits import ShardLimits
    from logitstore.store.storage import Storage

__all__ = ["ZarrContainer"]

# zstd level 9 compresses ids to 3.1 bits; level 3 to 3.6, level 19 to 2.9 at a tenth of the speed.
_ZSTD_LEVEL = 9
# Heads of neighbouring rows have long runs of ids in common, which zstd finds when the entries are
# stored row by row: 64 ids take 23 bytes, and 39 when they are stored by entry. Drawn entries have
# little in common with other rows. There the n-th entries of all rows, which are of similar size,
# are next to each other: ids and codes of 16 entries take 18.4 bytes; row by row they take 19.9 at
# level 9 and 19.2 at level 17.
_BY_ENTRY_ZSTD_LEVEL = 17
# Numbers of hidden states have no repetitions, and their mantissas no order: level 1 takes 347
# bytes of 512 in bfloat16, levels 3 and 9 take 358 and 351, and up to seven times as long.
_STATES_ZSTD_LEVEL = 1
_MOST_METADATA = 1 << 20  # bytes of a zarr.json; 193 columns of scalars are named in 8 KB


class ZarrContainer:
    """A shard as a Zarr v3 group."""

    def write(
        self,
        blocks: Sequence[Columns],
        tables: Mapping[str, np.ndarray],
        *,
        draw_count: int = 1,
        by_entry: bool = False,
    ) -> dict[str, bytes]:
        """See `Container`. Blocks are padded to the largest of them."""
        objects: dict[str, Buffer] = {}
        group = zarr.create_group(MemoryStore(objects), overwrite=False)
        entries = {name: [block.entries[name] for block in blocks] for name in blocks[0].entries}
        scalars = {name: [block.scalars[name] for block in blocks] for name in blocks[0].scalars}
        tokens = {
            "id": [block.tokens_N for block in blocks],
            "counted": [block.counted_N for block in blocks],
        }
        _write_planes(group, "entries", entries, draw_count=draw_count, by_entry=by_entry)
        _write_planes(group, "scalars", scalars)
        _write_planes(group, "tokens", tokens)
        states = {name: [block.states[name] for block in blocks] for name in blocks[0].states}
        if states:
            _write_planes(group, "states", states, level=_STATES_ZSTD_LEVEL)
        for name, ids in tables.items():
            _write_planes(group, name, {"id": [ids]})
        _write_documents(group, [block.documents_DC for block in blocks])
        return {
            name: _laid_out(name, data.to_bytes(), group) for name, data in sorted(objects.items())
        }

    def chunk_sums(self, objects: Mapping[str, bytes]) -> dict[str, str]:
        """See `Container`: of the arrays of entries, scalars and tokens."""
        found = {}
        for name, data in objects.items():
            array = name.split("/")[0]
            if array in CHUNKED and not name.endswith("zarr.json"):
                metadata = json.loads(objects[f"{array}/zarr.json"])
                found[name] = chunk_sums(data, count=_chunks_in(metadata))
        return found

    def open(
        self,
        storage: Storage,
        prefix: str,
        *,
        blocks: Sequence[BlockCounts],
        objects: Sequence[StoredObject],
        entries: Sequence[str],
        limits: ShardLimits,
    ) -> ZarrShard:
        """See `Container`. Objects without a checksum of their own are hashed."""
        place = place_of(storage, prefix.rstrip("/"))
        check_names(objects, object_names(limits), place=place)
        # Zarr reads a missing file as zeros, without an error. Indexes and chunks have checksums,
        # but so has a file of another shard, so metadata, tables and documents are hashed.
        ends = {one.path: _index_size(one) for one in objects if not _gives_meaning(one)}
        kept = read_hashed(storage, prefix, objects, ends=ends)
        return ZarrShard(
            storage=storage,
            prefix=prefix,
            blocks=tuple(blocks),
            objects=tuple(objects),
            names=tuple(entries),
            limits=limits,
            kept=kept,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ZarrShard:
    """An open shard: a `ShardReader`. Arrays are opened on first use; every crc32c is checked."""

    storage: Storage
    prefix: str
    blocks: tuple[BlockCounts, ...]
    objects: tuple[StoredObject, ...]
    names: tuple[str, ...]  # of the columns of entries
    limits: ShardLimits
    kept: dict[str, bytes]  # objects that were hashed, and the ends of the others

    def __getstate__(self) -> dict[str, Any]:
        return fields_of(self) | {"kept": {}}

    @cached_property
    def tables(self) -> Mapping[str, np.ndarray]:
        """See `ShardReader`: every array that is not divided into blocks."""
        found = {name: self._integers(name, slice(None))["id"] for name in self.limits.tables}
        for name in found:
            self.kept.pop(self._file(name).path, None)  # it is not read again
        return found

    def fetch(self, number: int, *, draw: int | None = None) -> Fetched:
        """See `ShardReader`: one request for each array, for the planes of a block lie together."""
        return fetch_parts(self.storage, self.prefix, self._ranges(number, draw))

    def block(
        self, number: int, *, draw: int | None = None, fetched: Fetched | None = None
    ) -> Columns:
        """See `ShardReader`: without the padding; with `draw`, the entries of that draw only."""
        check_block(number, self.blocks)
        parts = fetched or self.fetch(number, draw=draw)
        held = {
            (path, start, stop): data
            for path, spans in self._ranges(number, draw).items()
            for (start, stop), data in zip(spans, parts[path], strict=True)
        }
        with self._store.holding(held):
            return self._columns(number, draw)

    def _columns(self, number: int, draw: int | None) -> Columns:
        counts = self.blocks[number]
        rows = self._rows("entries", number, counts.targets)
        entries = self._integers("entries", rows, self._own(draw))
        scalars = self._integers("scalars", self._rows("scalars", number, counts.targets))
        tokens = self._integers("tokens", self._rows("tokens", number, counts.tokens))
        return Columns(
            entries=entries,
            scalars=scalars,
            tokens_N=tokens["id"],
            counted_N=tokens["counted"].astype(np.uint8, copy=False),
            documents_DC=self.documents(number),
            states=self._states(number),
        )

    def _states(self, number: int) -> dict[str, np.ndarray]:
        if not self.limits.states:
            return {}
        found = self._integers("states", self._rows("states", number, self.blocks[number].targets))
        return {name: bits.astype(self._state_dtype, copy=False) for name, bits in found.items()}

    @property
    def _state_dtype(self) -> np.dtype[Any]:
        return np.dtype(f"uint{8 * self.limits.state_bytes}")

    def _ranges(self, number: int, draw: int | None) -> dict[str, list[tuple[int, int]]]:
        """Where the chunks of a block lie: path -> start and stop of each."""
        check_block(number, self.blocks)
        found = {}
        for name in chunked(self.limits):
            grid = _grid(self._arrays[name])
            numbers_PBD = np.arange(math.prod(grid)).reshape(*grid[:2], -1)
            one = slice(None) if draw is None or name != "entries" else slice(draw, draw + 1)
            path, own_PD = self._file(name).path, numbers_PBD[:, number, one]
            found[path] = self._store.ranges(path, own_PD.reshape(-1).tolist())
        return found

    def documents(self, number: int) -> np.ndarray:
        """See `ShardReader`."""
        check_block(number, self.blocks)
        array = self._arrays["documents"]
        start = number * array.chunks[0]
        return self._read("documents", slice(start, start + self.blocks[number].documents))

    def column_bytes(self) -> dict[str, int]:
        """See `ShardReader`: from the indexes of the shard files."""
        sizes: dict[str, int] = {}
        for name, array in self._arrays.items():
            for column, size in zip(
                _columns_of(name, array), self._plane_bytes(name, array), strict=True
            ):
                sizes[column] = sizes.get(column, 0) + size
        return add_container_bytes(sizes, self.objects)

    def _plane_bytes(self, name: str, array: zarr.Array) -> list[int]:
        """Stored bytes of each plane, from the index at the end of the array's one object."""
        one, length = self._file(name), index_bytes(math.prod(_grid(array)))
        index = self.kept.get(one.path, b"")[-length:]
        if len(index) < length:
            ranges = {one.path: [(one.size - length, one.size)]}
            ((index,),) = fetch_parts(self.storage, self.prefix, ranges).values()
        sizes = np.array([stop - start for start, stop in spans_in(index)], dtype=np.int64)
        if name == "documents":
            return [int(sizes.sum())]
        return [int(size) for size in sizes.reshape(array.shape[0], -1).sum(axis=1)]

    def _file(self, array: str) -> StoredObject:
        """The one object in which all chunks of an array lie."""
        (file,) = (one for one in self.objects if one.path.startswith(f"{array}/c/"))
        return file

    @property
    def _arrays(self) -> dict[str, zarr.Array]:
        """By name, in order; what Zarr makes of metadata that was found to be this format's."""
        return self._opened[0]

    @property
    def _store(self) -> ObjectStore:
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple[dict[str, zarr.Array], ObjectStore]:
        plans = array_plans(self.blocks, self.names, self.limits)
        check_group(self._metadata("zarr.json"), place=self._place("zarr.json"))
        for name, plan in plans.items():
            own = f"{name}/zarr.json"
            check_metadata(self._metadata(own), name, plan, place=self._place(own))
        sizes = {one.path: one.size for one in self.objects}
        sums = {one.path: one.chunks for one in self.objects if one.chunks is not None}
        try:
            with missing_as_corruption(self._place("")):
                store = ObjectStore(self.storage, self.prefix, sizes, sums, self.kept)
                group = zarr.open_group(store, mode="r")
                # One by one: `group.arrays()` leaves errors of its other tasks behind, which
                # asyncio prints when they are collected.
                members: dict[str, Any] = {name: group[name] for name in sorted(plans)}
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CorruptionError(f"no Zarr group: {error}", place=self._place("")) from error
        for name, array in members.items():
            store.bound(
                name,
                math.prod(array.chunks) * array.dtype.itemsize,
                chunks=math.prod(_grid(array)),
            )
        return members, store

    def _metadata(self, path: str) -> Any:
        data = self.kept.get(path)
        if data is None:
            ranges = {path: [(0, _MOST_METADATA)]}
            ((data,),) = fetch_parts(self.storage, self.prefix, ranges).values()
        return parse_json(data[:_MOST_METADATA], place=self._place(path))

    def _rows(self, name: str, number: int, count: int) -> slice:
        start = number * self._arrays[name].chunks[1]
        return slice(start, start + count)

    def _own(self, draw: int | None) -> slice:
        """The slice of the entries of a draw, which are as many as a chunk is wide."""
        if draw is None:
            return slice(None)
        width = self._arrays["entries"].chunks[2]
        return slice(draw * width, (draw + 1) * width)

    def _integers(self, name: str, *index: slice) -> dict[str, np.ndarray]:
        """The columns of one array at `index`, joined from their byte planes."""
        planes: Any = self._arrays[name].attrs["planes"]
        return _join_planes(planes, self._read(name, (slice(None), *index)))

    def _place(self, name: str) -> str:
        return place_of(self.storage, f"{self.prefix}{name}")

    def _read(self, name: str, index: Any) -> np.ndarray:
        place = self._place(self._file(name).path)
        try:
            with missing_as_corruption(place):
                return np.asarray(self._arrays[name][index])
        except (ValueError, RuntimeError, KeyError, OSError) as error:
            told = str(error)
            if "checksum" in told:  # Zarr quotes both as raw bytes
                told = "it is not what its checksum says"
            raise CorruptionError(f"a chunk is damaged: {told}", place=place) from error


def _chunks_in(metadata: Mapping[str, Any]) -> int:
    """How many chunks the one object of an array has."""
    (sharding,) = metadata["codecs"]
    inner = sharding["configuration"]["chunk_shape"]
    return math.prod(size // chunk for size, chunk in zip(metadata["shape"], inner, strict=True))


def _laid_out(name: str, data: bytes, group: zarr.Group) -> bytes:
    """An object as it is stored: where it has chunks of several blocks, those of each together."""
    array = name.split("/")[0]
    if array not in CHUNKED or name.endswith("zarr.json"):
        return data
    return blocks_together(data, _grid(group[array]))


def _grid(array: Any) -> tuple[int, ...]:
    """How many chunks an array has along each axis."""
    return tuple(size // chunk for size, chunk in zip(array.shape, array.chunks, strict=True))


def _index_size(one: StoredObject) -> int:
    """Bytes of an object's index, by the checksums of its chunks; of old objects, which have none,
    what a few chunks take."""
    sums = len(one.chunks or "") // (2 * CRC_BYTES)
    return index_bytes(max(sums - 1, 1))


def _gives_meaning(one: StoredObject) -> bool:
    """Whether an object is metadata, a table or the table of documents."""
    return one.path.endswith("zarr.json") or one.path.split("/")[0] not in CHUNKED


def _write_planes(
    group: zarr.Group,
    name: str,
    columns: Mapping[str, Sequence[np.ndarray]],
    *,
    draw_count: int = 1,
    by_entry: bool = False,
    level: int | None = None,
) -> None:
    """Write an array of byte planes [plane, row, ...].

    A chunk is one plane of one draw of one block.
    """
    blocks = next(iter(columns.values()))
    rows, rest = max(len(block) for block in blocks), blocks[0].shape[1:]
    widths = {
        column: planes_needed(max(int(part.max(initial=0)) for part in parts))
        for column, parts in columns.items()
    }
    planes = [
        column if column == "counted" else f"{column}.{byte}"
        for column, width in widths.items()
        for byte in range(width)
    ]
    # Plane by plane and block by block: no column is held in more bytes than it needs.
    stacked = np.zeros((len(planes), len(blocks) * rows, *rest), dtype=np.uint8)
    plane = iter(stacked)
    for column, parts in columns.items():
        for byte in range(widths[column]):
            own = next(plane)
            for number, part in enumerate(parts):
                bits = part.dtype.type(8 * byte)
                own[number * rows : number * rows + len(part)] = part >> bits if byte else part
    chunk = (1, rows, *(size // draw_count for size in rest))
    attributes = {"planes": planes}
    _write(
        group, name, stacked, chunks=chunk, attributes=attributes, by_entry=by_entry, level=level
    )


def _write_documents(group: zarr.Group, tables: Sequence[np.ndarray]) -> None:
    rows = max(len(table) for table in tables)
    padded = np.zeros((len(tables), rows, len(DOCUMENT_COLUMNS)), dtype=np.uint64)
    for table, part in zip(tables, padded, strict=True):
        part[: len(table)] = table
    stacked = padded.reshape(-1, len(DOCUMENT_COLUMNS))
    _write(
        group,
        "documents",
        stacked,
        chunks=(rows, len(DOCUMENT_COLUMNS)),
        attributes={"columns": list(DOCUMENT_COLUMNS)},
    )


def _write(
    group: zarr.Group,
    name: str,
    data: np.ndarray,
    *,
    chunks: tuple[int, ...],
    attributes: dict[str, Any],
    by_entry: bool = False,
    level: int | None = None,
) -> None:
    """Write one array as one file. crc32c is the last codec: it found 300 of 300 flipped bits."""
    level = level or (_BY_ENTRY_ZSTD_LEVEL if by_entry else _ZSTD_LEVEL)
    array = group.create_array(
        name,
        shape=data.shape,
        dtype=data.dtype,
        chunks=chunks,
        shards=data.shape,
        filters=[TransposeCodec(order=BY_ENTRY)] if by_entry else None,
        compressors=[ZstdCodec(level=level), Crc32cCodec()],
        fill_value=0,
        attributes=attributes,
        config={"write_empty_chunks": True},
    )
    array[...] = data


def _join_planes(planes: list[str], bytes_P: np.ndarray) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for plane, low in zip(planes, bytes_P, strict=True):
        column, _, byte = plane.partition(".")
        if not byte or byte == "0":
            columns[column] = low
        elif byte in ("1", "2", "3") and column in columns:
            wide = columns[column].astype(np.uint32)
            wide |= low.astype(np.uint32) << np.uint32(8 * int(byte))
            columns[column] = wide
    return {
        name: column if name == "counted" else column.astype(np.uint32, copy=False)
        for name, column in columns.items()
    }


def _columns_of(name: str, array: zarr.Array) -> list[str]:
    if name == "documents":
        return ["documents"]
    known = {"entries": "", "scalars": "", "tokens": "token_", "states": "state_"}
    shown = known.get(name, f"{name}_")
    return [shown + str(plane).partition(".")[0] for plane in array.attrs["planes"]]  # type: ignore[union-attr]
