"""Rows of Parquet files and of what `datasets` saves to disk, with lists as NumPy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from logitstore.corpus.sources import reading
from logitstore.corpus.tables import ArrowTable, ParquetTable
from logitstore.errors import CorpusError
from logitstore.exchange.foreign_files import files_of
from logitstore.format.json import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from logitstore.corpus.tables import Table

__all__ = ["matrix", "numbers", "open_table", "rows_of", "table_files"]

_BATCH_ROWS = 16  # documents: 4,096 tokens of 128 entries are 8 MB each
_STATE = "state.json"  # of `datasets`
_MOST_STATE = 1 << 24  # bytes


def table_files(source: Path) -> list[Path]:
    """The Parquet or Arrow files of a source; those of `save_to_disk` in the order that it says."""
    if not (source.is_dir() and (source / _STATE).is_file()):
        pattern = "*.parquet"
        if source.is_dir() and not any(source.glob(pattern)):
            pattern = "*.arrow"
        return files_of(source, pattern)
    with reading(str(source / _STATE)):
        data = (source / _STATE).open("rb").read(_MOST_STATE)
    state = parse_json(data, place=str(source / _STATE))
    listed = state.get("_data_files") if isinstance(state, dict) else None
    names = [one.get("filename") if isinstance(one, dict) else None for one in listed or ()]
    paths = [source / str(name) for name in names]
    if not paths or not all(path.parent == source and path.is_file() for path in paths):
        raise CorpusError(
            "the data set's list of files is wrong", place=str(source / _STATE), found=names
        )
    return paths


def open_table(path: Path) -> Table:
    """A file as a table, by the ending of its name."""
    kind = ArrowTable if path.suffix == ".arrow" else ParquetTable
    return kind(name=str(path), path=path, batch_rows=_BATCH_ROWS)


def rows_of(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each row, and some of its columns as Arrow scalars.

    path: of a Parquet or Arrow file.
    columns: their names; CorpusError where one is missing.
    """
    table = open_table(path)
    if missing := [name for name in columns if name not in table.schema.names]:
        raise CorpusError(
            "a column is missing",
            place=str(path),
            found=", ".join(table.schema.names),
            allowed=", ".join(missing),
        )
    number = 0
    for batch in table.batches(columns, 0, None):
        for row in range(len(batch)):
            yield number, {name: batch.column(name)[row] for name in columns}
            number += 1


def numbers(scalar: Any, *, kind: type, place: str) -> np.ndarray:
    """int64 or float64 of one axis: a list of numbers; a null becomes NaN where it may.

    scalar: of Arrow, a list.
    kind: int or float.
    place: what an error names.
    """
    return _flat(_values(scalar, place=place), kind=kind, place=place)


def matrix(scalar: Any, *, kind: type, place: str) -> np.ndarray:
    """The same of two axes: a list of lists of equal length.

    scalar: of Arrow, a list of lists.
    kind: int or float.
    place: what an error names.
    """
    outer = _values(scalar, place=place)
    if len(outer) == 0:
        return np.zeros((0, 0), dtype=np.int64 if kind is int else np.float64)
    if not _is_list(outer.type) or outer.null_count:
        raise CorpusError("a list of lists is wanted", place=place, found=outer.type)
    lengths = outer.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths != lengths[0]).any():
        row = int(np.argmax(lengths != lengths[0]))
        raise CorpusError(
            "rows have different lengths",
            place=f"{place}, row {row}",
            found=int(lengths[row]),
            allowed=int(lengths[0]),
        )
    flat = _flat(outer.flatten(), kind=kind, place=place)
    return flat.reshape(len(outer), int(lengths[0]))


def _values(scalar: Any, *, place: str) -> Any:
    if not _is_list(scalar.type) or not scalar.is_valid:
        raise CorpusError("a list is wanted", place=place, found=scalar.type)
    return scalar.values


def _is_list(kind: Any) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _flat(values: Any, *, kind: type, place: str) -> np.ndarray:
    wanted = pa.types.is_integer if kind is int else _is_real
    if not wanted(values.type) or (kind is int and values.null_count):
        raise CorpusError(
            f"a list of {'whole ' if kind is int else ''}numbers is wanted",
            place=place,
            found=f"{values.type}, {values.null_count} nulls",
        )
    found = values.to_numpy(zero_copy_only=False)
    return found.astype(np.int64 if kind is int else np.float64)


def _is_real(kind: Any) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)
