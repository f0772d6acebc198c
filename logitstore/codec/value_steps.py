"""Log-probabilities of exact entries <-> codes from 1: even steps, or finer ones near the top.

What an error e of a log-probability costs is about p e^2 / 2 nats of KL, so likely tokens deserve
finer steps. With steps that grow as p^(-1/4), from 1/24 nat at the top of a row to 1/4 nat, 64
entries take 0.9 bits each less than with even steps of 1/12 nat, at the same KL (1.3e-4 on a real
teacher, docs/decisions/009-value-steps.md). Growing as p^(-1/2), which is best at T = 1, costs
twice as much KL at T = 2.

Shapes: R targets, K entries, L levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EvenSteps", "FallingSteps", "ValueSteps"]

_MAX_CODE = (1 << 16) - 1
_FOLD = 4  # nats below the top over which a step grows by e: it goes with p^(-1 / _FOLD)


class ValueSteps(Protocol):
    """Codes of a row's exact entries, from 1 for its smallest, and the nats that they stand for."""

    def codes(self, logprobs_RK: np.ndarray, exact_RK: np.ndarray) -> np.ndarray:
        """[R, K], whole numbers from 1 to 65,535; where an entry is not exact they mean nothing."""
        ...

    def above_floor(self, codes_RK: np.ndarray) -> np.ndarray:
        """float32 [R, K], nats above code 1 of the row; a code of 0 has no meaning.

        The codes of a whole row are needed, with 0 for what is not an exact entry.
        """
        ...

    def from_floor(self, codes_RK: np.ndarray, floor_R: np.ndarray) -> np.ndarray:
        """float32 [R, K], nats: as `above_floor`, where code 1 stands for `floor_R`."""
        ...

    def stated_kl(self, most: int, *, temperature: float) -> float:
        """nats: the largest KL that coding may add to a row at `temperature`, 1 or more.

        most: entries of a row.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EvenSteps:
    """Whole steps above the smallest entry of the row: `rank-delta/1`, `rank-delta-weighted/1`.

    Where a row spans more than 65,534 steps, its smallest entries, whose weight is 0, get code 1.
    """

    steps: int  # per nat

    @staticmethod
    def of(parameters: Mapping[str, int]) -> EvenSteps:
        """By the codec's `value_steps`."""
        return EvenSteps(steps=parameters["value_steps"])

    def codes(self, logprobs_RK: np.ndarray, exact_RK: np.ndarray) -> np.ndarray:
        """See `ValueSteps`."""
        steps = np.float32(self.steps)
        least_R = logprobs_RK.min(axis=1, where=exact_RK, initial=np.inf)
        least_R[np.isinf(least_R)] = 0.0
        top_R = logprobs_RK.max(axis=1, where=exact_RK, initial=-np.inf)
        lowest_R = np.where(np.isinf(top_R), 0.0, top_R - (_MAX_CODE - 1) / steps)
        least_R = np.maximum(least_R, lowest_R)
        codes_RK = np.rint((logprobs_RK - least_R[:, None]) * steps)
        return np.clip(codes_RK + 1, 1, _MAX_CODE, out=codes_RK)

    def above_floor(self, codes_RK: np.ndarray) -> np.ndarray:
        """See `ValueSteps`."""
        return (codes_RK.astype(np.float32) - 1) / np.float32(self.steps)

    def from_floor(self, codes_RK: np.ndarray, floor_R: np.ndarray) -> np.ndarray:
        """See `ValueSteps`."""
        step = np.float32(1 / self.steps)
        logprobs_RK: np.ndarray = codes_RK * step
        logprobs_RK += (floor_R - step)[:, None]
        return logprobs_RK

    def stated_kl(self, most: int, *, temperature: float) -> float:
        """nats: (1 / steps)^2 / 8, for rows of any length; at other temperatures it is less.

        The error of a value lies within half a step on either side, and the mass of the row is
        kept, so the KL is log E[exp(e)] - E[e] of an error e whose range is a step: at most an
        eighth of the range squared, by Hoeffding's lemma (1963). Where errors are uniform it is a
        third of that.
        """
        return (1 / self.steps) ** 2 / 8


@dataclass(frozen=True, kw_only=True)
class FallingSteps:
    """Levels below the top of the row, finer near it: `rank-delta/2`, `rank-delta-weighted/2`.

    Level n lies -4 log(1 - n / (4 top_steps)) nats below the top, as long as levels are less than
    1 / least_steps apart; further ones are that far apart. Codes count levels from the lowest entry
    of the row up, so the largest code is that of the top.
    """

    top_steps: int  # per nat, at the top of a row
    least_steps: int  # per nat, far below it; no more than `top_steps`

    @staticmethod
    def of(parameters: Mapping[str, int]) -> FallingSteps:
        """By the codec's `value_steps` and `least_steps`."""
        top = parameters["value_steps"]
        return FallingSteps(top_steps=top, least_steps=min(parameters["least_steps"], top))

    @property
    def _turn(self) -> float:
        """The level from which on the steps are even."""
        return _FOLD * (self.top_steps - self.least_steps)

    def codes(self, logprobs_RK: np.ndarray, exact_RK: np.ndarray) -> np.ndarray:
        """See `ValueSteps`."""
        top_R = logprobs_RK.max(axis=1, where=exact_RK, initial=-np.inf)
        top_R[np.isinf(top_R)] = 0.0
        depth_RK = np.where(exact_RK, top_R[:, None] - logprobs_RK, 0).astype(np.float64)
        fine_RK = -_FOLD * self.top_steps * np.expm1(np.minimum(depth_RK, 700) / -_FOLD)
        even_RK = self._turn + (depth_RK - self._depth_of_turn) * self.least_steps
        level_RK = np.rint(np.where(depth_RK < self._depth_of_turn, fine_RK, even_RK))
        level_RK = np.minimum(level_RK, _MAX_CODE - 1)
        return np.asarray(level_RK.max(axis=1, initial=0)[:, None] - level_RK + 1)

    def above_floor(self, codes_RK: np.ndarray) -> np.ndarray:
        """See `ValueSteps`."""
        return self.from_floor(codes_RK, np.zeros(len(codes_RK), dtype=np.float32))

    def from_floor(self, codes_RK: np.ndarray, floor_R: np.ndarray) -> np.ndarray:
        """See `ValueSteps`."""
        top_R = codes_RK.max(axis=1, initial=0)
        levels_L = self._levels(int(top_R.max(initial=0)))
        of_top_R = floor_R - levels_L[np.maximum(top_R, 1) - 1]
        # Every level is in the table; `clip` alone spares a check, half of the time of looking up.
        logprobs_RK = levels_L.take(top_R[:, None] - codes_RK, mode="clip")
        logprobs_RK += of_top_R[:, None]
        return logprobs_RK

    def stated_kl(self, most: int, *, temperature: float) -> float:
        """nats: see `ValueSteps`.

        With b the largest difference from the mean error, log E[exp(e)] - E[e] is at most
        E[e^2] (e^b - 1 - b) / b^2 (Bennett, 1962), and b at most the largest step. An error is at
        most half of its step, times 1 + least / 4 as levels are rounded and not nats, and its step
        is (p_top / p)^(1/4) / top_steps where that is the smaller one. So E[e^2] at T takes the sum
        of p_T^(1 - T/2) p_T,top^(T/2) over the row: (1 + sqrt(most)) / 2 at T = 1, by Cauchy and
        Schwarz, and most^(T/2) otherwise.
        """
        least = 1 / self.least_steps
        factor = (math.exp(least) - 1 - least) / least**2
        widened = (1 + least / _FOLD) ** 2 / 4
        share = (1 + math.sqrt(most)) / 2 if temperature == 1 else most ** (temperature / 2)
        squared = widened * min(share / self.top_steps**2, least**2)
        return factor * squared / temperature**2

    @cached_property
    def _depth_of_turn(self) -> float:
        return _FOLD * math.log(self.top_steps / self.least_steps)

    def _levels(self, last: int) -> np.ndarray:
        """float32 [L]: minus the nats of each level below the top, from 0 to `last`."""
        level_L = np.arange(last + 1, dtype=np.float64)
        fine_L = np.minimum(level_L, self._turn) / (_FOLD * self.top_steps)
        even_L = np.maximum(level_L - self._turn, 0) / self.least_steps
        return (_FOLD * np.log1p(-fine_L) - even_L).astype(np.float32)
