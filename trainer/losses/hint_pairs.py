"""Which layer of a student is to follow which layer of its teacher; both are counted from 1.

Importing this costs no torch, so that a command line can refuse a value at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from logitstore import SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HintPair", "pairs_at_equal_depth", "parse_pairs"]

_AROUND = re.compile(r"\s*([,:])\s*")  # spaces elsewhere are none of this form
_PAIRS = re.compile(r"[0-9]{1,5}:[0-9]{1,5}(?:,[0-9]{1,5}:[0-9]{1,5})*")


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class HintPair:
    """A layer of each, counted from 1: the state behind it, before the final norm."""

    teacher: int
    student: int

    def __str__(self) -> str:
        """As the option has it: the student's layer, then the teacher's."""
        return f"{self.student}:{self.teacher}"


def parse_pairs(text: str) -> tuple[HintPair, ...]:
    """The pairs that a text names, as 2:6,4:12: those of the student stand before the colon.

    Args:
        text: What the user gave.

    Raises SettingError for anything else, and for a pair that stands twice.
    """
    short = _AROUND.sub(r"\1", str(text).strip())
    numbers = [
        tuple(int(part) for part in one.split(":"))
        for one in (short.split(",") if _PAIRS.fullmatch(short) else ())
    ]
    if not numbers or any(part < 1 for one in numbers for part in one):
        raise SettingError(
            "this names no pairs of layers",
            found=repr(text)[:80],
            allowed="as 2:6,4:12, the student's layer before the teacher's, both counted from 1",
        )
    if len({*numbers}) < len(numbers):
        raise SettingError("a pair of layers is named twice", found=repr(text)[:80])
    return tuple(sorted(HintPair(student=student, teacher=own) for student, own in numbers))


def pairs_at_equal_depth(
    layers: Sequence[int], *, teacher_depth: int, student_depth: int
) -> tuple[HintPair, ...]:
    """Each layer of a teacher with the one of the student behind which as great a part has run.

    Args:
        layers: Of the teacher.
        teacher_depth: How many it has.
        student_depth: How many the student has. Halves are rounded up, to 1 at least.
    """
    return tuple(
        HintPair(
            teacher=layer,
            student=max(1, (2 * layer * student_depth + teacher_depth) // (2 * teacher_depth)),
        )
        for layer in layers
    )
