"""Which documents of a store are measured: a few, spread evenly, the same each time.

Only some blocks are read, however large the store and however far away it is: evenly spaced ones,
and of these evenly spaced documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore import StoreError
from trainer.data.store import reading_ahead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore import StoredDocument
    from trainer.data.store import StoreLike

__all__ = ["sampled"]

_TOKENS = 8192
_LEAST = 8  # documents, of which a standard error needs several
_BLOCKS = 8


def sampled(store: StoreLike, *, documents: int | None) -> list[StoredDocument]:
    """Documents of a store, in store order.

    Args:
        store: It is read at its draw.
        documents: How many; None for about 8,192 tokens, and 8 documents at least. All, where the
            store has no more.

    Raises StoreError where they hold no target, and for a block that is damaged.
    """
    sizes = [one.documents for one in store.blocks]
    total, tokens = sum(sizes), sum(one.tokens for one in store.blocks)
    if documents is None:
        documents = max(_LEAST, -(-_TOKENS * total // max(1, tokens)))
    documents = min(documents, total)
    numbers = _blocks(sizes, documents)
    places = _even(documents, sum(sizes[one] for one in numbers))
    ahead = reading_ahead(store)
    for number in numbers:
        ahead.expect(number)
    found: list[StoredDocument] = []
    start = 0
    for number in numbers:
        stop = start + sizes[number]
        wanted = [place - start for place in places if start <= place < stop]
        held = list(ahead.read_block(number).split())
        found += [held[place] for place in wanted]
        start = stop
    if not any(one.document.counted_L.any() for one in found):
        raise StoreError(
            "the chosen documents hold no targets",
            place=f"store {store.fingerprint[:12]}",
            found=f"{len(found)} documents",
            remedy="Measure more of them (--documents)",
        )
    return found


def _blocks(sizes: Sequence[int], documents: int) -> list[int]:
    """Evenly spaced blocks that hold as many documents, and no more blocks than that takes."""
    filled = [number for number, size in enumerate(sizes) if size]
    count = min(_BLOCKS, len(filled))
    while True:
        chosen = [filled[place] for place in _even(count, len(filled))]
        if count == len(filled) or sum(sizes[one] for one in chosen) >= documents:
            return chosen
        count = min(len(filled), 2 * count)


def _even(count: int, total: int) -> list[int]:
    """`count` different numbers below `total`, each in the middle of its share."""
    return [(2 * one + 1) * total // (2 * count) for one in range(count)]
