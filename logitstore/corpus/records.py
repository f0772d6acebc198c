"""What is wrong with a record of a corpus that cannot be used."""

from __future__ import annotations

from logitstore.errors import CorpusError

__all__ = ["BadRecord", "bad_record", "shortened"]


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
