"""A document as another system's file holds it: its tokens, and rows of what the teacher said.

Row r belongs to the r-th counted token, as in a store: a reader of a format has applied that
format's alignment by then. Numbers are the file's own; `targets_of` turns them into those of a
store, and refuses what is no distribution.

Shapes: L tokens of a document, R rows, K entries, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from logitstore.errors import CorpusError
from logitstore.sparsify.foreign import HEAD, SHARES
from logitstore.sparsify.options import MOST_ENTRIES
from logitstore.targets.documents import Document, document_id
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets, none_sampled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "ForeignDocument",
    "SparseRows",
    "Values",
    "WholeRows",
    "checked_document",
    "checked_rows",
    "targets_of",
]


class Values(Enum):
    """What the numbers of a row are."""

    LOGPROBS = "logprobs"  # log-probabilities over the whole vocabulary, of some of its tokens
    SHARES = "shares"  # the same or logits, up to a constant of the row that nobody knows
    WHOLE = "whole"  # log-probabilities of all tokens


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseRows:
    """Some tokens of each row; what is not in use may hold any number."""

    ids_RK: np.ndarray  # int64
    values_RK: np.ndarray  # float64, nats
    used_RK: np.ndarray  # bool

    def __len__(self) -> int:
        return len(self.ids_RK)

    @staticmethod
    def ragged(ids: list[list[int]], values: list[list[float]]) -> SparseRows:
        """Rows of different lengths. Minus infinity leaves an entry out."""
        width = max(map(len, ids), default=0)
        ids_RK = np.zeros((len(ids), max(1, width)), dtype=np.int64)
        values_RK = np.full(ids_RK.shape, -np.inf)
        for row, (some_ids, some_values) in enumerate(zip(ids, values, strict=True)):
            ids_RK[row, : len(some_ids)] = some_ids
            values_RK[row, : len(some_values)] = some_values
        return SparseRows(ids_RK=ids_RK, values_RK=values_RK, used_RK=values_RK != -np.inf)

    def rows(self, index: slice | np.ndarray) -> SparseRows:
        """Those of `index`."""
        return SparseRows(
            ids_RK=self.ids_RK[index], values_RK=self.values_RK[index], used_RK=self.used_RK[index]
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WholeRows:
    """All tokens of each row, a few rows at a time."""

    count: int
    chunks: Callable[[], Iterator[np.ndarray]]  # float32 [R', V], nats

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ForeignDocument:
    """Tokens, which of them count, and a row for each of those."""

    place: str  # for messages
    record: int  # of its file, from 0
    piece: int  # of the record, from 0
    input_ids_L: np.ndarray  # int64
    counted_L: np.ndarray  # bool
    rows: SparseRows | WholeRows


def checked_document(document: ForeignDocument, *, source: str, vocab_size: int) -> Document:
    """The document without its rows. Raises CorpusError for ids and masks that no store may have.

    document: of a file.
    source: the file's name.
    vocab_size: V.
    """
    ids_L, counted_L = document.input_ids_L, document.counted_L
    _refuse_ids(ids_L, vocab_size=vocab_size, what="a token", place=document.place)
    if counted_L[:1].any():
        raise CorpusError(
            "a row belongs to the first token, which nothing predicts",
            place=document.place,
            remedy="Check --alignment",
        )
    if len(document.rows) != int(counted_L.sum()):
        raise CorpusError(
            "there is another number of rows than of tokens that they belong to",
            place=document.place,
            found=len(document.rows),
            allowed=int(counted_L.sum()),
        )
    return Document(
        id=document_id(source=source, record=document.record, piece=document.piece),
        record=document.record,
        piece=document.piece,
        input_ids_L=ids_L.astype(np.uint32),
        counted_L=counted_L,
    )


def checked_rows(rows: SparseRows, *, vocab_size: int, place: str) -> np.ndarray:
    """float64 [R]: the sum of exp over each row's entries, as the file has them.

    rows: of one document.
    vocab_size: V.
    place: what an error names.

    Raises CorpusError for an id beyond the vocabulary or twice in a row, for a row without entries
    or with too many, and for numbers that are not finite.
    """
    used_RK = rows.used_RK
    _refuse_ids(rows.ids_RK[used_RK], vocab_size=vocab_size, what="an entry", place=place)
    counts_R = used_RK.sum(axis=1)
    for bad_R, problem in (
        (counts_R < 1, "a row has no entries"),
        (counts_R > MOST_ENTRIES, f"a row has more than {MOST_ENTRIES} entries"),
        ((~np.isfinite(rows.values_RK) & used_RK).any(axis=1), "a value is no finite number"),
        (
            (np.abs(rows.values_RK) > -EMPTY_TAIL / 2).any(axis=1, where=used_RK),
            "a value is absurd",
        ),
        (_twice_R(rows), "a row has an id twice"),
    ):
        if bad_R.any():
            row = int(np.argmax(bad_R))
            raise CorpusError(
                problem,
                place=f"{place}, row {row}",
                found=_some(rows.values_RK[row][used_RK[row]]),
                remedy="The file is damaged, or of another layout than was told",
            )
    return np.exp(np.minimum(rows.values_RK, 700)).sum(axis=1, where=used_RK)


def targets_of(rows: SparseRows, values: Values) -> SparseTargets:
    """Rows that `checked_rows` has passed, as a store has them.

    rows: of one document.
    values: LOGPROBS or SHARES.

    The tail has what is left to 1. Where the entries have more than 1, by rounding or by a fit, the
    tail is empty and the entries are scaled to 1.
    """
    used_RK = rows.used_RK
    order_RK = np.argsort(~used_RK, axis=1, kind="stable")  # entries in use come first
    width = max(1, int(used_RK.sum(axis=1).max(initial=1)))
    order_RK = order_RK[:, :width]
    used_RK = np.take_along_axis(used_RK, order_RK, axis=1)
    ids_RK = np.where(used_RK, np.take_along_axis(rows.ids_RK, order_RK, axis=1), 0)
    values_RK = np.where(used_RK, np.take_along_axis(rows.values_RK, order_RK, axis=1), EMPTY_TAIL)
    top_R = values_RK.max(axis=1, initial=EMPTY_TAIL)
    log_mass_R = top_R + np.log(np.exp(values_RK - top_R[:, None]).sum(axis=1, where=used_RK))
    count = len(ids_RK)
    if values is Values.SHARES:
        values_RK = values_RK - log_mass_R[:, None]
        tail_RB = np.zeros((count, 0), dtype=np.float32)
    else:
        values_RK = values_RK - np.maximum(log_mass_R, 0)[:, None]
        left_R = -np.expm1(np.minimum(log_mass_R, 0))
        full_R = left_R <= 0
        tail_R = np.where(full_R, EMPTY_TAIL, np.log(np.where(full_R, 1, left_R)))
        tail_RB = tail_R[:, None].astype(np.float32)
    unknown_R = np.full(count, np.nan, dtype=np.float32)
    return SparseTargets(
        kind=(SHARES if values is Values.SHARES else HEAD).targets,
        ids_RK=ids_RK.astype(np.uint32),
        logprobs_RK=np.where(used_RK, values_RK, EMPTY_TAIL).astype(np.float32),
        sampled_RK=none_sampled(count, width),
        count_R=used_RK.sum(axis=1).astype(np.int32),
        tail_logmass_RB=tail_RB,
        label_logprob_R=unknown_R,
        entropy_R=unknown_R,
    )


def _twice_R(rows: SparseRows) -> np.ndarray:
    """bool [R]: which rows have an id twice."""
    sorted_RK = np.sort(np.where(rows.used_RK, rows.ids_RK, -1), axis=1)
    return ((sorted_RK[:, 1:] == sorted_RK[:, :-1]) & (sorted_RK[:, 1:] >= 0)).any(axis=1)


def _refuse_ids(ids: np.ndarray, *, vocab_size: int, what: str, place: str) -> None:
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        wrong = ids[(ids < 0) | (ids >= vocab_size)]
        raise CorpusError(
            f"{what} has an id that the tokenizer does not have",
            place=place,
            found=int(wrong[0]),
            allowed=f"0..{vocab_size - 1}",
            remedy="Give the tokenizer of the teacher that wrote the file",
        )


def _some(values: np.ndarray) -> str:
    return ", ".join(f"{one:g}" for one in values[:6]) + (", .." if len(values) > 6 else "")
