"""Log-masses of tails <-> whole steps: each for itself, or as what a polynomial does not predict.

Shapes: R targets, B stored temperatures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from logitstore.codec.integers import scalar, whole_steps
from logitstore.targets.interpolation import polynomial_weights
from logitstore.targets.targets import EMPTY_TAIL

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AbsoluteTails", "PredictedTails", "TailSteps", "tail_names"]

_POINTS = 4  # nodes that predict the next one, besides b = 0


class TailSteps(Protocol):
    """The log-masses at some nodes as one column each, `tail_0` and on; code 0 is an empty tail."""

    @property
    def nodes(self) -> tuple[float, ...]:
        """b of each column."""
        ...

    @property
    def keeps_share(self) -> bool:
        """Whether the tail's share of the row is kept at each node, rather than its log-mass.

        Rounding the head changes its mass at other temperatures than 1, by up to half a step. A
        tail that is moved as much has the share that it had.
        """
        ...

    def encode(self, tail_RB: np.ndarray, known_RB: np.ndarray, left_R: np.ndarray) -> TailCodes:
        """The columns by name, uint32 [R].

        Args:
            tail_RB: Nats; EMPTY_TAIL for an empty tail.
            known_RB: Nats, at `known` nodes above all others, as they will be decoded.
            left_R: How many tokens belong to the tail.
        """
        ...

    def decode(
        self, scalars: Mapping[str, np.ndarray], known_RB: np.ndarray, left_R: np.ndarray
    ) -> np.ndarray:
        """float32 [R, B]: what `encode` was given, to half a step."""
        ...


TailCodes = dict[str, np.ndarray]


def tail_names(nodes: tuple[float, ...]) -> tuple[str, ...]:
    """The name of each node's column."""
    return tuple(f"tail_{column}" for column in range(len(nodes)))


@dataclass(frozen=True, kw_only=True, slots=True)
class AbsoluteTails:
    """Steps below the largest log-mass that any tail can have: the codecs of version 1."""

    nodes: tuple[float, ...]
    vocab_size: int
    steps: int  # per nat
    keeps_share: bool = False

    def _tops(self) -> list[int]:
        # sum over the tail of p^b is at most V^(1 - b).
        return [math.ceil((1 - node) * math.log(self.vocab_size)) for node in self.nodes]

    def encode(self, tail_RB: np.ndarray, known_RB: np.ndarray, left_R: np.ndarray) -> TailCodes:
        """See `TailSteps`."""
        scalars = {}
        for column, top in enumerate(self._tops()):
            tail_R = tail_RB[:, column].astype(np.float64)
            below_R = whole_steps(top - tail_R, self.steps, what="tail") + 1
            scalars[f"tail_{column}"] = np.where(tail_R <= EMPTY_TAIL, 0, below_R)
        return scalars

    def decode(
        self, scalars: Mapping[str, np.ndarray], known_RB: np.ndarray, left_R: np.ndarray
    ) -> np.ndarray:
        """See `TailSteps`."""
        tails = [np.zeros((len(left_R), 0), dtype=np.float32)]
        for column, top in enumerate(self._tops()):
            code_R = scalar(scalars, f"tail_{column}")
            tail_R = np.float32(top) - (code_R.astype(np.float32) - 1) / np.float32(self.steps)
            tails.append(np.where(code_R == 0, np.float32(EMPTY_TAIL), tail_R)[:, None])
        return np.concatenate(tails, axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictedTails:
    """Steps from the polynomial through what is known already: the codecs of version 2.

    Nodes fall from 1. Each is predicted from the four before it, as they are decoded, and from
    log(tokens of the tail) at b = 0; the first of all from 0. A code is 1 more than the zigzag of
    the difference: 2 n for n steps above, 2 n - 1 for n below. Nine nodes take the bytes of five.
    """

    known: tuple[float, ...]  # nodes whose log-mass is stored elsewhere
    nodes: tuple[float, ...]
    steps: int  # per nat
    keeps_share: bool = True

    def encode(self, tail_RB: np.ndarray, known_RB: np.ndarray, left_R: np.ndarray) -> TailCodes:
        """See `TailSteps`."""
        scalars = {}
        held = self._held(known_RB, left_R)
        for column, node in enumerate(self.nodes):
            tail_R = tail_RB[:, column].astype(np.float64)
            empty_R = tail_R <= EMPTY_TAIL
            predicted_R = _predicted(held, node)
            off_R = np.where(empty_R, 0, tail_R - predicted_R)
            size_R = whole_steps(np.abs(off_R), self.steps, what="tail")
            zigzag_R = np.where(off_R < 0, 2 * size_R.astype(np.int64) - 1, 2 * size_R)
            scalars[f"tail_{column}"] = np.where(empty_R, 0, np.maximum(zigzag_R, 0) + 1).astype(
                np.uint32
            )
            held[node] = self._decoded(scalars[f"tail_{column}"], predicted_R)
        return scalars

    def decode(
        self, scalars: Mapping[str, np.ndarray], known_RB: np.ndarray, left_R: np.ndarray
    ) -> np.ndarray:
        """See `TailSteps`."""
        tails_RB = np.empty((len(left_R), len(self.nodes)), dtype=np.float32)
        held = self._held(known_RB, left_R)
        for column, node in enumerate(self.nodes):
            code_R = scalar(scalars, f"tail_{column}")
            held[node] = self._decoded(code_R, _predicted(held, node))
            tails_RB[:, column] = held[node]
            tails_RB[code_R == 0, column] = EMPTY_TAIL
        return tails_RB

    def _held(self, known_RB: np.ndarray, left_R: np.ndarray) -> dict[float, np.ndarray]:
        """float32 [R] by node: what is known before the first column. An empty tail counts as 0."""
        held = {0.0: np.log(np.maximum(left_R, 1).astype(np.float32))}
        for column, node in enumerate(self.known):
            known_R = known_RB[:, column].astype(np.float32)
            held[node] = np.where(known_R <= EMPTY_TAIL, np.float32(0), known_R)
        return held

    def _decoded(self, code_R: np.ndarray, predicted_R: np.ndarray) -> np.ndarray:
        zigzag_R = code_R.astype(np.int32) - 1
        decoded_R: np.ndarray = ((zigzag_R >> 1) ^ -(zigzag_R & 1)).astype(np.float32)
        decoded_R *= np.float32(1 / self.steps)
        decoded_R += predicted_R
        decoded_R[code_R == 0] = 0.0
        return decoded_R


def _predicted(held: dict[float, np.ndarray], node: float) -> np.ndarray:
    """float32 [R]: the value at `node` of the polynomial through what is held; 0 at first."""
    if len(held) == 1:
        return np.zeros_like(held[0.0])
    points = [0.0, *sorted(one for one in held if one)[:_POINTS]]
    weights = np.array(polynomial_weights(points, node), dtype=np.float32)
    total_R: np.ndarray = weights[0] * held[0.0]
    for point, weight in zip(points[1:], weights[1:], strict=True):
        total_R += weight * held[point]
    return total_R
