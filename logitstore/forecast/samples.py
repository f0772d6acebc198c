"""A sample: documents from evenly spaced places of a corpus, read only as far as needed.

The corpus is cut into slices as a dump cuts it into units, only finer. Slices are visited in the
order of their bit-reversed numbers (van der Corput 1935), so that after any number of visits the
places are spread evenly over the corpus. A slice with one long record (a book, for instance) is
larger than others. It is visited proportionally more often, and gives another part of its documents
each time.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from logitstore.dumping.job import BYTES_PER_TOKEN
from logitstore.dumping.work import read_documents
from logitstore.errors import CorpusError

if TYPE_CHECKING:
    from logitstore.corpus.corpus import Slice
    from logitstore.dumping.job import Job
    from logitstore.targets.documents import Document

__all__ = ["Sample", "Sampled", "Slices"]

# The most slices of a corpus that are kept: at 16 KiB each, 16 million tokens.
_MOST_SLICES = 4096
_LEAST_VISITS = 16
_GOLDEN = (5**0.5 - 1) / 2  # the fractional parts of its multiples are spread evenly in [0, 1)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Slices:
    """Evenly spaced slices of a corpus, in its order, and the size of the corpus."""

    kept: tuple[Slice, ...]
    whole: bool  # no slice was left out
    bytes: int  # of the whole corpus
    records: int
    units: int  # work units of a dump, to within a few

    @staticmethod
    def of(job: Job, *, slice_tokens: int) -> Slices:
        """The slices of a corpus; where they are too many, every second one is left out.

        Args:
            job: The job, which names the corpus.
            slice_tokens: The tokens of a slice, about.
        """
        kept: list[Slice] = []
        stride, total, records, units, filled, source = 1, 0, 0, 0, 0, None
        slice_bytes = min(slice_tokens * BYTES_PER_TOKEN, job.unit_bytes)
        for number, one in enumerate(
            job.corpus.cut(unit_bytes=slice_bytes, limit=job.options.limit)
        ):
            if number % stride == 0:
                kept.append(one)
            if len(kept) > _MOST_SLICES:
                kept, stride = kept[::2], stride * 2
            if filled >= job.unit_bytes or one.unit.source != source:
                units, filled, source = units + 1, 0, one.unit.source
            filled += one.bytes
            total += one.bytes
            records += one.unit.records
        return Slices(
            kept=tuple(kept), whole=stride == 1, bytes=total, records=records, units=units
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """A document, and its place in the sample."""

    place: tuple[int, int]  # number of its slice, of the document in the slice: corpus order
    bytes: float  # its share of the slice's
    document: Document


@dataclass(frozen=True, kw_only=True, slots=True)
class _ReadSlice:
    """The documents of a slice that were not taken yet, and how much each visit counts."""

    parts: deque[list[Sampled]]
    documents: float
    targets: float
    tokens: float

    @staticmethod
    def of(held: Sequence[Sampled], *, number: int, visits: int) -> _ReadSlice:
        """The documents `held` of slice `number`, in as many parts as there will be visits."""
        stops = [len(held) * visit // visits for visit in range(visits + 1)]
        parts = deque(_spread(list(held[start:stop]) for start, stop in pairwise(stops)))
        # Most slices are visited once, and must not all give their first part.
        parts.rotate(int(number * _GOLDEN % 1 * visits))
        return _ReadSlice(
            parts=parts,
            documents=len(held) / visits,
            targets=sum(one.document.targets for one in held) / visits,
            tokens=sum(len(one.document) for one in held) / visits,
        )


class Sample:
    """The documents of a corpus in portions, each of which is spread evenly over it.

    Args:
        job: The job, which reads the corpus.
        slices: The slices of the corpus.
        visit_tokens: The tokens of one visit to a slice, about.
    """

    def __init__(self, job: Job, slices: Slices, *, visit_tokens: int) -> None:
        self.slices = slices
        # Of the visits so far.
        self.bytes = self.documents = self.targets = self.tokens = 0.0
        self.shapes: Counter[str] = Counter()  # of the records that were read
        self.seconds = 0.0  # spent on making tokens and documents of records
        self._skipped = 0
        self._job = job
        self._visit_tokens = visit_tokens
        visits = (
            number for number, one in enumerate(slices.kept) for _ in range(self._visits_of(one))
        )
        self._order = deque(_spread(visits))
        self._read: dict[int, _ReadSlice] = {}

    @property
    def scale(self) -> float:
        """How many times larger than the visited part the corpus is, by bytes."""
        return 1.0 if self.slices.whole and not self._order else self.slices.bytes / self.bytes

    def take(self, tokens: int) -> list[Sampled]:
        """Documents of about `tokens` tokens that were not taken before; none when all were.

        Raises CorpusError for a record that cannot be used.
        """
        taken: list[Sampled] = []
        while self._order and tokens > 0:
            wanted = min(math.ceil(tokens / self._visit_tokens), len(self._order))
            # In the order of the corpus, because a gzip stream cannot be read backwards.
            for number in sorted(self._order.popleft() for _ in range(wanted)):
                part = self._visit(number)
                tokens -= sum(len(one.document) for one in part)
                taken += part
        return taken

    def count(self, *, seconds: float) -> None:
        """Make more visits, only to count documents and targets.

        Args:
            seconds: The time for that; a few visits are made in any case.
        """
        until, least = time.monotonic() + seconds, _LEAST_VISITS
        while self._order and (least > 0 or time.monotonic() < until):
            self._visit(self._order.popleft())
            least -= 1

    def refuse_empty(self) -> None:
        """Raise CorpusError where no visit gave a target."""
        if not self.targets:
            raise CorpusError(
                "no record of the corpus gave a target",
                place=self._job.corpus.name,
                found=f"{self._skipped} records skipped",
            )

    def _visit(self, number: int) -> list[Sampled]:
        """The documents of the next part of slice `number`."""
        one = self.slices.kept[number]
        if number not in self._read:
            self._read[number] = _ReadSlice.of(
                self._documents(number), number=number, visits=self._visits_of(one)
            )
        read = self._read[number]
        self.bytes += one.bytes / self._visits_of(one)
        self.documents += read.documents
        self.targets += read.targets
        self.tokens += read.tokens
        return read.parts.popleft()

    def _visits_of(self, one: Slice) -> int:
        return max(1, round(one.bytes / (self._visit_tokens * BYTES_PER_TOKEN)))

    def _documents(self, number: int) -> list[Sampled]:
        one = self.slices.kept[number]
        records = self._job.read(one.unit)
        started = time.monotonic()
        documents, skipped = read_documents(self._job, records)
        self.seconds += time.monotonic() - started
        self._skipped += skipped
        self.shapes.update(records.shapes)
        density = one.bytes / max(1, sum(len(document) for document in documents))
        return [
            Sampled(place=(number, place), bytes=density * len(document), document=document)
            for place, document in enumerate(documents)
        ]


def _spread(items: Iterable[T]) -> list[T]:
    """The items in the order of their bit-reversed numbers: at 0, 1/2, 1/4, 3/4 and so on."""
    listed = list(items)
    bits = max(1, (len(listed) - 1).bit_length())
    reversed_numbers = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return [listed[number] for number in reversed_numbers if number < len(listed)]
