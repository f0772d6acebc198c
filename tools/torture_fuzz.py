"""Fuzzing of all that reads what may come from anywhere, guided by the lines that inputs reach.

    python -m tools.torture_fuzz [--runs 1000000] [--seconds 3600] [--seed 0] [--jobs 2]
        [--target NAME ...] [--findings FOLDER]

Needs the extra `torture` (atheris and coverage): pip install -e '.[torture]'. Sound content, of
small stores and a short run, is changed at places that the fuzzer chooses, and what hashes it is
hashed anew, so that changes are met behind the checksums: the fields of JSON, chunks and indexes of
Zarr, pages and footers of Parquet, columns, names of files. The runs are divided among the targets
by what they cost; each target has processes of its own.

    refused     an error of the project came out
    accepted    nothing did: what was read is within its bounds
    findings    any other error, a warning, more than 500 MiB above the sound one, memory that ran
                out, more than 5 seconds of the processor, a minute of the clock, or a crash

Lines are those of the target's own modules, with what their import reaches. The exit code is 1 if
there are findings; their inputs are written to the folder of `--findings`, by target, and a line
for each to stderr. `python -m tools.torture_fuzz --repeat TARGET FILE` shows what comes of one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.fuzzing.targets import TARGETS, make_seeds

__all__ = ["Outcome", "main", "table"]

_MOST_STARTS = 20  # of a target: each crash or hang ends a process


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What came of one target."""

    target: str
    executions: int = 0
    refused: int = 0
    accepted: int = 0
    reached: int = 0
    total: int = 0
    seconds: float = 0.0
    findings: dict[str, int] = field(default_factory=dict)  # line -> how often

    def add(self, content: dict[str, Any]) -> None:
        """Add what a process has told."""
        for name in ("executions", "refused", "accepted"):
            setattr(self, name, getattr(self, name) + content[name])
        for one in content["findings"]:
            line = f"{one['kind']} at {one['place']}: {one['told']}"
            self.findings[line] = self.findings.get(line, 0) + one["times"]


def main() -> int:
    """Parse, fuzz each target, print; exit code 1 for findings, 2 where atheris is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--target", action="append", choices=tuple(TARGETS), default=None)
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--repeat", nargs=2, metavar=("TARGET", "FILE"), default=None)
    given = parser.parse_args()
    if given.repeat is not None:
        return _repeat(*given.repeat)
    missing = [one for one in ("atheris", "coverage") if importlib.util.find_spec(one) is None]
    if missing:
        print(
            f"{' and '.join(missing)} not installed: pip install -e '.[torture]' "
            "(atheris has wheels for CPython on Linux)",
            file=sys.stderr,
        )
        return 2
    names = given.target or list(TARGETS)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
        work = Path(folder)
        make_seeds().write(work / "seeds")
        outcomes = list(pool.map(lambda name: _fuzzed(name, given, names, work), names))
    print(table(outcomes))
    for outcome in outcomes:
        for line, times in outcome.findings.items():
            print(f"{outcome.target}: {line} ({times:,} times)", file=sys.stderr)
    return 1 if any(one.findings for one in outcomes) else 0


def _fuzzed(name: str, given: argparse.Namespace, names: list[str], work: Path) -> Outcome:
    """Fuzz one target in processes of its own, until it has had its share of runs and seconds."""
    whole = sum(TARGETS[one].share for one in names)
    outcome, place = Outcome(target=name), work / name
    runs = round(given.runs * TARGETS[name].share / whole)
    place.mkdir()
    started = time.monotonic()
    seconds = given.seconds * min(1.0, given.jobs / len(names))
    for start in range(_MOST_STARTS):
        left = seconds - (time.monotonic() - started)
        if outcome.executions >= runs or left <= 0:
            break
        sizes = ["--runs", str(runs - outcome.executions), "--seconds", f"{left:.0f}"]
        done = _child("fuzz", name, work, *sizes, "--seed", str(1 + given.seed + start))
        report = place / "outcome.json"
        if report.exists():
            outcome.add(json.loads(report.read_text()))
            report.unlink()
        if done.returncode:
            told = done.stderr[-2000:]
            print(told, file=sys.stderr)
            outcome.findings[f"the process ended with {done.returncode}"] = 1
    outcome.seconds = time.monotonic() - started
    if outcome.findings:
        shutil.copytree(place / "findings", given.findings / name, dirs_exist_ok=True)
    lines = json.loads(_child("lines", name, work).stdout.splitlines()[-1])
    outcome.reached, outcome.total = lines["reached"], lines["total"]
    return outcome


def _child(what: str, name: str, work: Path, *more: str) -> subprocess.CompletedProcess[str]:
    places = ["--seeds", f"{work / 'seeds'}", "--work", f"{work / name}"]
    command = [sys.executable, "-m", "tools.fuzzing.child", what, name, *places, *more]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _repeat(name: str, file: str) -> int:
    """Try one input, and show the error that it ends in."""
    with tempfile.TemporaryDirectory() as folder:
        one = TARGETS[name].make(make_seeds(), Path(folder))
        try:
            one(Path(file).read_bytes())
        except Exception:
            traceback.print_exc()
            return 1
    return 0


def table(outcomes: list[Outcome]) -> str:
    """A line for each target, and their sums."""
    lines = [
        "| target | executions | refused | accepted | lines reached | findings | seconds |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {one.target} | {one.executions:,} | {one.refused:,} | {one.accepted:,} | "
            f"{one.reached:,} of {one.total:,} | {len(one.findings)} | {one.seconds:,.0f} |"
            for one in outcomes
        ),
    ]
    sums = [sum(getattr(one, name) for one in outcomes) for name in ("executions", "refused")]
    accepted, found = (
        sum(one.accepted for one in outcomes),
        sum(len(one.findings) for one in outcomes),
    )
    return "\n".join([*lines, f"| all | {sums[0]:,} | {sums[1]:,} | {accepted:,} | | {found} | |"])


if __name__ == "__main__":
    sys.exit(main())
