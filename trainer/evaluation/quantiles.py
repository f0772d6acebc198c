"""Quantiles of a figure over all targets, in bounded memory and in no order's favour.

Up to a number of values all are kept, as float32, and quantiles are exact: linear between
neighbours, as numpy's. Beyond it they are counted by the upper 20 bits of a float32, which order as
the numbers do: a million counters for any number of values, each quantile within 2^-12 of itself,
smallest and largest exact. Which targets came first changes neither.

The standard error is Woodruff's (1952): that of the share of values below the quantile, by the
spread over documents, carried over to the figure by the quantiles that far above and below.

Shapes: N values, D documents, L levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

__all__ = ["LEVELS", "Quantiles"]

LEVELS = {
    "minimum": 0.0,
    "0.1%": 0.001,
    "1%": 0.01,
    "5%": 0.05,
    "10%": 0.1,
    "25%": 0.25,
    "median": 0.5,
    "75%": 0.75,
    "90%": 0.9,
    "95%": 0.95,
    "99%": 0.99,
    "99.9%": 0.999,
    "maximum": 1.0,
}

_MOST_KEPT = 1 << 24  # values: 64 MiB, and as much again to sort them
_DROPPED_BITS = 12  # of a float32: 11 bits of the mantissa are left
_SIGN = np.uint32(1 << 31)


@dataclass(kw_only=True, slots=True)
class Quantiles:
    """Of all values that were added so far."""

    most_kept: int = _MOST_KEPT
    count: int = 0
    _kept: list[np.ndarray] = field(default_factory=list)  # float32 [N] of each call
    _lengths: list[np.ndarray] = field(default_factory=list)  # int64 [D] of each call
    _counters: np.ndarray | None = None  # int64, once there are too many to keep
    _ends: tuple[float, float] = (math.inf, -math.inf)

    @property
    def exact(self) -> bool:
        """Whether all values are still there."""
        return self._counters is None

    def add(self, values_N: np.ndarray, lengths_D: np.ndarray) -> None:
        """Add the values of whole documents.

        Args:
            values_N: Finite numbers, document by document; kept as float32.
            lengths_D: How many of them are of each document.
        """
        values_N = np.asarray(values_N, dtype=np.float32) + np.float32(0)  # -0 becomes 0
        if not len(values_N):
            return
        self.count += len(values_N)
        low, high = self._ends
        self._ends = (min(low, float(values_N.min())), max(high, float(values_N.max())))
        if self._counters is None:
            self._kept.append(values_N)
            self._lengths.append(lengths_D[lengths_D > 0])
            if self.count > self.most_kept:
                self._begin_to_count()
        else:
            self._counters += _counted(values_N)

    def values(self) -> dict[str, float]:
        """The quantile at each of `LEVELS`, by its name; empty where nothing was added."""
        if not self.count:
            return {}
        if self._counters is not None:
            upto = np.cumsum(self._counters)
            return {name: self._counted_at(upto, level) for name, level in LEVELS.items()}
        sorted_N = np.sort(np.concatenate(self._kept))
        return {name: _at(sorted_N, level) for name, level in LEVELS.items()}

    def standard_errors(self) -> dict[str, float]:
        """Of the quantiles that two documents or more, and values on both sides, tell of.

        None is known of the ends, nor where values are counted only.
        """
        if self._counters is not None or not self.count:
            return {}
        lengths_D = np.concatenate(self._lengths)
        if len(lengths_D) < 2:
            return {}
        values_N = np.concatenate(self._kept)
        sorted_N, starts_D = np.sort(values_N), np.cumsum(lengths_D) - lengths_D
        errors = {}
        for name, level in LEVELS.items():
            below_N = (values_N <= _at(sorted_N, level)).astype(np.int64)
            error = _share_error(np.add.reduceat(below_N, starts_D), lengths_D)
            if error < level < 1 - error:
                higher, lower = _at(sorted_N, level + error), _at(sorted_N, level - error)
                errors[name] = (higher - lower) / 2
        return errors

    def _begin_to_count(self) -> None:
        self._counters = _counted(np.concatenate(self._kept))
        self._kept, self._lengths = [], []

    def _counted_at(self, upto: np.ndarray, level: float) -> float:
        """Linear between the middles of the counters that hold the two neighbours of `level`."""
        if level in (0.0, 1.0):
            return self._ends[int(level)]
        place = level * (self.count - 1)
        ranks = np.array([math.floor(place), math.ceil(place)])
        keys = np.searchsorted(upto, ranks, side="right").astype(np.uint32)
        first, last = keys << np.uint32(_DROPPED_BITS), keys << np.uint32(_DROPPED_BITS)
        last += np.uint32((1 << _DROPPED_BITS) - 1)
        middles = (_from_key(first).astype(np.float64) + _from_key(last)) / 2
        low, high = np.clip(middles, *self._ends)
        return float(low + (high - low) * (place - ranks[0]))


def _counted(values_N: np.ndarray) -> np.ndarray:
    """int64 [2^20]: how many of the values have each of the upper 20 bits."""
    keys_N = _to_key(values_N) >> np.uint32(_DROPPED_BITS)
    return np.bincount(keys_N, minlength=1 << (32 - _DROPPED_BITS))


def _to_key(values_N: np.ndarray) -> np.ndarray:
    """uint32 that order as the float32 do: bits of negative ones inverted, of others the sign."""
    bits_N = values_N.view(np.uint32)
    return np.where(bits_N & _SIGN, ~bits_N, bits_N | _SIGN)


def _from_key(keys_N: np.ndarray) -> np.ndarray:
    return np.where(keys_N & _SIGN, keys_N ^ _SIGN, ~keys_N).view(np.float32)


def _at(sorted_N: np.ndarray, level: float) -> float:
    place = level * (len(sorted_N) - 1)
    low = math.floor(place)
    high = min(low + 1, len(sorted_N) - 1)
    return float(sorted_N[low]) * (low + 1 - place) + float(sorted_N[high]) * (place - low)


def _share_error(below_D: np.ndarray, lengths_D: np.ndarray) -> float:
    """The standard error of sum below / sum lengths, over documents (Cochran 1977, 6.3)."""
    documents, total = len(lengths_D), lengths_D.sum()
    rest_D = below_D - below_D.sum() / total * lengths_D
    return math.sqrt((rest_D**2).sum() * documents / (documents - 1)) / float(total)
