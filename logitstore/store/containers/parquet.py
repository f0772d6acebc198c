"""The Parquet container: one row per document, one row group per block, lists for arrays.

    documents.parquet   id, record, piece, tokens, targets, input_ids, counted; a list of targets
                        x K values for each column of entries, its name followed by s, as in
                        `id_deltas`; a list for each scalar; a list of targets x W bits of numbers
                        for each kind of hidden states, as `state_last`
    ranking.parquet     id; one such file for each table of the shard

datasets, DuckDB, Polars and Spark can read it. Integers are split into byte streams and compressed
with zstd. Every page has a checksum: without them 591 of 600 flipped bits were missed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from logitstore.errors import CorruptionError
from logitstore.format.columns import DOCUMENT_COLUMNS, Columns
from logitstore.store.containers.base import (
    add_container_bytes,
    check_block,
    check_names,
    check_objects,
    fields_of,
    missing_as_corruption,
    read_hashed,
)
from logitstore.store.containers.parquet_checks import TOKEN_LISTS, check_lists, check_numbers
from logitstore.store.containers.parquet_footer import (
    FOOTER_GROWS,
    Footer,
    document_columns,
    most_footer,
    table_columns,
)
from logitstore.store.containers.parquet_held import HeldFile, spans_of_columns
from logitstore.store.containers.parquet_pages import check_pages
from logitstore.store.containers.parquet_sums import (
    END_BYTES,
    check_sum,
    column_sums,
    end_guess,
)
from logitstore.store.storage import place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from logitstore.format.blocks import BlockCounts
    from logitstore.format.manifest import StoredObject
    from logitstore.store.containers.base import Fetched
    from logitstore.store.containers.limits import ShardLimits
    from logitstore.store.containers.parquet_footer import Column
    from logitstore.store.storage import Storage

__all__ = ["ParquetContainer"]

_DOCUMENTS = "documents.parquet"
_SUFFIX = ".parquet"
_STATE = "state_"  # of the names of lists of hidden states
_ZSTD_LEVEL = 9
# Readers fetch about a megabyte at least; larger pages do not compress better here.
_PAGE_BYTES = 1 << 20


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
        parts = map(_table, blocks)  # one at a time
        entries = [f"{name}s" for name in blocks[0].entries]
        states = [f"{_STATE}{name}" for name in blocks[0].states]
        lists = [*TOKEN_LISTS, *entries, *blocks[0].scalars, *states]
        objects = {_DOCUMENTS: _file(parts, split=[f"{name}.list.element" for name in lists])}
        for name, ids in tables.items():
            table = pa.table({"id": pa.array(ids, pa.uint32())})
            objects[f"{name}{_SUFFIX}"] = _file([table], split=["id"])
        return objects

    def chunk_sums(self, objects: Mapping[str, bytes]) -> dict[str, str]:
        """See `Container`: of the documents; tables are hashed when they are opened."""
        return {_DOCUMENTS: column_sums(objects[_DOCUMENTS])}

    def open(
        self,
        storage: Storage,
        prefix: str,
        *,
        blocks: Sequence[BlockCounts],
        objects: Sequence[StoredObject],
        entries: Sequence[str],
        limits: ShardLimits,
    ) -> ParquetShard:
        """See `Container`. Tables are hashed; documents too, where an old commit has no sums."""
        wanted = {_DOCUMENTS, *(f"{name}{_SUFFIX}" for name in limits.tables)}
        check_names(objects, wanted, place=place_of(storage, prefix.rstrip("/")))
        bound = {one.path: one.chunks for one in objects if one.path == _DOCUMENTS and one.chunks}
        unbound = [one for one in objects if one.path == _DOCUMENTS and not one.chunks]
        check_objects(storage, prefix, unbound, hashed=lambda _: True)
        rest = [one for one in objects if one not in unbound]
        ends = {path: end_guess(sums) for path, sums in bound.items()}
        kept = read_hashed(storage, prefix, rest, ends=ends)
        shard = ParquetShard(
            storage=storage,
            prefix=prefix,
            blocks=tuple(blocks),
            objects=tuple(objects),
            names=tuple(entries),
            limits=limits,
            kept=kept,
        )
        shard.check()
        return shard


@dataclass(frozen=True, kw_only=True, eq=False)
class ParquetShard:
    """An open shard: a `ShardReader`. The checksum of every page is checked as it is read."""

    storage: Storage
    prefix: str
    blocks: tuple[BlockCounts, ...]
    objects: tuple[StoredObject, ...]
    names: tuple[str, ...]  # of the columns of entries
    limits: ShardLimits
    kept: dict[str, bytes]  # tables that were hashed, and the end of the documents

    def __getstate__(self) -> dict[str, Any]:
        return fields_of(self) | {"kept": {}}

    @cached_property
    def tables(self) -> Mapping[str, np.ndarray]:
        """See `ShardReader`: column `id` of every file but that of the documents."""
        found = {}
        for name in self.limits.tables:
            path = f"{name}{_SUFFIX}"
            footer = self._footer_of(path, table_columns(), groups=1)
            (rows,) = footer.rows
            if rows > self.limits.table:
                raise CorruptionError(
                    "table is longer than one of this store can be",
                    place=self._place(path),
                    found=rows,
                    allowed=f"up to {self.limits.table}",
                )
            found[name] = self._read_group(path, footer, 0, rows=rows)["id"].to_numpy()
            self.kept.pop(path, None)  # it is not read again
        return found

    def fetch(self, number: int, *, draw: int | None = None) -> Fetched:
        """See `ShardReader`: a row group, whose columns lie together, is one request."""
        check_block(number, self.blocks)
        spans = spans_of_columns(self._footer.chunks[number])
        return {_DOCUMENTS: self._read_ranges(_DOCUMENTS, spans)}

    def block(
        self, number: int, *, draw: int | None = None, fetched: Fetched | None = None
    ) -> Columns:
        """See `ShardReader`: the entries are those of all draws, whatever `draw` is."""
        table = self._read(number, parts=None if fetched is None else fetched[_DOCUMENTS])
        targets = self.blocks[number].targets
        lists = {name: _values(table[name]) for name in self._lists}
        entries = {name: lists.pop(f"{name}s") for name in self.names}
        return Columns(
            entries={name: one.reshape(targets, -1) for name, one in entries.items()},
            tokens_N=lists.pop("input_ids"),
            counted_N=lists.pop("counted").astype(np.uint8),
            states=self._states(lists, targets),
            scalars=lists,
            documents_DC=_documents(table),
        )

    def _states(self, lists: dict[str, np.ndarray], targets: int) -> dict[str, np.ndarray]:
        """The bits of hidden states, taken out of the lists."""
        dtype = np.dtype(f"uint{8 * self.limits.state_bytes}")
        found = {}
        for name in self.limits.states:
            bits = lists.pop(f"{_STATE}{name}")
            if int(bits.max(initial=0)) > np.iinfo(dtype).max:
                raise CorruptionError(
                    "the bits of hidden states are wider than their number type",
                    place=f"{self._place(_DOCUMENTS)}, {_STATE}{name}",
                    found=int(bits.max()),
                    allowed=f"up to {np.iinfo(dtype).max}",
                )
            found[name] = bits.astype(dtype).reshape(targets, -1)
        return found

    @property
    def _wide(self) -> dict[str, int]:
        """The lists that hold several values for each target, and how many."""
        return {
            **{f"{name}s": self.limits.entries for name in self.names},
            **{f"{_STATE}{name}": self.limits.width for name in self.limits.states},
        }

    def documents(self, number: int) -> np.ndarray:
        """See `ShardReader`."""
        return _documents(self._read(number, columns=["id", *DOCUMENT_COLUMNS[2:]]))

    def column_bytes(self) -> dict[str, int]:
        """See `ShardReader`: from the footers."""
        sizes: dict[str, int] = {}
        for one in self.objects:
            footer = self._footer
            if one.path != _DOCUMENTS:
                footer = self._footer_of(one.path, table_columns(), groups=1)
            for chunk in chain.from_iterable(footer.chunks):
                shown = _shown(one.path, chunk.name, self.names)
                sizes[shown] = sizes.get(shown, 0) + chunk.stop - chunk.start
        return add_container_bytes(sizes, self.objects)

    def check(self) -> None:
        """Raise CorruptionError where the footer of the documents is not of this format."""
        _ = self._footer
        self.kept.pop(_DOCUMENTS, None)

    @property
    def _lists(self) -> list[str]:
        return [*TOKEN_LISTS, *self._wide, *sorted(self.limits.scalars)]

    @cached_property
    def _footer(self) -> Footer:
        columns = document_columns(self._lists)
        return self._footer_of(_DOCUMENTS, columns, groups=len(self.blocks))

    def _footer_of(self, name: str, columns: Sequence[Column], *, groups: int) -> Footer:
        """The footer of a file, no larger than such a file needs, and of this format."""
        place, most = self._place(name), most_footer(len(columns), groups)
        (size,) = (one.size for one in self.objects if one.path == name)
        stop = max(0, size - END_BYTES)
        data = self._end_of(name, size, END_BYTES)
        found = int.from_bytes(data[:4], "little")
        if data[4:] != b"PAR1" or found > min(most, stop):
            raise CorruptionError(
                "file has no footer, or a larger one than it can need",
                place=place,
                found=f"{found:,} bytes" if data[4:] == b"PAR1" else repr(bytes(data[4:])),
                allowed=f"up to {most:,} bytes",
            )
        self.limits.refuse_room(FOOTER_GROWS * found, place=place, what="the footer")
        data = self._end_of(name, size, found + END_BYTES)
        if name in self._sums:
            check_sum(data, self._sums[name], -1, place=f"{place}, footer")
        footer = Footer.parse(data[:found], columns, end=stop - found, place=place)
        if len(footer.rows) != groups:
            raise CorruptionError(
                "file has another number of row groups than its commit has blocks",
                place=place,
                found=len(footer.rows),
                allowed=groups,
            )
        return footer

    def _end_of(self, name: str, size: int, length: int) -> bytes:
        """The last bytes of a file, of what was kept or else of the storage."""
        kept = self.kept.get(name, b"")[-length:]
        if len(kept) == length:
            return kept
        (data,) = self._read_ranges(name, [(max(0, size - length), size)])
        return data

    @cached_property
    def _sums(self) -> dict[str, str]:
        """Of the files whose columns are bound to their places: what binds them."""
        return {one.path: one.chunks for one in self.objects if one.chunks is not None}

    def _read(
        self, number: int, *, columns: Sequence[str] = (), parts: Sequence[bytes] | None = None
    ) -> pa.Table:
        """The documents of a block, checked to be lists as long as the table of documents says."""
        check_block(number, self.blocks)
        counts = self.blocks[number]
        values = dict.fromkeys(self._lists, counts.targets)
        values |= dict.fromkeys(TOKEN_LISTS, counts.tokens)
        values |= {name: counts.targets * width for name, width in self._wide.items()}
        table = self._read_group(
            _DOCUMENTS,
            self._footer,
            number,
            rows=counts.documents,
            values=values,
            columns=columns,
            parts=parts,
        )
        if not columns:
            widths = dict.fromkeys(self._lists, 1)
            widths |= self._wide
            check_lists(table, widths, place=f"{self._place(_DOCUMENTS)}, row group {number}")
        return table

    def _read_group(
        self,
        name: str,
        footer: Footer,
        group: int,
        *,
        rows: int,
        values: Mapping[str, int] | None = None,
        columns: Sequence[str] = (),
        parts: Sequence[bytes] | None = None,
    ) -> pa.Table:
        """One row group, of which no page says to unpack to more than the commit allows.

        Arrow reads it from memory, as a file whose footer is our own.
        """
        place = f"{self._place(name)}, row group {group}"
        chunks = footer.check_group(group, rows=rows, values=values or {}, place=place)
        wanted = [one for one in chunks if not columns or one.name in columns]
        spans = spans_of_columns(wanted)
        held = self._parts(name, spans) if parts is None else parts
        source = HeldFile([start for start, _ in spans], held)
        for one in wanted:
            held_bytes, where = source.held(one.start, one.stop), f"{place}, {one.name}"
            if name in self._sums:
                at = group * len(chunks) + chunks.index(one)
                check_sum(held_bytes, self._sums[name], at, place=where)
            check_pages(held_bytes, one, place=where)
        try:
            own = pq.read_metadata(pa.BufferReader(footer.our_own(wanted, rows=rows)))
            # With pre_buffer Arrow takes neighbouring columns together.
            with pq.ParquetFile(
                source, metadata=own, page_checksum_verification=True, pre_buffer=True
            ) as file:
                table = file.read()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise CorruptionError(f"file is damaged: {error}", place=place) from error
        check_numbers(table, place=place)
        return table

    def _parts(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Ranges of a file, of a table's as it was hashed."""
        whole = self.kept.get(name, b"") if name != _DOCUMENTS else b""
        return [whole[one:two] for one, two in spans] if whole else self._read_ranges(name, spans)

    def _read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        with missing_as_corruption(self._place(name)):
            return self.storage.read_ranges(f"{self.prefix}{name}", ranges)

    def _place(self, name: str) -> str:
        return place_of(self.storage, f"{self.prefix}{name}")


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
    for name, bits_RW in block.states.items():
        columns[f"{_STATE}{name}"] = _lists(bits_RW.reshape(-1), targets_D * bits_RW.shape[1])
    return pa.table(columns)


def _lists(values: np.ndarray, lengths_D: np.ndarray) -> pa.ListArray:
    # 65,536 rows of 64 entries are 4 million values; list offsets can hold 2^31.
    offsets = np.concatenate([[0], np.cumsum(lengths_D)]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(values.astype(np.uint32), pa.uint32())
    )


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """The values of all lists of a column, end to end."""
    parts = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate(parts) if len(parts) != 1 else parts[0]


def _documents(table: pa.Table) -> np.ndarray:
    joined = b"".join(table["id"].to_pylist())
    halves_D2 = np.frombuffer(joined, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    rest = [table[name].to_numpy().astype(np.uint64) for name in DOCUMENT_COLUMNS[2:]]
    return np.column_stack([halves_D2, *rest])


def _file(tables: Iterable[pa.Table], *, split: list[str]) -> bytes:
    """A Parquet file with a row group for each table; the columns `split` are byte streams."""
    buffer, rest = io.BytesIO(), iter(tables)  # whose bytes are taken without a copy
    first = next(rest)
    with pq.ParquetWriter(buffer, first.schema, **_options(split)) as writer:
        for table in chain([first], rest):
            writer.write_table(table, row_group_size=max(1, len(table)))
    return buffer.getvalue()


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
