"""Pieces: tokens longer than a document are split into pieces that share one token.

So every counted token is predicted in exactly one piece. Where the whole begins with the
tokenizer's BOS, each piece does, for a model has learnt to speak behind it.

Shapes: L tokens of one text or piece, M tokens that the teacher reads in its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from logitstore.targets.documents import TeacherText

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Tokens", "pieces"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tokens:
    """A text or a rendering as a whole, before it is split."""

    ids_L: np.ndarray  # uint32
    counted_L: np.ndarray  # bool
    begins: int  # tokens at its front that begin every piece
    inserted_L: np.ndarray | None = None  # that only the teacher reads, behind each beginning
    sampler_L: np.ndarray | None = None  # float32, nats: with which each was drawn
    teacher: TeacherText | None = None  # a whole text of its own that the teacher reads


def pieces(tokens: Tokens, max_length: int) -> Iterator[Tokens]:
    """The pieces of a text: each begins as the whole does, then with the last token before it.

    So every token but the first is predicted once. A piece's beginning and the token that it shares
    never count. A text that only the teacher reads is cut behind the last token that counts.
    """
    front_L = tokens.ids_L[: tokens.begins]
    lead_L = front_L[:0]
    start = counted = 0
    while start < len(tokens.ids_L) - 1:
        size = max_length - len(lead_L)
        counted_L = tokens.counted_L[start : start + size].copy()
        counted_L[0] = False
        piece = replace(
            tokens,
            ids_L=np.concatenate([lead_L, tokens.ids_L[start : start + size]]),
            counted_L=np.concatenate([np.zeros(len(lead_L), dtype=bool), counted_L]),
            sampler_L=_part(tokens.sampler_L, slice(start, start + size), lead=len(lead_L)),
        )
        inserted_at = len(lead_L) if start else tokens.begins
        yield replace(piece, teacher=_teacher_text(piece, inserted_at, counted))
        counted += int(counted_L.sum())
        # A document of two tokens has no room for both the beginning and a shared token.
        lead_L = front_L if max_length >= len(front_L) + 2 else front_L[:0]
        start += size - 1


def _part(values_L: np.ndarray | None, part: slice, *, lead: int) -> np.ndarray | None:
    """The values of a piece, 0 for what stands before it."""
    if values_L is None:
        return None
    return np.concatenate([np.zeros(lead, dtype=values_L.dtype), values_L[part]])


def _teacher_text(piece: Tokens, place: int, before: int) -> TeacherText | None:
    """What the teacher reads of a piece, before which `before` tokens of the whole have counted."""
    if piece.inserted_L is not None:
        nothing_L = np.zeros(len(piece.inserted_L), dtype=bool)
        return TeacherText(
            input_ids_M=np.insert(piece.ids_L, place, piece.inserted_L),
            counted_M=np.insert(piece.counted_L, place, nothing_L),
        )
    if piece.teacher is None:
        return None
    wanted = slice(before, before + int(piece.counted_L.sum()))
    places_R = np.flatnonzero(piece.teacher.counted_M)[wanted]
    stop = int(places_R[-1]) + 1 if len(places_R) else 0
    counted_M = np.zeros(stop, dtype=bool)
    counted_M[places_R] = True
    return TeacherText(input_ids_M=piece.teacher.input_ids_M[:stop], counted_M=counted_M)
