"""Streams: which documents fill the bins of a step, from one store or from several.

Each store of a mix keeps an order of its own: passes over its documents without end, each in
another order. With weight w an epoch takes the next w passes of it, so that after e epochs each of
its documents was read floor(w e) or ceil(w e) times. A stream spreads the documents of its parts
evenly: the k-th of n stands at (k + 1/2) / n of the epoch. All of it is arithmetic of whole
numbers, and a function of the position alone.

Shapes: B blocks, of all stores one after another.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import accumulate, islice, pairwise
from math import ceil, floor, lcm
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from logitstore import SettingError
from logitstore.plumbing import fingerprint
from trainer.data.options import WEIGHT
from trainer.data.order import Place, Shuffle, deal, interleave, stream_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "Mix",
    "Order",
    "Part",
    "first_blocks",
    "lane_numbers",
    "mix_fingerprint",
    "order_from_json",
    "order_to_json",
    "refuse_empty_epochs",
    "shares_of",
    "stream_documents",
    "stream_places",
    "turns_from",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One store of a mix, and how often an epoch passes over it."""

    shuffle: Shuffle
    weight: float  # passes of an epoch: the decimal number that is written so
    blocks: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", WEIGHT.check(self.weight))

    @property
    def passes(self) -> Fraction:
        """Passes of an epoch, exactly."""
        return Fraction(str(self.weight))


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """Everything that the order over several stores depends on, except the epoch."""

    parts: tuple[Part, ...]

    @property
    def fingerprint(self) -> str:
        """That of the stores together: of theirs, and of their weights."""
        return mix_fingerprint((one.shuffle.fingerprint, one.weight) for one in self.parts)


Order: TypeAlias = "Shuffle | Mix"


def mix_fingerprint(parts: Iterable[tuple[str, float]]) -> str:
    """The fingerprint of several stores that are read together.

    Args:
        parts: The fingerprint and the weight of each.
    """
    return fingerprint({"stores": [[name, str(Fraction(str(weight)))] for name, weight in parts]})


def order_to_json(order: Order) -> dict[str, Any]:
    """The object that run.json holds."""
    content = asdict(order)
    return content if isinstance(order, Shuffle) else {"parts": list(content["parts"])}


def order_from_json(content: Mapping[str, Any]) -> Order:
    """The order from which `order_to_json` made `content`. Raises TypeError or KeyError."""
    if "parts" not in content:
        return Shuffle(**content)
    if set(content) != {"parts"} or not content["parts"]:
        raise TypeError("a mix has parts and nothing else")
    return Mix(
        parts=tuple(
            Part(**one | {"shuffle": Shuffle(**one["shuffle"])}) for one in content["parts"]
        )
    )


def lane_numbers(order: Order) -> list[int]:
    """The number of lanes of each store; they are numbered through."""
    return [one.shuffle.lanes for one in order.parts] if isinstance(order, Mix) else [order.lanes]


def first_blocks(counts: Iterable[int]) -> list[int]:
    """The number of the first block of each store, and of one behind the last.

    Args:
        counts: The number of blocks of each.
    """
    return list(accumulate(counts, initial=0))


def refuse_empty_epochs(
    parts: Sequence[Part], *, documents: Sequence[int], streams: int, names: Sequence[str]
) -> None:
    """Raise SettingError where an epoch might hold no document of a store.

    Each stream rounds down, so that of n documents of a store more than w n - streams are read.

    Args:
        parts: The stores and their weights.
        documents: Documents of each store.
        streams: The number of streams that share them.
        names: How the stores are called.
    """
    for part, count, name in zip(parts, documents, names, strict=True):
        if part.passes < 1 and part.passes * count < streams:
            raise SettingError(
                "the weight of a store leaves an epoch without documents of it",
                place=name,
                found=f"{part.weight:g} of {count:,} documents",
                allowed=f"{min(1.0, ceil(1000 * streams / count) / 1000):g} or more",
                remedy="Raise the weights of all stores in proportion",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Span:
    """Documents of one pass."""

    number: int  # of the pass, from 0
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What a stream reads of one store in an epoch."""

    shuffle: Shuffle
    lanes: list[int]  # of the store, from 0
    own_B: np.ndarray  # documents of each block of the store
    first_lane: int
    first_block: int
    spans: tuple[_Span, ...]

    @property
    def documents(self) -> int:
        """How many they are."""
        return sum(one.stop - one.start for one in self.spans)

    def blocks(self) -> list[np.ndarray]:
        """The blocks of each lane, in the order of the first pass."""
        dealt = deal(self.shuffle, epoch=self.spans[0].number, blocks=len(self.own_B))
        return [dealt[lane] + self.first_block for lane in self.lanes]

    def places(self, start: int) -> Iterator[Place]:
        """They, without the first `start` ones."""
        for span in self.spans:
            size = span.stop - span.start
            if start < size:
                yield from islice(self._walk(span, start), size - start)
            start = max(0, start - size)

    def all_documents(self) -> np.ndarray:
        """int64 [documents]: all of them in their order, as numbers of the store's documents."""
        parts = [
            stream_order(self.shuffle, epoch=one.number, lanes=self.lanes, documents_B=self.own_B)[
                one.start : one.stop
            ]
            for one in self.spans
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def _walk(self, span: _Span, start: int) -> Iterator[Place]:
        walk = interleave(
            self.shuffle,
            epoch=span.number,
            lanes=self.lanes,
            documents_B=self.own_B,
            consumed=span.start + start,
        )
        if not (self.first_lane or self.first_block):
            return walk
        return (
            place._replace(lane=place.lane + self.first_lane, block=place.block + self.first_block)
            for place in walk
        )


def shares_of(
    order: Order, *, lanes: Sequence[int], epoch: int, documents_B: np.ndarray
) -> list[Share]:
    """What a stream reads of each store in an epoch.

    Args:
        order: What the order depends on.
        lanes: The numbers of the stream's lanes, of all stores.
        epoch: The number of the epoch, from 0.
        documents_B: Documents of every block.
    """
    shares = []
    first_lane = first_block = 0
    for part, own_B in zip(_parts(order, documents_B), _own(order, documents_B), strict=True):
        own = [one - first_lane for one in lanes if 0 <= one - first_lane < part.shuffle.lanes]
        shares.append(
            Share(
                shuffle=part.shuffle,
                lanes=own,
                own_B=own_B,
                first_lane=first_lane,
                first_block=first_block,
                spans=_spans(part, lanes=own, epoch=epoch, own_B=own_B),
            )
        )
        first_lane += part.shuffle.lanes
        first_block += part.blocks
    return shares


def stream_places(shares: Sequence[Share], *, consumed: int = 0) -> Iterator[Place]:
    """The documents of a stream in an epoch, without the first `consumed` ones.

    Args:
        shares: What it reads of each store.
        consumed: Documents of the stream that are left out.
    """
    sizes = [one.documents for one in shares]
    counts = _taken(sizes, consumed)
    walks = [one.places(count) for one, count in zip(shares, counts, strict=True)]
    if len(walks) == 1:
        return walks[0]
    return (next(walks[number]) for number in turns_from(sizes, counts))


def stream_documents(shares: Sequence[Share]) -> np.ndarray:
    """int64 [documents]: those of a stream in an epoch, numbered through all stores.

    Args:
        shares: What it reads of each store.
    """
    first, parts = 0, []
    for one in shares:
        parts.append(one.all_documents() + first)
        first += int(one.own_B.sum())
    if len(parts) == 1:
        return parts[0]
    sizes = [len(one) for one in parts]
    turns_D = np.fromiter(turns_from(sizes, [0] * len(sizes)), dtype=np.int64, count=sum(sizes))
    found_D = np.empty(sum(sizes), dtype=np.int64)
    for number, part_D in enumerate(parts):
        found_D[turns_D == number] = part_D
    return found_D


def turns_from(sizes: Sequence[int], counts: Sequence[int]) -> Iterator[int]:
    """The store of each document of a stream, after `counts` documents of each.

    Args:
        sizes: Documents of each store in the epoch.
        counts: How many of each are left out.
    """
    # (2 k + 1) / (2 n) as whole numbers: over the common multiple of all n.
    whole = lcm(*(size for size in sizes if size))
    steps = [whole // size if size else 0 for size in sizes]
    counts = list(counts)
    coming = [
        ((2 * count + 1) * step, number)
        for number, (count, size, step) in enumerate(zip(counts, sizes, steps, strict=True))
        if count < size
    ]
    heapq.heapify(coming)
    while coming:
        at, number = coming[0]
        counts[number] += 1
        if counts[number] < sizes[number]:
            heapq.heapreplace(coming, (at + 2 * steps[number], number))
        else:
            heapq.heappop(coming)
        yield number


def _taken(sizes: Sequence[int], consumed: int) -> list[int]:
    """How many documents of each store are among the first `consumed` ones of a stream.

    At x of an epoch floor(n x + 1/2) of n are taken, which is within 1/2 of n x. So one document
    before for each store none is too many, and the few that lack are taken in their order.
    """
    total, early = sum(sizes), max(0, consumed - len(sizes))
    if not total:
        return [0] * len(sizes)
    counts = [(2 * size * early + total) // (2 * total) for size in sizes]
    for number in islice(turns_from(sizes, list(counts)), consumed - sum(counts)):
        counts[number] += 1
    return counts


def _spans(part: Part, *, lanes: Sequence[int], epoch: int, own_B: np.ndarray) -> tuple[_Span, ...]:
    """The documents of each pass that a stream reads in an epoch, in their order."""
    start, stop = part.passes * epoch, part.passes * (epoch + 1)
    spans = []
    for number in range(floor(start), ceil(stop)):
        dealt = deal(part.shuffle, epoch=number, blocks=len(own_B))
        size = sum(int(own_B[dealt[lane]].sum()) for lane in lanes)
        first, last = max(start - number, Fraction()), min(stop - number, Fraction(1))
        spans.append(_Span(number=number, start=floor(first * size), stop=floor(last * size)))
    return tuple(spans)


def _parts(order: Order, documents_B: np.ndarray) -> tuple[Part, ...]:
    """The stores of an order: one alone is passed over once an epoch."""
    if isinstance(order, Mix):
        return order.parts
    return (Part(shuffle=order, weight=1.0, blocks=len(documents_B)),)


def _own(order: Order, documents_B: np.ndarray) -> list[np.ndarray]:
    """The documents of each block, store by store."""
    starts = first_blocks(one.blocks for one in _parts(order, documents_B))
    if starts[-1] != len(documents_B):
        raise SettingError(
            "the order is of other stores", found=f"{starts[-1]} blocks", allowed=len(documents_B)
        )
    return [documents_B[start:stop] for start, stop in pairwise(starts)]
