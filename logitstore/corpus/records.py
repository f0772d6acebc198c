"""What is wrong with a record of a corpus that cannot be used."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from logitstore.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BadRecord", "bad_record", "missing_field", "shortened"]


class BadRecord(Exception):
    """What is wrong with one record; who meets it counts the record, or names it in an error.

    problem: what is wrong.
    found: the value that is.
    allowed: what it may be.
    line: lines below the record's first.
    remedy: what to do about it, where that is more than to mend the record.
    """

    def __init__(
        self,
        problem: str,
        *,
        found: object = None,
        allowed: object = None,
        line: int = 0,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.found = found
        self.allowed = allowed
        self.line = line  # lines below the record's first
        self.remedy = remedy
        super().__init__(problem)


def bad_record(
    problem: str,
    *,
    place: str,
    found: object = None,
    allowed: object = None,
    remedy: str | None = None,
) -> CorpusError:
    """The error of a record that cannot be used, where bad records are not skipped.

    problem: what is wrong.
    place: source and line.
    found: the value that is wrong.
    allowed: what it may be.
    remedy: what to do, where that is more than to mend the record.
    """
    remedy = f"{remedy or 'Mend the record'}, or pass over such records with --skip-bad"
    return CorpusError(problem, place=place, found=found, allowed=allowed, remedy=remedy)


def missing_field(wanted: str, names: Sequence[str], *, flag: str) -> BadRecord:
    """A record lacks the field that an option names; the remedy names one that it has.

    wanted: the field.
    names: those of the record.
    flag: the option.
    """
    near = get_close_matches(wanted, [one for one in names if isinstance(one, str)], n=1)
    return BadRecord(
        f"the record has no field {shortened(wanted)}",
        found=shortened(", ".join(map(str, names)) or "no field"),
        remedy=f"Take {flag} {near[0]}" if near else f"Name one with {flag}",
    )


def shortened(value: object) -> str:
    """`repr(value)`, in 60 characters at most."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
