"""Spans: the smallest runs of a text that begin and end between two tokens of both tokenizers.

Teacher and student read the same bytes in tokens of their own. Where a token ends on both sides
there is a common boundary, and between two of them stands a span: the sum of the teacher's
log-probabilities of its tokens and that of the student's are about the same bytes.

Shapes: T tokens of the teacher, L tokens of the student, S spans, R counted tokens of the student,
A of them that begin where a token of the teacher does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from logitstore import SettingError, SparseTargets

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Side", "SpanTargets", "common_bounds", "has_spans", "spans_between"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpanTargets:
    """What a teacher of other tokens says of R counted tokens of a student.

    Span s is the rows from `starts_S[s]` on, `lengths_S[s]` of them; no two share a row, and rows
    between them have no span. `targets` are the teacher's distributions of the tokens that begin
    where the student's rows `aligned_A` do; None where no loss asks for them.
    """

    rows: int  # R
    starts_S: np.ndarray  # int64, rising
    lengths_S: np.ndarray  # int64, 1 or more
    bytes_S: np.ndarray  # int64, of text; the end of text has none
    teacher_S: np.ndarray  # float32, nats: the teacher's log-probability of each span
    aligned_A: np.ndarray  # int64, rising
    targets: SparseTargets | None  # A rows

    def __post_init__(self) -> None:
        """Raise SettingError where spans do not lie in the rows, one after another."""
        stops_S = self.starts_S + self.lengths_S
        ordered = bool((stops_S[:-1] <= self.starts_S[1:]).all()) and bool(
            (self.lengths_S > 0).all()
        )
        inside = not len(stops_S) or (int(self.starts_S[0]) >= 0 and int(stops_S[-1]) <= self.rows)
        if not (ordered and inside and len(self.teacher_S) == len(self.starts_S)):
            raise SettingError("spans do not lie in the rows one after another", place="batch")
        if self.targets is not None and len(self.targets) != len(self.aligned_A):
            raise SettingError("aligned rows and their targets differ in number", place="batch")

    def __len__(self) -> int:
        return self.rows

    @staticmethod
    def concatenate(parts: Sequence[SpanTargets]) -> SpanTargets:
        """The rows of all `parts`, one after another."""
        first_P = np.cumsum([0, *(part.rows for part in parts)])
        shifted = list(zip(parts, first_P, strict=False))
        targets = [part.targets for part in parts if part.targets is not None]
        return SpanTargets(
            rows=int(first_P[-1]),
            starts_S=np.concatenate([part.starts_S + first for part, first in shifted]),
            lengths_S=np.concatenate([part.lengths_S for part in parts]),
            bytes_S=np.concatenate([part.bytes_S for part in parts]),
            teacher_S=np.concatenate([part.teacher_S for part in parts]),
            aligned_A=np.concatenate([part.aligned_A + first for part, first in shifted]),
            targets=SparseTargets.concatenate(targets) if targets else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Side:
    """The tokens of one side over a text: where each ends, and whether it counts."""

    ends_L: np.ndarray  # int64, bytes from the beginning of the text; rising, some may be equal
    counted_L: np.ndarray  # bool
    start: int = 0  # where the first begins; below 0 where the text begins within a token

    def bounds(self) -> np.ndarray:
        """The positions between two tokens, the beginning of the first among them."""
        return np.union1d([self.start], self.ends_L)

    def starts_L(self) -> np.ndarray:
        """Where each token begins."""
        return np.concatenate([[self.start], self.ends_L])[:-1]

    def tokens_up_to(self, bounds_B: np.ndarray) -> np.ndarray:
        """How many tokens have ended at each of `bounds_B`."""
        return np.searchsorted(self.ends_L, bounds_B, side="right")

    def counted_up_to(self, tokens_B: np.ndarray) -> np.ndarray:
        """How many of the first `tokens_B` tokens count."""
        return np.concatenate([[0], np.cumsum(self.counted_L)])[tokens_B]


def common_bounds(teacher: Side, student: Side, *, text: bytes, words: bool) -> np.ndarray:
    """The positions in `text` at which tokens of both sides meet, its two ends included if they do.

    Args:
        teacher: The teacher's tokens.
        student: The student's.
        text: What both read.
        words: Whether only those before a white space and at the ends are taken.
    """
    bounds_B = np.intersect1d(teacher.bounds(), student.bounds())
    bounds_B = bounds_B[(bounds_B >= 0) & (bounds_B <= len(text))]
    if not words:
        return bounds_B
    bytes_N = np.frombuffer(text, dtype=np.uint8)
    white_N = np.isin(bytes_N, np.frombuffer(b" \t\n\r\v\f", dtype=np.uint8))
    edge_B = np.concatenate([white_N, [True]])[bounds_B] | (bounds_B == 0)
    return bounds_B[edge_B]


def spans_between(
    bounds_B: np.ndarray, *, teacher: Side, student: Side, logprob_R: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The spans between neighbours of `bounds_B` in which each token of both sides counts.

    Args:
        bounds_B: Rising positions at which both sides have a boundary.
        teacher: The teacher's tokens.
        student: The student's.
        logprob_R: Nats: the teacher's log-probability of each of its counted tokens.

    Returns for each span the first of its rows among the student's counted tokens, the number of
    them, its bytes, and the teacher's log-probability of it.
    """
    sums_R = np.concatenate([[0.0], np.cumsum(logprob_R, dtype=np.float64)])
    told = []
    for side in (teacher, student):
        tokens_B = side.tokens_up_to(bounds_B)
        counted_B = side.counted_up_to(tokens_B)
        whole_S = (np.diff(tokens_B) == np.diff(counted_B)) & (np.diff(counted_B) > 0)
        told.append((counted_B, whole_S))
    (teacher_B, teacher_whole_S), (student_B, student_whole_S) = told
    used_S = teacher_whole_S & student_whole_S
    return (
        student_B[:-1][used_S],
        np.diff(student_B)[used_S],
        np.diff(bounds_B)[used_S],
        np.diff(sums_R[teacher_B])[used_S].astype(np.float32),
    )


def has_spans(spec: object) -> bool:
    """Whether targets are spans of text, by the spec of what is read.

    Args:
        spec: Of a store, or of one in other tokens.
    """
    return bool(getattr(spec, "spans", False))
