"""`--tokens`: the token ids that a format leaves out, one record a line or a row.

A record has `input_ids`, and where a format asks for it `counted`: 1 for each token that has a row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from logitstore.corpus.sources import reading
from logitstore.errors import CorpusError, SettingError
from logitstore.exchange.arrow_rows import numbers, open_table, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["MOST_LINE", "TokenRecord", "lines_of", "next_tokens", "token_records"]

MOST_LINE = 1 << 28  # bytes of a line of JSON: a million tokens of twenty entries


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenRecord:
    """The ids of a record, and which of them count, where that was said."""

    place: str
    input_ids_L: np.ndarray  # int64
    counted_L: np.ndarray | None  # bool


def token_records(path: Path | None, *, why: str) -> Iterator[TokenRecord]:
    """The records of `--tokens`, in order.

    path: a .jsonl or .parquet file.
    why: what the file to import lacks; SettingError says so where no path is given.
    """
    if path is None:
        raise SettingError(
            f"--tokens is missing: {why}",
            allowed="a .jsonl or .parquet file with a list `input_ids` for each record, in order",
        )
    return _parquet(path) if path.suffix == ".parquet" else _lines(path)


def next_tokens(records: Iterator[TokenRecord], *, place: str) -> TokenRecord:
    """The next record. Raises CorpusError where there is none.

    records: of `token_records`.
    place: of the record whose tokens they are.
    """
    found = next(records, None)
    if found is None:
        raise CorpusError("--tokens has too few records", place=place)
    return found


def lines_of(path: Path) -> Iterator[tuple[str, object]]:
    """The place and the content of each line of JSON that is not blank.

    path: of the file. Raises CorpusError for what is no JSON, has a key twice, or is too long.
    """
    with reading(str(path)), path.open("rb") as file:
        number = 0
        while line := file.readline(MOST_LINE):
            number += 1
            place = f"{path}, line {number}"
            if len(line) == MOST_LINE:
                raise CorpusError("a line is too long", place=place, allowed=f"{MOST_LINE} bytes")
            if line.strip():
                yield place, _parsed(line, place=place)


def _parsed(line: bytes, *, place: str) -> object:
    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        content = dict(found)
        if len(content) < len(found):
            raise CorpusError("an object has a key twice", place=place)
        return content

    try:
        return json.loads(line, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"this is no JSON: {error}", place=place) from error


def _lines(path: Path) -> Iterator[TokenRecord]:
    for place, content in lines_of(path):
        row = content if isinstance(content, dict) else {}
        counted = row.get("counted")
        yield _record(
            place,
            _whole(row.get("input_ids"), place=f"{place}, input_ids"),
            None if counted is None else _whole(counted, place=f"{place}, counted"),
        )


def _parquet(path: Path) -> Iterator[TokenRecord]:
    there = open_table(path).schema.names
    names = ["input_ids", *(["counted"] if "counted" in there else [])]
    for number, row in rows_of(path, names):
        place = f"{path}, row {number}"
        found = [numbers(row[name], kind=int, place=f"{place}, {name}") for name in names]
        yield _record(place, *found)


def _record(place: str, ids_L: np.ndarray, counted_L: np.ndarray | None = None) -> TokenRecord:
    if counted_L is not None and (
        counted_L.shape != ids_L.shape or not np.isin(counted_L, (0, 1)).all()
    ):
        raise CorpusError("counted is no 0 or 1 for each token", place=place)
    return TokenRecord(
        place=place,
        input_ids_L=ids_L,
        counted_L=None if counted_L is None else counted_L.astype(bool),
    )


def _whole(value: object, *, place: str) -> np.ndarray:
    if not isinstance(value, list) or not all(
        type(one) is int and 0 <= one < 1 << 31 for one in value
    ):
        raise CorpusError("a list of whole numbers is wanted", place=place, found=value)
    return np.array(value, dtype=np.int64)
