"""Batches: the bins of a store's steps, read and laid out in advance by a thread.

The position in a run is a few integers. A start at any position reads only the windows that are in
use there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from logitstore import SettingError, StoreError
from logitstore.plumbing import LAST
from trainer.data.ahead import in_worker, made_ahead
from trainer.data.mixture import MixedStore
from trainer.data.options import EPOCHS, RANKS, rank_option
from trainer.data.packing import (
    Bin,
    Lengths,
    Packing,
    Position,
    Step,
    steps,
    steps_of_epoch,
)
from trainer.data.rows import Batch, RowLayout, lay_out
from trainer.data.store import begin_reading, reading_ahead, teacher_head_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from logitstore import DocumentBlock, StoredDocument, StoreSpec
    from trainer.data.order import Place
    from trainer.data.selection import Selection
    from trainer.data.store import Ahead, StoreLike

__all__ = ["Batches", "count_steps"]

# Bins that are made in advance. With 4,096 targets and K = 64 one takes 2 MiB; 8 of them hide the
# time in which a block is decoded.
_BINS_AHEAD = 8
# Bins behind these whose blocks a store that is far away is told of. They cost a few integers for
# each document; what is fetched for them is bounded in bytes.
_BINS_EXPECTED = 32

_Window: TypeAlias = tuple[int, int]  # a pass over its store, its number in the lane


def count_steps(packing: Packing, lengths: Lengths, *, epochs: int) -> int:
    """The exact number of optimiser steps of the first epochs, which differ a little.

    Args:
        packing: How the store becomes steps.
        lengths: Tokens and targets of the store's documents.
        epochs: How many epochs.
    """
    return sum(steps_of_epoch(packing, lengths, epoch=epoch) for epoch in range(epochs))


class Batches(IterableDataset[Batch]):
    """The batches of one rank, epoch after epoch. `training_batches` makes it.

    A batch is one forward pass. An optimiser step has `per_step` batches on every rank;
    `Batch.ends_step` marks the last one. The documents of a step depend neither on the rank nor on
    the number of ranks.

    `position` is the end of the last step whose batches were all given out. A checkpoint between
    two steps therefore holds the exact position, whatever the thread has prefetched. In the worker
    processes of a `DataLoader(batches, batch_size=None)` the position changes in the worker only:
    save `Batch.after` of the last batch that was used. Several workers share the batches of a rank,
    and the loader gives them out in the same order as without workers.

    Args:
        store: What the batches are read from.
        packing: How the store becomes steps.
        lengths: Tokens and targets of the store's documents.
        layout: How documents share rows.
        draw_of_epoch: Gives the draw of each target that an epoch reads.
        border: The length beyond which documents get a pass of their own; None is one for all.
        temperature: The temperature of those draws, and of the loss.
        epochs: Passes over the store; None is without end.
        selection: Which targets count in the soft part of the loss; None is all.
        layers: The names of the teacher's layers whose states are read with the targets.
        rank: The number of this process among `ranks`.
        ranks: Processes that share each optimiser step.
    """

    def __init__(
        self,
        store: StoreLike,
        *,
        packing: Packing,
        lengths: Lengths,
        layout: RowLayout,
        draw_of_epoch: Callable[[int], int],
        border: int | None = None,
        temperature: float = 1.0,
        epochs: int | None = None,
        selection: Selection | None = None,
        layers: tuple[str, ...] = (),
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
        self.selection = selection
        self._layers = layers
        self._store = store
        self._lengths = lengths
        self._layout = layout
        self._border = border
        self._draw_of_epoch = draw_of_epoch
        self._teacher_head = teacher_head_of(store)
        self._epochs = EPOCHS.check(epochs)
        self._slots = slice(rank, None, ranks)

    @property
    def spec(self) -> StoreSpec:
        """The spec of the store that is read."""
        return self._store.spec

    @property
    def epoch(self) -> float:
        """Epochs consumed so far; of the current one the share of its documents."""
        number, consumed = self.position.epoch, sum(self.position.consumed)
        sizes = self.packing.stream_documents(self._lengths.documents_B, epoch=number)
        return number + consumed / max(1, sum(sizes))

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
            border=self._border,
            temperature=self.temperature,
            epochs=self._epochs,
            selection=self.selection,
            layers=self._layers,
            rank=rank,
            ranks=ranks,
        )
        other.position = self.position
        return other

    def count_steps(self, epochs: int) -> int:
        """The exact number of optimiser steps of the first `epochs` epochs.

        It does not depend on the position. Raises SettingError unless `epochs` is 1 or more.
        """
        number = replace(EPOCHS, nullable=False).check(epochs)
        return count_steps(self.packing, self._lengths, epochs=number)

    def state_dict(self) -> dict[str, Any]:
        """The position and the packing as a small object of JSON."""
        return self._state(self.position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after what was consumed in `state`. It takes effect with the next `iter`.

        Raises SettingError where `state` belongs to another store, seed or number of tokens, is
        after the last epoch, or was not made by `state_dict`. The position does not change then.
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
                "the state is after the last epoch of these batches",
                found=f"epoch {position.epoch}, counted from 0",
                allowed=f"{last} epochs",
                remedy="Make the batches with more epochs",
            )
        self.position = position

    def __iter__(self) -> Iterator[Batch]:
        with in_worker():
            for batch, after in made_ahead(self._produce(self.position), depth=_BINS_AHEAD):
                if after is not None:
                    self.position = after
                yield batch

    def _produce(self, start: Position) -> Iterator[tuple[Batch, Position | None]]:
        """Batches from `start` on, and with the last one of each step its end."""
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        bins = islice(self._bins(start), first, None, stride)
        for windows, step, one in _expected(bins):
            after = step.after if one is step.bins[self._slots][-1] else None
            yield self._lay_out(windows, one, step=step, after=after), after

    def _bins(self, start: Position) -> Iterator[tuple[_Windows, Step, Bin]]:
        """The bins of this rank from `start` on; nothing of them is read yet."""
        while self._epochs is None or start.epoch < self._epochs:
            windows = _Windows(self._store, draw_of_epoch=self._draw_of_epoch)
            for step in steps(self.packing, self._lengths, start=start):
                for one in step.bins[self._slots]:
                    yield windows, step, one
            start = Position.start(self.packing, epoch=start.epoch + 1)

    def _lay_out(self, windows: _Windows, one: Bin, *, step: Step, after: Position | None) -> Batch:
        windows.begin(one)
        documents = [windows.document(place) for place in one.places]
        batch = lay_out(
            [stored.document for stored in documents],
            layout=self._layout,
            targets=[_with_states(stored.targets, (LAST, *self._layers)) for stored in documents],
            step_targets=max(1, step.targets),  # losses are divided by it
            border=self._border,
        )
        return replace(
            batch,
            spec=self.spec,
            temperature=self.temperature,
            teacher_head=self._teacher_head,
            after=None if after is None else self._state(after),
            selected_R=self._selected_R(one.places, documents),
        )

    def _selected_R(
        self, places: Sequence[Place], documents: Sequence[StoredDocument]
    ) -> torch.Tensor | None:
        """Which targets of a bin are selected, in their order; None where all count."""
        if self.selection is None:
            return None
        store = self._store
        parts = [
            store.place_of(place.block)[0] if isinstance(store, MixedStore) else 0
            for place in places
        ]
        found = [
            self.selection.selected_R(stored.targets, part=part)
            for stored, part in zip(documents, parts, strict=True)
        ]
        return torch.from_numpy(np.concatenate([np.zeros(0, dtype=bool), *found]))

    def _state(self, position: Position) -> dict[str, Any]:
        return position.to_json() | {"packing": self.packing.to_json()}


def _with_states(targets: Any, names: Sequence[str]) -> Any:
    """The targets with the hidden states that are wanted alone: others would be laid out for none.

    Stores that keep those of different layers can so be learnt from together.
    """
    states = getattr(targets, "states", None)
    if not states:
        return targets
    return replace(targets, states={name: one for name, one in states.items() if name in names})


def _expected(
    bins: Iterator[tuple[_Windows, Step, Bin]],
) -> Iterator[tuple[_Windows, Step, Bin]]:
    """The same bins; a store that is far away hears of the blocks of those to come."""
    coming: deque[tuple[_Windows, Step, Bin]] = deque()
    for windows, step, one in bins:
        coming.append((windows, step, one))
        if windows.far:
            windows.expect(one)
        if len(coming) > (_BINS_EXPECTED if windows.far else 0):
            yield coming.popleft()
    yield from coming


class _Windows:
    """The decoded blocks of the current window of each lane, for one epoch."""

    def __init__(self, store: StoreLike, *, draw_of_epoch: Callable[[int], int]) -> None:
        self._store, self._draw_of_epoch = store, draw_of_epoch
        self._readers: dict[int, Ahead] = {}  # by the draw that they read
        self._coming: dict[int, tuple[_Window, set[int]]] = {}  # lane -> window, its blocks
        self._held: dict[int, tuple[_Window, dict[int, DocumentBlock]]] = {}
        # Whether it helps to say which bins come.
        self.far = reading_ahead(store).far

    def expect(self, one: Bin) -> None:
        """Have the blocks fetched that a bin is the first to need."""
        for place in one.places:
            wanted = (place.epoch, place.window)
            window, blocks = self._coming.get(place.lane, (wanted, set()))
            if window != wanted:
                blocks = set()
            self._coming[place.lane] = (wanted, blocks)
            if place.block not in blocks:
                blocks.add(place.block)
                self._reader(place.epoch).expect(place.block)

    def begin(self, one: Bin) -> None:
        """Have the blocks read beside each other that a bin needs of lanes that hold none.

        These are the bins at the beginning, whose documents stand in nearly as many blocks. Later a
        block is read when its lane has freed the last window: memory stays that of the windows.
        """
        first: dict[int, _Window] = {}  # by lane
        wanted: dict[int, int] = {}  # block -> epoch, in the order in which they are asked for
        for place in one.places:
            window = (place.epoch, place.window)
            if place.lane not in self._held and first.setdefault(place.lane, window) == window:
                wanted[place.block] = place.epoch
        for block, epoch in wanted.items() if len(wanted) > 1 else ():
            begin_reading(self._reader(epoch), block)

    def document(self, place: Place) -> StoredDocument:
        """The document at `place`; a block of a new window is decoded."""
        wanted = (place.epoch, place.window)
        held, blocks = self._held.get(place.lane, (wanted, {}))
        if held != wanted:
            blocks = {}
        if place.block not in blocks:
            self._held.pop(place.lane, None)  # free the last window before the next is read
            blocks[place.block] = self._reader(place.epoch).read_block(place.block)
            self._held[place.lane] = (wanted, blocks)
        # Made when it is asked for: a first batch needs one document of each of many blocks.
        return blocks[place.block].document(place.document)

    def _reader(self, epoch: int) -> Ahead:
        """What reads the draw that a pass over a store has."""
        draw = self._draw_of_epoch(epoch)
        if draw not in self._readers:
            store = self._store
            self._readers[draw] = reading_ahead(
                store if draw == store.draw else store.with_draw(draw)
            )
        return self._readers[draw]
