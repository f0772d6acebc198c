"""The footer of a Parquet file, read and written here: Arrow never sees that of a stranger.

Arrow 26 ends the process over some footers, such as one whose statistics have a list too many. So a
footer is read by a reader of our own, which takes the places of the columns from it, and Arrow is
given one that we write: of one row group, whose columns have the types of the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError
from logitstore.format.columns import DOCUMENT_COLUMNS
from logitstore.store.containers.parquet_pages import Chunk
from logitstore.store.containers.thrift_compact import (
    BINARY,
    BYTE,
    FALSE,
    I32,
    I64,
    LIST,
    STRUCT,
    Field,
    read_struct,
    write_struct,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["FOOTER_GROWS", "Column", "Footer", "document_columns", "most_footer", "table_columns"]

# The numbers of parquet.thrift: of types, of how often a value is there, of what it means, of
# codecs and of encodings.
_INT32, _INT64, _FIXED = 1, 2, 7
_REQUIRED, _OPTIONAL, _REPEATED = 0, 1, 2
_LIST, _UINT32 = 3, 13
_ZSTD = 6
_PLAIN, _RLE, _BYTE_STREAM_SPLIT = 0, 3, 9
_ENCODINGS = {_PLAIN, _RLE, _BYTE_STREAM_SPLIT}
_FIELD_ID = 9  # of a part of a schema: a number of its own, which says nothing
_WIDTHS = {_INT32: 4, _INT64: 8, _FIXED: 16}
_MAGIC = b"PAR1"

# A footer has some 120 bytes a column and row group, and some 300 a column.
_COLUMN_BYTES, _CHUNK_BYTES, _LEAST_FOOTER = 1024, 512, 8192
FOOTER_GROWS = 256  # times: memory for what a footer is read to


def most_footer(columns: int, groups: int) -> int:
    """How many bytes a footer may have.

    columns: of the file.
    groups: row groups.
    """
    return _LEAST_FOOTER + columns * (_COLUMN_BYTES + groups * _CHUNK_BYTES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column: a value in each row, or a list of them."""

    name: str
    kind: int  # of its values
    is_list: bool

    @property
    def path(self) -> list[bytes]:
        """The parts of its place in the schema."""
        name = self.name.encode()
        return [name, b"list", b"element"] if self.is_list else [name]

    def schema(self) -> list[dict[int, Field]]:
        """The parts of the schema that are this column."""
        name = Field(BINARY, self.name.encode())
        if not self.is_list:
            own = {1: Field(I32, self.kind), 3: Field(I32, _OPTIONAL), 4: name}
            if self.kind == _FIXED:
                own[2] = Field(I32, _WIDTHS[_FIXED])
            return [own | (_unsigned() if self.kind == _INT32 else {})]
        outer = {
            3: Field(I32, _OPTIONAL),
            4: name,
            5: Field(I32, 1),
            6: Field(I32, _LIST),
            10: Field(STRUCT, {3: Field(STRUCT, {})}),
        }
        middle = {3: Field(I32, _REPEATED), 4: Field(BINARY, b"list"), 5: Field(I32, 1)}
        inner = {
            1: Field(I32, self.kind),
            3: Field(I32, _OPTIONAL),
            4: Field(BINARY, b"element"),
            **_unsigned(),
        }
        return [outer, middle, inner]


def _unsigned() -> dict[int, Field]:
    """What marks an integer of 32 bits as unsigned: the older way and the newer."""
    meaning = {1: Field(BYTE, b"\x20"), 2: Field(FALSE, False)}
    return {6: Field(I32, _UINT32), 10: Field(STRUCT, {10: Field(STRUCT, meaning)})}


def document_columns(lists: Sequence[str]) -> list[Column]:
    """The columns of documents.parquet.

    lists: the names of those that are lists.
    """
    numbers = [Column(name=name, kind=_INT64, is_list=False) for name in DOCUMENT_COLUMNS[2:]]
    identity = Column(name="id", kind=_FIXED, is_list=False)
    return [
        identity,
        *numbers,
        *(Column(name=name, kind=_INT32, is_list=True) for name in lists),
    ]


def table_columns() -> list[Column]:
    """The columns of a file that holds one table."""
    return [Column(name="id", kind=_INT32, is_list=False)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Footer:
    """What a footer says, checked to be of this format: its columns, and where each lies."""

    columns: tuple[Column, ...]  # in the order of the file
    rows: tuple[int, ...]  # of each row group
    chunks: tuple[tuple[Chunk, ...], ...]  # of each row group, in the order of the columns

    @staticmethod
    def parse(data: bytes, wanted: Sequence[Column], *, end: int, place: str) -> Footer:
        """The footer in `data`.

        data: from anywhere.
        wanted: the columns that the file must have, in any order.
        end: where the footer begins in its file.
        place: what an error names.

        Raises CorruptionError unless it is one of this format.
        """
        try:
            tree, stop = read_struct(data)
            if stop != len(data) or {8, 9} & set(tree):
                raise ValueError("it is encrypted, or there is more behind it")
            columns = _columns(_items(tree, 2), wanted, place=place)
            groups = [one.value for one in _items(tree, 4)]
            return Footer(
                columns=tuple(columns),
                rows=tuple(_integer(group, 3) for group in groups),
                chunks=tuple(
                    tuple(_chunks(_items(group, 1), columns, end=end, place=place))
                    for group in groups
                ),
            )
        except (IndexError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptionError(f"the footer is malformed: {error}", place=place) from error

    def check_group(
        self, group: int, *, rows: int, values: Mapping[str, int], place: str
    ) -> tuple[Chunk, ...]:
        """The columns of a row group, which holds as much as its commit says.

        group: its number.
        rows: that it must have.
        values: of each column that is a list; a row adds at most one, which is an empty list.
        place: what an error names.
        """
        if self.rows[group] != rows:
            raise CorruptionError(
                "row group has another number of rows",
                place=place,
                found=self.rows[group],
                allowed=rows,
            )
        for one in self.chunks[group]:
            least = values.get(one.name, rows)
            if not least <= one.values <= least + (rows if one.name in values else 0):
                raise CorruptionError(
                    "a column has another number of values than its commit says",
                    place=f"{place}, {one.name}",
                    found=one.values,
                    allowed=least,
                )
        return self.chunks[group]

    def file_of(self, chunks: Sequence[Chunk], parts: Sequence[memoryview], *, rows: int) -> bytes:
        """A Parquet file of one row group, with a footer of our own.

        chunks: some columns of one row group.
        parts: the bytes of each.
        rows: of the row group.
        """
        named = {one.name: one for one in self.columns}
        columns = [named[one.name] for one in chunks]
        at, described = len(_MAGIC), []
        for column, chunk in zip(columns, chunks, strict=True):
            described.append(_described(column, chunk, at))
            at += chunk.stop - chunk.start
        root = {
            3: Field(I32, _REQUIRED),
            4: Field(BINARY, b"schema"),
            5: Field(I32, len(columns)),
        }
        parts_of_schema = [root, *(part for column in columns for part in column.schema())]
        group = {
            1: Field(LIST, (STRUCT, [Field(STRUCT, one) for one in described])),
            2: Field(I64, at),
            3: Field(I64, rows),
        }
        footer = write_struct(
            {
                1: Field(I32, 2),
                2: Field(LIST, (STRUCT, [Field(STRUCT, one) for one in parts_of_schema])),
                3: Field(I64, rows),
                4: Field(LIST, (STRUCT, [Field(STRUCT, group)])),
            }
        )
        return b"".join([_MAGIC, *parts, footer, len(footer).to_bytes(4, "little"), _MAGIC])


def _described(column: Column, chunk: Chunk, at: int) -> dict[int, Field]:
    """A column of a row group, which lies at `at`."""
    size = chunk.stop - chunk.start
    encodings = [Field(I32, one) for one in sorted(_ENCODINGS)]
    meaning = {
        1: Field(I32, column.kind),
        2: Field(LIST, (I32, encodings)),
        3: Field(LIST, (BINARY, [Field(BINARY, one) for one in column.path])),
        4: Field(I32, _ZSTD),
        5: Field(I64, chunk.values),
        6: Field(I64, size),
        7: Field(I64, size),
        9: Field(I64, at),
    }
    return {2: Field(I64, at), 3: Field(STRUCT, meaning)}


def _items(fields: dict[int, Field], number: int) -> list[Field]:
    items: list[Field] = fields[number].value[1]
    return items


def _integer(fields: dict[int, Field], number: int) -> int:
    one = fields[number]
    if one.kind not in (I32, I64) or one.value < 0:
        raise ValueError(f"field {number} is no number from 0 up")
    value: int = one.value
    return value


def _columns(schema: list[Field], wanted: Sequence[Column], *, place: str) -> list[Column]:
    """The columns in the order of the schema, which must be those that are wanted."""
    due = {one.name: one for one in wanted}
    parts = [
        {number: value for number, value in one.value.items() if number != _FIELD_ID}
        for one in schema
    ]
    columns: list[Column] = []
    at = 1
    while at < len(parts):
        name = parts[at][4].value.decode(errors="replace")
        column = due.pop(name, None)
        expected = [] if column is None else column.schema()
        if column is None or parts[at : at + len(expected)] != expected:
            raise CorruptionError(
                "a column is unknown, there twice or of another type",
                place=place,
                found=name,
                allowed=", ".join(one.name for one in wanted),
            )
        columns.append(column)
        at += len(expected)
    if due or parts[0].get(5) != Field(I32, len(columns)):
        raise CorruptionError("columns are missing", place=place, found=", ".join(due) or None)
    return columns


def _chunks(found: list[Field], columns: Sequence[Column], *, end: int, place: str) -> list[Chunk]:
    chunks = []
    for column, one in zip(columns, found, strict=True):
        meaning: dict[int, Any] = one.value[3].value
        where = f"{place}, {column.name}"
        encodings = {item.value for item in _items(meaning, 2)}
        codec, foreign = _integer(meaning, 4), {1, 8, 9} & set(one.value)
        if codec != _ZSTD or not encodings <= _ENCODINGS or 11 in meaning or foreign:
            raise CorruptionError(
                "a column is compressed or encoded in another way than this format's",
                place=where,
                found=f"codec {codec}, encodings {', '.join(map(str, sorted(encodings)))}",
                allowed=f"codec {_ZSTD}, encodings {', '.join(map(str, sorted(_ENCODINGS)))}",
            )
        path = [item.value for item in _items(meaning, 3)]
        if path != column.path or _integer(meaning, 1) != column.kind:
            raise CorruptionError("a column is another than its schema says", place=where)
        start, size = _integer(meaning, 9), _integer(meaning, 7)
        if not (0 < start < end and 0 < size <= end - start):
            raise CorruptionError(
                "a column lies outside of its file",
                place=where,
                found=f"bytes {start:,} to {start + size:,}",
                allowed=f"before {end:,}",
            )
        chunks.append(
            Chunk(
                name=column.name,
                start=start,
                stop=start + size,
                values=_integer(meaning, 5),
                width=_WIDTHS[column.kind],
            )
        )
    return chunks
