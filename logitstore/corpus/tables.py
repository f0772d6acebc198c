"""Tables: Parquet and Arrow files and Hub data sets as streams of raw records, one a row.

Only the columns in use are read. A row's values are hashed as canonical JSON, a line each, so that
a plan made from one copy of a data set holds for another that is stored in other row groups.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from logitstore.corpus.records import BadRecord, shortened
from logitstore.corpus.shapes import columns_of, shape_of
from logitstore.corpus.sources import RawRecord, reading
from logitstore.errors import CorpusError
from logitstore.format.answers import ANSWER_COLUMNS, AnswersMetadata

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from logitstore.corpus.fields import Fields

__all__ = ["ArrowTable", "HubTable", "ParquetTable", "Table", "TableSource", "load_hub"]

_BATCH_ROWS = 1024


class Table(Protocol):
    """Rows with named columns: all that a `TableSource` asks of a file and of `datasets`."""

    schema: pa.Schema

    def batches(
        self, columns: Sequence[str], start: int, stop: int | None
    ) -> Iterator[pa.RecordBatch | pa.Table]:
        """The columns in rows `start` to `stop`, a bounded number of rows at a time."""


class ParquetTable:
    """A Parquet file as a table.

    name: what messages call it.
    path: where it lies.
    batch_rows: rows that are held at once.
    """

    def __init__(self, *, name: str, path: Path, batch_rows: int = _BATCH_ROWS) -> None:
        self._name = name
        self._path = path
        self._batch_rows = batch_rows
        with reading(name):
            self.schema = pq.read_schema(path)

    def batches(
        self, columns: Sequence[str], start: int, stop: int | None
    ) -> Iterator[pa.RecordBatch]:
        """The columns in rows `start` to `stop`; row groups outside are not read."""
        with (
            reading(self._name),
            pq.ParquetFile(self._path, page_checksum_verification=True) as file,
        ):
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                low, high = max(start - first, 0), rows if stop is None else min(stop - first, rows)
                if low < high:
                    yield from _within(
                        file.iter_batches(
                            self._batch_rows, row_groups=[group], columns=list(columns)
                        ),
                        low,
                        high,
                    )
                first += rows


class ArrowTable:
    """An Arrow file as a table: the file form, or the stream form that `datasets` writes.

    name, path, batch_rows: as of a `ParquetTable`.
    """

    def __init__(self, *, name: str, path: Path, batch_rows: int = _BATCH_ROWS) -> None:
        self._name = name
        self._path = path
        self._batch_rows = batch_rows
        with reading(name), self._open() as (schema, _):
            self.schema = schema

    def batches(
        self, columns: Sequence[str], start: int, stop: int | None
    ) -> Iterator[pa.RecordBatch]:
        """The columns in rows `start` to `stop`; those before are passed over."""
        with reading(self._name), self._open() as (_, found):
            small = (
                batch.slice(first, self._batch_rows)
                for batch in found
                for first in range(0, len(batch), self._batch_rows)
            )
            yield from _within((one.select(list(columns)) for one in small), start, stop)

    @contextmanager
    def _open(self) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        with pa.memory_map(str(self._path)) as data:
            if data.read(6) == b"ARROW1":
                file = pa.ipc.open_file(data)
                numbers = range(file.num_record_batches)
                yield file.schema, (file.get_batch(number) for number in numbers)
            else:
                data.seek(0)
                stream = pa.ipc.open_stream(data)
                yield stream.schema, iter(stream)


def _within(
    batches: Iterator[pa.RecordBatch], start: int, stop: int | None
) -> Iterator[pa.RecordBatch]:
    """The rows `start` to `stop` of batches that follow one another."""
    first = 0
    for batch in batches:
        if stop is not None and first >= stop:
            return
        low = max(start - first, 0)
        high = len(batch) if stop is None else min(stop - first, len(batch))
        if low < high:
            yield batch.slice(low, high - low)
        first += len(batch)


class HubTable:
    """A `datasets.Dataset` as a table.

    dataset: one split, loaded.
    """

    def __init__(self, dataset: Any) -> None:
        self.schema = dataset.features.arrow_schema
        self._dataset = dataset

    def batches(self, columns: Sequence[str], start: int, stop: int | None) -> Iterator[pa.Table]:
        """The columns in rows `start` to `stop`."""
        rows = self._dataset.select_columns(list(columns)).with_format("arrow")
        stop = len(rows) if stop is None else min(stop, len(rows))
        for first in range(start, stop, _BATCH_ROWS):
            yield rows[first : min(first + _BATCH_ROWS, stop)]


class TableSource:
    """The columns in use of a table, one record a row."""

    def __init__(self, *, name: str, fields: Fields, table: Table) -> None:
        self.name = name
        self.answers = AnswersMetadata.of_schema(table.schema.metadata, place=name)
        self._table = table
        names = list(table.schema.names)
        if self.answers is not None:
            _check_answers(names, place=name)
        try:
            self._columns = columns_of(shape_of(names, fields, place=name), fields, names)
        except BadRecord as fault:
            raise CorpusError(
                fault.problem,
                place=name,
                found=fault.found,
                allowed=fault.allowed,
                remedy=fault.remedy,
            ) from None
        for column in self._columns:
            if names.count(column) > 1:
                raise CorpusError("several columns have one name", place=name, found=column)

    def records(self) -> Iterator[RawRecord]:
        """All rows."""
        return self._rows(0, None)

    def slice(self, start: int, stop: int) -> list[RawRecord]:
        """Rows `start` to `stop`.

        start: the first row.
        stop: the row behind the last.
        """
        return list(self._rows(start, stop))

    def row(self, raw: RawRecord) -> dict[str, Any]:
        """The row's values, without the nulls by which Arrow fills the fields of its structs."""
        if isinstance(raw.content, UnicodeDecodeError):
            raise BadRecord("the text is no UTF-8", found=shortened(raw.content.object))
        row = raw.content if isinstance(raw.content, dict) else {}
        return {name: _without_nulls(value) for name, value in row.items()}

    def _rows(self, start: int, stop: int | None) -> Iterator[RawRecord]:
        for batch in self._table.batches(self._columns, start, stop):
            for number in range(len(batch)):
                row = _row(batch, number, self._columns)
                # One column alone is hashed as its value, several as an object.
                one = isinstance(row, dict) and len(self._columns) == 1
                value = row[self._columns[0]] if one and isinstance(row, dict) else row
                text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr)
                yield RawRecord(
                    content=row, hashed=text.encode() + b"\n", size=1, lines=1, ends=True
                )


def _check_answers(names: Sequence[str], *, place: str) -> None:
    """Refuse a file of answers without a column: the end of a Parquet file has no checksum."""
    for column in ANSWER_COLUMNS:
        if column not in names:
            raise CorpusError(
                f"the file of answers has no column {column}, so it is damaged or changed",
                place=place,
                found=shortened(", ".join(names)),
                remedy="Take the file as `generate` wrote it, or one without its metadata",
            )


def load_hub(identity: str) -> tuple[str, HubTable]:
    """The split and the table that `org/name[:configuration[:split]]` names on the Hub.

    identity: as the user wrote it.
    """
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(
            "reading a Hub data set needs the package datasets",
            place=identity,
            remedy="Install it: pip install 'logitstore[hub]'",
        ) from error
    path, _, rest = identity.partition(":")
    configuration, _, split = rest.partition(":")
    split = split or "train"
    try:
        dataset = datasets.load_dataset(path, configuration or None, split=split)
    except Exception as error:  # its errors are of no common class: OSError, ValueError, its own
        raise CorpusError(
            f"there is no such file or folder, and no such data set could be loaded: {error}",
            place=identity,
            remedy="Give a path, or a data set as org/name:configuration:split",
        ) from error
    return split, HubTable(dataset)


def _row(
    batch: pa.RecordBatch | pa.Table, number: int, columns: Sequence[str]
) -> dict[str, Any] | UnicodeDecodeError:
    try:
        return {name: batch.column(name)[number].as_py(maps_as_pydicts="lossy") for name in columns}
    except UnicodeDecodeError as error:  # Arrow does not check what it stores as text
        return error


def _without_nulls(value: Any) -> Any:
    """`value` without the entries of dicts that are null: of a struct, nobody may have set them."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
