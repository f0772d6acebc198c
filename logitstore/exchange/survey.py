"""A first pass over all that is to be imported, before anything is written.

Every row is read and checked, so a damaged file leaves no half of a store. The pass tells how many
entries a row has room for, where units of work begin, and what the numbers show to be: sums above 1
are no probabilities, and entries that name the token before or behind more often than the token
that they belong to are rows of another alignment.

Shapes: L tokens, R rows, K entries.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from logitstore.corpus.sources import reading
from logitstore.errors import CorpusError, SettingError
from logitstore.exchange.foreign_documents import SparseRows, Values, checked_document, checked_rows
from logitstore.format.plan import Plan, WorkUnit
from logitstore.progress import Meter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from logitstore.exchange.foreign_documents import ForeignDocument
    from logitstore.exchange.foreign_files import Foreign, ForeignFile
    from logitstore.progress import OnProgress

__all__ = ["Survey", "decided_values", "hash_of", "refuse_other_alignment", "surveyed"]

# A unit is held in memory, several times over while it is coded and read back: 80 bytes an entry.
_UNIT_TOKENS, _UNIT_ENTRIES = 1_000_000, 4_000_000
_ROUNDED = 1.02  # sums of 4,096 values of 8 bits of mantissa stay below
_FEW, _MANY = 0.1, 0.9  # of the rows
_LEAST_ROWS = 24  # by which an alignment is judged
_BUFFER = 1 << 20


@dataclass(kw_only=True, slots=True)
class Survey:
    """What was seen of all rows."""

    vocab_size: int
    units: list[WorkUnit] = field(default_factory=list)
    documents: int = 0
    rows: int = 0
    entries: int = 1  # of the longest row
    longest: int = 0  # tokens of a document
    above_one: int = 0  # rows that add up to more than 1
    far_above_one: int = 0  # by more than rounding makes
    largest_sum: float = 0.0
    # Rows with the token before theirs among their entries, with their own, with the one behind.
    named: dict[int, int] = field(default_factory=lambda: {-1: 0, 0: 0, 1: 0})

    @property
    def plan(self) -> Plan:
        """The units of work."""
        return Plan(units=tuple(self.units))

    def add(self, document: ForeignDocument, *, source: str) -> None:
        """Check a document, and count what it shows."""
        checked_document(document, source=source, vocab_size=self.vocab_size)
        self.documents += 1
        self.rows += len(document.rows)
        self.longest = max(self.longest, len(document.input_ids_L))
        if isinstance(document.rows, SparseRows) and len(document.rows):
            self._add_rows(document, document.rows)

    def _add_rows(self, document: ForeignDocument, rows: SparseRows) -> None:
        sums_R = checked_rows(rows, vocab_size=self.vocab_size, place=document.place)
        self.entries = max(self.entries, int(rows.used_RK.sum(axis=1).max()))
        self.above_one += int((sums_R > 1).sum())
        self.far_above_one += int((sums_R > _ROUNDED).sum())
        self.largest_sum = max(self.largest_sum, float(sums_R.max()))
        ids_L, at_R = document.input_ids_L, np.flatnonzero(document.counted_L)
        inside_R = at_R + 1 < len(ids_L)
        for shift in self.named:
            tokens_R = ids_L[np.minimum(at_R + shift, len(ids_L) - 1)]
            named_R = ((rows.ids_RK == tokens_R[:, None]) & rows.used_RK).any(axis=1)
            self.named[shift] += int((named_R & inside_R).sum())


def surveyed(
    foreign: Foreign, *, vocab_size: int, entries: int | None, on_progress: OnProgress | None
) -> Survey:
    """What all files hold. Raises CorpusError for what no store can take.

    foreign: the source.
    vocab_size: V.
    entries: of a row, where they are chosen and not read.
    on_progress: told how far it is.
    """
    survey = Survey(vocab_size=vocab_size)
    meter = Meter(on_progress, stage="reading every row once", unit="rows")
    for file in foreign.files:
        _survey_file(file, survey, entries, meter)
    if not survey.rows:
        raise CorpusError("there is no row to import", place=foreign.files[0].name)
    return survey


def _survey_file(file: ForeignFile, survey: Survey, entries: int | None, meter: Meter) -> None:
    sha256 = hash_of(file.paths)
    start = number = tokens = room = 0
    for document in file.read():
        before = survey.rows
        survey.add(document, source=file.name)
        number += 1
        tokens += len(document.input_ids_L)
        room += (survey.rows - before) * (entries or survey.entries)
        if tokens >= _UNIT_TOKENS or room >= _UNIT_ENTRIES:
            survey.units.append(_unit(file, survey, start, number, sha256))
            start, tokens, room = number, 0, 0
            meter.tell(survey.rows, fraction=None, detail=file.name)
    if number > start:
        survey.units.append(_unit(file, survey, start, number, sha256))
    meter.tell(survey.rows, fraction=None, detail=file.name)


def _files(path: Path) -> list[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


def _unit(file: ForeignFile, survey: Survey, start: int, stop: int, sha256: str) -> WorkUnit:
    return WorkUnit(
        name=f"{len(survey.units):06d}",
        source=file.name,
        start=start,
        stop=stop,
        first_record=start,
        first_line=start + 1,
        records=stop - start,
        sha256=sha256,
    )


def hash_of(paths: Iterable[Path]) -> str:
    """sha256 of the bytes of files, one after another.

    paths: of the files; of a folder those in it.
    """
    found = hashlib.sha256()
    for path in chain.from_iterable(_files(one) for one in paths):
        with reading(str(path)), path.open("rb") as data:
            while part := data.read(_BUFFER):
                found.update(part)
    return found.hexdigest()


def decided_values(foreign: Foreign, survey: Survey, *, asked: str | None) -> Values:
    """What the numbers are, as the format says, the user, or their sums.

    foreign: the source.
    survey: of all its rows.
    asked: `--values`, if it was given.

    Raises SettingError where the user is contradicted, or must be asked.
    """
    if foreign.values is Values.WHOLE:
        if asked is not None:
            raise SettingError("--values means nothing to whole distributions", found=asked)
        return Values.WHOLE
    if foreign.values is Values.SHARES:
        if asked == Values.LOGPROBS.value:
            raise SettingError(
                "--values: the format does not hold log-probabilities over the vocabulary",
                found=asked,
                allowed=Values.SHARES.value,
            )
        return Values.SHARES
    if asked == Values.SHARES.value:
        return Values.SHARES
    share = survey.far_above_one / survey.rows
    if share <= _FEW:
        return Values.LOGPROBS
    if foreign.tested and asked is None and share >= _MANY:
        return Values.SHARES
    raise SettingError(
        "--values: the entries of many rows add up to more than 1, as log-probabilities cannot",
        found=f"{survey.far_above_one:,} of {survey.rows:,} rows, up to {survey.largest_sum:g}",
        remedy=f"Give --values {Values.SHARES.value} if they are logits, or known up to a constant",
    )


def refuse_other_alignment(survey: Survey, *, place: str) -> None:
    """Raise CorpusError where rows fit the token before or behind theirs better than their own.

    survey: of all rows.
    place: what the error names.
    """
    shift = max(survey.named, key=lambda one: (survey.named[one], one == 0))
    ahead = survey.named[shift] - survey.named[0]
    if shift and survey.rows >= _LEAST_ROWS and ahead > max(8, _FEW * survey.rows):
        where = "before" if shift < 0 else "behind"
        raise CorpusError(
            f"the rows name the token {where} the one that they are said to belong to more often",
            place=place,
            found=f"{survey.named[shift]:,} of {survey.rows:,} rows",
            allowed=f"{survey.named[0]:,} name their own",
            remedy="Check --alignment, and that --tokens are those of these rows",
        )
