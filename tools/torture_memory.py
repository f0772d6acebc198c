"""The memory of a long dump, a long training, and of verifying and reading round after round.

    python -m tools.torture_memory [--minutes 30] [--units 5000] [--seed 0] [--figure FILE]
        [--only JOB]

`logitstore dump` and `trainer fit` run side by side as processes of their own for `--minutes`, over
a corpus of many small units and for epoch after epoch of a store; then, for a third of that time,
`verify` of a store and the reading of one of `--units` units, opened anew for each round. Once a
second the proportional set size (PSS) of each process and its children is taken: what they
hold, with what they share counted once.

The first fifth is left out, and the first round, in which caches fill. A line through the means of
twenty parts of the rest tells the slope, with its 95 % confidence interval:

    flat        it is sure that memory grows by less than 1 % of its level in ten minutes
    growing     it is sure that memory grows by more
    unclear     neither: let it run for longer
    short       less than nine minutes, which tell nothing but that it runs

The exit code is 1 if a process has stopped by itself, or its memory grows or may do so. Linux only.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import psutil
from matplotlib.figure import Figure
from scipy import stats

from tools.memory_jobs import command, prepare, progress

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Curve", "Slope", "main", "watch"]

_PAIRS = ((("dump", "fit"), 1.0), (("verify", "read"), 1 / 3))
_WARM_UP, _PARTS = 0.2, 20
_FLAT_SHARE, _FLAT_MINUTES, _LEAST_MINUTES = 0.01, 10.0, 9.0
_STYLE: dict[str, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "0.9",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Slope:
    """The line through a curve behind its warm-up."""

    level: float  # MB, the mean
    slope: float  # MB a minute
    error: float  # MB a minute: half the 95 % confidence interval
    minutes: float  # warm-up included

    @property
    def verdict(self) -> str:
        """Flat, growing, unclear or short, as the module says."""
        if self.minutes < _LEAST_MINUTES:
            return "short"
        most = _FLAT_SHARE * self.level / _FLAT_MINUTES
        if self.slope + self.error < most:
            return "flat"
        return "growing" if self.slope - self.error > most else "unclear"


@dataclass(kw_only=True, slots=True)
class Curve:
    """What the processes of one job held over time."""

    job: str
    minutes: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    first: float | None = (
        None  # minutes until it told of its work: of a first round, where it goes round
    )
    stopped: int | None = None  # the exit code, where the process ended by itself
    done: str = ""

    def slope(self) -> Slope:
        """The line through the means of equal parts behind the warm-up."""
        minutes, megabytes = np.array(self.minutes), np.array(self.megabytes)
        from_on = minutes[-1] if self.first is None else max(self.first, _WARM_UP * minutes[-1])
        kept = minutes >= from_on
        parts = min(_PARTS, int(kept.sum()))
        x, y = (
            np.array([part.mean() for part in np.array_split(values[kept], parts)])
            for values in (minutes, megabytes)
        )
        if parts < 3:
            return Slope(level=float(y.mean()), slope=0.0, error=math.inf, minutes=minutes[-1])
        line = stats.linregress(x, y)
        error = float(line.stderr * stats.t.ppf(0.975, parts - 2))
        return Slope(
            level=float(y.mean()), slope=float(line.slope), error=error, minutes=minutes[-1]
        )


def main() -> int:
    """Parse, prepare, watch, draw, print; exit code 1 unless every curve is flat."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--units", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, default=None)
    parser.add_argument("--only", choices=[job for jobs, _ in _PAIRS for job in jobs])
    given = parser.parse_args()
    curves: list[Curve] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work, minutes=given.minutes, units=given.units, seed=given.seed)
        for jobs, share in _PAIRS if given.only is None else [((given.only,), 1.0)]:
            curves += watch(work, jobs, minutes=share * given.minutes)
    if given.figure is not None:
        _draw(curves, given.figure)
    print(_table(curves))
    sound = all(one.stopped is None and one.slope().verdict in ("flat", "short") for one in curves)
    return 0 if sound else 1


def watch(work: Path, jobs: Sequence[str], *, minutes: float, every: float = 1.0) -> list[Curve]:
    """Run `jobs` side by side for some minutes, and take their memory every so many seconds."""
    outputs = [(work / f"{job}.txt").open("wb") for job in jobs]
    processes = [
        subprocess.Popen(command(job, work), stdout=output, stderr=subprocess.STDOUT)
        for job, output in zip(jobs, outputs, strict=True)
    ]
    curves = [Curve(job=job) for job in jobs]
    started = time.monotonic()
    try:
        while (passed := time.monotonic() - started) < 60 * minutes:
            for process, curve in zip(processes, curves, strict=True):
                curve.stopped = process.poll()
                told = (work / f"{curve.job}.txt").stat().st_size
                if curve.first is None and told:
                    curve.first = passed / 60
                if curve.stopped is None:
                    curve.minutes.append(passed / 60)
                    curve.megabytes.append(_held(process.pid) / 1e6)
            if all(curve.stopped is not None for curve in curves):
                break
            time.sleep(every)
    finally:
        for process, output in zip(processes, outputs, strict=True):
            process.kill()
            process.wait()
            output.close()
    for curve in curves:
        curve.done = progress(curve.job, work)
        if curve.stopped is not None:
            print((work / f"{curve.job}.txt").read_text()[-2000:], file=sys.stderr)
    return curves


def _held(pid: int) -> int:
    """Bytes: the proportional set size of a process and its children."""
    total = 0
    try:
        first = psutil.Process(pid)
        family = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for one in family:
        try:
            total += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # it has just ended
    return total


def _table(curves: Sequence[Curve]) -> str:
    lines = [
        "| what runs | minutes | done | level, MB | slope, MB a minute | found |",
        "|---|---|---|---|---|---|",
    ]
    for curve in curves:
        line = curve.slope()
        found = line.verdict if curve.stopped is None else f"stopped: {curve.stopped}"
        lines.append(
            f"| {curve.job} | {curve.minutes[-1]:.1f} | {curve.done} | {line.level:,.0f} | "
            f"{line.slope:+.3f} ± {line.error:.3f} | {found} |"
        )
    return "\n".join(lines)


def _draw(curves: Sequence[Curve], path: Path) -> None:
    """One line for each job, MB over minutes, its slope beside its name."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            line = curve.slope()
            name = f"{curve.job}, {curve.done}: {line.slope:+.2f} ± {line.error:.2f} MB a minute"
            axes.plot(curve.minutes, curve.megabytes, linewidth=1, label=name)
        axes.set_xlabel("minutes")
        axes.set_ylabel("proportional set size, MB")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
        figure.savefig(path, dpi=144)


if __name__ == "__main__":
    sys.exit(main())
