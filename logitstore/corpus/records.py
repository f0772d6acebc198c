"""Records: one text or one chat of a corpus, and what is wrong with one that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from logitstore.errors import CorpusError

__all__ = ["BadRecord", "Record", "bad_record", "shortened"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record of a corpus: a text, or a chat."""

    source: str  # the file's path below the corpus folder, or the split of a Hub data set
    record: int  # its number in the source, from 0
    line: int  # the line (or row) on which it begins, from 1
    text: str | None
    messages: list[dict[str, Any]] | None  # each with a role and a content
    ends: bool  # a text ends here: False inside a .txt file, whose records are sections

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.source}:{self.line}"


class BadRecord(Exception):
    """What is wrong with one record; who meets it counts the record, or names it in an error.

    problem: what is wrong.
    found: the value that is.
    allowed: what it may be.
    line: lines below the record's first.
    """

    def __init__(
        self, problem: str, *, found: object = None, allowed: object = None, line: int = 0
    ) -> None:
        self.problem = problem
        self.found = found
        self.allowed = allowed
        self.line = line  # lines below the record's first
        super().__init__(problem)


def bad_record(
    problem: str, *, place: str, found: object = None, allowed: object = None
) -> CorpusError:
    """The error of a record that cannot be used, where bad records are not skipped.

    problem: what is wrong.
    place: source and line.
    found: the value that is wrong.
    allowed: what it may be.
    """
    remedy = "Mend the record, or pass over such records with --skip-bad"
    return CorpusError(problem, place=place, found=found, allowed=allowed, remedy=remedy)


def shortened(value: object) -> str:
    """`repr(value)`, in 60 characters at most."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
