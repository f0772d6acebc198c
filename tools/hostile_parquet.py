"""Hostile stores, one field of a Parquet footer or page, or one column, at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numcodecs import Zstd

from logitstore.store.containers.thrift_compact import Field, read_struct, write_struct
from tools.hostile_json import Kind
from tools.reseal import shard_folder

__all__ = ["parquet_kinds"]

_NUMBERS = {"2^31-1": (1 << 31) - 1, "2^40": 1 << 40, "2^62": 1 << 62, "minus one": -1, "zero": 0}


def parquet_kinds(store: Path) -> Iterator[Kind]:
    """All kinds for the files of a sound store's first shard.

    store: its folder.
    """
    yield from _footer_kinds(store)
    yield from _page_kinds(store)
    yield from _schema_kinds()


def _footer_kinds(store: Path) -> Iterator[Kind]:
    """Each field of the footers, by the numbers that parquet.thrift gives them."""
    for file in ("documents.parquet", "ranking.parquet"):
        data = (shard_folder(store) / file).read_bytes()
        footer, _ = read_struct(data[-8 - int.from_bytes(data[-8:-4], "little") : -8])
        for way, one in _fields(Field(12, footer), ()):
            for what, value in _field_faults(one).items():
                yield Kind(
                    area="Parquet footer",
                    name=f"{file}: field {'.'.join(map(str, way))} is {what}",
                    change=partial(_set_footer, file=file, way=way, value=value),
                    objects=True,
                )
        for what, size in {
            "0": 0,
            "2^31": 1 << 31,
            "2^32-1": (1 << 32) - 1,
            "60,000": 60_000,
        }.items():
            yield Kind(
                area="Parquet footer",
                name=f"{file}: the footer says to have {what} bytes",
                change=partial(_footer_size, file=file, size=size),
                objects=True,
            )
        for what, count in {"a million": 1_000_000, "20,000": 20_000}.items():
            yield Kind(
                area="Parquet footer",
                name=f"{file}: {what} row groups",
                change=partial(
                    _set_footer, file=file, way=(4,), value=Field(9, (12, [Field(12, {})] * count))
                ),
                objects=True,
            )
        for what, magic in {"PARE": b"PARE", "no magic": b"evil"}.items():
            yield Kind(
                area="Parquet footer",
                name=f"{file}: the file ends with {what}",
                change=partial(_magic, file=file, magic=magic),
                objects=True,
            )


def _empty_structs(count: int) -> Field:
    return Field(9, (12, [Field(12, {})] * count))


def _fields(one: Field, way: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Field]]:
    """Each field below `one`; of a list its first element and its last."""
    if way:
        yield way, one
    if one.kind == 12:
        for number, inside in one.value.items():
            yield from _fields(inside, (*way, number))
    elif one.kind == 9 and one.value[1]:
        for place in {0, len(one.value[1]) - 1}:
            yield from _fields(one.value[1][place], (*way, place))


def _field_faults(one: Field) -> dict[str, Field | None]:
    faults: dict[str, Field | None] = {"left out": None}
    if one.kind in (4, 5, 6):
        faults |= {what: Field(one.kind, value) for what, value in _NUMBERS.items()}
        faults |= {"one more": Field(one.kind, one.value + 1)}
    elif one.kind == 8:
        faults |= {"empty": Field(8, b""), "evil": Field(8, b"\xff\x00evil")}
        faults |= {"100,000 bytes": Field(8, b"x" * 100_000)}
    elif one.kind == 9:
        inner, items = one.value
        faults |= {"empty": Field(9, (inner, [])), "twice as long": Field(9, (inner, items * 2))}
    elif one.kind == 12:
        faults |= {"empty": Field(12, {})}
    else:
        faults |= {"the other": Field(one.kind, not one.value)}
    return faults


def _set_footer(folder: Path, *, file: str, way: tuple[int, ...], value: Field | None) -> None:
    path = shard_folder(folder) / file
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    footer, _ = read_struct(data[-8 - size : -8])
    _put(Field(12, footer), way, value)
    _write_footer(path, data[: -8 - size], write_struct(footer))


def _write_footer(path: Path, body: bytes, footer: bytes) -> None:
    path.write_bytes(body + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def _put(one: Field, way: tuple[int, ...], value: Field | None) -> None:
    for step in way[:-1]:
        one = one.value[step] if one.kind == 12 else one.value[1][step]
    held: Any = one.value if one.kind == 12 else one.value[1]
    if value is None:
        del held[way[-1]]
    else:
        held[way[-1]] = value


def _footer_size(folder: Path, *, file: str, size: int) -> None:
    path = shard_folder(folder) / file
    data = path.read_bytes()
    path.write_bytes(data[:-8] + size.to_bytes(4, "little") + b"PAR1")


def _magic(folder: Path, *, file: str, magic: bytes) -> None:
    path = shard_folder(folder) / file
    path.write_bytes(path.read_bytes()[:-4] + magic)


def _page_kinds(store: Path) -> Iterator[Kind]:
    """Each field of the header of the first page of some columns, and what the page holds."""
    names = ["id", "record", "input_ids", "id_deltas", "entropy"]
    for name in names:
        header = _page_of(shard_folder(store) / "documents.parquet", name)
        for way, one in _fields(Field(12, header), ()):
            for what, value in _field_faults(one).items():
                yield _page_kind(
                    f"{name}: field {'.'.join(map(str, way))} of a page is {what}",
                    name,
                    partial(_with_field, way=way, value=value),
                )
        yield _page_kind(
            f"{name}: a dictionary page",
            name,
            lambda header, body: (
                {**header, 1: Field(5, 2), 7: Field(12, {1: Field(5, 1), 2: Field(5, 0)})},
                body,
            ),
        )
        yield _page_kind(f"{name}: no page", name, _no_page)
        for what, size in {"a gigabyte": 1 << 30, "64 MB": 64 << 20}.items():
            yield _page_kind(f"{name}: a page that unpacks to {what}", name, _bomb(size))
        yield _page_kind(
            f"{name}: a page that is no frame",
            name,
            lambda header, body: (header, b"evil" + body[4:]),
        )


def _bomb(size: int) -> Callable[[dict[int, Field], bytes], tuple[dict[int, Field], bytes]]:
    def change(header: dict[int, Field], _: bytes) -> tuple[dict[int, Field], bytes]:
        body = Zstd(level=19).encode(bytes(size))
        return {**header, 2: Field(5, size), 3: Field(5, len(body))}, body

    return change


def _with_field(
    header: dict[int, Field], body: bytes, *, way: tuple[int, ...], value: Field | None
) -> tuple[dict[int, Field], bytes]:
    return _with(header, way, value), body


def _no_page(*_: Any) -> tuple[dict[int, Field], bytes]:
    return {}, b""


def _with(header: dict[int, Field], way: tuple[int, ...], value: Field | None) -> dict[int, Field]:
    changed = deepcopy(header)
    _put(Field(12, changed), way, value)
    return changed


def _page_of(path: Path, name: str) -> dict[int, Field]:
    column = _column(pq.read_metadata(path), name)
    return read_struct(path.read_bytes(), column.data_page_offset)[0]


def _column(footer: pq.FileMetaData, name: str) -> Any:
    columns = [footer.row_group(0).column(place) for place in range(footer.num_columns)]
    return next(one for one in columns if one.path_in_schema.split(".")[0] == name)


def _page_kind(
    what: str,
    name: str,
    change: Callable[[dict[int, Field], bytes], tuple[dict[int, Field], bytes]],
) -> Kind:
    """The first page of a column is changed, put behind all others, and named by the footer."""

    def rewrite(folder: Path) -> None:
        path = shard_folder(folder) / "documents.parquet"
        data = path.read_bytes()
        size = int.from_bytes(data[-8:-4], "little")
        footer, _ = read_struct(data[-8 - size : -8])
        place = pq.read_metadata(path).schema.to_arrow_schema().get_field_index(name)
        start = _column(pq.read_metadata(path), name).data_page_offset
        header, at = read_struct(data, start)
        body = data[at : at + header[3].value]
        changed, body = change(header, body)
        page = (write_struct(changed) if changed else b"") + body
        column = footer[4].value[1][0].value[1].value[1][place].value[3].value
        column[9] = Field(6, len(data) - 8 - size)
        column[7] = Field(6, len(page))
        _write_footer(path, data[: -8 - size] + page, write_struct(footer))

    return Kind(area="Parquet pages", name=what, change=rewrite, objects=True)


def _schema_kinds() -> Iterator[Kind]:
    """Columns of other types, written by Arrow as it likes."""
    one_type: dict[str, Callable[[pa.ChunkedArray], pa.ChunkedArray]] = {
        "int64": lambda one: one.cast(pa.list_(pa.int64())),
        "float": lambda one: one.cast(pa.list_(pa.float32())),
        "double": lambda one: one.cast(pa.list_(pa.float64())),
        "text": lambda one: one.cast(pa.list_(pa.string())),
        "a large list": lambda one: one.cast(pa.large_list(pa.uint32())),
        "flat": lambda one: pa.chunked_array([pa.array([0] * len(one), pa.uint32())]),
        "null": lambda one: pa.chunked_array([pa.nulls(len(one), one.type)]),
        "with a null": lambda one: _chunked([None, *one.to_pylist()[1:]], one.type),
        "with a null inside": lambda one: _chunked(
            [[None, *row[1:]] for row in one.to_pylist()], one.type
        ),
        "empty": lambda one: _chunked([[] for _ in range(len(one))], one.type),
        "nested": lambda one: _chunked(
            [[row] for row in one.to_pylist()], pa.list_(pa.list_(pa.uint32()))
        ),
        "a struct": lambda one: _chunked(
            [{"a": row} for row in one.to_pylist()], pa.struct([("a", one.type)])
        ),
    }
    for name in ("input_ids", "counted", "id_deltas", "codes", "count", "entropy"):
        for what, cast in one_type.items():
            yield _schema_kind(f"{name} is {what}", name, cast)
    flat: dict[str, Callable[[pa.ChunkedArray], pa.ChunkedArray]] = {
        "int32": lambda one: one.cast(pa.int32()),
        "uint64": lambda one: one.cast(pa.uint64()),
        "double": lambda one: one.cast(pa.float64()),
        "text": lambda one: one.cast(pa.string()),
        "null": lambda one: pa.chunked_array([pa.nulls(len(one), one.type)]),
        "with a null": lambda one: _chunked([None, *one.to_pylist()[1:]], one.type),
        "negative": lambda one: _chunked([-1, *one.to_pylist()[1:]], one.type),
        "-2^63": lambda one: _chunked([-(1 << 63), *one.to_pylist()[1:]], one.type),
        "a moment": lambda one: one.cast(pa.timestamp("us")),
    }
    for name in ("record", "piece", "tokens", "targets"):
        for what, cast in flat.items():
            yield _schema_kind(f"{name} is {what}", name, cast)
    for what, cast in {
        "binary": lambda one: one.cast(pa.binary()),
        "null": lambda one: pa.chunked_array([pa.nulls(len(one), one.type)]),
        "a dictionary": lambda one: one.cast(pa.binary()).dictionary_encode(),
    }.items():
        yield _schema_kind(f"id is {what}", "id", cast)
    ways: dict[str, dict[str, Any]] = {
        "gzip": {"compression": "gzip"},
        "brotli": {"compression": "brotli"},
        "snappy": {"compression": "snappy"},
        "no compression": {"compression": "none"},
        "dictionaries": {"use_dictionary": True},
        "pages of version 2": {"data_page_version": "2.0"},
        "no checksums": {"write_page_checksum": False},
        "statistics": {"write_statistics": True},
        "an index of pages": {"write_page_index": True},
        "delta encoding": {"column_encoding": {"record": "DELTA_BINARY_PACKED"}},
    }
    for what, how in ways.items():
        yield _schema_kind(f"written with {what}", "record", lambda one: one, **how)
    for what, table in {
        "a column more": lambda old: old.append_column("more", old["record"]),
        "a column twice": lambda old: old.append_column("record", old["record"]),
        "a column less": lambda old: old.drop_columns(["entropy"]),
        "100 columns more": lambda old: pa.table(
            {
                **{n: old[n] for n in old.column_names},
                **{f"x{n}": old["record"] for n in range(100)},
            }
        ),
        "a row less": lambda old: old.slice(1),
        "columns the other way around": lambda old: old.select(old.column_names[::-1]),
        "rows the other way around": lambda old: old.take(list(range(len(old)))[::-1]),
    }.items():
        yield _schema_kind(f"documents with {what}", "", None, table=table)


def _chunked(values: list[Any], kind: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


def _schema_kind(
    what: str,
    name: str,
    cast: Callable[[pa.ChunkedArray], pa.ChunkedArray] | None,
    *,
    table: Callable[[pa.Table], pa.Table] | None = None,
    **how: Any,
) -> Kind:
    def rewrite(folder: Path) -> None:
        path = shard_folder(folder) / "documents.parquet"
        with pq.ParquetFile(path) as file:
            groups = [file.read_row_group(place) for place in range(file.num_row_groups)]
        changed = []
        for one in groups:
            if table is not None:
                one = table(one)
            if cast is not None:
                place = one.schema.get_field_index(name)
                one = one.set_column(place, name, cast(one[name]))
            changed.append(one)
        settings = {
            "compression": "zstd",
            "use_dictionary": False,
            "write_statistics": False,
            "write_page_checksum": True,
        } | how
        with pq.ParquetWriter(path, changed[0].schema, **settings) as writer:
            for one in changed:
                writer.write_table(one)

    return Kind(area="Parquet schema", name=what, change=rewrite, objects=True)
