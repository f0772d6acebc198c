"""What every teacher is given: batches of documents of like length."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logitstore.targets.documents import Document

__all__ = ["batches"]


def batches(documents: Sequence[Document], *, batch_tokens: int) -> Iterator[list[int]]:
    """The places of `documents`, in batches of equal length as nearly as can be.

    A batch holds at most `batch_tokens` tokens, padding included, and at least one document. The
    batches depend on the documents alone, so a unit dumped again meets the same ones.
    """
    places = sorted(range(len(documents)), key=lambda place: -len(documents[place]))
    batch: list[int] = []
    for place in places:
        # The first of a batch is its longest, so it sets the width of all.
        if batch and (len(batch) + 1) * len(documents[batch[0]]) > batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
