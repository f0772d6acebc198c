"""Order: which document comes at which position of an epoch, as a pure function of a few numbers.

The blocks of a store are permuted once per epoch and distributed over the lanes in turn. In a lane
the documents of a window of consecutive blocks are permuted. A stream takes one document of each of
its lanes in turn. The order depends on no rank, worker or clock. Small blocks in a wide window mix
nearly as well as a permutation of the whole store, and each block is read only once.

Shapes: B blocks, L lanes, D documents of a window.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from logitstore import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "BUDGET_BYTES",
    "Place",
    "Shuffle",
    "deal",
    "default_window",
    "interleave",
    "lane_count",
    "stream_order",
    "taken",
]

# 64 lanes give every slot of a step its own lanes for all usual numbers of ranks, and 64 open
# blocks of 65,536 rows at K = 8 still fit into 0.3 GiB.
_MOST_LANES = 64
# A lane of fewer than 4 blocks has too few to permute, and ends long before its neighbours.
_LEAST_BLOCKS_OF_A_LANE = 4
BUDGET_BYTES = 1 << 30  # of all windows together
_EPOCHS_DEALT = 16  # that are remembered: every stream of an epoch asks for the same one


@dataclass(frozen=True, kw_only=True, slots=True)
class Shuffle:
    """Everything that the order depends on, except the epoch. A checkpoint holds it."""

    fingerprint: str  # of the store
    seed: int
    lanes: int
    window: int  # blocks of a lane whose documents are permuted together

    def __post_init__(self) -> None:
        for name in ("lanes", "window"):
            if getattr(self, name) < 1:
                raise SettingError(
                    f"the shuffle needs {name}", found=getattr(self, name), allowed="1 or more"
                )

    def permutation(self, size: int, *what: object) -> np.ndarray:
        """A permutation of `size` things, which depends on the shuffle and `what` only.

        It sorts raw words of Philox: numpy guarantees that these never change, but gives no such
        guarantee for `Generator.permutation`.

        Args:
            size: How many things are permuted.
            what: Names and numbers that say which permutation this is.
        """
        name = "\0".join(map(str, (self.fingerprint, self.seed, *what)))
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        words = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(size)
        return np.argsort(words, kind="stable")


class Place(NamedTuple):
    """The place of the next document of a stream in the store."""

    epoch: int  # that of the store: its passes are counted from 0
    lane: int
    window: int  # number of the window in its lane; its blocks stay decoded until the next one
    block: int
    document: int  # its number in the block


def lane_count(blocks: int) -> int:
    """The number of lanes of a store: a power of two, so that slots share them evenly.

    Args:
        blocks: The number of blocks of the store.
    """
    most = min(_MOST_LANES, max(1, blocks // _LEAST_BLOCKS_OF_A_LANE))
    return 1 << (most.bit_length() - 1)


def default_window(
    *, blocks: int, lanes: int, block_bytes: int, budget_bytes: int = BUDGET_BYTES
) -> int:
    """The number of blocks of a window such that one window of every lane fits into memory.

    At least 1, because a lane must hold the block that it reads, and at most what a lane has.

    Args:
        blocks: The number of blocks of the store.
        lanes: The number of lanes.
        block_bytes: Bytes of the largest block when it is decoded.
        budget_bytes: Bytes that all windows may take together.
    """
    affordable = budget_bytes // max(1, lanes * block_bytes)
    return int(max(1, min(affordable, -(-blocks // lanes))))


@lru_cache(maxsize=_EPOCHS_DEALT)
def deal(shuffle: Shuffle, *, epoch: int, blocks: int) -> list[np.ndarray]:
    """The blocks of each lane, in reading order. Lanes differ by at most one block.

    Args:
        shuffle: What the order depends on.
        epoch: The number of the epoch, from 0.
        blocks: The number of blocks of the store.
    """
    order_B = shuffle.permutation(blocks, "blocks", epoch)
    return [order_B[lane :: shuffle.lanes] for lane in range(shuffle.lanes)]


def taken(consumed: int, sizes: Sequence[int]) -> list[int]:
    """How many documents each lane of a stream has given after `consumed` documents in all.

    A stream takes one document of each lane in turn, and leaves out lanes that are empty.

    Args:
        consumed: Documents taken from the stream.
        sizes: Documents of each lane.
    """
    sizes_L = np.asarray(sizes, dtype=np.int64)
    low, high = 0, int(sizes_L.max(initial=0))
    while low < high:  # bisection for the last round that is complete
        middle = (low + high + 1) // 2
        if int(np.minimum(sizes_L, middle).sum()) <= consumed:
            low = middle
        else:
            high = middle - 1
    taken_L = np.minimum(sizes_L, low)
    left = consumed - int(taken_L.sum())
    served = np.flatnonzero(sizes_L > low)[:left]
    taken_L[served] += 1
    return [int(count) for count in taken_L]


def interleave(
    shuffle: Shuffle,
    *,
    epoch: int,
    lanes: Sequence[int],
    documents_B: np.ndarray,
    consumed: int = 0,
) -> Iterator[Place]:
    """The documents of the stream that owns `lanes`, without the first `consumed` ones.

    Only the windows that are reached are permuted, so a start in the middle costs no more than a
    start at the beginning.

    Args:
        shuffle: What the order depends on.
        epoch: The number of the epoch, from 0.
        lanes: The numbers of the stream's lanes.
        documents_B: Documents of every block of the store.
        consumed: Documents of the stream that are left out.
    """
    dealt = deal(shuffle, epoch=epoch, blocks=len(documents_B))
    sizes = [int(documents_B[dealt[lane]].sum()) for lane in lanes]
    starts = taken(consumed, sizes)
    walks = [
        _walk_lane(
            shuffle, epoch=epoch, lane=lane, own=dealt[lane], documents_B=documents_B, start=start
        )
        for lane, start in zip(lanes, starts, strict=True)
    ]
    # In the middle of a round some lanes have given one document more: they wait for the others.
    least = min((s for s, size in zip(starts, sizes, strict=True) if s < size), default=0)
    waiting = [start > least for start in starts]
    alive = list(range(len(walks)))
    while alive:
        left = []
        for number in alive:
            if waiting[number]:
                waiting[number] = False
                left.append(number)
                continue
            place = next(walks[number], None)
            if place is not None:
                left.append(number)
                yield place
        alive = left


def stream_order(
    shuffle: Shuffle, *, epoch: int, lanes: Sequence[int], documents_B: np.ndarray
) -> np.ndarray:
    """int64 [documents]: what `interleave` gives, as numbers of the store's documents.

    The same order at once, for what needs all of it: 0.3 microseconds a document, and 16 bytes of
    memory.

    Args:
        shuffle: What the order depends on.
        epoch: The number of the epoch, from 0.
        lanes: The numbers of the stream's lanes.
        documents_B: Documents of every block of the store.
    """
    dealt = deal(shuffle, epoch=epoch, blocks=len(documents_B))
    first_B = np.cumsum(documents_B) - documents_B
    sizes = [int(documents_B[dealt[lane]].sum()) for lane in lanes]
    # Row r holds what each lane gives in round r; -1 where a lane has ended.
    rounds_RL = np.full((max(sizes, default=0), len(lanes)), -1, dtype=np.int64)
    for column, lane in enumerate(lanes):
        start = 0
        for window, blocks in enumerate(_windows(dealt[lane], lane=lane, window=shuffle.window)):
            documents_D = _documents(blocks, documents_B=documents_B, first_B=first_B)
            order_D = shuffle.permutation(len(documents_D), "window", epoch, lane, window)
            stop = start + len(documents_D)
            rounds_RL[start:stop, column] = documents_D[order_D]
            start = stop
    found: np.ndarray = rounds_RL[rounds_RL >= 0]
    return found


def _documents(blocks: np.ndarray, *, documents_B: np.ndarray, first_B: np.ndarray) -> np.ndarray:
    """int64 [D]: the numbers in the store of the documents of some blocks, block by block."""
    counts = documents_B[blocks]
    before = np.cumsum(counts) - counts  # documents of these blocks before each
    return np.arange(int(counts.sum())) + np.repeat(first_B[blocks] - before, counts)


def _walk_lane(
    shuffle: Shuffle,
    *,
    epoch: int,
    lane: int,
    own: np.ndarray,
    documents_B: np.ndarray,
    start: int,
) -> Iterator[Place]:
    """The documents of one lane from its `start`-th on, window by window."""
    for window, blocks in enumerate(_windows(own, lane=lane, window=shuffle.window)):
        counts = documents_B[blocks]
        total = int(counts.sum())
        if start >= total:
            start -= total
            continue
        block_D = np.repeat(blocks, counts)
        document_D = _documents(blocks, documents_B=documents_B, first_B=np.zeros_like(documents_B))
        order_D = shuffle.permutation(total, "window", epoch, lane, window)[start:]
        start = 0
        pairs = zip(block_D[order_D].tolist(), document_D[order_D].tolist(), strict=True)
        for block, document in pairs:
            yield Place(epoch, lane, window, block, document)


def _windows(own: np.ndarray, *, lane: int, window: int) -> Iterator[np.ndarray]:
    # Lanes advance at the same speed. With equal windows all of them would end in the same step,
    # which would wait until lanes x window blocks are decoded. First windows of different lengths
    # spread this over several steps.
    stop = 1 + lane % window
    start = 0
    while start < len(own):
        yield own[start:stop]
        start, stop = stop, stop + window
