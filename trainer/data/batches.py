"""Batches: the bins of a store's steps, read, laid out and made ahead, in an order that resumes.

What was consumed is a handful of integers; to start anywhere, only the windows that are open there
are read.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from logitstore import StoreError
from trainer.data.layout import Batch, Layout, lay_out
from trainer.data.packing import Lengths, Packing, Position, steps
from trainer.losses import draw_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from logitstore import Store, StoredDocument
    from trainer.data import order

__all__ = ["BatchStream", "count_steps"]

# Bins made ahead of the loop. At 4,096 targets and K = 64 one weighs 2 MiB, so 8 hide the decoding
# of a block without being felt.
_BINS_AHEAD = 8
_POLL_SECONDS = 0.1

T = TypeVar("T")


def count_steps(packing: Packing, lengths: Lengths, *, epochs: int) -> int:
    """Optimiser steps of `epochs` epochs, exactly: another order packs a little differently."""
    return sum(
        1
        for epoch in range(epochs)
        for _ in steps(packing, lengths, start=Position.start(packing, epoch=epoch))
    )


class BatchStream:
    """The batches of one rank, epoch after epoch without end.

    `position` is where the batches handed out so far end; it moves with the last batch of a step,
    so a checkpoint between two steps holds it exactly, however far the prefetching thread has run.
    Neither the rank nor the number of ranks changes which documents a step holds. Of targets that
    were drawn, those of `temperature` are read, in each epoch the next of its repeats.
    """

    def __init__(
        self,
        store: Store,
        *,
        packing: Packing,
        lengths: Lengths,
        layout: Layout,
        temperature: float = 1.0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if not sum(one.targets for one in store.blocks):
            raise StoreError("the store holds no targets to learn from", place=store.uri)
        self.per_step = packing.bins_of_a_rank(ranks)
        self.position = Position.start(packing)
        self._store = store
        self._packing = packing
        self._lengths = lengths
        self._layout = layout
        self._temperature = temperature
        self._slots = slice(rank, None, ranks)

    @property
    def epochs(self) -> float:
        """Epochs consumed so far, the running one by its share of documents."""
        documents = int(self._lengths.documents_B.sum())
        return self.position.epoch + sum(self.position.consumed) / documents

    def state_dict(self) -> dict[str, Any]:
        """What was consumed, as a handful of integers."""
        return self.position.to_json()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind what `state` says was consumed. Takes effect with the next `iter`."""
        self.position = Position.from_json(state)

    def __iter__(self) -> Iterator[Batch]:
        for batch, after in _ahead(self._produce(self.position), depth=_BINS_AHEAD):
            if after is not None:
                self.position = after
            yield batch

    def _produce(self, start: Position) -> Iterator[tuple[Batch, Position | None]]:
        while True:
            windows = _Windows(self._store_of(start.epoch))
            for step in steps(self._packing, self._lengths, start=start):
                own = step.bins[self._slots]
                for number, packed in enumerate(own, start=1):
                    documents = [windows.document(p) for p in packed.places]
                    batch = lay_out(
                        [one.document for one in documents],
                        layout=self._layout,
                        targets=[one.targets for one in documents],
                        step_targets=step.targets,
                    )
                    yield batch, step.after if number == len(own) else None
            start = step.after

    def _store_of(self, epoch: int) -> Store:
        sparsifier = self._store.spec.sparsifier
        draw = draw_for(sparsifier, temperature=self._temperature, epoch=epoch)
        return self._store if draw == self._store.draw else self._store.with_draw(draw)


class _Windows:
    """The decoded blocks of the window that each lane is in, for one epoch."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[int, tuple[int, dict[int, list[StoredDocument]]]] = {}

    def document(self, place: order.Place) -> StoredDocument:
        held, blocks = self._held.get(place.lane, (place.window, {}))
        if held != place.window:
            blocks = {}
        if place.block not in blocks:
            self._held.pop(place.lane, None)  # let go of the last window before the next is read
            blocks[place.block] = list(self._store.read_block(place.block).split())
            self._held[place.lane] = (place.window, blocks)
        return blocks[place.block][place.document]


@dataclass(frozen=True, slots=True)
class _Made(Generic[T]):
    item: T


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


def _ahead(items: Iterator[T], *, depth: int) -> Iterator[T]:
    """`items`, made up to `depth` ahead by one thread, which ends with this generator."""
    made: queue.Queue[_Made[T] | _Failed | None] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    worker = threading.Thread(
        target=_make, args=(items, made.put, stop), name="batches", daemon=True
    )
    worker.start()
    try:
        while (one := made.get()) is not None:
            if isinstance(one, _Failed):
                raise one.error
            yield one.item
    finally:
        stop.set()
        worker.join()


def _make(items: Iterator[T], put: Callable[..., None], stop: threading.Event) -> None:
    def hand_over(one: _Made[T] | _Failed | None) -> None:
        while not stop.is_set():
            try:
                put(one, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return

    try:
        for item in items:
            hand_over(_Made(item))
            if stop.is_set():
                return
        hand_over(None)
    except BaseException as error:  # raised again where the batch is asked for
        hand_over(_Failed(error))
