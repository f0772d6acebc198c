"""The learning rate over the steps of a run: a linear rise, then a fall to a floor.

The rise ends at the highest rate and no step of it is 0: a run of few steps learns in each of them.
"""

from __future__ import annotations

import math

__all__ = ["SCHEDULES", "share_of_rate"]

# What is left of the rate, from 1 to 0, when `done` of the steps after the rise are made.
SCHEDULES = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "constant": lambda _: 1.0,
    # Warmup-stable-decay (arXiv 2404.06395): constant, and linear to the floor in the last fifth.
    "wsd": lambda done: min(1.0, 5 * (1 - done)),
}


def share_of_rate(
    step: int, *, rise: int, steps: int, schedule: str = "cosine", floor: float = 0.0
) -> float:
    """The share of the highest rate that a step takes.

    Args:
        step: Its number, from 0.
        rise: Steps of the rise; step n of it takes (n + 1) / rise.
        steps: All steps of the run.
        schedule: The fall after the rise, a name of `SCHEDULES`.
        floor: The share of the highest rate that the fall ends at.
    """
    if step < rise:
        return (step + 1) / rise
    done = min(1.0, (step - rise) / max(1, steps - rise))
    return floor + (1 - floor) * max(0.0, SCHEDULES[schedule](done))
