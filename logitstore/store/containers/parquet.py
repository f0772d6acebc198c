"""The Parquet container: one row a document, one row group a block, lists for what repeats.

    documents.parquet   id, record, piece, tokens, targets, input_ids, counted; a list for each
                        column of entries, with an s behind its name, as in `id_deltas`, of targets
                        x K values; a list for each scalar
    ranking.parquet     id; one such file for each table of the shard

Opens in datasets, DuckDB, Polars and Spark. Integers are split into byte streams and compressed
with zstd, and every page has a checksum: Parquet without page checksums missed 591 of 600 flips.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from logitstore.errors import CorruptionError
from logitstore.format.columns import DOCUMENT_COLUMNS, Columns
from logitstore.store.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from logitstore.format.manifest import BlockCounts, StoredObject

__all__ = ["ParquetContainer"]

_DOCUMENTS = "documents.parquet"
_SUFFIX = ".parquet"
_ZSTD_LEVEL = 9
# A page of a megabyte is what readers fetch at least; larger pages compress no better here.
_PAGE_BYTES = 1 << 20
_TOKEN_LISTS = ("input_ids", "counted")


class ParquetContainer:
    """A shard as two Parquet files."""

    def write(
        self,
        folder: Path,
        blocks: Sequence[Columns],
        tables: Mapping[str, np.ndarray],
        *,
        draws: int = 1,
        by_entry: bool = False,
    ) -> None:
        """One row group a block, so that a block is read with one request a column."""
        folder.mkdir(parents=True, exist_ok=True)
        parts = [_table(block) for block in blocks]
        entries = [f"{name}s" for name in blocks[0].entries]
        lists = [*_TOKEN_LISTS, *entries, *blocks[0].scalars]
        options = _options([f"{name}.list.element" for name in lists])
        with pq.ParquetWriter(folder / _DOCUMENTS, parts[0].schema, **options) as writer:
            for table in parts:
                writer.write_table(table, row_group_size=max(1, len(table)))
        for name, ids in tables.items():
            table = pa.table({"id": pa.array(ids, pa.uint32())})
            pq.write_table(table, folder / f"{name}{_SUFFIX}", **_options(["id"]))

    def open(
        self,
        folder: Path,
        *,
        blocks: Sequence[BlockCounts],
        objects: Sequence[StoredObject],
        entries: Sequence[str],
    ) -> ParquetShard:
        """The shard in `folder`, its files compared with their hashes."""
        # Page checksums leave the footer out, which says where everything stands: hash it all, at
        # 1 GB/s and more.
        for one in objects:
            path = folder / one.path
            found = sha256_of(path) if path.is_file() else None
            if found != one.sha256:
                raise CorruptionError(
                    "file is missing or has changed since it was written",
                    place=path,
                    found=found or "no file",
                    allowed=one.sha256,
                )
        return ParquetShard(
            folder=folder, blocks=tuple(blocks), objects=tuple(objects), names=tuple(entries)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ParquetShard:
    """An open shard; every page's checksum is checked as it is read."""

    folder: Path
    blocks: tuple[BlockCounts, ...]
    objects: tuple[StoredObject, ...]
    names: tuple[str, ...]  # of the columns of entries

    @cached_property
    def tables(self) -> Mapping[str, np.ndarray]:
        """Column `id` of every file but that of the documents."""
        files = [one.path for one in self.objects if one.path != _DOCUMENTS]
        return {name.removesuffix(_SUFFIX): self._table(name) for name in files}

    def _table(self, name: str) -> np.ndarray:
        path = self.folder / name
        with _explained(path):
            return pq.read_table(path, page_checksum_verification=True)["id"].to_numpy()

    def block(self, number: int, *, draw: int | None = None) -> Columns:
        """The columns of block `number`, with the entries of all draws."""
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
                place=self.folder / _DOCUMENTS,
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
        """uint64 [D, C] of block `number`."""
        return _documents(self._read(number, ["id", *DOCUMENT_COLUMNS[2:]]))

    def column_bytes(self) -> dict[str, int]:
        """Bytes of each column, from the footers."""
        sizes: dict[str, int] = {}
        for one in self.objects:
            footer = pq.ParquetFile(self.folder / one.path).metadata
            for group in range(footer.num_row_groups):
                for number in range(footer.num_columns):
                    column = footer.row_group(group).column(number)
                    shown = _shown(one.path, column.path_in_schema.split(".")[0], self.names)
                    sizes[shown] = sizes.get(shown, 0) + column.total_compressed_size
        total = sum(one.size for one in self.objects)
        return sizes | {"container": total - sum(sizes.values())}

    def _read(self, number: int, columns: list[str] | None) -> pa.Table:
        path = self.folder / _DOCUMENTS
        with _explained(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read_row_group(number, columns=columns)
        if len(table) != self.blocks[number].documents:
            raise CorruptionError(
                "block holds another number of documents",
                place=f"{path}, row group {number}",
                found=len(table),
                allowed=self.blocks[number].documents,
            )
        return table


class _explained:
    """Arrow's errors about the file at `path` as a CorruptionError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, pa.ArrowException | OSError | KeyError):
            raise CorruptionError(f"file is damaged: {error}", place=self.path) from error


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
    # 65,536 rows of 64 entries are 4 million, far from the 2^31 that list offsets hold.
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
