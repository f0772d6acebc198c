"""Threads and processes that work for us and die: who and why is told in one sentence, at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

import logitstore
from logitstore import CorruptionError, WorkerError
from logitstore.store.liveness import is_alive
from logitstore.store.writer import UnitWriter
from tests.memory_store import MemoryStore
from tests.tiny_models import tiny
from trainer.data.ahead import made_ahead
from trainer.data.batches import Batches
from trainer.training.batching import training_batches

SECONDS = 60  # in which a death must be told: ten on a machine that has nothing else to do
TEXTS = ["the teacher reads the text once and the student reads it"] * 12


def settings(teacher_folder: Path, out: Path) -> dict[str, Any]:
    return {
        "teacher": str(teacher_folder),
        "data": TEXTS,
        "out": out,
        "unit_tokens": 30,
        "device": "cpu",
    }


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(0)])
def test_the_thread_that_writes_is_named_with_its_unit_and_the_dump_goes_on_later(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    given, write = settings(teacher_folder, tmp_path / "store"), UnitWriter.write

    def dying(self: UnitWriter, unit: Any, *rest: Any, **more: Any) -> bool:
        if unit.name == "000001":
            raise error
        return write(self, unit, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(UnitWriter, "write", dying)
        with pytest.raises(WorkerError, match=f"unit 000001: .* died: {type(error).__name__}"):
            logitstore.dump(**given)
    assert (tmp_path / "store" / "commits" / "000000.json").is_file()
    logitstore.dump(**given)
    whole = logitstore.dump(**settings(teacher_folder, tmp_path / "whole"))
    assert logitstore.open(tmp_path / "store").fingerprint == whole.fingerprint


def test_the_thread_that_writes_is_missed_before_the_next_unit_is_done(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: Any, **__: Any) -> bool:
        raise MemoryError

    monkeypatch.setattr(UnitWriter, "write", dying)
    batches: list[str] = []

    def told(one: Any) -> None:
        batches.append(one.detail)
        time.sleep(0.05)  # a teacher that takes its time

    with pytest.raises(WorkerError, match="unit 000000"):
        logitstore.dump(
            **settings(teacher_folder, tmp_path / "store") | {"unit_tokens": 60},
            batch_tokens=16,
            on_progress=told,
        )
    assert len([one for one in batches if "unit 2" in one]) < 5


_HOLDING = """
import sys, time, logitstore
def told(one):
    if "unit 1 of" in one.detail:
        print("at work", flush=True)
        time.sleep(600)
logitstore.dump(teacher=sys.argv[1], data=[sys.argv[3]] * 12, out=sys.argv[2], unit_tokens=30,
                device="cpu", on_progress=told)
"""


def test_the_unit_of_a_killed_process_is_taken_over_at_once_and_that_is_said(
    teacher_folder: Path, tmp_path: Path
) -> None:
    given = settings(teacher_folder, tmp_path / "store")
    command = [sys.executable, "-c", _HOLDING, str(teacher_folder), str(given["out"]), TEXTS[0]]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"at work\n"
        notes: list[tuple[float, str]] = []
        killed: list[float] = []

        def told(one: Any) -> None:
            if f"waiting for process {other.pid} on " in one.detail and not killed:
                other.kill()  # nobody waits for it, so it stays a zombie meanwhile
                killed.append(time.monotonic())

        def note(line: str) -> None:
            if "taken over" in line:
                notes.append((time.monotonic(), line))

        logitstore.dump(**given, on_progress=told, on_note=note)
    [(when, line)] = notes
    assert line.startswith(f"unit 000000: process {other.pid} on ")
    assert when - killed[0] < SECONDS
    assert not list(logitstore.verify(given["out"]))


def test_a_zombie_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert is_alive(child.pid)
        child.kill()
        while child.returncode is None and is_alive(child.pid):
            time.sleep(0.005)
        assert not is_alive(child.pid)
    assert not is_alive(child.pid)


# --- batches


class _Dying(MemoryStore):
    """A store that does something else than to read a block."""

    def __init__(self, die: Callable[[], None]) -> None:
        super().__init__()
        self._die = die

    def read_block(self, number: int) -> Any:
        self._die()
        return super().read_block(number)


def _batches(die: Callable[[], None]) -> Batches:
    return training_batches(_Dying(die), model=tiny(), batch_tokens=64, epochs=1)


def _memory() -> None:
    raise MemoryError


def _exit() -> None:
    raise SystemExit(0)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _leave() -> None:
    os._exit(3)


def _damaged() -> None:
    raise CorruptionError("a bit flipped", place="store/data/000001-01234567, block 3")


@pytest.mark.parametrize(("die", "name"), [(_memory, "MemoryError"), (_exit, "SystemExit")])
def test_the_thread_that_reads_batches_is_named(die: Callable[[], None], name: str) -> None:
    with pytest.raises(WorkerError, match=f"the thread that reads batches has died: {name}"):
        next(iter(_batches(die)))


def test_a_thread_that_could_not_even_say_why_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.ahead._make", lambda *_: None)
    began = time.monotonic()
    items: Iterator[int] = iter([1])
    with pytest.raises(WorkerError, match="has died"):
        next(made_ahead(items, depth=1))
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize(
    ("die", "error", "words"),
    [
        (_damaged, CorruptionError, "000001-01234567, block 3: a bit flipped"),
        (_memory, WorkerError, "MemoryError"),
        (_exit, WorkerError, "SystemExit"),
        (_kill, RuntimeError, r"DataLoader worker \(pid"),
        (_leave, RuntimeError, r"DataLoader worker \(pid"),
    ],
)
def test_a_worker_process_of_a_loader_is_named(
    die: Callable[[], None], error: type[Exception], words: str
) -> None:
    began = time.monotonic()
    with pytest.raises(error, match=words) as raised:
        next(iter(DataLoader(_batches(die), batch_size=None, num_workers=1)))
    assert "worker" in str(raised.value)
    assert time.monotonic() - began < SECONDS
