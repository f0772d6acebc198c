"""Sealing, opening and inspecting a store of many work units, beside one of few.

    python -m tools.bench_open [--units 100000] [--container zarr]

One tiny unit is written as every unit is; the others are the same shard under their own names, as
hard links, and a commit each. Times are those of a warm file system.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import logitstore
from logitstore.format.json import with_check
from logitstore.format.plan import Plan
from logitstore.store.commit import StoreWriter
from logitstore.store.layout import MANIFEST, PLAN, README, StoreLayout
from tools.tiny_teacher import make_teacher, texts

if TYPE_CHECKING:
    from collections.abc import Callable

_ATTEMPT = "00000000"
_MOST_LINKS = 50_000  # of one file; ext4 allows 65,000


def main() -> int:
    """Parse, write both stores, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--container", choices=("zarr", "parquet"), default="zarr")
    given = parser.parse_args()
    print(
        "| units | manifest, MB | seal without hashing, s | open, s | open and read a block, s "
        "| inspect, s |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for units in (1000, given.units):
            out = Path(folder) / str(units)
            plan = _write(out, units=units, container=given.container, teacher=Path(folder))
            _measure(out, plan)
    return 0


def _write(out: Path, *, units: int, container: str, teacher: Path) -> Plan:
    """A store of so many units, all alike, that is not sealed."""
    model = make_teacher(teacher / "teacher")
    logitstore.dump(teacher=str(model), data=texts(2), out=out, device="cpu", format=container)
    layout = StoreLayout.at(out)
    [unit] = layout.read_plan().units
    commit = layout.read_commit(unit)
    if commit is None:
        raise RuntimeError("the unit was not committed")
    shard = out / layout.shard_prefix(commit)
    plan = Plan(units=tuple(replace(unit, name=f"{one:06d}") for one in range(units)))
    for number, one in enumerate(plan.units):
        copy = replace(commit, unit=one.name, attempt=_ATTEMPT)
        own = out / layout.shard_prefix(copy)
        fresh = number % _MOST_LINKS == 0
        shutil.copytree(shard, own, copy_function=shutil.copy if fresh else os.link)
        shard = own if fresh else shard
        (out / layout.commit_name(one.name)).write_bytes(with_check(copy.to_json()))
    (out / PLAN).write_bytes(with_check(plan.to_json()))
    for name in (MANIFEST, README):
        (out / name).unlink()
    return plan


def _measure(out: Path, plan: Plan) -> None:
    writer = StoreWriter(StoreLayout.at(out))
    seconds = [
        _seconds(lambda: writer.seal(plan, check=False)),
        _seconds(lambda: logitstore.open(out)),
        _seconds(lambda: logitstore.open(out).read_block(len(plan.units) // 2)),
        _seconds(lambda: logitstore.inspect(out)),
    ]
    size = (out / MANIFEST).stat().st_size / 1e6
    shown = " | ".join(f"{one:.2f}" for one in seconds)
    print(f"| {len(plan.units):,} | {size:.1f} | {shown} |", flush=True)


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
