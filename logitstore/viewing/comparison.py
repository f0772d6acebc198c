"""The same text beside a store: the distributions of another store, or those of a student.

What is told of two distributions is exact or a bound. The log-probabilities of the token that
follows are known of both. Of the rest a store knows some entries exactly: KL is taken of what both
know, and of everything else in one bucket. Pooling outcomes never makes a divergence larger (the
data processing inequality), so that is the least that KL(first || second) can be.

Shapes: R targets of a document, C of them common to both, K entries.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from logitstore.errors import StoreError, TokenizerError
from logitstore.sparsify import sparsifier_of
from logitstore.store.storage import base_name
from logitstore.targets.documents import StoredDocument
from logitstore.viewing.finding import find_document

if TYPE_CHECKING:
    from logitstore.store.reader import Store
    from logitstore.targets.targets import SparseTargets

__all__ = [
    "Beside",
    "Second",
    "SecondStore",
    "exact_entries",
    "kl_at_least",
    "pooled_kl",
    "temperature_of",
]

_LEAST = 1e-12  # of a probability in a logarithm


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Beside:
    """What stands beside a document."""

    stored: StoredDocument | None  # None: there is nothing of the same text
    kl_R: np.ndarray | None = None  # float64, nats, of the document's targets; NaN where unknown
    note: str | None = None  # what a reader must know


class Second(Protocol):
    """Another store or a student."""

    def info(self) -> dict[str, Any]:
        """`name`, `kind` and what else is told of it."""
        ...

    def beside(self, first: StoredDocument, number: int) -> Beside:
        """What it says of the text of `first`, which has that number in the first store."""
        ...

    def to_draw_of(self, first: Store) -> Second | None:
        """The same beside another draw of the first store; None where it has nothing to compare."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SecondStore:
    """Another store of the same tokenizer, whose documents are found by their ids."""

    store: Store
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def of(store: Store, first: Store) -> SecondStore:
        """That store, at the draw that has the temperature of the first.

        store: the second.
        first: the store that it is compared with, at its draw.

        Raises TokenizerError where its ids are those of another tokenizer, StoreError where it
        holds nothing at the first one's temperature.
        """
        found, allowed = (one.spec.tokenizer.fingerprint for one in (store, first))
        if found != allowed:
            raise TokenizerError(
                "the second store's tokenizer is another than the first's, so ids mean other "
                "tokens",
                place=store.uri,
                found=found[:12],
                allowed=allowed[:12],
                remedy="View each by itself",
            )
        sparsifier, wanted = store.spec.sparsifier, temperature_of(first)
        if wanted not in sparsifier.drawn_at:
            raise StoreError(
                "the second store holds its targets at other temperatures",
                place=store.uri,
                found=", ".join(f"{one:g}" for one in sparsifier.drawn_at),
                allowed=f"{wanted:g}",
                remedy="View each by itself",
            )
        draw = sparsifier.drawn_at.index(wanted) * sparsifier.repeats
        return SecondStore(store.with_draw(draw))

    def to_draw_of(self, first: Store) -> Second | None:
        """See `Second`."""
        try:
            return SecondStore.of(self.store, first)
        except StoreError:
            return None

    def info(self) -> dict[str, Any]:
        """See `Second`."""
        spec = self.store.spec
        return {
            "kind": "store",
            "name": base_name(self.store.layout.storage),
            "teacher": spec.teacher.name,
            "sparsifier": spec.sparsifier.name,
            "k": spec.sparsifier.k,
            "whole": sparsifier_of(spec.sparsifier).targets.knows_whole,
            "documents": len(self.store),
        }

    def beside(self, first: StoredDocument, number: int) -> Beside:
        """See `Second`. The document of the same id; where none has it, of the same number."""
        wanted = first.document
        with self._lock:
            found, looked = self._same_id(wanted.id, number)
            if found is None and number < len(self.store):
                same_place = self.store[number]
                if np.array_equal(same_place.document.input_ids_L, wanted.input_ids_L):
                    found = same_place
        if found is None:
            return Beside(stored=None, note=f"The second store has no such document{looked}.")
        if not np.array_equal(found.document.input_ids_L, wanted.input_ids_L):
            return Beside(
                stored=None, note="The second store has other tokens under this document's id."
            )
        kl_R = np.full(len(first.targets), np.nan)
        rows_C, others_C = _common(first, found)
        kl_R[rows_C] = kl_at_least(first.targets.rows(rows_C), found.targets.rows(others_C))
        same = np.array_equal(found.document.counted_L, wanted.counted_L)
        note = None if same else "The two stores count different tokens of this document."
        return Beside(stored=found, kl_R=kl_R, note=note)

    def _same_id(self, wanted: bytes, number: int) -> tuple[StoredDocument | None, str]:
        """The document of that id, and how far was looked where there is none."""
        if number < len(self.store) and self.store[number].document.id == wanted:
            return self.store[number], ""
        found, seen = find_document(self.store, wanted.hex())
        if found is not None:
            return self.store[found], ""
        blocks = len(self.store.blocks)
        return None, "" if seen == blocks else f" in the {seen:,} of {blocks:,} blocks looked at"


def temperature_of(store: Store) -> float:
    """T, at which the store's draw holds its targets.

    store: at a draw.
    """
    sparsifier = store.spec.sparsifier
    return sparsifier.drawn_at[store.draw // sparsifier.repeats]


def _common(first: StoredDocument, second: StoredDocument) -> tuple[np.ndarray, np.ndarray]:
    """The rows of both that belong to tokens which count in both."""
    counted_L, other_L = first.document.counted_L, second.document.counted_L
    both_L = counted_L & other_L
    rows_L, others_L = np.cumsum(counted_L) - 1, np.cumsum(other_L) - 1
    return rows_L[both_L], others_L[both_L]


def kl_at_least(first: SparseTargets, second: SparseTargets) -> np.ndarray:
    """float64 [R], nats: the least that KL(first || second) can be, by what both know exactly.

    first, second: as many targets of the same tokens.

    NaN where one of them has no exact entries.
    """
    rows = len(first)
    if not (first.kind.has_exact and second.kind.has_exact):
        return np.full(rows, np.nan)
    (keys, p), (other_keys, q) = exact_entries(first), exact_entries(second)
    _, here, there = np.intersect1d(keys, other_keys, assume_unique=True, return_indices=True)
    return pooled_kl(keys[here] >> 32, p[here], q[there], rows=rows)


def exact_entries(targets: SparseTargets) -> tuple[np.ndarray, np.ndarray]:
    """int64: row and id of each exact entry in one number; float64: its log-probability, nats.

    targets: of a kind that has exact entries.
    """
    exact_RK = targets.exact_RK()
    rows_RK = np.broadcast_to(np.arange(len(targets))[:, None], exact_RK.shape)
    keys = (rows_RK[exact_RK].astype(np.int64) << 32) | targets.ids_RK[exact_RK].astype(np.int64)
    return keys, targets.logprobs_RK[exact_RK].astype(np.float64)


def pooled_kl(row_of: np.ndarray, p: np.ndarray, q: np.ndarray, *, rows: int) -> np.ndarray:
    """float64 [rows], nats: KL of outcomes known on both sides, and of the rest in one bucket.

    row_of: the row of each outcome.
    p, q: its log-probabilities on both sides, nats.
    rows: how many there are.
    """
    known = np.bincount(row_of, np.exp(p) * (p - q), minlength=rows)
    rest_p, rest_q = (
        np.maximum(1.0 - np.bincount(row_of, np.exp(one), minlength=rows), _LEAST) for one in (p, q)
    )
    return np.maximum(known + rest_p * np.log(rest_p / rest_q), 0.0)
