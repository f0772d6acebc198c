"""Pieces: tokens longer than a document are split into pieces that share one token.

So every counted token is predicted in exactly one piece. Where the whole begins with the
tokenizer's BOS, each piece does, for a model has learnt to speak behind it.

Shapes: L tokens of one text or piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Tokens", "pieces"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tokens:
    """A text or a rendering as a whole, before it is split."""

    ids_L: np.ndarray  # uint32
    counted_L: np.ndarray  # bool
    begins: int  # tokens at its front that begin every piece


def pieces(tokens: Tokens, max_length: int) -> Iterator[Tokens]:
    """The pieces of a text: each begins as the whole does, then with the last token before it.

    So every token but the first is predicted once. A piece's beginning and the token that it shares
    never count.
    """
    front_L = tokens.ids_L[: tokens.begins]
    lead_L = front_L[:0]
    start = 0
    while start < len(tokens.ids_L) - 1:
        size = max_length - len(lead_L)
        counted_L = tokens.counted_L[start : start + size].copy()
        counted_L[0] = False
        yield Tokens(
            ids_L=np.concatenate([lead_L, tokens.ids_L[start : start + size]]),
            counted_L=np.concatenate([np.zeros(len(lead_L), dtype=bool), counted_L]),
            begins=tokens.begins,
        )
        # A document of two tokens has no room for both the beginning and a shared token.
        lead_L = front_L if max_length >= len(front_L) + 2 else front_L[:0]
        start += size - 1
