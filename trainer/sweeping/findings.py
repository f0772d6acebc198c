"""What a sweep shows, in sentences: what is not told apart from chance is called "nothing shown".

Settings are compared by the held-out loss, nats per target, paired by the seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.sweeping.statistics import Interval, difference, mean_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trainer.sweeping.grid import Setting
    from trainer.sweeping.results import Results

__all__ = ["Pair", "Sweep", "sentences"]

_CALLED = {"alpha": "alpha", "temperature": "T", "loss": "loss", "lr": "learning rate"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A store and a student of the sweep: its settings are compared with each other."""

    label: str  # empty where there is one pair alone
    settings: tuple[Setting, ...]
    ratio: float | None  # parameters of the teacher over those of the student, where both are known

    @property
    def hard(self) -> list[Setting]:
        """The settings that learn from the true tokens alone."""
        return [one for one in self.settings if one.hard]

    @property
    def soft(self) -> list[Setting]:
        """All others."""
        return [one for one in self.settings if not one.hard]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """The pairs of a sweep and their measurements."""

    pairs: tuple[Pair, ...]
    results: Results
    seeds: int

    def losses(self, setting: Setting) -> dict[int, float]:
        """The held-out loss of a setting by the seed."""
        return self.results.figure(setting.name, "loss", seeds=self.seeds)

    def mean(self, setting: Setting) -> float:
        """The mean of that; infinite where nothing was measured."""
        values = self.losses(setting)
        return math.fsum(values.values()) / len(values) if values else math.inf

    def measured(self, settings: Sequence[Setting]) -> list[Setting]:
        """Those of which there is a measurement."""
        return [one for one in settings if self.losses(one)]

    def best(self, settings: Sequence[Setting]) -> Setting:
        """The setting whose mean loss is the least."""
        return min(settings, key=self.mean)

    def gain(self, pair: Pair) -> tuple[Setting, Setting, Interval] | None:
        """The best hard and the best soft setting, and by how much the soft one is better.

        None where a pair lacks one of them.
        """
        hards, softs = self.measured(pair.hard), self.measured(pair.soft)
        if not hards or not softs:
            return None
        hard, soft = self.best(hards), self.best(softs)
        asked = len(hards) * len(softs)
        found = difference(self.losses(hard), self.losses(soft), asked=asked)
        return None if found is None else (hard, soft, found)


def sentences(sweep: Sweep) -> list[str]:
    """The answers to what was asked, pair by pair, and then across the pairs.

    Args:
        sweep: With its measurements.
    """
    found: list[str] = []
    for pair in sweep.pairs:
        before = f"{pair.label}: " if pair.label else ""
        found += [before + one for one in _of_a_pair(sweep, pair)]
    found += _of_ratios(sweep)
    failed = sweep.results.failed()
    if failed:
        first, reason = next(iter(failed.items()))
        found.append(f"{len(failed)} runs gave no model, {first} among them: {reason}")
    return found


def _of_a_pair(sweep: Sweep, pair: Pair) -> Iterator[str]:
    yield _soft_or_hard(sweep, pair)
    best = sweep.best(pair.soft or pair.settings)
    for axis in ("alpha", "temperature", "loss", "lr"):
        along = [
            one
            for one in pair.settings
            if one.apart_from(axis) == best.apart_from(axis)
            or (axis == "alpha" and one.hard and one.lr == best.lr)
        ]
        if axis != "alpha":
            along = [one for one in along if not one.hard]
        along = sweep.measured(along)
        if len({getattr(one, axis) for one in along}) > 1:
            yield _along(sweep, axis, along)


def _soft_or_hard(sweep: Sweep, pair: Pair) -> str:
    gain = sweep.gain(pair)
    if gain is None:
        missing = "hard labels alone (alpha 0)" if not pair.hard else "soft labels"
        return f"no run has {missing}, so whether soft labels help was not asked"
    hard, soft, better = gain
    named = _named(soft)
    means = f"{sweep.mean(hard):.3f} with hard labels alone, {sweep.mean(soft):.3f} with {named}"
    if not math.isfinite(better.half):
        return f"nothing shown: one seed says nothing of chance ({means}); take more --seeds"
    several = len(pair.hard) * len(pair.soft) > 1
    best_of = f", the best of {len(pair.soft)} settings" if several else ""
    if not better.shown:
        by = f"{_signed(-better.mean)} ± {better.half:.3f} nats"
        return (
            f"nothing shown: soft labels ({named}{best_of}) change the loss by {by}, which chance "
            f"may do; {means}"
        )
    by = f"{named}{best_of} is {_less(better)}"
    if better.mean < 0:
        return f"soft labels hurt here: {by} worse; {means}"
    return f"soft labels help here: {by} better{_share(sweep, gain)}; {means}"


def _share(sweep: Sweep, gain: tuple[Setting, Setting, Interval]) -> str:
    """How much of the way to the teacher the gain is."""
    hard, _, better = gain
    teacher = sweep.results.figure(hard.name, "teacher_loss", seeds=sweep.seeds)
    if not teacher:
        return ""
    gap = sweep.mean(hard) - next(iter(teacher.values()))
    if gap <= 0:
        return ", though the teacher is no better than a student with hard labels"
    return f", {better.mean / gap:.0%} of the gap to the teacher"


def _along(sweep: Sweep, axis: str, along: Sequence[Setting]) -> str:
    """Which value of an axis is the best, and from which others that is not told apart."""
    best = sweep.best(along)
    others = [one for one in along if one is not best]
    alike = [
        one
        for one in others
        if (found := difference(sweep.losses(one), sweep.losses(best), asked=len(others))) is None
        or not found.shown
    ]
    called = _CALLED[axis]
    listed = ", ".join(
        f"{getattr(one, axis)} {mean_of([*sweep.losses(one).values()])}"
        if isinstance(getattr(one, axis), str)
        else f"{getattr(one, axis):g}: {mean_of([*sweep.losses(one).values()])}"
        for one in sorted(along, key=lambda one: getattr(one, axis))
    )
    value = _value(best, axis)
    if len(alike) == len(others):
        return f"nothing shown of {called}: the losses ({listed}) may differ by chance"
    if alike:
        names = " and ".join(_value(one, axis) for one in alike)
        return f"{called} {value} does best, not told apart from {names} (losses {listed})"
    return f"{called} {value} does best, beyond chance (losses {listed})"


def _of_ratios(sweep: Sweep) -> Iterator[str]:
    """Up to which ratio of teacher and student soft labels help."""
    known = [(pair.ratio, pair, sweep.gain(pair)) for pair in sweep.pairs if pair.ratio is not None]
    rows = sorted(
        ((ratio, pair, gain[2]) for ratio, pair, gain in known if gain is not None),
        key=lambda one: one[0],
    )
    if len(rows) < 2:
        return
    listed = "; ".join(
        f"{ratio:.1f} ({pair.label}): {_signed(gain.mean)} ± {gain.half:.3f}"
        for ratio, pair, gain in rows
    )
    helped = [ratio for ratio, _, gain in rows if gain.shown and gain.mean > 0]
    broken = [ratio for ratio, _, gain in rows if not (gain.shown and gain.mean > 0)]
    what = f"gain of soft labels in nats by teacher-student ratio: {listed}"
    if not helped:
        yield f"at no teacher-student ratio is help of soft labels shown; {what}"
    elif not broken:
        yield f"soft labels help at every teacher-student ratio that was run; {what}"
    else:
        lost = ", ".join(f"{one:.1f}" for one in broken)
        yield f"soft labels help at some ratios, and at {lost} that is not shown; {what}"


def _named(one: Setting) -> str:
    found = f"alpha {one.alpha:g}"
    return found if one.temperature == 1 else f"{found}, T {one.temperature:g}"


def _value(one: Setting, axis: str) -> str:
    value = getattr(one, axis)
    return value if isinstance(value, str) else f"{value:g}"


def _less(better: Interval) -> str:
    return f"{abs(better.mean):.3f} ± {better.half:.3f} nats"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def row_of(sweep: Sweep, setting: Setting, figures: Sequence[str]) -> dict[str, Any]:
    """The means of a setting's figures over the seeds, with their intervals.

    Where a mean is no exact value, `bound` and `coding_error` say what it is, as in an evaluation.

    Args:
        sweep: With its measurements.
        setting: One of its settings.
        figures: Names of figures of an evaluation.
    """
    found: dict[str, Any] = {"setting": setting.name}
    for name in ("alpha", "temperature", "loss", "lr"):
        found["divergence" if name == "loss" else name] = getattr(setting, name)
    for name in figures:
        values = sweep.results.figure(setting.name, name, seeds=sweep.seeds)
        if values:
            one = mean_of([*values.values()])
            half = one.half if math.isfinite(one.half) else None
            bound = sweep.results.bound(setting.name, name, seeds=sweep.seeds)
            found[name] = {"mean": one.mean, "half": half, "seeds": one.count} | bound
    return found
