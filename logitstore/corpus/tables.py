"""Tables: Parquet files and Hub data sets as streams of raw records, one a row.

Only the column in use is read. Its values are hashed as canonical JSON, a line each, so that a plan
made from one copy of a data set holds for another that is stored in other row groups.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from logitstore.corpus.records import BadRecord, shortened
from logitstore.corpus.sources import FieldRule, RawRecord, reading
from logitstore.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["HubTable", "ParquetTable", "Table", "TableSource", "load_hub"]

_BATCH_ROWS = 1024


class Table(Protocol):
    """Rows with named columns: all that a `TableSource` asks of Parquet and of `datasets`."""

    schema: pa.Schema

    def arrays(self, column: str, start: int, stop: int | None) -> Iterator[Any]:
        """The column's values in rows `start` to `stop`, in Arrow arrays of bounded size."""


class ParquetTable:
    """A Parquet file as a table.

    name: what messages call it.
    path: where it lies.
    """

    def __init__(self, *, name: str, path: Path) -> None:
        self._name = name
        self._path = path
        with reading(name):
            self.schema = pq.read_schema(path)

    def arrays(self, column: str, start: int, stop: int | None) -> Iterator[Any]:
        """The column's values in rows `start` to `stop`; row groups outside are not read."""
        with (
            reading(self._name),
            pq.ParquetFile(self._path, page_checksum_verification=True) as file,
        ):
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                low, high = max(start - first, 0), rows if stop is None else min(stop - first, rows)
                if low < high:
                    yield from _group_arrays(file, group, column, low, high)
                first += rows


def _group_arrays(file: Any, group: int, column: str, low: int, high: int) -> Iterator[Any]:
    first = 0
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[column]):
        if first >= high:
            return
        begin = max(low - first, 0)
        yield batch.column(0).slice(begin, max(high - first - begin, 0))
        first += len(batch)


class HubTable:
    """A `datasets.Dataset` as a table.

    dataset: one split, loaded.
    """

    def __init__(self, dataset: Any) -> None:
        self.schema = dataset.features.arrow_schema
        self._dataset = dataset

    def arrays(self, column: str, start: int, stop: int | None) -> Iterator[Any]:
        """The column's values in rows `start` to `stop`."""
        rows = self._dataset.select_columns([column]).with_format("arrow")
        stop = len(rows) if stop is None else min(stop, len(rows))
        for first in range(start, stop, _BATCH_ROWS):
            yield rows[first : min(first + _BATCH_ROWS, stop)][column]


class TableSource:
    """One column of a table, one record a row.

    name: what messages call it.
    rule: which column to take.
    table: where the rows lie.
    """

    def __init__(self, *, name: str, rule: FieldRule, table: Table) -> None:
        self.name = name
        self.rule = rule
        self._table = table
        try:
            field = rule.choose(table.schema.names, place=name)
        except BadRecord as fault:
            raise CorpusError(
                fault.problem, place=name, found=fault.found, allowed=fault.allowed
            ) from None
        if list(table.schema.names).count(field.name) > 1:
            raise CorpusError("several columns have one name", place=name, found=field.name)
        kind = table.schema.field(field.name).type
        if not (_is_list(kind) if field.chat else _is_text(kind)):
            raise CorpusError(
                "the column has the wrong type",
                place=f"{name}, column {field.name}",
                found=kind,
                allowed="a list of {role, content}" if field.chat else "text",
            )
        self._column = field.name

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
        """The row's one field in use.

        raw: one of this table's rows.
        """
        if isinstance(raw.content, UnicodeDecodeError):
            raise BadRecord("the text is no UTF-8", found=shortened(raw.content.object))
        return {self._column: raw.content}

    def _rows(self, start: int, stop: int | None) -> Iterator[RawRecord]:
        for array in self._table.arrays(self._column, start, stop):
            for scalar in array:
                value = _value(scalar)
                text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr)
                yield RawRecord(
                    content=value, hashed=text.encode() + b"\n", size=1, lines=1, ends=True
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


def _value(scalar: Any) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:  # Arrow does not check what it stores as text
        return error


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _is_list(kind: Any) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list and pa.types.is_struct(kind.value_type)
