"""Hostile stores, one field of a shard at a time: values, chunks and indexes of Zarr, Parquet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numcodecs import Zstd

from logitstore.format.columns import Columns
from logitstore.store.containers import load_container
from logitstore.store.containers.limits import shard_limits
from logitstore.store.containers.thrift_compact import Field, read_struct, write_struct
from logitstore.store.reader import load_store
from tools.hostile_json import Kind
from tools.reseal import container_of, shard_folder

__all__ = ["shard_kinds"]

_NUMBERS = {"2^31-1": (1 << 31) - 1, "2^40": 1 << 40, "2^62": 1 << 62, "minus one": -1, "zero": 0}


def shard_kinds(store: Path) -> Iterator[Kind]:
    """All kinds for the shards of a sound store.

    store: its folder.
    """
    container = container_of(store)
    yield from _value_kinds(container)
    yield from _extra_kinds()
    if container == "zarr":
        yield from _chunk_kinds(store)
        yield from _index_kinds(store)
    else:
        yield from _footer_kinds(store)
        yield from _page_kinds(store)
        yield from _schema_kinds()


# --- values, written by the container itself -------------------------------------------------


def _value_kinds(container: str) -> Iterator[Kind]:
    """Columns that are sound as integers, and are no targets or documents."""

    def entries(name: str, value: int) -> Callable[[Columns], Columns]:
        return lambda one: replace(
            one, entries={**one.entries, name: _first(one.entries[name], value)}
        )

    def scalars(name: str, value: int) -> Callable[[Columns], Columns]:
        return lambda one: replace(
            one, scalars={**one.scalars, name: _first(one.scalars[name], value)}
        )

    def tokens(name: str, value: int) -> Callable[[Columns], Columns]:
        return lambda one: replace(one, **{name: _first(getattr(one, name), value)})

    def documents(column: int, value: int) -> Callable[[Columns], Columns]:
        def change(one: Columns) -> Columns:
            table = one.documents_DC.copy()
            table[0, column] = value
            return replace(one, documents_DC=table)

        return change

    large = (0, 1, 299, 300, 65_535, 65_536, (1 << 32) - 1)
    for value in large:
        for name in ("id_delta", "code"):
            yield _columns_kind(f"{name} begins with {value}", entries(name, value))
        for name in ("count", "label_logprob", "entropy", "tail_0", "odds"):
            yield _columns_kind(f"{name} begins with {value}", scalars(name, value))
        yield _columns_kind(f"input_ids begin with {value}", tokens("tokens_N", value))
    for value in (1, 2, 255):
        yield _columns_kind(f"counted begins with {value}", tokens("counted_N", value))
    most = (1 << 63) - 1 if container == "parquet" else (1 << 64) - 1
    for column, name in enumerate(("id_high", "id_low", "record", "piece", "tokens", "targets")):
        for number in (0, 1, 1 << 31, 1 << 53, 1 << 62, most):
            yield _columns_kind(f"{name} of a document is {number}", documents(column, number))
    yield _columns_kind("entries are one column less", _narrow)
    yield _columns_kind("entries are one column more", _wide)
    yield _columns_kind("a scalar is left out", lambda one: _scalars(one, drop=True))
    yield _columns_kind("a scalar more", lambda one: _scalars(one, drop=False))
    for name in ("no_such", "count_draw1", "sampler_logprob", "label_logprob_draw1"):
        yield _columns_kind(
            f"a scalar called {name}",
            lambda one, name=name: replace(
                one, scalars={**one.scalars, name: one.scalars["count"]}
            ),
        )
    for what, table in {
        "holds an id twice": lambda old: np.where(old == 1, 0, old).astype(np.uint32),
        "is short": lambda old: old[:-1],
        "is long": lambda old: np.append(old, len(old)).astype(np.uint32),
        "reaches beyond": lambda old: (old + 1).astype(np.uint32),
        "is one number": lambda old: old[:1],
        "has 65,536 rows": lambda old: np.arange(65_536, dtype=np.uint32),
        "has 4 million rows": lambda old: np.arange(1 << 22, dtype=np.uint32),
    }.items():
        yield _columns_kind(f"the ranking {what}", None, table=table)
    yield _columns_kind("the ranking is called otherwise", None, rename="other")


def _first(values: np.ndarray, value: int) -> np.ndarray:
    changed = values.astype(np.uint32)
    changed.reshape(-1)[0] = value
    return changed


def _narrow(one: Columns) -> Columns:
    return replace(one, entries={name: held[:, :-1] for name, held in one.entries.items()})


def _wide(one: Columns) -> Columns:
    return replace(
        one, entries={name: np.pad(held, ((0, 0), (0, 1))) for name, held in one.entries.items()}
    )


def _scalars(one: Columns, *, drop: bool) -> Columns:
    scalars = dict(one.scalars)
    if drop:
        del scalars["entropy"]
    else:
        scalars["zz"] = scalars["count"]
    return replace(one, scalars=scalars)


def _columns_kind(
    what: str,
    change: Callable[[Columns], Columns] | None,
    *,
    table: Callable[[np.ndarray], np.ndarray] | None = None,
    rename: str | None = None,
) -> Kind:
    def rewrite(folder: Path) -> None:
        store = load_store(folder)
        commit, codec = store.commits[0], store._codec  # what no public name gives
        container = load_container(store.spec.container)
        shard = container.open(
            store.layout.storage,
            store.layout.shard_prefix(commit),
            blocks=commit.blocks,
            objects=commit.objects,
            entries=codec.entries,
            limits=shard_limits(codec, sampler_logprobs=False),
        )
        blocks = [shard.block(number) for number in range(len(commit.blocks))]
        if change is not None and blocks:
            blocks = [change(one) for one in blocks]
        tables = dict(shard.tables)
        if table is not None:
            tables["ranking"] = table(tables["ranking"])
        if rename is not None:
            tables[rename] = tables.pop("ranking")
        where = folder / store.layout.shard_prefix(commit)
        draws = store.spec.sparsifier.draw_count
        if blocks[0].entries["code"].shape[1] % draws:
            draws = 1
        for name, data in container.write(blocks, tables, draw_count=draws).items():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            (where / name).write_bytes(data)

    return Kind(area="values", name=what, change=rewrite, objects=True)


def _extra_kinds() -> Iterator[Kind]:
    """Objects that a commit names and a shard has no use for."""
    for what, path in {
        "a file": "more",
        "an array": "more/zarr.json",
        "a table": "more.parquet",
        "a file below documents": "documents/c/0/1",
    }.items():
        yield Kind(
            area="values",
            name=f"the commit names {what} more",
            change=lambda folder, path=path: _more(folder, path),
            objects=True,
        )


def _more(folder: Path, path: str) -> None:
    where = shard_folder(folder) / path
    where.parent.mkdir(parents=True, exist_ok=True)
    source = next(one for one in shard_folder(folder).rglob("*") if one.is_file())
    shutil.copy(source, where)
    name = shard_folder(folder).name.split("-")[0]
    commit = folder / "commits" / f"{name}.json"
    content = json.loads(commit.read_text())
    content["objects"].append({"path": path, "size": 0, "sha256": ""})
    commit.write_text(json.dumps(content))


# --- Zarr: chunks and indexes ----------------------------------------------------------------


def _arrays(store: Path) -> dict[str, str]:
    shard = shard_folder(store)
    files = [one for one in shard.rglob("*") if one.is_file() and one.name != "zarr.json"]
    return {one.relative_to(shard).parts[0]: one.relative_to(shard).as_posix() for one in files}


def _split(data: bytes, count: int) -> list[bytes]:
    index = np.frombuffer(data[-(16 * count + 4) : -4], dtype="<u8").reshape(-1, 2)
    return [data[start : start + size] for start, size in index.tolist()]


def _joined(chunks: list[bytes], index: list[tuple[int, int]] | None = None) -> bytes:
    starts = np.cumsum([0, *map(len, chunks)]).tolist()
    entries = index or [(start, len(one)) for start, one in zip(starts, chunks, strict=False)]
    table = np.array(entries, dtype="<u8").tobytes()
    return b"".join([*chunks, table, _crc(table)])


def _crc(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(4, "little")


def _sealed_chunk(data: bytes) -> bytes:
    return data + _crc(data)


def _of_array(folder: Path, name: str, change: Callable[[list[bytes], Any], bytes]) -> None:
    path = shard_folder(folder) / _arrays(folder)[name]
    metadata = json.loads((shard_folder(folder) / name / "zarr.json").read_text())
    inner = metadata["codecs"][0]["configuration"]["chunk_shape"]
    count = int(np.prod(np.array(metadata["shape"]) // np.array(inner)))
    path.write_bytes(change(_split(path.read_bytes(), count), (inner, metadata["data_type"])))


def _chunk_kinds(store: Path) -> Iterator[Kind]:
    """What the first chunk of each array is, with its checksum right."""

    def frame(change: Callable[[bytes], bytes]) -> Callable[[list[bytes], Any], bytes]:
        return lambda chunks, _: _joined([_sealed_chunk(change(chunks[0][:-4])), *chunks[1:]])

    def unpacked(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        return lambda data: Zstd(level=19).encode(change(bytes(Zstd().decode(data))))

    changes = {
        "unpacks to one byte more": unpacked(lambda data: data + b"\0"),
        "unpacks to one byte less": unpacked(lambda data: data[:-1]),
        "unpacks to 64 MB": unpacked(lambda _: bytes(64 << 20)),
        "unpacks to a gigabyte": lambda _: Zstd(level=19).encode(bytes(1 << 30)),
        "is zeros": unpacked(lambda data: bytes(len(data))),
        "is ones": unpacked(lambda data: b"\xff" * len(data)),
        "is empty": lambda _: b"",
        "is no frame": lambda data: b"evil" * 16,
        "is cut short": lambda data: data[: len(data) // 2],
        "is two frames": lambda data: data + data,
        "says 2^62 bytes": lambda data: data[:4] + b"\xe0" + b"\xff" * 7 + b"\x3f" + data[6:],
        "says 2^31 bytes": lambda data: data[:4] + b"\xa0" + b"\xff\xff\xff\x7f" + data[6:],
        "says no size": lambda data: data[:4] + b"\x00\x58" + data[6:],
        "has a window of 2 TB": lambda data: data[:4] + b"\x00\xff" + data[6:],
        "needs a dictionary": lambda data: data[:4] + b"\x23\xff\xff\xff\xff" + data[5:],
        "is a frame to skip": lambda data: b"\x50\x2a\x4d\x18\xff\xff\xff\x7f" + data,
    }
    for name in _arrays(store):
        for what, change in changes.items():
            yield Kind(
                area="Zarr chunks",
                name=f"{name}: the first chunk {what}",
                change=lambda folder, name=name, change=change: _of_array(
                    folder, name, frame(change)
                ),
                objects=True,
            )
        yield Kind(
            area="Zarr chunks",
            name=f"{name}: the checksum of a chunk is another",
            change=lambda folder, name=name: _of_array(
                folder, name, lambda chunks, _: _joined([chunks[0][:-4] + b"evil", *chunks[1:]])
            ),
            objects=True,
        )


def _index_kinds(store: Path) -> Iterator[Kind]:
    """What the index of each array says of its first chunk, with its checksum right."""
    most = (1 << 64) - 1
    entries: dict[str, Callable[[int, int], tuple[int, int]]] = {
        "begins at 2^63": lambda start, size: (1 << 63, size),
        "begins at 2^64 - 2": lambda start, size: (most - 1, size),
        "has 2^63 bytes": lambda start, size: (start, 1 << 63),
        "has 2^40 bytes": lambda start, size: (start, 1 << 40),
        "has 2^64 - 1 bytes": lambda start, size: (start, most),
        "has no bytes": lambda start, size: (start, 0),
        "has three bytes": lambda start, size: (start, 3),
        "is not there": lambda start, size: (most, most),
        "begins one byte later": lambda start, size: (start + 1, size),
        "has one byte more": lambda start, size: (start, size + 1),
    }

    def with_entry(change: Callable[[int, int], tuple[int, int]]) -> Any:
        def made(chunks: list[bytes], _: Any) -> bytes:
            sound = np.cumsum([0, *map(len, chunks)]).tolist()
            index = [(start, len(one)) for start, one in zip(sound, chunks, strict=False)]
            return _joined(chunks, [change(*index[0]), *index[1:]])

        return made

    def all_first(chunks: list[bytes], _: Any) -> bytes:
        return _joined(chunks, [(0, len(chunks[0]))] * len(chunks))

    others: dict[str, Any] = {
        "says that all are the first": all_first,
        "is short": lambda chunks, _: _joined(chunks)[:-20],
        "is of zeros": lambda chunks, _: b"".join(chunks) + bytes(16 * len(chunks) + 4),
        "is alone": lambda chunks, _: _joined(chunks)[-(16 * len(chunks) + 4) :],
        "stands behind a gap of 100 MB": lambda chunks, _: bytes(100 << 20) + _joined(chunks),
        "says that the last come first": lambda chunks, _: _joined(chunks[::-1]),
    }
    for name in _arrays(store):
        for what, entry in entries.items():
            yield Kind(
                area="Zarr indexes",
                name=f"{name}: the first chunk {what}",
                change=lambda folder, name=name, entry=entry: _of_array(
                    folder, name, with_entry(entry)
                ),
                objects=True,
            )
        for what, made in others.items():
            yield Kind(
                area="Zarr indexes",
                name=f"{name}: the index {what}",
                change=lambda folder, name=name, made=made: _of_array(folder, name, made),
                objects=True,
            )


# --- Parquet: footer, pages, schema ----------------------------------------------------------


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
                    change=lambda folder, file=file, way=way, value=value: _set_footer(
                        shard_folder(folder) / file, way, value
                    ),
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
                change=lambda folder, file=file, size=size: _footer_size(
                    shard_folder(folder) / file, size
                ),
                objects=True,
            )
        for what, count in {"a million": 1_000_000, "20,000": 20_000}.items():
            yield Kind(
                area="Parquet footer",
                name=f"{file}: {what} row groups",
                change=lambda folder, file=file, count=count: _set_footer(
                    shard_folder(folder) / file, (4,), Field(9, (12, [Field(12, {})] * count))
                ),
                objects=True,
            )
        for what, magic in {"PARE": b"PARE", "no magic": b"evil"}.items():
            yield Kind(
                area="Parquet footer",
                name=f"{file}: the file ends with {what}",
                change=lambda folder, file=file, magic=magic: _magic(
                    shard_folder(folder) / file, magic
                ),
                objects=True,
            )


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


def _set_footer(path: Path, way: tuple[int, ...], value: Field | None) -> None:
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


def _footer_size(path: Path, size: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-8] + size.to_bytes(4, "little") + b"PAR1")


def _magic(path: Path, magic: bytes) -> None:
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
                    lambda header, body, way=way, value=value: (_with(header, way, value), body),
                )
        yield _page_kind(
            f"{name}: a dictionary page",
            name,
            lambda header, body: (
                {**header, 1: Field(5, 2), 7: Field(12, {1: Field(5, 1), 2: Field(5, 0)})},
                body,
            ),
        )
        yield _page_kind(f"{name}: no page", name, lambda header, body: ({}, b""))
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
    for what, how in {
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
    }.items():
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
