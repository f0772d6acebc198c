"""Documents with their targets, packed small: columns of integers, deflated, in base64 in JSON.

A pack holds some documents end to end. Token ids are ranks in a table of the ids that occur, the
most frequent first, and the entries of a target stand in order of rank as differences, as in a
store; so 64 entries take about as many bytes as there. Numbers are thousandths: of a nat, which is
0.1 % of a probability.

    texts      the text of each rank              tokens, counted     a value for each token
    ids        the id of each rank                top, entropy, loss, tail, count    for each target
    levels     distances from a row's top         delta, level, drawn     for each entry in use

With `least`, entries of a lower probability are left out, and `left` counts them for each target.

Shapes: N tokens, R targets, K entries, E entries in use of all targets.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.targets.targets import EMPTY_TAIL, SparseTargets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.targets.documents import StoredDocument
    from logitstore.viewing.token_texts import TokenTexts

__all__ = ["column", "pack", "tail_mass", "thousandths"]

_MISSING = 0xFFFF  # a number that is not known; those that are known end below it, at 65 nats
_ZLIB_LEVEL = 9


def pack(
    stored: Sequence[StoredDocument], texts: TokenTexts, *, least: float = 0.0
) -> dict[str, Any]:
    """Some documents as an object of JSON.

    stored: one or more documents of one store and draw.
    texts: of the store's tokenizer.
    least: the least probability, or weight, of an entry that is packed.
    """
    targets = SparseTargets.concatenate([one.targets for one in stored])
    tokens_N = np.concatenate([one.document.input_ids_L for one in stored])
    counted_N = np.concatenate([one.document.counted_L for one in stored])
    kept_RK = targets.used_RK() & (targets.weights_RK >= least)
    entry_ids_E = targets.ids_RK[kept_RK]
    ranking = _Ranking.of(np.concatenate([tokens_N, entry_ids_E]))
    known = ranking.ids.tolist()
    return {
        "texts": _deflated(json.dumps([texts.text_of(one) for one in known]).encode()),
        "ids": column(ranking.ids),
        "special": [rank for rank, one in enumerate(known) if one in texts.special],
        "lengths": [[len(one.document), len(one.targets)] for one in stored],
        "in_place": [texts.texts_in_place(one.document.input_ids_L.tolist()) for one in stored],
        "tokens": column(ranking.of_ids(tokens_N)),
        "counted": column(counted_N.astype(np.uint8)),
        "entropy": column(thousandths(targets.entropy_R)),
        "loss": column(thousandths(-targets.label_logprob_R)),
        "tail": column(thousandths(-_log(tail_mass(targets)))),
        **_entries(targets, ranking, kept_RK),
        "least": least,
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Ranking:
    """The ids that occur, the most frequent first."""

    ids: np.ndarray  # uint32
    sorted_ids: np.ndarray
    rank_of_sorted: np.ndarray

    @staticmethod
    def of(ids: np.ndarray) -> _Ranking:
        found, counts = np.unique(ids, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        ranks = np.empty(len(found), dtype=np.uint32)
        ranks[order] = np.arange(len(found), dtype=np.uint32)
        return _Ranking(found[order].astype(np.uint32), found, ranks)

    def of_ids(self, ids: np.ndarray) -> np.ndarray:
        return self.rank_of_sorted[np.searchsorted(self.sorted_ids, ids)]


def _entries(targets: SparseTargets, ranking: _Ranking, kept_RK: np.ndarray) -> dict[str, Any]:
    """The entries that are kept, row after row, each row in order of rank."""
    rows, k = targets.ids_RK.shape
    kept_R = kept_RK.sum(axis=1)
    ranks_RK = np.full((rows, k), np.iinfo(np.int64).max, dtype=np.int64)
    ranks_RK[kept_RK] = ranking.of_ids(targets.ids_RK[kept_RK])
    order_RK = np.argsort(ranks_RK, axis=1, kind="stable")
    first_RK = np.arange(k)[None, :] < kept_R[:, None]
    ranks_RK, values_RK, drawn_RK = (
        np.take_along_axis(one, order_RK, axis=1)
        for one in (ranks_RK, targets.logprobs_RK, targets.sampled_RK)
    )
    ranks_RK = np.where(first_RK, ranks_RK, 0)
    top_R = np.max(np.where(first_RK, values_RK, -np.inf), axis=1, initial=-np.inf)
    below_RK = thousandths(top_R[:, None] - values_RK)
    levels, level_E = np.unique(below_RK[first_RK], return_inverse=True)
    left_R = (targets.count_R - kept_R).astype(np.uint32)
    return {
        "count": column(kept_R.astype(np.uint32)),
        "left": column(left_R) if left_R.any() else None,
        "top": column(thousandths(-top_R)),
        "delta": column(np.diff(ranks_RK, axis=1, prepend=0)[first_RK].astype(np.uint32)),
        "levels": levels.tolist(),
        "level": column(level_E.reshape(-1).astype(np.uint32)),
        "drawn": column(drawn_RK[first_RK].astype(np.uint8)) if targets.kind.drawn else None,
    }


def tail_mass(targets: SparseTargets) -> np.ndarray:
    """float64 [R]: the teacher's probability of all tokens that are no exact entry.

    targets: of any kind. It is NaN where no entry is exact.
    """
    if targets.kind.keeps_tail:
        return np.exp(targets.tail_logmass_RB[:, 0].astype(np.float64))
    if not targets.kind.has_exact:
        return np.full(len(targets), np.nan)
    weights_RK = np.exp(targets.logprobs_RK.astype(np.float64))
    if targets.kind.weights_sum_to_one:
        drawn_RK = targets.used_RK() & targets.sampled_RK
        return np.where(drawn_RK, weights_RK, 0.0).sum(axis=1)
    exact_RK = targets.exact_RK()
    return np.clip(1.0 - np.where(exact_RK, weights_RK, 0.0).sum(axis=1), 0.0, 1.0)


def _log(mass_R: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(mass_R, np.exp(EMPTY_TAIL / 200)))


def thousandths(values: np.ndarray) -> np.ndarray:
    """uint32: numbers from 0 up in thousandths, 65.534 at most; 65,535 for NaN.

    values: float; what is below 0 by rounding is 0.
    """
    known = np.asarray(values, dtype=np.float64)
    scaled = np.clip(np.rint(np.nan_to_num(known * 1000.0)), 0, _MISSING - 1)
    return np.where(np.isnan(known), _MISSING, scaled).astype(np.uint32)


def column(values: np.ndarray) -> dict[str, Any]:
    """Integers from 0 up as byte planes, the lowest first, deflated.

    values: unsigned.
    """
    highest = int(values.max(initial=0))
    width = 1 if highest < 1 << 8 else 2 if highest < 1 << 16 else 4
    planes = values.astype(f"<u{width}").view(np.uint8).reshape(-1, width).T
    return {"length": len(values), "bytes": width, "data": _deflated(planes.tobytes())}


def _deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, _ZLIB_LEVEL)).decode()
