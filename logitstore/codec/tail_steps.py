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
        held_XR = self._held(known_RB, left_R)
        for column, weights_X in enumerate(self._weights()):
            tail_R = tail_RB[:, column].astype(np.float64)
            empty_R = tail_R <= EMPTY_TAIL
            place = 1 + len(self.known) + column
            predicted_R = _predicted(held_XR[:place], weights_X)
            off_R = np.where(empty_R, 0, tail_R - predicted_R)
            size_R = whole_steps(np.abs(off_R), self.steps, what="tail").astype(np.int64)
            code_R = 1 + np.where(off_R < 0, np.maximum(2 * size_R - 1, 0), 2 * size_R)
            scalars[f"tail_{column}"] = np.where(empty_R, 0, code_R).astype(np.uint32)
            held_XR[place] = predicted_R + _steps(scalars[f"tail_{column}"]) / self._steps
            held_XR[place, empty_R] = 0.0
        return scalars

    def decode(
        self, scalars: Mapping[str, np.ndarray], known_RB: np.ndarray, left_R: np.ndarray
    ) -> np.ndarray:
        """See `TailSteps`."""
        held_XR = self._held(known_RB, left_R)
        first = 1 + len(self.known)
        code_BR = np.empty((len(self.nodes), len(left_R)), dtype=np.uint32)
        for column in range(len(self.nodes)):
            code_BR[column] = scalar(scalars, f"tail_{column}")
        empty_BR = code_BR == 0
        np.divide(_steps(code_BR), self._steps, out=held_XR[first:])
        some_empty = bool(empty_BR.any())
        for column, weights_X in enumerate(self._weights()):
            place = first + column
            held_XR[place] += _predicted(held_XR[:place], weights_X)
            if some_empty:
                held_XR[place, empty_BR[column]] = 0.0
        tails_RB = held_XR[first:].T.copy()
        if some_empty:
            tails_RB[empty_BR.T] = EMPTY_TAIL
        return tails_RB

    @property
    def _steps(self) -> np.float32:
        return np.float32(self.steps)

    def _held(self, known_RB: np.ndarray, left_R: np.ndarray) -> np.ndarray:
        """float32 [X, R]: at b = 0, at `known` and room for `nodes`. An empty tail counts as 0."""
        rows = 1 + len(self.known) + len(self.nodes)
        held_XR = np.empty((rows, len(left_R)), dtype=np.float32)
        held_XR[0] = np.log(np.maximum(left_R, 1).astype(np.float32))
        for column in range(len(self.known)):
            known_R = known_RB[:, column]
            held_XR[1 + column] = np.where(known_R <= EMPTY_TAIL, 0.0, known_R)
        return held_XR

    def _weights(self) -> list[np.ndarray]:
        """float32 [X] for each of `nodes`: what b = 0 and each of the nodes before weigh in it."""
        everywhere = (*self.known, *self.nodes)
        found = []
        for place in range(len(self.known), len(everywhere)):
            before = everywhere[max(0, place - _POINTS) : place]
            weights = polynomial_weights((0.0, *before), everywhere[place]) if before else [0.0]
            found.append(np.array(weights, dtype=np.float32))
        return found


def _steps(codes: np.ndarray) -> np.ndarray:
    """float32: the whole steps of codes, 0 for a code of 0."""
    zigzag = codes.astype(np.int32) - 1
    steps: np.ndarray = ((zigzag >> 1) ^ -(zigzag & 1)).astype(np.float32)
    return steps


def _predicted(held_XR: np.ndarray, weights_X: np.ndarray) -> np.ndarray:
    """float32 [R]: b = 0 is the first row of what is held, the nodes before are the last ones."""
    predicted_R: np.ndarray = weights_X[0] * held_XR[0]
    if len(weights_X) > 1:
        predicted_R += weights_X[1:] @ held_XR[1 - len(weights_X) :]
    return predicted_R
