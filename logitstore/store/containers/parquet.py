"""The Parquet container: one row a document, one row group a block, lists for what repeats.

    documents.parquet   id, record, piece, tokens, targets, input_ids, counted, id_deltas, codes and
                        a list for each scalar; `id_deltas` and `codes` hold targets x K values
    ranking.parquet     id: the table of ids by rank

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
    from collections.abc import Sequence
    from pathlib import Path

    from logitstore.format.manifest import BlockCounts, StoredObject

__all__ = ["ParquetContainer"]

_DOCUMENTS = "documents.parquet"
_RANKING = "ranking.parquet"
_ZSTD_LEVEL = 9
# A page of a megabyte is what readers fetch at least; larger pages compress no better here.
_PAGE_BYTES = 1 << 20
_LISTS = ("input_ids", "counted", "id_deltas", "codes")


class ParquetContainer:
    """A shard as two Parquet files."""

    def write(
        self,
        folder: Path,
        blocks: Sequence[Columns],
        ranking_V: np.ndarray,
        *,
        draws: int = 1,
        sampled: bool = False,
    ) -> None:
        """One row group a block, so that a block is read with one request a column."""
        folder.mkdir(parents=True, exist_ok=True)
        tables = [_table(block) for block in blocks]
        lists = [*_LISTS, *blocks[0].scalars]
        options = _options([f"{name}.list.element" for name in lists])
        with pq.ParquetWriter(folder / _DOCUMENTS, tables[0].schema, **options) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=max(1, len(table)))
        ranking = pa.table({"id": pa.array(ranking_V, pa.uint32())})
        pq.write_table(ranking, folder / _RANKING, **_options(["id"]))

    def open(
        self, folder: Path, *, blocks: Sequence[BlockCounts], objects: Sequence[StoredObject]
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
        return ParquetShard(folder=folder, blocks=tuple(blocks))

    def column_bytes(self, folder: Path) -> dict[str, int]:
        """Bytes of each column, from the footers."""
        sizes: dict[str, int] = {}
        for name in (_DOCUMENTS, _RANKING):
            footer = pq.ParquetFile(folder / name).metadata
            for group in range(footer.num_row_groups):
                for number in range(footer.num_columns):
                    column = footer.row_group(group).column(number)
                    shown = _shown(name, column.path_in_schema.split(".")[0])
                    sizes[shown] = sizes.get(shown, 0) + column.total_compressed_size
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return sizes | {"container": total - sum(sizes.values())}


@dataclass(frozen=True, kw_only=True, eq=False)
class ParquetShard:
    """An open shard; every page's checksum is checked as it is read."""

    folder: Path
    blocks: tuple[BlockCounts, ...]

    @cached_property
    def ranking_V(self) -> np.ndarray:
        """uint32 [V]: id by rank."""
        path = self.folder / _RANKING
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
        missing = [name for name in _LISTS if name not in lists]
        if missing or len(lists["id_deltas"]) % max(1, counts.targets):
            raise CorruptionError(
                "columns are missing or of the wrong length",
                place=self.folder / _DOCUMENTS,
                found=", ".join(missing) or f"{len(lists['id_deltas'])} entries",
                allowed=f"a multiple of {counts.targets} targets",
            )
        shape = (counts.targets, -1) if counts.targets else (0, 1)
        return Columns(
            id_deltas_RK=lists.pop("id_deltas").reshape(shape),
            codes_RK=lists.pop("codes").reshape(shape).astype(np.uint16),
            tokens_N=lists.pop("input_ids"),
            counted_N=lists.pop("counted").astype(np.uint8),
            scalars=lists,
            documents_DC=_documents(table),
        )

    def documents(self, number: int) -> np.ndarray:
        """uint64 [D, C] of block `number`."""
        return _documents(self._read(number, ["id", *DOCUMENT_COLUMNS[2:]]))

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
    k = block.id_deltas_RK.shape[1]
    columns: dict[str, Any] = {"id": identities}
    for name in DOCUMENT_COLUMNS[2:]:
        columns[name] = pa.array(documents[name].astype(np.int64))
    columns["input_ids"] = _lists(block.tokens_N, tokens_D)
    columns["counted"] = _lists(block.counted_N, tokens_D)
    columns["id_deltas"] = _lists(block.id_deltas_RK.reshape(-1), targets_D * k)
    columns["codes"] = _lists(block.codes_RK.reshape(-1), targets_D * k)
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


def _shown(file: str, column: str) -> str:
    if file == _RANKING:
        return "ranking_id"
    if column in ("id", *DOCUMENT_COLUMNS[2:]):
        return "documents"
    names = {
        "input_ids": "token_id",
        "counted": "token_counted",
        "id_deltas": "id_delta",
        "codes": "code",
    }
    return names.get(column, column)
