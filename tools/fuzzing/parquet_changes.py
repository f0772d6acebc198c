"""Changes of a Parquet file whose checksums are right: of its footer, page headers, pages, columns.

The file is taken apart into pages and a footer; a changed page is compressed again and gets the
CRC of its bytes, and the footer the places of all. Or its columns are changed, and it is written
anew by Arrow, with another type, encoding or compression than the project's.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tools.fuzzing.byte_changes import changed_bytes
from tools.fuzzing.thrift import Field, Listed, read_struct, written_struct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.fuzzing.choices import Choices
    from tools.fuzzing.stores import Objects

__all__ = ["changed_shard"]

_MAGIC = b"PAR1"
_STRUCT, _LIST = 12, 9
_MOST_CHANGES, _MOST_UNPACKED = 3, 1 << 20
# Numbers of the fields of Parquet's own structs that are read here.
_ROW_GROUPS, _COLUMNS, _METADATA, _CHUNK_BYTES, _FIRST_PAGE = 4, 1, 3, 7, 9
_UNPACKED_BYTES, _PAGE_BYTES, _PAGE_CRC = 2, 3, 4
_TYPES = (
    *(pa.int64(), pa.int32(), pa.uint8(), pa.float32(), pa.float64(), pa.string(), pa.bool_()),
    *(pa.list_(pa.int64()), pa.list_(pa.float64()), pa.list_(pa.list_(pa.uint32()))),
    *(pa.large_list(pa.uint32()), pa.list_(pa.string()), pa.binary(16), pa.binary(8), pa.null()),
)


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
            shard[choices.one_of((path + "x", "extra/" + path, "table.parquet"))] = shard[path]
        elif kind == 2:
            other = choices.one_of(paths)
            shard[path], shard[other] = shard[other], shard[path]
        elif kind == 3:
            shard[path] = changed_bytes(shard[path], choices)
        elif kind < 8:
            shard[path] = _changed_table(shard[path], choices)
        else:
            shard[path] = _changed_file(shard[path], choices)
    return shard


# --- columns ------------------------------------------------------------------------------------


def _changed_table(data: bytes, choices: Choices) -> bytes:
    """The file written by Arrow from changed columns; as it was where Arrow refuses to."""
    try:
        table = pq.read_table(pa.BufferReader(data))
        for _ in range(choices.below(3)):
            table = _with_changed_column(table, choices)
        sink = pa.BufferOutputStream()
        pq.write_table(
            table,
            sink,
            row_group_size=max(1, choices.one_of((len(table), 1, 2))),
            compression=choices.one_of(("zstd", "none", "snappy", "gzip", "brotli", "lz4")),
            use_dictionary=choices.chance(0.3),
            write_page_checksum=not choices.chance(0.2),
            data_page_version=choices.one_of(("1.0", "2.0")),
            store_schema=not choices.chance(0.3),
        )
        return bytes(sink.getvalue())
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError):
        return data


def _with_changed_column(table: pa.Table, choices: Choices) -> pa.Table:
    number = choices.below(table.num_columns)
    name, column = table.column_names[number], table.column(number)
    kind = choices.below(7)
    if kind == 0:
        return table.drop_columns([name])
    if kind == 1:
        return table.append_column(choices.text(name), column)
    if kind == 2:
        return table.set_column(number, name, column.cast(choices.one_of(_TYPES), safe=False))
    if kind == 3:
        return table.set_column(number, name, _with_odd_values(column, choices))
    if kind == 4:
        return pa.concat_tables([table] * choices.below(4)) if choices.chance(0.9) else table[:0]
    if kind == 5:
        return table.set_column(number, name, column.dictionary_encode())
    return table.rename_columns(
        [choices.text(one) if one == name else one for one in table.column_names]
    )


def _with_odd_values(column: pa.ChunkedArray, choices: Choices) -> pa.Array:
    values: list[Any] = column.to_pylist()
    place = choices.below(len(values))
    value = values[place]
    if isinstance(value, list) and choices.chance(0.8):
        inner = choices.below(len(value))
        odd = None if choices.chance(0.2) else choices.integer() % (1 << 32)
        value[inner : inner + choices.below(3)] = [odd] * choices.below(4)
    else:
        values[place] = None if choices.chance(0.5) else choices.integer()
    return pa.array(values, column.type)


# --- pages --------------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class _Page:
    header: list[Field]
    body: bytes

    def written(self) -> bytes:
        return written_struct(self.header) + self.body


@dataclass(kw_only=True, slots=True)
class _Chunk:
    metadata: list[Field]
    pages: list[_Page]


def _changed_file(data: bytes, choices: Choices) -> bytes:
    try:
        length = int.from_bytes(data[-8:-4], "little")
        footer, _ = read_struct(data[-8 - length : -8])
        chunks = [_apart(data, one) for one in _chunk_metadata(footer)]
    except (ValueError, LookupError, TypeError, AttributeError):
        return changed_bytes(data, choices)
    before = choices.below(4)
    if before and chunks:
        pages = choices.one_of(chunks).pages
        if pages:
            _change_page(choices.one_of(pages), choices)
    body = bytearray(_MAGIC)
    for chunk in chunks:
        written = b"".join(page.written() for page in chunk.pages)
        _set(chunk.metadata, _FIRST_PAGE, len(body))
        _set(chunk.metadata, _CHUNK_BYTES, len(written))
        body += written
    if before < 2:
        for _ in range(1 + choices.below(3)):
            _change_struct(footer, choices)
    ending = written_struct(footer)
    return bytes(body) + ending + len(ending).to_bytes(4, "little") + _MAGIC


def _chunk_metadata(footer: list[Field]) -> Iterator[list[Field]]:
    for group in _get(footer, _ROW_GROUPS).values:
        for column in _get(group, _COLUMNS).values:
            yield _get(column, _METADATA)


def _apart(data: bytes, metadata: list[Field]) -> _Chunk:
    place = _get(metadata, _FIRST_PAGE)
    stop, pages = place + _get(metadata, _CHUNK_BYTES), []
    while place < stop:
        header, place = read_struct(data, place)
        size = _get(header, _PAGE_BYTES)
        pages.append(_Page(header=header, body=data[place : place + size]))
        place += max(0, size)
    return _Chunk(metadata=metadata, pages=pages)


def _change_page(page: _Page, choices: Choices) -> None:
    """Change the content of a page, or its header; then set its size and its CRC."""
    kind = choices.below(4)
    if kind == 0:
        page.body = changed_bytes(page.body, choices)
    elif kind < 3:
        plain = changed_bytes(_unpacked(page.body), choices)
        if choices.chance(0.1):
            plain += bytes(choices.below(1 << 22))
        codec = pa.Codec("zstd", compression_level=1)
        page.body = bytes(codec.compress(plain, asbytes=True))
        if choices.chance(0.7):
            _set(page.header, _UNPACKED_BYTES, len(plain))
    _set(page.header, _PAGE_BYTES, len(page.body))
    crc = zlib.crc32(page.body)
    _set(page.header, _PAGE_CRC, crc - (1 << 32) if crc >> 31 else crc)
    if kind in (2, 3):
        _change_struct(page.header, choices)


def _unpacked(body: bytes) -> bytes:
    try:
        return bytes(
            pa.input_stream(pa.BufferReader(body), compression="zstd").read(_MOST_UNPACKED)
        )
    except (OSError, ValueError):
        return body


def _change_struct(fields: list[Field], choices: Choices) -> None:
    """Change one field of a struct, or of one inside of it."""
    field = choices.one_of(fields) if fields else None
    while field is not None and choices.below(8):
        inner = _inner(field, choices)
        if inner is None:
            break
        fields, field = inner, choices.one_of(inner)
    if field is None:
        return
    kind = choices.below(8)
    if kind == 0:
        fields.remove(field)
    elif kind == 1:
        field.number = choices.below(20)
    elif isinstance(field.value, int):
        field.value = choices.integer(field.value)
    elif isinstance(field.value, bytes):
        field.value = changed_bytes(field.value, choices)
    elif isinstance(field.value, Listed):
        values = field.value.values
        field.value.values = values * choices.below(3) if kind < 5 else values[: len(values) // 2]


def _inner(field: Field, choices: Choices) -> list[Field] | None:
    if field.kind == _STRUCT and field.value:
        found: list[Field] = field.value
        return found
    if field.kind == _LIST and field.value.kind == _STRUCT and field.value.values:
        chosen: list[Field] = choices.one_of(field.value.values)
        return chosen or None
    return None


def _get(fields: list[Field], number: int) -> Any:
    return {one.number: one.value for one in fields}[number]


def _set(fields: list[Field], number: int, value: int) -> None:
    for one in fields:
        if one.number == number and isinstance(one.value, int):
            one.value = value
