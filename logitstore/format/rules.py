"""A rule that takes some targets out of many, by the teacher's entropy or by its loss.

    entropy:top:0.2      the fifth of which the teacher is least sure; entropy:0.2 is the same
    loss:bottom:0.5      the half of which it guesses the true token best
    entropy:above:1.5    those of 1.5 nats or more
    loss:below:3         those of less than 3 nats

The entropy is that of the whole distribution, at T = 1 or at the temperature of the draw; the loss
is the negative log-probability of the token that really follows, at T = 1. Both are in nats.

Shapes: R targets (rows).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from logitstore.errors import SettingError

__all__ = ["Judged", "TargetRule"]

_SHARES = ("top", "bottom")
_LIMITS = ("above", "below")
_MEASURES = ("entropy", "loss")
_FORMS = "entropy or loss, then :top:F or :bottom:F with a share F, or :above:X or :below:X nats"
# Of a product of a share and a count: 0.07 of 100 is 7, though floats say a little more.
_DIGITS = 9


_MOST_NATS = float(np.finfo(np.float32).max)  # values are compared in float32


class Judged(Protocol):
    """Targets, as far as a rule looks at them: `SparseTargets`."""

    @property
    def entropy_R(self) -> np.ndarray:
        """float32 [R], nats."""
        ...

    @property
    def label_logprob_R(self) -> np.ndarray:
        """float32 [R], nats."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetRule:
    """Which targets are taken: by what, from which side, and how many or up to where."""

    measure: str  # "entropy" or "loss"
    side: str  # "top" or "bottom" of all by a share; "above" or "below" a number of nats
    value: float  # the share, above 0 and up to 1; or the nats, from 0 on

    @staticmethod
    def parse(text: str, *, flag: str = "this") -> TargetRule:
        """The rule that a text describes.

        Args:
            text: See the module.
            flag: What the message calls it: the name of an option.

        Raises SettingError for anything else.
        """
        measure, *rest = text.split(":")
        side, number = ("top", *rest) if len(rest) == 1 else rest if len(rest) == 2 else ("", "")
        try:
            value = float(number) + 0.0  # of the two zeros the positive one
        except ValueError:
            value = math.nan
        plain = not {*number} & {*" _"}
        shared = plain and side in _SHARES and 0 < value <= 1
        limited = plain and side in _LIMITS and 0 <= value <= _MOST_NATS
        if measure not in _MEASURES or not (shared or limited):
            raise SettingError(
                f"{flag} describes no choice of targets",
                found=text,
                allowed=f"{_FORMS}, such as entropy:top:0.2",
            )
        return TargetRule(measure=measure, side=side, value=value)

    def __str__(self) -> str:
        """The text in its full form, one for each rule."""
        return f"{self.measure}:{self.side}:{self.value!r}"

    @property
    def is_share(self) -> bool:
        """Whether it takes a share of all, so that what it takes depends on the others."""
        return self.side in _SHARES

    @property
    def from_top(self) -> bool:
        """Whether it takes the larger values."""
        return self.side in ("top", "above")

    def values_R(self, targets: Judged) -> np.ndarray:
        """float32 [R], nats: what targets are taken by; NaN where it is not known.

        Args:
            targets: Of any kind.
        """
        return targets.entropy_R if self.measure == "entropy" else -targets.label_logprob_R

    def taken_R(self, values_R: np.ndarray, *, cut: float) -> np.ndarray:
        """bool [R]: which targets are taken.

        Args:
            values_R: What they are taken by, nats.
            cut: The least value that is taken from the top, or the largest from the bottom; for a
                number of nats that number.
        """
        if self.side == "below":
            return values_R < np.float32(cut)
        return values_R >= np.float32(cut) if self.from_top else values_R <= np.float32(cut)

    def kept_R(self, targets: Judged) -> np.ndarray:
        """bool [R]: which targets of one document are kept, whatever documents stand beside it.

        A share F is of the document's own n targets: ceil(F n) of them, one at least; of equal
        ones the earlier.

        Args:
            targets: Of one document, as the teacher gave them, before they are rounded.
        """
        values_R = self.values_R(targets)
        if not self.is_share:
            return self.taken_R(values_R, cut=self.value)
        kept_R = np.zeros(len(values_R), dtype=bool)
        count = max(1, math.ceil(round(self.value * len(values_R), _DIGITS)))
        order_R = np.argsort(-values_R if self.from_top else values_R, kind="stable")
        kept_R[order_R[:count]] = True
        return kept_R

    def cut_of(self, values_R: np.ndarray) -> float:
        """The value at which a share is cut off.

        Stored values come in steps, so many targets have the same one, and all that have it are
        taken or none: of the shares that can be had it is the one nearest to that of the rule, of
        two that are as near the smaller.

        Args:
            values_R: Of the targets from which the share is taken, one or more, no NaN.
        """
        found, counts = np.unique(values_R, return_counts=True)
        if self.from_top:
            found, counts = found[::-1], counts[::-1]
        shares = np.cumsum(counts) / len(values_R)
        return float(found[np.argmin(np.abs(shares - self.value))])
