"""The Parquet container: one row per document, one row group per block, lists for arrays.

    documents.parquet   id, record, piece, tokens, targets, input_ids, counted; a list of targets
                        x K values for each column of entries, its name followed by s, as in
                        `id_deltas`; a list for each scalar
    ranking.parquet     id; one such file for each table of the shard

datasets, DuckDB, Polars and Spark can read it. Integers are split into byte streams and compressed
with zstd. Every page has a checksum: without them 591 of 600 flipped bits were missed.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from logitstore.errors import CorruptionError
from logitstore.format.columns import DOCUMENT_COLUMNS, Columns
from logitstore.store.containers.base import (
    ShardLimits,
    add_container_bytes,
    check_block,
    check_objects,
    fields_of,
    missing_as_corruption,
)
from logitstore.store.storage import place_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from logitstore.format.blocks import BlockCounts
    from logitstore.format.manifest import StoredObject
    from logitstore.store.storage import Storage

__all__ = ["ParquetContainer"]

_DOCUMENTS = "documents.parquet"
_SUFFIX = ".parquet"
_ZSTD_LEVEL = 9
# Readers fetch about a megabyte at least; larger pages do not compress better here.
_PAGE_BYTES = 1 << 20
# A value of 32 bits and its levels, unpacked; and what pages of nothing take.
_VALUE_BYTES, _LEAST_BYTES, _MOST_SCALARS = 8, 1 << 20, 128
_TOKEN_LISTS = ("input_ids", "counted")


class ParquetContainer:
    """A shard as one Parquet file of its documents and one for each table."""

    def write(
        self,
        blocks: Sequence[Columns],
        tables: Mapping[str, np.ndarray],
        *,
        draw_count: int = 1,
        by_entry: bool = False,
    ) -> dict[str, bytes]:
        """See `Container`: one row group per block, so a block takes one request per column."""
        parts = [_table(block) for block in blocks]
        entries = [f"{name}s" for name in blocks[0].entries]
        lists = [*_TOKEN_LISTS, *entries, *blocks[0].scalars]
        objects = {_DOCUMENTS: _file(parts, split=[f"{name}.list.element" for name in lists])}
        for name, ids in tables.items():
            table = pa.table({"id": pa.array(ids, pa.uint32())})
            objects[f"{name}{_SUFFIX}"] = _file([table], split=["id"])
        return objects

    def chunk_sums(self, objects: Mapping[str, bytes]) -> dict[str, str]:
        """See `Container`: none, for every object is hashed when it is opened."""
        return {}

    def open(
        self,
        storage: Storage,
        prefix: str,
        *,
        blocks: Sequence[BlockCounts],
        objects: Sequence[StoredObject],
        entries: Sequence[str],
        limits: ShardLimits | None = None,
    ) -> ParquetShard:
        """See `Container`. Every object is hashed."""
        # Page checksums do not cover the footer, which says where the pages are. So whole objects
        # are hashed, at 1 GB/s and more.
        check_objects(storage, prefix, objects, hashed=lambda _: True)
        return ParquetShard(
            storage=storage,
            prefix=prefix,
            blocks=tuple(blocks),
            objects=tuple(objects),
            names=tuple(entries),
            limits=limits,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ParquetShard:
    """An open shard: a `ShardReader`. The checksum of every page is checked as it is read."""

    storage: Storage
    prefix: str
    blocks: tuple[BlockCounts, ...]
    objects: tuple[StoredObject, ...]
    names: tuple[str, ...]  # of the columns of entries
    limits: ShardLimits | None

    __getstate__ = fields_of

    @cached_property
    def tables(self) -> Mapping[str, np.ndarray]:
        """See `ShardReader`: column `id` of every file but that of the documents."""
        files = [one.path for one in self.objects if one.path != _DOCUMENTS]
        found = {}
        for name in files:
            with self._opened(name) as file:
                found[name.removesuffix(_SUFFIX)] = file.read()["id"].to_numpy()
        return found

    def block(self, number: int, *, draw: int | None = None) -> Columns:
        """See `ShardReader`: the entries are those of all draws, whatever `draw` is."""
        table = self._read(number, None)
        counts = self.blocks[number]
        lists = {
            name: _flat(table[name])
            for name in table.column_names
            if name not in ("id", *DOCUMENT_COLUMNS)
        }
        wanted = [*_TOKEN_LISTS, *(f"{name}s" for name in self.names)]
        missing = [name for name in wanted if name not in lists]
        entries = {name: lists.pop(f"{name}s", np.zeros(0)) for name in self.names}
        lengths = {len(values) for values in entries.values()}
        shape = (counts.targets, -1) if counts.targets else (0, 1)
        if missing or len(lengths) != 1 or lengths.pop() % max(1, counts.targets):
            found = {name: len(values) for name, values in entries.items()}
            raise CorruptionError(
                "columns are missing or of the wrong length",
                place=self._place(_DOCUMENTS),
                found=", ".join(missing) or f"{found} entries",
                allowed=f"a multiple of {counts.targets} targets",
            )
        return Columns(
            entries={name: one.reshape(shape) for name, one in entries.items()},
            tokens_N=lists.pop("input_ids"),
            counted_N=lists.pop("counted").astype(np.uint8),
            scalars=lists,
            documents_DC=_documents(table),
        )

    def documents(self, number: int) -> np.ndarray:
        """See `ShardReader`."""
        return _documents(self._read(number, ["id", *DOCUMENT_COLUMNS[2:]]))

    def column_bytes(self) -> dict[str, int]:
        """See `ShardReader`: from the footers."""
        sizes: dict[str, int] = {}
        for one in self.objects:
            with self._opened(one.path) as file:
                footer = file.metadata
            for group in range(footer.num_row_groups):
                for number in range(footer.num_columns):
                    column = footer.row_group(group).column(number)
                    shown = _shown(one.path, column.path_in_schema.split(".")[0], self.names)
                    sizes[shown] = sizes.get(shown, 0) + column.total_compressed_size
        return add_container_bytes(sizes, self.objects)

    def _read(self, number: int, columns: list[str] | None) -> pa.Table:
        check_block(number, self.blocks)
        with self._opened(_DOCUMENTS) as file:
            table = file.read_row_group(number, columns=columns)
        if len(table) != self.blocks[number].documents:
            raise CorruptionError(
                "block holds another number of documents",
                place=f"{self._place(_DOCUMENTS)}, row group {number}",
                found=len(table),
                allowed=self.blocks[number].documents,
            )
        return table

    @contextmanager
    def _opened(self, name: str) -> Iterator[pq.ParquetFile]:
        """A file of the shard. An error of Arrow becomes a CorruptionError."""
        sizes = {one.path: one.size for one in self.objects}
        if name not in sizes:
            raise CorruptionError("file is missing", place=self._place(name))
        source = _ObjectFile(self.storage, f"{self.prefix}{name}", sizes[name])
        try:
            # With pre_buffer Arrow requests neighbouring columns together.
            with (
                missing_as_corruption(self._place(name)),
                pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True) as file,
            ):
                self._check_room(name, file.metadata)
                yield file
        except (pa.ArrowException, OSError, KeyError) as error:
            raise CorruptionError(f"file is damaged: {error}", place=self._place(name)) from error

    def _check_room(self, name: str, footer: pq.FileMetaData) -> None:
        """Refuse a file that says to hold more than its commit and the store's spec allow."""
        if self.limits is None:
            return
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        found = [(group.num_rows, group.total_byte_size) for group in groups]
        if name == _DOCUMENTS:
            entries = self.limits.entries * len(self.names) + _MOST_SCALARS
            most = [
                (
                    block.documents,
                    _LEAST_BYTES
                    + _VALUE_BYTES
                    * (
                        block.documents * _MOST_SCALARS + 2 * block.tokens + entries * block.targets
                    ),
                )
                for block in self.blocks
            ]
        else:
            most = [(self.limits.table, _LEAST_BYTES + _VALUE_BYTES * self.limits.table)]
        fits = len(found) == len(most) and all(
            rows <= most_rows and size <= most_size
            for (rows, size), (most_rows, most_size) in zip(found, most, strict=True)
        )
        if not fits or footer.num_columns > _MOST_SCALARS:
            raise CorruptionError(
                "file says to hold more than a shard of this store can",
                place=self._place(name),
                found=f"{found[:3]} rows and bytes, {footer.num_columns} columns",
                allowed=f"up to {most[:3]}, {_MOST_SCALARS} columns",
            )

    def _place(self, name: str) -> str:
        return place_of(self.storage, f"{self.prefix}{name}")


class _ObjectFile(io.RawIOBase):
    """An object as a file for Arrow."""

    def __init__(self, storage: Storage, name: str, size: int) -> None:
        super().__init__()
        self._storage, self._name, self._size = storage, name, size
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position at which the next `read` begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset` from the start, the present position or the end; the new position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes; all that are left where it is None or negative."""
        rest = max(0, self._size - self._position)
        length = rest if size is None or size < 0 else min(size, rest)
        wanted = (self._position, self._position + length)
        (data,) = self._storage.read_ranges(self._name, [wanted])
        self._position += len(data)
        return data


def _table(block: Columns) -> pa.Table:
    documents = dict(zip(DOCUMENT_COLUMNS, block.documents_DC.T, strict=True))
    halves_D2 = block.documents_DC[:, :2].astype(">u8")
    identities = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(halves_D2), [None, pa.py_buffer(halves_D2.tobytes())]
    )
    tokens_D, targets_D = (documents[name].astype(np.int64) for name in ("tokens", "targets"))
    columns: dict[str, Any] = {"id": identities}
    for name in DOCUMENT_COLUMNS[2:]:
        columns[name] = pa.array(documents[name].astype(np.int64))
    columns["input_ids"] = _lists(block.tokens_N, tokens_D)
    columns["counted"] = _lists(block.counted_N, tokens_D)
    for name, values_RK in block.entries.items():
        columns[f"{name}s"] = _lists(values_RK.reshape(-1), targets_D * values_RK.shape[1])
    for name, values_R in block.scalars.items():
        columns[name] = _lists(values_R, targets_D)
    return pa.table(columns)


def _lists(values: np.ndarray, lengths_D: np.ndarray) -> pa.ListArray:
    # 65,536 rows of 64 entries are 4 million values; list offsets can hold 2^31.
    offsets = np.concatenate([[0], np.cumsum(lengths_D)]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(values.astype(np.uint32), pa.uint32())
    )


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(parts) if len(parts) != 1 else parts[0]


def _documents(table: pa.Table) -> np.ndarray:
    joined = b"".join(table["id"].to_pylist())
    halves_D2 = np.frombuffer(joined, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    rest = [table[name].to_numpy().astype(np.uint64) for name in DOCUMENT_COLUMNS[2:]]
    return np.column_stack([halves_D2, *rest])


def _file(tables: Sequence[pa.Table], *, split: list[str]) -> bytes:
    """A Parquet file with a row group for each table; the columns `split` are byte streams."""
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, tables[0].schema, **_options(split)) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, len(table)))
    return bytes(buffer.getvalue())


def _options(split: list[str]) -> dict[str, Any]:
    return {
        "compression": "zstd",
        "compression_level": _ZSTD_LEVEL,
        "use_dictionary": False,
        "column_encoding": dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
        "write_statistics": False,
        "write_page_checksum": True,
        "data_page_size": _PAGE_BYTES,
        "store_schema": True,
    }


def _shown(file: str, column: str, entries: Sequence[str]) -> str:
    if file != _DOCUMENTS:
        return f"{file.removesuffix(_SUFFIX)}_{column}"
    if column in ("id", *DOCUMENT_COLUMNS[2:]):
        return "documents"
    names = {"input_ids": "token_id", "counted": "token_counted"}
    return (names | {f"{name}s": name for name in entries}).get(column, column)
