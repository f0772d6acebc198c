"""What a Parquet file of a shard may be: its schema, row groups and columns, checked by its footer.

A store may come from anywhere, and Arrow would read any type, any encoding and any number of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from logitstore.errors import CorruptionError
from logitstore.format.columns import DOCUMENT_COLUMNS
from logitstore.store.containers.parquet_pages import Chunk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow.parquet as pq

__all__ = [
    "FOOTER_GROWS",
    "TOKEN_LISTS",
    "check_lists",
    "check_numbers",
    "check_schema",
    "chunks_of",
    "document_schema",
    "most_footer",
    "table_schema",
]

TOKEN_LISTS = ("input_ids", "counted")
_NUMBERS = DOCUMENT_COLUMNS[2:]
_WIDTHS = {"FIXED_LEN_BYTE_ARRAY": 16, "INT64": 8, "INT32": 4}
_ENCODINGS = {"RLE", "PLAIN", "BYTE_STREAM_SPLIT"}
# A footer has some 120 bytes a column and row group, and some 300 a column.
FOOTER_GROWS = 256  # times: memory for a parsed footer that was made to take much
_COLUMN_BYTES, _CHUNK_BYTES, _LEAST_FOOTER = 1024, 512, 8192


def document_schema(lists: Sequence[str]) -> pa.Schema:
    """The schema of documents.parquet.

    lists: the names of its columns of lists.
    """
    numbers = [(name, pa.int64()) for name in _NUMBERS]
    return pa.schema(
        [("id", pa.binary(16)), *numbers, *((name, pa.list_(_element())) for name in lists)]
    )


def _element() -> pa.Field:
    return pa.field("element", pa.uint32())


def table_schema() -> pa.Schema:
    """The schema of a file that holds one table."""
    return pa.schema([("id", pa.uint32())])


def most_footer(columns: int, groups: int) -> int:
    """How many bytes a footer may have.

    columns: of the file.
    groups: row groups.
    """
    return _LEAST_FOOTER + columns * (_COLUMN_BYTES + groups * _CHUNK_BYTES)


def check_schema(found: pa.Schema, wanted: pa.Schema, *, place: str) -> None:
    """Raise CorruptionError unless a file has the columns of the format, in any order.

    found: of the file.
    wanted: of the format.
    place: what an error names.
    """
    types = {one.name: one.type for one in found}
    due = {one.name: one.type for one in wanted}
    if types == due and len(found) == len(wanted):
        return
    odd = [name for name in {**due, **types} if types.get(name) != due.get(name)]
    twice = [one.name for one in found if found.names.count(one.name) > 1]
    shown = (odd or twice)[0]
    raise CorruptionError(
        "columns are missing, unknown, there twice or of another type",
        place=place,
        found=f"{shown}: {', '.join(str(one.type) for one in found if one.name == shown) or None}",
        allowed=f"{shown}: {due.get(shown)}",
    )


def chunks_of(
    footer: pq.FileMetaData,
    group: int,
    *,
    rows: int,
    values: Mapping[str, int],
    end: int,
    place: str,
) -> list[Chunk]:
    """The columns of one row group, of which each is stored as this format stores it.

    footer: of the file, whose schema was checked.
    group: its number.
    rows: that it must have.
    values: of each column that is a list; each row adds at most one that stands for an empty list.
    end: where the footer begins.
    place: what an error names.

    Raises CorruptionError for another number of rows or values, another compression than zstd, a
    dictionary, and a column that lies outside of the file.
    """
    found = footer.row_group(group)
    if found.num_rows != rows:
        raise CorruptionError(
            "row group has another number of rows", place=place, found=found.num_rows, allowed=rows
        )
    chunks = []
    for number in range(footer.num_columns):
        column = found.column(number)
        name = column.path_in_schema.partition(".")[0]
        least = values.get(name, rows)
        stored = (column.compression, set(column.encodings) <= _ENCODINGS)
        start, size = column.data_page_offset, column.total_compressed_size
        if stored != ("ZSTD", True) or column.has_dictionary_page:
            raise CorruptionError(
                "a column is compressed or encoded in another way than this format's",
                place=f"{place}, {name}",
                found=f"{column.compression}, {', '.join(column.encodings)}",
                allowed=f"ZSTD, {', '.join(sorted(_ENCODINGS))}",
            )
        if not least <= column.num_values <= least + (rows if name in values else 0):
            raise CorruptionError(
                "a column has another number of values than its commit says",
                place=f"{place}, {name}",
                found=column.num_values,
                allowed=least,
            )
        if not (0 < start < end and 0 < size <= end - start):
            raise CorruptionError(
                "a column lies outside of its file",
                place=f"{place}, {name}",
                found=f"bytes {start:,} to {start + size:,}",
                allowed=f"before {end:,}",
            )
        chunks.append(
            Chunk(
                name=name,
                start=start,
                stop=start + size,
                values=column.num_values,
                width=_WIDTHS[column.physical_type],
            )
        )
    return chunks


def check_numbers(table: pa.Table, *, place: str) -> None:
    """Raise CorruptionError for a null or a negative number among the documents or of a table.

    table: whose schema was checked.
    place: what an error names.
    """
    for name in table.column_names:
        column = table[name]
        lists = pa.types.is_list(column.type)
        nulls = column.null_count
        nulls += sum(chunk.values.null_count for chunk in column.chunks) if lists else 0
        negative = pa.types.is_int64(column.type) and (column.to_numpy() < 0).any()
        if nulls or negative:
            raise CorruptionError(
                "a column holds a null" if nulls else "a number is negative",
                place=f"{place}, {name}",
                allowed="0 or more",
            )


def check_lists(table: pa.Table, widths: Mapping[str, int], *, place: str) -> None:
    """Raise CorruptionError unless each list is as long as the row's `tokens` or `targets` say.

    table: the documents of a block.
    widths: how many values a token or target has in each column of lists.
    place: what an error names.
    """
    due = {name: table[name].to_numpy() for name in ("tokens", "targets")}
    for name, width in widths.items():
        each_D = due["tokens" if name in TOKEN_LISTS else "targets"]
        found_D = np.concatenate([np.diff(one.offsets.to_numpy()) for one in table[name].chunks])
        # Divided, for a product of numbers from anywhere may be any other.
        if not (found_D % width == 0).all() or not np.array_equal(found_D // width, each_D):
            raise CorruptionError(
                "a list is of another length than its document says",
                place=f"{place}, {name}",
                allowed=f"{width} values each" if width > 1 else None,
            )
