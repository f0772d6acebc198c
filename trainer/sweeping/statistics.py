"""Means over seeds with intervals, and differences of settings, paired by the seed.

Runs of one seed share their fresh weights and their order of documents, so the difference of two
settings is taken seed by seed. Student's t gives the intervals. Where the best of several settings
is compared, each interval is widened as if all had been asked (Bonferroni), or the luckiest of many
would look like a finding.

Shapes: S seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.special import stdtrit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Interval", "difference", "mean_of"]

_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean and half the width of its interval; the half is NaN where one value says nothing."""

    mean: float
    half: float
    count: int

    @property
    def shown(self) -> bool:
        """Whether it lies on one side of 0."""
        return math.isfinite(self.half) and abs(self.mean) > self.half

    def __str__(self) -> str:
        if not math.isfinite(self.half):
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} ± {self.half:.3f}"


def mean_of(values_S: Sequence[float], *, asked: int = 1) -> Interval:
    """The mean of values with its 95 % interval, `t s / sqrt(S)`.

    Args:
        values_S: One for each seed.
        asked: How many such intervals are to hold together.
    """
    count = len(values_S)
    mean = math.fsum(values_S) / count
    if count < 2:
        return Interval(mean=mean, half=math.nan, count=count)
    variance = math.fsum((one - mean) ** 2 for one in values_S) / (count - 1)
    quantile = float(stdtrit(count - 1, 1 - (1 - _LEVEL) / (2 * asked)))
    return Interval(mean=mean, half=quantile * math.sqrt(variance / count), count=count)


def difference(
    one: Mapping[int, float], other: Mapping[int, float], *, asked: int = 1
) -> Interval | None:
    """`one - other`, over the seeds that both have; None without any.

    Args:
        one: Values by their seeds.
        other: Likewise.
        asked: As for `mean_of`.
    """
    seeds = sorted({*one} & {*other})
    return mean_of([one[seed] - other[seed] for seed in seeds], asked=asked) if seeds else None
