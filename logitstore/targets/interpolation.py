"""Which stored points serve a temperature between them, and what each weighs.

f(b) = log sum p^b of a tail is smooth and convex in b = 1/T. It bends most at small b, where many
tokens share the mass, so nodes stand closer there. A polynomial through all of many nodes would
magnify the rounding of what is stored; one through the `MOST_POINTS` around b does not.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["chosen_points", "polynomial_weights"]

MOST_POINTS = 6
# Points that are nearer to one another than this, or than half the gap that b lies in where that is
# less, add no information but amplify rounding errors: with T = 1, 2, ... 10 stored to 1e-4, the
# six nearest nodes gave an error of 1e-2 at T = 1.25, these under 1e-3.
_APART = 0.125
_ROUNDING = 1e-6


def chosen_points(points: Sequence[float], b: float) -> list[float]:
    """Those of `points` by which a value at `b` is interpolated, rising.

    The nearest points come first, and a point too close to one of them is left out. Of what
    remains, as many are taken on either side of b as there are, `MOST_POINTS` in all.

    Args:
        points: The b at which values are known, different, two at least.
        b: Where a value is wanted; none of the points.
    """
    rising = sorted(points)
    above = min(bisect_right(rising, b), len(rising) - 1)
    apart = min(_APART, (rising[above] - rising[above - 1]) / 2) - _ROUNDING
    kept: list[float] = []
    for point in sorted(rising, key=lambda point: abs(point - b)):
        if all(abs(point - other) > apart for other in kept):
            kept.append(point)
    kept.sort()
    above = sum(point < b for point in kept)
    first = max(0, min(len(kept) - MOST_POINTS, above - MOST_POINTS // 2))
    return kept[first : first + MOST_POINTS]


def polynomial_weights(points: Sequence[float], b: float) -> list[float]:
    """What the value at each of `points` weighs in that of the polynomial through all, at `b`."""
    return [
        math.prod((b - other) / (point - other) for other in points if other != point)
        for point in points
    ]
