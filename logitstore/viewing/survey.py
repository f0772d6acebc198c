"""Plots and extremes of a whole store, from as many of its blocks as there was time to read.

Blocks are read in an order that is spread over the store from the start, so what was seen so far is
a sample of all of it; `seen` tells how much that is. What the manifest knows of the whole store is
not sampled.

Shapes: B blocks, D documents of a block, R targets.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.viewing.packing import tail_mass

if TYPE_CHECKING:
    from logitstore.store.reader import Store
    from logitstore.targets.documents import DocumentBlock

__all__ = ["Survey"]

_BINS = 48
_MOST_LOSS = 16.0  # nats; what is larger is in the last bin
_LISTED = 50  # documents of each list
_LEAST_TARGETS = 8  # of a listed document: the mean of fewer says little
_GOLDEN = (math.sqrt(5) - 1) / 2


class Survey:
    """What was seen of a store so far.

    store: whose blocks are read.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        # Multiples of the golden ratio fill [0, 1) evenly, however many there are.
        spread_B = np.argsort((np.arange(len(store.blocks)) * _GOLDEN) % 1.0)
        self._order: list[int] = np.argsort(spread_B).tolist()
        self._starts = np.cumsum(store.blocks.documents_B) - store.blocks.documents_B
        self._seen = {"blocks": 0, "documents": 0, "targets": 0}
        self._bins = {
            "entropy": _Bins(math.log(max(2, store.spec.tokenizer.vocab_size))),
            "loss": _Bins(_MOST_LOSS),
            "retained": _Bins(1.0),
            "length": _Bins(float(store.spec.text.max_length)),
        }
        self._lists: dict[str, list[tuple[float, int, int]]] = {"entropy": [], "loss": []}
        self._turn = threading.Lock()

    def look(self, *, seconds: float) -> dict[str, Any]:
        """Read on for about `seconds`, and tell all that was seen until now.

        seconds: 0 reads nothing; with more, a block at least, unless all are read.

        Threads take turns. Raises CorruptionError where a block is damaged.
        """
        with self._turn:
            until = time.monotonic() + seconds
            while self._seen["blocks"] < len(self._order) and time.monotonic() < until:
                number = self._order[self._seen["blocks"]]
                self._add(self.store.read_block(number), first=int(self._starts[number]))
            return {
                "seen": dict(self._seen),
                "of": {
                    "blocks": len(self._order),
                    "documents": len(self.store),
                    "targets": self.store.targets,
                },
                "plots": {name: bins.to_json() for name, bins in self._bins.items()},
                "lists": {
                    name: [
                        {"mean": mean, "number": number, "targets": targets}
                        for mean, number, targets in found
                    ]
                    for name, found in self._lists.items()
                },
                "least_targets": _LEAST_TARGETS,
            }

    def _add(self, block: DocumentBlock, *, first: int) -> None:
        targets = block.targets
        values = {"entropy": targets.entropy_R, "loss": -targets.label_logprob_R}
        for name, values_R in values.items():
            self._bins[name].add(values_R)
            self._rank(name, values_R.astype(np.float64), block.target_lengths_D, first=first)
        self._bins["retained"].add(1.0 - tail_mass(targets))
        self._bins["length"].add(block.token_lengths_D)
        for name, more in (("blocks", 1), ("documents", len(block)), ("targets", len(targets))):
            self._seen[name] += more

    def _rank(self, name: str, values_R: np.ndarray, lengths_D: np.ndarray, *, first: int) -> None:
        """Take the documents with the highest means among those that are listed."""
        sums_R = np.concatenate(([0.0], np.cumsum(values_R)))
        stops_D = np.cumsum(lengths_D)
        means_D = (sums_R[stops_D] - sums_R[stops_D - lengths_D]) / np.maximum(lengths_D, 1)
        means_D[lengths_D < _LEAST_TARGETS] = -1.0
        highest = np.argsort(-means_D, kind="stable")[:_LISTED]
        found = [
            (float(means_D[one]), first + int(one), int(lengths_D[one]))
            for one in highest.tolist()
            if means_D[one] >= 0.0
        ]
        # Of equal means the first in the store, in whatever order blocks were read.
        both = sorted([*self._lists[name], *found], key=lambda one: (-one[0], one[1]))
        self._lists[name] = both[:_LISTED]


class _Bins:
    """How many values are in each of some equal steps from 0 to `most`."""

    def __init__(self, most: float) -> None:
        self.most = most
        self.counts = np.zeros(_BINS, dtype=np.int64)
        self.sum, self.number = 0.0, 0

    def add(self, values: np.ndarray) -> None:
        """Count values; those above the highest are in the last bin, NaN in none."""
        known = np.asarray(values, dtype=np.float64)
        known = known[~np.isnan(known)]
        places = np.clip((known / self.most * _BINS).astype(np.int64), 0, _BINS - 1)
        self.counts += np.bincount(places, minlength=_BINS)
        self.sum += float(known.sum())
        self.number += len(known)

    def to_json(self) -> dict[str, Any]:
        """The counts, how far the bins go, and the mean."""
        mean = self.sum / self.number if self.number else None
        return {"counts": self.counts.tolist(), "most": self.most, "mean": mean}
