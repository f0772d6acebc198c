"""Sealing, opening and inspecting a store of many work units, beside one of few.

    python -m tools.bench_open [--units 100000] [--container zarr]

One tiny unit is written as every unit is; the others are the same shard under their own names, as
hard links, and a commit each. Times are those of a warm file system.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import logitstore
from logitstore.store.commit import StoreWriter
from logitstore.store.layout import MANIFEST, StoreLayout
from tools.linked_units import link_units
from tools.tiny_teacher import make_teacher, texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from logitstore.format.plan import Plan


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
    return link_units(out, units)


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
