"""Packing: which documents share a forward pass, and which forward passes share an optimiser step.

A step has S bins of C tokens, for any number of ranks. Bins are filled with whole documents in
order. In a large store slot s of every step owns the lanes l with l % S == s, so that only the rank
that owns the slot reads those blocks; a store with few lanes fills all bins from one stream. This
module reads the lengths of documents only, not their content.

Shapes: B blocks of a store, D documents of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore import SettingError
from trainer.data import streams
from trainer.data.options import BATCH_TOKENS
from trainer.data.store import reading_ahead

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trainer.data.order import Place
    from trainer.data.store import StoreLike
    from trainer.data.streams import Order

__all__ = [
    "Bin",
    "Lengths",
    "Packing",
    "Position",
    "Step",
    "choose_packing",
    "longest_document",
    "round_up",
    "steps",
    "steps_of_epoch",
]

# Default for the tokens of a bin: 4,096 keep a GPU busy, and the activations of a model of a few
# hundred million parameters take a few GiB.
_MICRO_TOKENS = 4096


class Lengths:
    """Tokens and targets of every document, read block by block when they are first asked for.

    They take 8 bytes per document. A store that is far away reads those of the next blocks of a
    lane meanwhile.
    """

    def __init__(self, store: StoreLike) -> None:
        self._ahead = reading_ahead(store)
        self._next_B: np.ndarray | None = None  # the block behind each in its lane; -1: none
        self._depth = 0
        self._blocks: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.documents_B = np.array([one.documents for one in store.blocks], dtype=np.int64)

    def of(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """int32 tokens_D and targets_D of the block of number `block`."""
        if block not in self._blocks:
            self._expect_behind(block)
            tokens_D, targets_D = self._ahead.document_lengths(block)
            self._blocks[block] = (tokens_D.astype(np.int32), targets_D.astype(np.int32))
        return self._blocks[block]

    def all_tokens(self) -> np.ndarray:
        """int32 [all documents]: the tokens of every document, in store order."""
        numbers = range(len(self.documents_B))
        for number in numbers if self._ahead.far else ():
            if number not in self._blocks:
                self._ahead.expect_lengths(number)
        parts = [self.of(number)[0] for number in numbers]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)

    def follow(self, lanes: Iterable[np.ndarray], *, depth: int) -> None:
        """Say in which order the blocks of some lanes are asked for.

        Args:
            lanes: The blocks of each lane.
            depth: How many blocks of a lane are read before they are asked for.
        """
        if not self._ahead.far:
            return
        if self._next_B is None:
            self._next_B = np.full(len(self.documents_B), -1, dtype=np.int64)
        for own in lanes:
            self._next_B[own[:-1]], self._next_B[own[-1:]] = own[1:], -1
        self._depth = depth

    def _expect_behind(self, block: int) -> None:
        for _ in range(self._depth if self._next_B is not None else 0):
            block = int(self._next_B[block])  # type: ignore[index]
            if block < 0:
                return
            if block not in self._blocks:
                self._ahead.expect_lengths(block)


def longest_document(store: StoreLike) -> int:
    """The tokens of the longest document; it reads the lengths of all, and nothing else of them.

    Args:
        store: That is read.
    """
    ahead = reading_ahead(store)
    numbers = range(len(store.blocks))
    for number in numbers if ahead.far else ():
        ahead.expect_lengths(number)
    return max(
        (int(ahead.document_lengths(number)[0].max(initial=0)) for number in numbers), default=0
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How a store becomes steps. It is the same for every rank, and part of run.json."""

    shuffle: Order  # of one store or of several
    bins: int  # S, forward passes of a step
    bin_tokens: int  # C, tokens of one at most

    @property
    def pooled(self) -> bool:
        """Whether one stream fills all bins, because a store has too few lanes for one per slot."""
        return any(lanes % self.bins for lanes in streams.lane_numbers(self.shuffle))

    @property
    def streams(self) -> list[list[int]]:
        """The lanes of each stream: one stream for each slot, or one for all."""
        lanes = list(range(sum(streams.lane_numbers(self.shuffle))))
        return [lanes] if self.pooled else [lanes[slot :: self.bins] for slot in range(self.bins)]

    def stream_documents(self, documents_B: np.ndarray, *, epoch: int) -> list[int]:
        """Documents of each stream in an epoch.

        Args:
            documents_B: Documents of every block of the store.
            epoch: The number of the epoch, from 0.
        """
        shared = [
            streams.shares_of(self.shuffle, lanes=lanes, epoch=epoch, documents_B=documents_B)
            for lanes in self.streams
        ]
        return [sum(one.documents for one in shares) for shares in shared]

    def bins_of_a_rank(self, ranks: int) -> int:
        """The number of bins of each of `ranks` ranks in a step.

        Raises SettingError where the ranks cannot share the bins evenly.
        """
        if self.bins % ranks:
            raise SettingError(
                "the bins of a step cannot be shared evenly by the ranks",
                found=f"{self.bins} bins of {self.bin_tokens} tokens for {ranks} ranks",
                remedy="Choose --micro-tokens so that --batch-tokens / --micro-tokens is a "
                "multiple of the number of ranks",
            )
        return self.bins // ranks

    def to_json(self) -> dict[str, Any]:
        """The object that run.json holds."""
        return {
            "shuffle": streams.order_to_json(self.shuffle),
            "bins": self.bins,
            "bin_tokens": self.bin_tokens,
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> Packing:
        """The packing from which `to_json` made `content`. Raises SettingError for others."""
        try:
            found = Packing(**content | {"shuffle": streams.order_from_json(content["shuffle"])})
        except (TypeError, KeyError) as error:
            raise SettingError("packing has missing or unknown fields", found=content) from error
        for name in ("bins", "bin_tokens"):
            replace(BATCH_TOKENS, name=name, python_only=True).check(getattr(found, name))
        return found


def round_up(bins: int, ranks: int) -> int:
    """The least multiple of `ranks` that is `bins` or more."""
    return bins + -bins % ranks


def choose_packing(
    *,
    shuffle: Order,
    max_length: int,
    batch_tokens: int,
    micro_tokens: int | None,
    ranks: int = 1,
) -> Packing:
    """S bins of C tokens such that S * C is about `batch_tokens` and any document fits into a bin.

    Where `micro_tokens` is given, S does not depend on the number of ranks, so the weights of the
    result do not either. Where it is chosen here, S is the next multiple of the number of ranks.

    Args:
        shuffle: The order of documents.
        max_length: The most tokens of a document.
        batch_tokens: Tokens of an optimiser step, over all ranks.
        micro_tokens: The most tokens of a bin; None chooses about 4,096.
        ranks: The number of processes that are to share each step.

    Raises SettingError where a document would not fit into a bin.
    """
    if batch_tokens < 1:
        raise SettingError("a step needs tokens", place="--batch-tokens", found=batch_tokens)
    if micro_tokens is None:
        bins = -(-batch_tokens // max(_MICRO_TOKENS, max_length))
        bins = round_up(bins, ranks)
        micro_tokens = max(max_length, -(-batch_tokens // bins))
        return Packing(shuffle=shuffle, bins=bins, bin_tokens=micro_tokens)
    if micro_tokens < max_length:
        raise SettingError(
            "a document of the store would not fit into one forward pass",
            place="--micro-tokens",
            found=micro_tokens,
            allowed=f"{max_length} or more",
        )
    return Packing(shuffle=shuffle, bins=-(-batch_tokens // micro_tokens), bin_tokens=micro_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """The position of a run: what was consumed, not what was prefetched."""

    epoch: int
    step: int  # steps done in this epoch
    consumed: tuple[int, ...]  # documents taken from each stream in this epoch

    @staticmethod
    def start(packing: Packing, *, epoch: int = 0) -> Position:
        """The beginning of epoch number `epoch` of a `packing`."""
        return Position(epoch=epoch, step=0, consumed=(0,) * len(packing.streams))

    def to_json(self) -> dict[str, Any]:
        """The object that a checkpoint holds."""
        return {"epoch": self.epoch, "step": self.step, "consumed": list(self.consumed)}

    @staticmethod
    def from_json(content: Any, *, packing: Packing, documents_B: np.ndarray) -> Position:
        """The position from which `to_json` made `content`.

        Args:
            content: What was read from a checkpoint: any object.
            packing: How the store becomes steps.
            documents_B: Documents of every block of the store.

        Raises SettingError where `content` is not a position in such a store.
        """
        fields = {"epoch", "step", "consumed"}
        if not isinstance(content, Mapping) or set(content) != fields:
            raise SettingError(
                "the state of the batches is not one that `state_dict` gave",
                found=f"the keys {', '.join(map(str, content)) or 'none'}"
                if isinstance(content, Mapping)
                else repr(content)[:80],
                allowed=", ".join(sorted(fields)),
            )
        consumed = content["consumed"]
        if not isinstance(consumed, list | tuple):
            raise _no_position("consumed", consumed, "a list of whole numbers")
        sizes = packing.stream_documents(documents_B, epoch=_count("epoch", content["epoch"]))
        if len(consumed) != len(sizes):
            raise SettingError(
                "the state is of batches that were made otherwise",
                found=f"{len(consumed)} streams",
                allowed=len(sizes),
                remedy="Make them of the same store, with the same seed and numbers of tokens",
            )
        position = Position(
            epoch=content["epoch"],
            step=_count("step", content["step"], most=sum(sizes)),
            consumed=tuple(
                _count("consumed", one, most=size)
                for one, size in zip(consumed, sizes, strict=True)
            ),
        )
        if sum(position.consumed) == sum(sizes) > 0:  # the next epoch begins then
            raise _no_position("consumed", consumed, f"fewer than {sum(sizes)} documents in all")
        return position


def _count(name: str, value: Any, *, most: int | None = None) -> int:
    """`value` where it is a whole number from 0 to `most`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < 0 or (most is not None and value > most):
        upper = " or more" if most is None else f" to {most}"
        raise _no_position(name, value, f"0{upper}")
    return int(value)


def _no_position(name: str, value: Any, allowed: str) -> SettingError:
    return SettingError(
        f"{name} of the batches' state does not fit this store",
        found=repr(value)[:80],
        allowed=allowed,
        remedy="Take a state that `state_dict` gave for this store",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """The documents of one forward pass. It is empty where a slot has no documents left."""

    places: tuple[Place, ...]
    tokens: int
    targets: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The bins of one optimiser step, of all ranks, in slot order."""

    bins: tuple[Bin, ...]
    after: Position

    @property
    def targets(self) -> int:
        """Counted targets of the whole step, by which its loss is divided."""
        return sum(one.targets for one in self.bins)


def steps(packing: Packing, lengths: Lengths, *, start: Position) -> Iterator[Step]:
    """The steps from `start` to the end of its epoch.

    The `after` of the last step is the beginning of the next epoch. Every document of the store is
    in exactly one bin of the epoch, also a document without tokens.

    Args:
        packing: How the store becomes steps.
        lengths: Tokens and targets of the store's documents.
        start: The position of the first step.
    """
    own = [
        _Stream(packing, lengths, lanes=lanes, epoch=start.epoch, consumed=consumed)
        for lanes, consumed in zip(packing.streams, start.consumed, strict=True)
    ]
    share = packing.bins // len(own)
    done = start.step
    while any(stream.more for stream in own):
        bins = tuple(stream.fill() for stream in own for _ in range(share))
        done += 1
        position = Position(
            epoch=start.epoch, step=done, consumed=tuple(stream.consumed for stream in own)
        )
        if not any(stream.more for stream in own):
            position = Position.start(packing, epoch=start.epoch + 1)
        yield Step(bins=bins, after=position)


def steps_of_epoch(packing: Packing, lengths: Lengths, *, epoch: int) -> int:
    """How many steps `steps` gives from the beginning of an epoch to its end.

    Args:
        packing: How the store becomes steps.
        lengths: Tokens and targets of the store's documents.
        epoch: The number of the epoch, from 0.

    Raises SettingError for a document that fits into no bin.
    """
    tokens_D, own = lengths.all_tokens(), packing.streams
    share, most = packing.bins // len(own), 0
    for lanes in own:
        shares = streams.shares_of(
            packing.shuffle, lanes=lanes, epoch=epoch, documents_B=lengths.documents_B
        )
        ordered_D = tokens_D[streams.stream_documents(shares)]
        most = max(most, -(-_bins_of(ordered_D, room=packing.bin_tokens) // share))
    return most


def _bins_of(tokens_D: np.ndarray, *, room: int) -> int:
    """The number of bins that documents of so many tokens fill in their order."""
    longest = int(tokens_D.max(initial=0))
    if longest > room:
        raise _giant(longest, room=room)
    stops_D = np.cumsum(tokens_D, dtype=np.int64)
    # The first document of the bin behind the one that begins with each.
    next_D = np.searchsorted(stops_D, stops_D - tokens_D + room, side="right").tolist()
    bins = at = 0
    while at < len(next_D):
        at = next_D[at]
        bins += 1
    return bins


def _giant(length: int, *, room: int) -> SettingError:
    return SettingError(
        "a document of the store does not fit into one forward pass",
        place="--micro-tokens",
        found=f"{length} tokens",
        allowed=f"{room}",
        remedy="Raise --micro-tokens",
    )


class _Stream:
    """The documents of some lanes, packed into bins."""

    def __init__(
        self, packing: Packing, lengths: Lengths, *, lanes: list[int], epoch: int, consumed: int
    ) -> None:
        self.consumed = consumed
        self._room = packing.bin_tokens
        self._lengths = lengths
        shares = streams.shares_of(
            packing.shuffle, lanes=lanes, epoch=epoch, documents_B=lengths.documents_B
        )
        for one in shares:
            # All blocks of a window are asked for when it begins: those of the next are read then.
            lengths.follow(one.blocks(), depth=2 * one.shuffle.window)
        self._places = streams.stream_places(shares, consumed=consumed)
        self._next = next(self._places, None)

    @property
    def more(self) -> bool:
        return self._next is not None

    def fill(self) -> Bin:
        """The next documents, in order, as many as fit."""
        places: list[Place] = []
        tokens = targets = 0
        while self._next is not None:
            tokens_D, targets_D = self._lengths.of(self._next.block)
            length = int(tokens_D[self._next.document])
            if tokens + length > self._room:
                self._refuse_giant(length)
                break
            places.append(self._next)
            tokens += length
            targets += int(targets_D[self._next.document])
            self._next = next(self._places, None)
        self.consumed += len(places)
        return Bin(places=tuple(places), tokens=tokens, targets=targets)

    def _refuse_giant(self, length: int) -> None:
        if length > self._room:
            raise _giant(length, room=self._room)
