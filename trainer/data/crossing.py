"""Crossing: a document of the store becomes one of the student's tokens, with spans as targets.

The bytes that the store's tokens stand for are the text; the student's tokenizer reads it anew. A
document is crossed only if that is exact on both sides: the bytes are a text, the store's own
tokenizer decodes its tokens to the same, and the bytes of the student's tokens are those of the
text. Any other is left out and counted by its reason.

Shapes: L tokens of a document, R counted tokens, S spans, A aligned tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore import Document
from logitstore.plumbing import TokenBytes
from trainer.data.spans import Side, SpanTargets, common_bounds, spans_between

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore import SparseTargets, StoredDocument

__all__ = ["CrossedDocument", "Crossing", "LeftOut"]

_CONTINUATION = range(0x80, 0xC0)  # bytes that go on with a letter of UTF-8
_LONGEST_LETTER = 4  # bytes
_LOST = "\N{REPLACEMENT CHARACTER}"


class LeftOut(Exception):
    """Why a document is left out, as a message."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CrossedDocument:
    """A document in the student's tokens; without any where it was left out."""

    document: Document
    targets: SpanTargets
    text_bytes: int  # that its counted tokens stand for
    left_out: str | None = None  # why, where it was


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Text:
    """What a document of the store says."""

    text: str
    data: bytes  # the same in UTF-8
    side: Side
    rows_T: np.ndarray  # int64: the target of each token of `side`, where that counts
    first_row: int  # the target of the first of them
    ends: bool  # its last token is the end of text
    end_counts: bool


class Crossing:
    """From the tokens of one tokenizer to those of another.

    Args:
        teacher: The store's tokenizer.
        student: The student's.
        words: Whether spans end before white space only.
        with_targets: Whether the teacher's distributions at aligned tokens are kept.

    Raises TokenizerError where tokens do not say which bytes they stand for.
    """

    def __init__(
        self, teacher: Any, student: Any, *, words: bool = False, with_targets: bool = False
    ) -> None:
        self._teacher, self._student = teacher, student
        self._bytes, self._own = TokenBytes.of(teacher), TokenBytes.of(student)
        self._words, self._with_targets = words, with_targets

    def cross(self, stored: Sequence[StoredDocument]) -> list[CrossedDocument]:
        """The documents `stored` in the student's tokens, in their order."""
        read: list[_Text | LeftOut] = [self._try_read(one) for one in stored]
        texts = [one.text for one in read if isinstance(one, _Text)]
        encoded = iter(self._encode(texts))
        crossed = []
        for one, text in zip(stored, read, strict=True):
            try:
                if isinstance(text, LeftOut):
                    raise text
                crossed.append(self._crossed(one, text, np.array(next(encoded), dtype=np.int64)))
            except LeftOut as reason:
                crossed.append(_empty(one, str(reason)))
        return crossed

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        found: list[list[int]] = self._student(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return found

    # --- the store's side

    def _try_read(self, stored: StoredDocument) -> _Text | LeftOut:
        try:
            return self._read(stored.document)
        except LeftOut as reason:
            return reason

    def _read(self, document: Document) -> _Text:
        """What `document` says; `LeftOut` where its bytes are not known to be its text."""
        ids_L, counted_L = document.input_ids_L.astype(np.int64), document.counted_L
        if not self._bytes.knows(ids_L):
            raise LeftOut("it holds an id that no token of the store's tokenizer has")
        special_L = self._bytes.special_V[ids_L]
        first = int(np.argmin(special_L)) if not special_L.all() else len(ids_L)
        ends = bool(first < len(ids_L) and ids_L[-1] == self._bytes.end)
        inner = slice(first, len(ids_L) - ends)
        if special_L[inner].any():
            raise LeftOut("special tokens stand inside of it, as in a chat")
        data = self._bytes.joined(ids_L[inner])
        text = self._decoded(ids_L[inner], data)
        lengths_T = self._bytes.lengths_V[ids_L[inner]]
        lead = 1 if self._bytes.prefix and document.piece == 0 and data[:1] == b" " else 0
        lead += _incomplete_start(data[lead:])
        stop = len(data) - _incomplete_end(data[lead:])
        whole = data[lead:stop]
        if not text or not whole:
            raise LeftOut("it holds no text")
        rows_L = np.cumsum(counted_L) - 1
        return _Text(
            text=_utf8(whole),
            data=whole,
            side=Side(
                ends_L=np.cumsum(lengths_T) - lead,
                counted_L=counted_L[inner],
                start=0 if lead == 1 and data[:1] == b" " else -lead,
            ),
            rows_T=rows_L[inner],
            first_row=int(counted_L[:first].sum()),
            ends=ends and stop == len(data),
            end_counts=bool(ends and counted_L[-1]),
        )

    def _decoded(self, ids_T: np.ndarray, data: bytes) -> str:
        """The text by the tokenizer's own word, which must be that of the bytes."""
        decoded: str = self._teacher.decode(
            ids_T.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        own = data.decode("utf-8", "replace").replace(_LOST, "")
        told = decoded.replace(_LOST, "")
        if told != own and not (self._bytes.prefix and " " + told == own):
            raise LeftOut("the store's tokenizer decodes it to another text than its bytes are")
        return decoded

    # --- the student's side

    def _crossed(self, stored: StoredDocument, text: _Text, ids_L: np.ndarray) -> CrossedDocument:
        own = self._own
        if not own.knows(ids_L) or own.special_V[ids_L].any():
            raise LeftOut("the student's tokenizer reads special or unknown tokens in its text")
        data = own.joined(ids_L)
        lead = 1 if own.prefix and data[:1] == b" " else 0
        if data[lead:] != text.data:
            raise LeftOut("the student's tokenizer does not give its text back")
        ends_L = np.cumsum(own.lengths_V[ids_L]) - lead
        counted_L = _covered(text, ends_L)
        if not own.begin:
            counted_L[:1] = False  # nothing predicts it
        student = Side(ends_L=np.maximum(ends_L, 0), counted_L=counted_L)
        ends = text.ends and own.end is not None
        document = Document(
            id=stored.document.id,
            record=stored.document.record,
            piece=stored.document.piece,
            input_ids_L=np.concatenate([own.begin, ids_L, [own.end] * ends]).astype(np.uint32),
            counted_L=np.concatenate(
                [np.zeros(len(own.begin), dtype=bool), counted_L, [text.end_counts] * ends]
            ).astype(bool),
        )
        starts_L = student.starts_L()
        return CrossedDocument(
            document=document,
            targets=self._targets(stored, text, student, end=ends and text.end_counts),
            text_bytes=int((student.ends_L - starts_L)[counted_L].sum()),
        )

    def _targets(
        self, stored: StoredDocument, text: _Text, student: Side, *, end: bool
    ) -> SpanTargets:
        """The spans of a document; the end of text is one of its own."""
        logprob_R = stored.targets.label_logprob_R
        inner = slice(text.first_row, text.first_row + int(text.side.counted_L.sum()))
        rows = int(student.counted_L.sum())
        bounds_B = common_bounds(text.side, student, text=text.data, words=self._words)
        starts_S, lengths_S, bytes_S, teacher_S = spans_between(
            bounds_B, teacher=text.side, student=student, logprob_R=logprob_R[inner]
        )
        aligned_A, of_A = _aligned(text, student)
        if end:
            starts_S, lengths_S = np.append(starts_S, rows), np.append(lengths_S, 1)
            bytes_S, teacher_S = np.append(bytes_S, 0), np.append(teacher_S, logprob_R[-1:])
            aligned_A, of_A = np.append(aligned_A, rows), np.append(of_A, len(logprob_R) - 1)
        return SpanTargets(
            rows=rows + end,
            starts_S=starts_S,
            lengths_S=lengths_S,
            bytes_S=bytes_S,
            teacher_S=teacher_S.astype(np.float32),
            aligned_A=aligned_A,
            targets=_entries(stored.targets, of_A) if self._with_targets else None,
        )


def _entries(targets: SparseTargets, rows_A: np.ndarray) -> SparseTargets:
    """Targets without hidden states, of which no span is made."""
    return replace(targets, states={}).rows(rows_A)


def _covered(text: _Text, ends_L: np.ndarray) -> np.ndarray:
    """bool [L]: which of the student's tokens stand for bytes of the teacher's counted ones alone.

    A token without bytes counts where the byte before it does.
    """
    side, size = text.side, len(text.data)
    starts_T, ends_T = side.starts_L().clip(0, size), side.ends_L.clip(0, size)
    counted_N = np.repeat(side.counted_L, ends_T - starts_T)
    counted_N = np.pad(counted_N, (size - len(counted_N), 0))
    sums_N = np.concatenate([[0], np.cumsum(counted_N)])
    stops_L = ends_L.clip(0, size)
    starts_L = np.concatenate([[0], stops_L])[:-1]
    starts_L = np.where(starts_L == stops_L, np.maximum(stops_L - 1, 0), starts_L)
    covered_L: np.ndarray = (sums_N[stops_L] - sums_N[starts_L] == stops_L - starts_L) & (
        stops_L > starts_L
    )
    return covered_L


def _aligned(text: _Text, student: Side) -> tuple[np.ndarray, np.ndarray]:
    """The student's rows that begin where a counted token of the teacher does, and its targets."""
    starts_T, starts_L = text.side.starts_L(), student.starts_L()
    at_L = np.searchsorted(starts_T, starts_L, side="right") - 1
    same_L = (at_L >= 0) & (starts_T[at_L] == starts_L) & text.side.counted_L[at_L]
    used_L = same_L & student.counted_L
    rows_L = np.cumsum(student.counted_L) - 1
    return rows_L[used_L], text.rows_T[at_L[used_L]]


def _incomplete_start(data: bytes) -> int:
    """How many bytes at the beginning go on with a letter that stands in the piece before."""
    for number, byte in enumerate(data[: _LONGEST_LETTER - 1]):
        if byte not in _CONTINUATION:
            return number
    return min(len(data), _LONGEST_LETTER - 1)


def _incomplete_end(data: bytes) -> int:
    """How many bytes at the end begin a letter that the next piece goes on with."""
    for number in range(1, min(len(data), _LONGEST_LETTER - 1) + 1):
        byte = data[-number]
        if byte >= 0xC0:
            wanted = 2 + (byte >= 0xE0) + (byte >= 0xF0)
            return number if number < wanted else 0
        if byte not in _CONTINUATION:
            return 0
    return 0


def _utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise LeftOut("the bytes of its tokens are no UTF-8") from error


def _empty(stored: StoredDocument, reason: str) -> CrossedDocument:
    """A document without tokens in the place of one that is left out: the order stays the same."""
    nothing = np.zeros(0, dtype=np.int64)
    return CrossedDocument(
        document=Document(
            id=stored.document.id,
            record=stored.document.record,
            piece=stored.document.piece,
            input_ids_L=nothing.astype(np.uint32),
            counted_L=nothing.astype(bool),
        ),
        targets=SpanTargets(
            rows=0,
            starts_S=nothing,
            lengths_S=nothing,
            bytes_S=nothing,
            teacher_S=nothing.astype(np.float32),
            aligned_A=nothing,
            targets=None,
        ),
        text_bytes=0,
        left_out=reason,
    )
