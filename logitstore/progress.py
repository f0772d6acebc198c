"""Progress of long work: what is told of it, and the rate and the time left, kept steady.

Whoever does the work has a `Meter` or a `Pace` and calls a function with a `Progress`; how that is
shown is for the caller. Nothing is written anywhere unless such a function is given.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from logitstore.errors import SettingError
from logitstore.options import Option

__all__ = ["ON_PROGRESS", "Clock", "Meter", "OnProgress", "Pace", "Progress", "tell_stage"]

# Batches differ by their lengths and machines by what else they do; a minute evens both out, and a
# machine that has become slower shows within two.
_MEMORY_SECONDS = 60.0

Clock: TypeAlias = Callable[[], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a piece of work is."""

    stage: str  # what is being done, as in "dumping"; a new one begins anew
    detail: str = ""  # which part of it, as in "unit 3 of 12"
    fraction: float | None = None  # of all of it, 0 to 1; None where that is not known
    done: int = 0  # by this call alone, in `unit`
    unit: str = ""  # as in "targets"; empty where nothing is counted
    rate: float | None = None  # `unit` a second, smoothed; None before there is one
    seconds_left: float | None = None
    facts: tuple[str, ...] = ()  # more to know, each in a few words, what matters most first


OnProgress: TypeAlias = Callable[[Progress], None]


def _refuse(report: object) -> None:
    if not callable(report):
        raise SettingError("this is no function", found=type(report).__name__)


ON_PROGRESS = Option(
    name="on_progress",
    kind=object,
    default=None,
    nullable=True,
    python_only=True,
    refuse=_refuse,
    help="A function that is called with a logitstore.Progress, often, to show how far it is.",
)


def tell_stage(on_progress: OnProgress | None, stage: str) -> None:
    """Say that `stage` begins, of which nothing is counted."""
    if on_progress is not None:
        on_progress(Progress(stage=stage))


class Pace:
    """How much is done in a second: the mean at first, later that of the last minute or so.

    What was done weighs `e^(-age / 60 s)`. The first measurement gives way to the second, because
    the first batch of a model also allocates memory and chooses kernels.
    """

    def __init__(self) -> None:
        self._amount = self._seconds = 0.0
        self._measurements = 0

    def add(self, amount: float, *, seconds: float) -> None:
        """Count `amount` that took `seconds`."""
        self._measurements += 1
        kept = 0.0 if self._measurements == 2 else math.exp(-seconds / _MEMORY_SECONDS)
        self._amount = self._amount * kept + amount
        self._seconds = self._seconds * kept + seconds

    @property
    def per_second(self) -> float | None:
        """None before anything was done."""
        if self._amount <= 0 or self._seconds <= 0:
            return None
        return self._amount / self._seconds

    def seconds_for(self, amount: float) -> float | None:
        """The time that `amount` takes at this pace."""
        rate = self.per_second
        return None if rate is None else max(0.0, amount) / rate


class Meter:
    """Measures one stage of work and tells of it.

    Args:
        on_progress: Is called with each `Progress`; None tells nobody.
        stage: What is done, as in "verifying".
        unit: What is counted, as in "bytes".
        fraction: How much of the whole was done before, 0 to 1: it does not count for the time.
        clock: Gives seconds.
    """

    def __init__(
        self,
        on_progress: OnProgress | None,
        *,
        stage: str,
        unit: str,
        fraction: float | None = 0.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._on_progress = on_progress
        self._stage, self._unit, self._clock = stage, unit, clock
        self._counted, self._shares = Pace(), Pace()
        self._done, self._fraction = 0, fraction
        self._before = clock()
        if on_progress is not None:
            on_progress(Progress(stage=stage, unit=unit, fraction=fraction))

    def tell(
        self, done: int, *, fraction: float | None, detail: str = "", facts: tuple[str, ...] = ()
    ) -> None:
        """Say how far it is.

        Args:
            done: Of the unit, in all.
            fraction: Of the whole, 0 to 1; None where that is not known.
            detail: Which part of the work it is.
            facts: More to know.
        """
        now = self._clock()
        self._counted.add(done - self._done, seconds=now - self._before)
        self._shares.add((fraction or 0.0) - (self._fraction or 0.0), seconds=now - self._before)
        self._done, self._fraction, self._before = done, fraction, now
        if self._on_progress is not None:
            self._on_progress(
                Progress(
                    stage=self._stage,
                    detail=detail,
                    fraction=fraction,
                    done=done,
                    unit=self._unit,
                    rate=self._counted.per_second,
                    seconds_left=(
                        None if fraction is None else self._shares.seconds_for(1.0 - fraction)
                    ),
                    facts=facts,
                )
            )
