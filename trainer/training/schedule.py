"""The learning rate over the steps of a run: a linear rise, then a fall to 0 along a cosine."""

from __future__ import annotations

import math

__all__ = ["share_of_rate"]


def share_of_rate(step: int, *, rise: int, steps: int) -> float:
    """The share of the highest rate that step `step` takes, counted from 0.

    The rise begins at 0, so a rise of one step is left out: a run of one step would learn nothing.
    """
    if step < rise:
        return 1.0 if rise == 1 else step / rise
    done = (step - rise) / max(1, steps - rise)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
