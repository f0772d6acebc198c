"""Random numbers that depend on (seed, document, position, draw) and on nothing else.

A counter-based generator: SplitMix64 (Steele, Lea, Flood 2014), whose state is computed from the
seed, the document, the position and the number of the draw. So a draw is the same in any batch,
order, worker or restart, and no state is kept between rows.

Shapes: R targets, N numbers of a target.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from logitstore.targets.documents import Document

__all__ = ["GAMMA", "MIXING", "draw_states", "row_keys", "uniforms"]

GAMMA = 0x9E3779B97F4A7C15  # the odd integer nearest to 2^64 over the golden ratio
# A shift to the right and the factor behind it, for each step of SplitMix64's output function.
MIXING = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
_DOUBLE_BITS = 53


def row_keys(document: Document, *, seed: int) -> np.ndarray:
    """uint64 [R]: one key for each counted token of `document`, in their order.

    Args:
        document: The document; its id and the positions of its counted tokens go into the keys.
        seed: The seed of the store, 0 or more.
    """
    name = f"{seed}\0".encode() + document.id
    start = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
    positions_R = np.flatnonzero(document.counted_L).astype(np.uint64)
    return _mix(np.uint64(start) + np.uint64(GAMMA) * (positions_R + np.uint64(1)))


def uniforms(keys_R: np.ndarray, *, count: int, draw: int) -> np.ndarray:
    """float64 [R, count] in [0, 1): the random numbers of each row for one draw.

    Args:
        keys_R: uint64, one key for each row, from `row_keys`.
        count: How many numbers a row needs.
        draw: Number of the draw, from 0. Draws of different numbers are independent.
    """
    state_R = draw_states(keys_R, draw=draw)
    steps_N = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA)
    bits_RN = _mix(state_R[:, None] + steps_N)
    return (bits_RN >> np.uint64(64 - _DOUBLE_BITS)) * 2.0**-_DOUBLE_BITS


def draw_states(keys_R: np.ndarray, *, draw: int) -> np.ndarray:
    """uint64 [R]: from which the numbers of one draw are counted on.

    Args:
        keys_R: uint64, one key for each row, from `row_keys`.
        draw: Number of the draw, from 0.
    """
    return keys_R if draw == 0 else _mix(keys_R ^ _mix(np.array([draw], dtype=np.uint64)))


def _mix(state: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64: a bijection of 64 bits that leaves no structure."""
    for shift, factor in MIXING[:-1]:
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return state ^ (state >> np.uint64(MIXING[-1][0]))
