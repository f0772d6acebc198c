"""Batches: the bins of a store's steps, read, laid out and made ahead, in an order that resumes.

What was consumed is a handful of integers; to start anywhere, only the windows that are open there
are read.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch.utils.data import IterableDataset, get_worker_info

from logitstore import SettingError, StoreError
from trainer.data.options import EPOCHS, RANKS, rank_option
from trainer.data.packing import Bin, Lengths, Packing, Position, Step, steps
from trainer.data.rows import Batch, RowLayout, lay_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from logitstore import StoredDocument, StoreSpec
    from trainer.data import order
    from trainer.data.store import StoreLike

__all__ = ["Batches", "count_steps"]

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


class Batches(IterableDataset[Batch]):
    """The batches of one rank, epoch after epoch; without end where `epochs` is None.

    A batch is one forward pass. An optimiser step has `per_step` of them on every rank; the last
    one of a step says so (`Batch.ends_step`). Neither the rank nor the number of ranks changes
    which documents a step holds.

    `position` is where the batches handed out so far end; it moves with the last batch of a step,
    so a checkpoint between two steps holds it exactly, however far the prefetching thread has run.
    In the worker processes of a `DataLoader(batches, batch_size=None)` it is the worker's own and
    stays behind there: save `Batch.after` of the last batch used instead. Several workers share
    the batches of a rank, and the loader hands them out in the order of one.

    `draw_of_epoch` says which draw of each target an epoch reads, and `temperature` which one those
    draws are for. `training_batches` fills in all of this.
    """

    def __init__(
        self,
        store: StoreLike,
        *,
        packing: Packing,
        lengths: Lengths,
        layout: RowLayout,
        draw_of_epoch: Callable[[int], int],
        temperature: float = 1.0,
        epochs: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        ranks = RANKS.check(ranks)
        rank = rank_option(ranks).check(rank)
        if not sum(one.targets for one in store.blocks):
            raise StoreError(
                "the store holds no targets to learn from", place=f"store {store.fingerprint[:12]}"
            )
        self.packing = packing
        self.per_step = packing.bins_of_a_rank(ranks)
        self.position = Position.start(packing)
        self.temperature = temperature
        self._store = store
        self._lengths = lengths
        self._layout = layout
        self._draw_of_epoch = draw_of_epoch
        self._epochs = EPOCHS.check(epochs)
        self._slots = slice(rank, None, ranks)

    @property
    def spec(self) -> StoreSpec:
        """The spec of the store that is read."""
        return self._store.spec

    @property
    def epoch(self) -> float:
        """Epochs consumed so far, the running one by its share of documents."""
        documents = int(self._lengths.documents_B.sum())
        return self.position.epoch + sum(self.position.consumed) / documents

    def of_rank(self, rank: int, ranks: int) -> Batches:
        """The batches of process number `rank` among `ranks`, from the same position.

        Raises SettingError where the bins of a step cannot be shared evenly by `ranks`.
        """
        other = Batches(
            self._store,
            packing=self.packing,
            lengths=self._lengths,
            layout=self._layout,
            draw_of_epoch=self._draw_of_epoch,
            temperature=self.temperature,
            epochs=self._epochs,
            rank=rank,
            ranks=ranks,
        )
        other.position = self.position
        return other

    def count_steps(self, epochs: int) -> int:
        """Optimiser steps of the first `epochs` epochs, exactly, whatever was consumed so far."""
        number = replace(EPOCHS, nullable=False).check(epochs)
        return count_steps(self.packing, self._lengths, epochs=number)

    def state_dict(self) -> dict[str, Any]:
        """What was consumed, and of which packing; small, and plain JSON."""
        return self._state(self.position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind what `state` says was consumed. Takes effect with the next `iter`.

        Raises SettingError where `state` is of another store, seed or number of tokens, lies behind
        the last epoch, or is none that `state_dict` gave. The position is then as it was.
        """
        packing = None
        if isinstance(state, Mapping):
            # Checkpoints of earlier versions do not name the packing.
            packing = state.get("packing")
            state = {name: value for name, value in state.items() if name != "packing"}
        here = self.packing.to_json()
        if packing is not None and packing != here:
            raise SettingError(
                "the state is of batches that were made otherwise",
                found=packing,
                allowed=here,
                remedy="Make them of the same store, with the same seed and numbers of tokens",
            )
        position = Position.from_json(
            state, packing=self.packing, documents_B=self._lengths.documents_B
        )
        last = self._epochs
        if last is not None and (position.epoch, sum(position.consumed)) > (last, 0):
            raise SettingError(
                "the state lies behind the last epoch of these batches",
                found=f"epoch {position.epoch}, counted from 0",
                allowed=f"{last} epochs",
                remedy="Make the batches with more epochs",
            )
        self.position = position

    def __iter__(self) -> Iterator[Batch]:
        for batch, after in _ahead(self._produce(self.position), depth=_BINS_AHEAD):
            if after is not None:
                self.position = after
            yield batch

    def _produce(self, start: Position) -> Iterator[tuple[Batch, Position | None]]:
        """Batches from `start` on; with the last of each step, where it ends."""
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for windows, step, one in islice(self._bins(start), first, None, stride):
            after = step.after if one is step.bins[self._slots][-1] else None
            yield self._lay_out(windows, one, step=step, after=after), after

    def _bins(self, start: Position) -> Iterator[tuple[_Windows, Step, Bin]]:
        """This rank's bins from `start` on, before anything of them is read."""
        while self._epochs is None or start.epoch < self._epochs:
            windows = _Windows(self._store_of(start.epoch))
            for step in steps(self.packing, self._lengths, start=start):
                for one in step.bins[self._slots]:
                    yield windows, step, one
            start = step.after

    def _lay_out(self, windows: _Windows, one: Bin, *, step: Step, after: Position | None) -> Batch:
        documents = [windows.document(place) for place in one.places]
        batch = lay_out(
            [stored.document for stored in documents],
            layout=self._layout,
            targets=[stored.targets for stored in documents],
            step_targets=max(1, step.targets),  # what losses are divided by
        )
        return replace(
            batch,
            spec=self.spec,
            temperature=self.temperature,
            after=None if after is None else self._state(after),
        )

    def _state(self, position: Position) -> dict[str, Any]:
        return position.to_json() | {"packing": self.packing.to_json()}

    def _store_of(self, epoch: int) -> StoreLike:
        draw = self._draw_of_epoch(epoch)
        return self._store if draw == self._store.draw else self._store.with_draw(draw)


class _Windows:
    """The decoded blocks of the window that each lane is in, for one epoch."""

    def __init__(self, store: StoreLike) -> None:
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
