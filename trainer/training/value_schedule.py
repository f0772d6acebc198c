"""How alpha and the temperature change over the steps of a run.

    linear:0.1              along a line from the option's own value to 0.1 at the last step
    cosine:0.1              along half a cosine
    steps:100=0.5,200=0.1   that value from that step on, counted from 0

Importing this costs no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from logitstore import SettingError

__all__ = ["ValueSchedule"]

_SHAPES = {
    "linear": lambda done: done,
    "cosine": lambda done: 0.5 * (1 - math.cos(math.pi * done)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueSchedule:
    """A value at each step: it begins with that of its option."""

    first: float
    shape: str = "constant"
    last: float = 0.0
    steps: tuple[tuple[int, float], ...] = ()

    @staticmethod
    def parse(text: str | None, *, first: float, flag: str) -> ValueSchedule:
        """The schedule that a text describes; None is constant.

        Args:
            text: See the module.
            first: The value of the option that it changes.
            flag: The name of the option of the schedule.

        Raises SettingError for anything else.
        """
        if text is None:
            return ValueSchedule(first=first)
        shape, _, rest = text.partition(":")
        try:
            if shape in _SHAPES:
                return ValueSchedule(first=first, shape=shape, last=float(rest))
            if shape == "steps":
                pairs = [one.partition("=") for one in rest.split(",")]
                steps = tuple((int(step), float(value)) for step, _, value in pairs)
                rising = all(one[0] < two[0] for one, two in pairwise(steps))
                if steps and steps[0][0] >= 1 and rising:
                    return ValueSchedule(first=first, shape=shape, steps=steps)
        except ValueError:
            pass
        raise SettingError(
            f"{flag} describes no schedule",
            found=text,
            allowed="linear:END, cosine:END or steps:STEP=VALUE,.. with rising steps from 1",
        )

    @property
    def values(self) -> tuple[float, ...]:
        """The ends of what it gives: all its values lie between two of them."""
        if self.shape == "constant":
            return (self.first,)
        if self.shape == "steps":
            return (self.first, *(value for _, value in self.steps))
        return (self.first, self.last)

    @property
    def continuous(self) -> bool:
        """Whether it gives values between those of `values`."""
        return self.shape in _SHAPES and self.first != self.last

    def at(self, step: int, *, steps: int) -> float:
        """The value at a step.

        Args:
            step: From 0.
            steps: Of the whole run.
        """
        if self.shape == "constant":
            return self.first
        if self.shape == "steps":
            return next(
                (value for start, value in reversed(self.steps) if step >= start), self.first
            )
        done = min(1.0, step / max(1, steps - 1))
        return self.first + (self.last - self.first) * _SHAPES[self.shape](done)
