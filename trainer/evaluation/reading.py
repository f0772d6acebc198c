"""What an evaluation reads, counted while it is taken: how far it is, and what cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from logitstore import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Counted", "without_skipping"]

T = TypeVar("T")

_SKIPPING = ", or pass over such records with --skip-bad"


class Counted(Generic[T]):
    """Items as they are taken, and the share of all of them that was.

    Args:
        items: Read once.
        total: How many there are.
    """

    def __init__(self, items: Iterable[T], *, total: int) -> None:
        self._items, self._total = items, total
        self._taken = 0

    def __iter__(self) -> Iterator[T]:
        for one in self._items:
            self._taken += 1
            yield one

    @property
    def fraction(self) -> float:
        """Of the items that were taken, 0 to 1."""
        return min(1.0, self._taken / max(1, self._total))


def without_skipping(items: Iterable[T]) -> Iterator[T]:
    """The items; where a record is broken, the error does not name an option that dump alone has.

    Args:
        items: What is made of the records of a corpus.
    """
    try:
        yield from items
    except CorpusError as error:
        if error.remedy is not None:
            error.remedy = error.remedy.replace(_SKIPPING, "")
        raise
