"""Blocks of several shards as blocks of one: the same integers under one ranking of their ids.

No value is decoded: an entry keeps its code, and a row its scalars. Ids are ranked anew, by how
often they are entries of the blocks that are joined, as a shard that is dumped has them.

Shapes: R targets, K entries of a draw, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logitstore.format.columns import Columns

__all__ = ["RankedBlock", "ranking_of", "reranked"]

_SLAB_ROWS = 4096  # rows that are worked on at once


class RankedBlock(NamedTuple):
    """The columns of a block, the ranking of its shard, and the entries in use of each draw."""

    columns: Columns
    ranking_V: np.ndarray  # uint32, rank -> id
    counts: Sequence[np.ndarray]  # of each draw, [R]


def ranking_of(blocks: Sequence[RankedBlock]) -> np.ndarray:
    """uint32 [V]: ids by how often they are entries of `blocks`, ties by id.

    blocks: at least one, over one vocabulary.
    """
    counts_V = np.zeros(len(blocks[0].ranking_V), dtype=np.int64)
    for block in blocks:
        for ids_SK, _, used_SK, _ in _slabs(block):
            counts_V += np.bincount(ids_SK[used_SK], minlength=len(counts_V))
    return np.argsort(-counts_V, kind="stable").astype(np.uint32)


def reranked(block: RankedBlock, ranking_V: np.ndarray) -> Columns:
    """The same block in a shard of another ranking. Ids that are none are not looked for.

    block: with the ranking that it has.
    ranking_V: the one that it gets.
    """
    key_of_V = np.empty(len(ranking_V), dtype=np.uint64)
    key_of_V[ranking_V] = np.arange(len(ranking_V), dtype=np.uint64) << np.uint64(16)
    deltas_RK = np.zeros(block.columns.entries["id_delta"].shape, dtype=np.uint32)
    codes_RK = np.zeros(deltas_RK.shape, dtype=np.uint16)
    for ids_SK, codes_SK, used_SK, place in _slabs(block):
        keys_SK = key_of_V[ids_SK] | codes_SK
        keys_SK[~used_SK] = np.iinfo(np.uint64).max
        keys_SK.sort(axis=1)  # what is in use comes first, as it did
        ranks_SK = (keys_SK >> np.uint64(16)).astype(np.uint32)
        ranks_SK[:, 1:] -= (keys_SK[:, :-1] >> np.uint64(16)).astype(np.uint32)
        deltas_RK[place] = np.where(used_SK, ranks_SK, 0)
        codes_RK[place] = np.where(used_SK, keys_SK.astype(np.uint16), 0)
    return replace(block.columns, entries={"id_delta": deltas_RK, "code": codes_RK})


def _slabs(
    block: RankedBlock,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, tuple[slice, slice]]]:
    """Ids, codes, whether in use, and where they are in the columns: some rows of one draw."""
    deltas, codes = (block.columns.entries[name] for name in ("id_delta", "code"))
    k = deltas.shape[1] // len(block.counts)
    for draw, count_R in enumerate(block.counts):
        own = slice(draw * k, (draw + 1) * k)
        for start in range(0, len(deltas), _SLAB_ROWS):
            rows = slice(start, start + _SLAB_ROWS)
            ranks_SK = np.cumsum(deltas[rows, own], axis=1, dtype=np.uint32)
            used_SK = np.arange(k) < count_R[rows, None]
            yield block.ranking_V[ranks_SK], codes[rows, own], used_SK, (rows, own)
