"""What work leaves alive it leaves once, however much work it was: objects, threads, open files."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import logitstore
import trainer
from logitstore.store import open_shards
from logitstore.store.containers import CONTAINERS
from logitstore.store.verify import verify
from tests.synthetic import store_spec, stored_documents, write_store
from tools.memory_jobs import many_units
from tools.tiny_teacher import texts
from tools.torture_memory import Curve

UNITS = 6


def _alive() -> dict[str, int]:
    """How many objects of the project's classes there are, by class; threads and open files."""
    gc.collect()
    kinds = (type(one) for one in gc.get_objects())
    own = Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in kinds
        if str(kind.__module__).split(".")[0] in ("logitstore", "trainer")
    )
    files = os.listdir("/proc/self/fd") if Path("/proc/self/fd").is_dir() else []  # noqa: PTH208
    return {**own, "threads": threading.active_count(), "files": len(files)}


def _left_by(work: Callable[[int], object], sizes: tuple[int, int, int]) -> list[dict[str, int]]:
    """What is alive after work of each size; the first of them loads what is loaded once."""
    found = []
    for size in sizes:
        work(size)
        found.append(_alive())
    return found[1:]


@pytest.mark.parametrize("container", CONTAINERS)
def test_reading_keeps_as_many_shards_open_of_any_number_of_units(
    container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_shards, "_SHARDS_BYTES", 0)
    monkeypatch.setattr(open_shards, "_LEAST_SHARDS", 3)
    units = [stored_documents([9, 5], seed=seed) for seed in range(2)]
    write_store(tmp_path / "source", units, spec=store_spec(container=container))
    many_units(tmp_path / "source", tmp_path / "many", units=3 * UNITS)
    store = logitstore.open(tmp_path / "many")

    def work(units: int) -> None:
        for number in range(units):
            store.read_block(number)

    first, second = _left_by(work, (UNITS, UNITS, 3 * UNITS))
    assert first == second


@pytest.mark.parametrize("container", CONTAINERS)
def test_verifying_leaves_nothing_alive(container: str, tmp_path: Path) -> None:
    units = [stored_documents([9, 5], seed=seed) for seed in range(2)]
    write_store(tmp_path / "store", units, spec=store_spec(container=container))

    def work(rounds: int) -> None:
        for _ in range(rounds):
            assert not list(verify(tmp_path / "store"))

    first, second = _left_by(work, (1, 1, 4))
    assert first == second


def test_a_dump_leaves_as_much_alive_of_any_number_of_units(
    teacher_folder: Path, tmp_path: Path
) -> None:
    sizes = iter(range(3))

    def work(units: int) -> None:
        out = tmp_path / f"store{next(sizes)}"
        data = texts(6 * units, longest=12)
        logitstore.dump(
            teacher=str(teacher_folder), data=data, out=out, device="cpu", unit_tokens=60
        )
        assert len(list((out / "commits").iterdir())) > units // 2

    first, second = _left_by(work, (1, UNITS, 2 * UNITS))
    assert first == second


def test_a_run_leaves_as_much_alive_of_any_number_of_steps(
    teacher_folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    logitstore.dump(teacher=str(teacher_folder), data=texts(30), out=store, device="cpu")
    student = shutil.copy(teacher_folder / "config.json", tmp_path / "student.json")

    def work(steps: int) -> None:
        sizes: dict[str, Any] = {"batch_tokens": 128, "micro_tokens": 64, "save_steps": 3}
        out = tmp_path / f"run{steps}"
        trainer.fit(logits=str(store), student=student, out=out, device="cpu", steps=steps, **sizes)

    first, second = _left_by(work, (2, 4, 12))
    assert first == second


def test_a_curve_is_flat_or_growing_or_too_noisy_to_tell() -> None:
    def verdict(megabytes_a_minute: float, noise: float, minutes: int = 30) -> str:
        curve = Curve(job="dump", first=0.1)
        for second in range(60 * minutes):
            curve.minutes.append(second / 60)
            swing = noise * (1 if second // 150 % 2 else -1)
            curve.megabytes.append(400 + megabytes_a_minute * second / 60 + swing)
        return curve.slope().verdict

    assert verdict(0.0, 1) == "flat"
    assert verdict(0.1, 1) == "flat"
    assert verdict(1.0, 1) == "growing"
    assert verdict(0.4, 100) == "unclear"
    assert verdict(5.0, 1, minutes=2) == "short"
