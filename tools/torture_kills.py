"""Dumps that are killed, between their calls to the file system and at any moment, and resumed.

    python -m tools.torture_kills [--points 500] [--unlinked 200] [--moments 200] [--workers 100]
                                  [--interpreters 12] [--seed 0]

Each dump is the command `logitstore dump` in a process of its own. SIGKILL comes before the nth
call that changes something below the store, or in the middle of the nth write, for every n or so
many of them; then again at a call of the dump that resumes it; a third goes on to the end. So do
dumps on a file system without hard links, dumps that are killed at random moments, dumps of three
processes of which one is killed and replaced again and again, and dumps from fresh interpreters.

    same        the sealed store is, byte for byte, the one of a dump that nobody disturbed, apart
                from the names of attempts; what had been committed was not made again; `verify` and
                `gc` find nothing; nothing is left behind
    too late    the process had ended before the kill
    wrong       anything else

Every kill is counted once. The exit code is 1 if anything is wrong, or every kill was too late.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import logitstore
from logitstore.cli import main as command_line
from tools.torture_calls import CHANGES, Call, calling
from tools.torture_store import (
    CONTAINERS,
    UNIT_TOKENS,
    Outcomes,
    Scene,
    make_scene,
    shard_bytes,
    small_blocks,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = ("same", "too late", "wrong")
_WRITES = ("write", "pwrite")
_KILLS_OF_A_STORE = 5  # at random moments, and of workers
_WORKERS = 3


def main() -> int:
    """Parse, kill, print; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=500, help="of each container, at most")
    parser.add_argument("--unlinked", type=int, default=200, help="points without hard links")
    parser.add_argument("--moments", type=int, default=200, help="kills at random moments")
    parser.add_argument("--workers", type=int, default=100, help="kills of one of three processes")
    parser.add_argument("--interpreters", type=int, default=12, help="kills of fresh interpreters")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        killing = Killing(make_scene(Path(folder)), seed=given.seed)
        with small_blocks():
            for container in CONTAINERS:
                killing.between_calls(container, most=given.points)
                killing.between_calls(container, most=given.unlinked // 2, links=False)
                killing.at_moments(container, kills=given.moments // 2)
                killing.of_workers(container, kills=given.workers // 2)
                killing.of_interpreters(container, kills=given.interpreters // 2)
        print(f"\n{killing.outcomes.table('dump, and when it is killed')}")
        return 1 if killing.outcomes.wrong or not killing.outcomes.of("same") else 0


@dataclass(slots=True)
class Killing:
    """Stores of one scene, each dumped by processes of which all but the last are killed.

    scene: the teacher and the corpus.
    seed: of the moments.
    """

    scene: Scene
    seed: int
    outcomes: Outcomes = field(default_factory=lambda: Outcomes(COLUMNS))
    _expected: dict[str, dict[str, str]] = field(default_factory=dict)

    def between_calls(self, container: str, *, most: int, links: bool = True) -> None:
        """Kill a dump before a call, and the dump that resumes it before another.

        container: of the store.
        most: points at which the first is killed.
        links: whether the file system has hard links.
        """
        kind = f"{container}, between calls" + ("" if links else ", without hard links")
        if most == 0:
            return
        generator = random.Random(f"{self.seed} {kind}")
        names = self._calls(container, links=links)
        points = [(number, False) for number in range(1, len(names) + 1)]
        points += [(at, True) for at, name in enumerate(names, start=1) if name in _WRITES]
        chosen = generator.sample(points, min(most, len(points)))
        for at, torn in sorted(chosen):
            second = generator.randint(1, len(names))
            store = self._store()
            kept: dict[Path, bytes] = {}
            killed = 0
            for number, half in ((at, torn), (second, False)):
                hook = _killing_hook(number, torn=half, links=links)
                killed += self._wait(self._fork(store, container, hook)) == -signal.SIGKILL
                kept |= _commits(store)
            self._wait(self._fork(store, container, _killing_hook(None, links=links)))
            told = f"calls {at} ({names[at - 1]}{', torn' if torn else ''}) and {second}"
            self._judge(kind, store, container, kept=kept, kills=(killed, 2 - killed), told=told)

    def at_moments(self, container: str, *, kills: int) -> None:
        """Kill dumps at random moments, each store several times.

        container: of the store.
        kills: how many.
        """
        kind = f"{container}, at random moments"
        generator = random.Random(f"{self.seed} {kind}")
        if kills == 0:
            return
        started = time.monotonic()
        self._calls(container, links=True)
        whole = time.monotonic() - started
        for start in range(0, kills, _KILLS_OF_A_STORE):
            store = self._store()
            kept: dict[Path, bytes] = {}
            wanted = min(_KILLS_OF_A_STORE, kills - start)
            killed = 0
            for _ in range(wanted):
                killed += self._kill_after(
                    self._fork(store, container), generator.uniform(0, whole)
                )
                kept |= _commits(store)
            self._wait(self._fork(store, container))
            counts = (killed, wanted - killed)
            self._judge(kind, store, container, kept=kept, kills=counts, told=f"store {start}")

    def of_workers(self, container: str, *, kills: int) -> None:
        """Kill one of several processes that make a store together, and start another for it.

        container: of the store.
        kills: how many.
        """
        kind = f"{container}, one of {_WORKERS} processes"
        generator = random.Random(f"{self.seed} {kind}")
        if kills and container not in self._expected:
            self._calls(container, links=True)
        for start in range(0, kills, _KILLS_OF_A_STORE):
            store = self._store()
            workers = [self._fork(store, container) for _ in range(_WORKERS)]
            killed, wanted = 0, min(_KILLS_OF_A_STORE, kills - start)
            for _ in range(wanted):
                one = workers.pop(generator.randrange(len(workers)))
                killed += self._kill_after(one, generator.uniform(0, 1))
                workers.append(self._fork(store, container))
            codes = [self._wait(one) for one in workers]
            told = f"store {start}, exit codes {codes}"
            counts = (killed, wanted - killed)
            self._judge(kind, store, container, kept={}, kills=counts, told=told, codes=codes)

    def of_interpreters(self, container: str, *, kills: int) -> None:
        """Kill commands that start from nothing, each at a moment of its own.

        container: of the store.
        kills: how many.
        """
        kind = f"{container}, a fresh interpreter"
        if kills == 0:
            return
        store = self._store()
        command = [sys.executable, "-m", "logitstore", *self._options(store, container)]
        whole = self.scene.folder / "by interpreters"
        started = time.monotonic()
        _run([str(whole) if one == str(store) else one for one in command])
        seconds = time.monotonic() - started
        generator = random.Random(f"{self.seed} {kind}")
        kept: dict[Path, bytes] = {}
        killed = 0
        for _ in range(kills):
            process = _start(command)
            time.sleep(generator.uniform(0.5, 1) * seconds)
            killed += process.poll() is None
            process.kill()
            process.wait()
            kept |= _commits(store)
        _run(command)
        self._expected[kind] = shard_bytes(whole)
        shutil.rmtree(whole)
        counts = (killed, kills - killed)
        self._judge(kind, store, kind, kept=kept, kills=counts, told=f"seed {self.seed}")

    def _calls(self, container: str, *, links: bool) -> list[str]:
        """The calls of a whole dump, by name; its store is what others are compared with."""
        store, told = self._store(), self.scene.folder / "calls"
        names: list[str] = []

        def hook(call: Call) -> Any:
            if call.name in CHANGES:
                names.append(call.name)
            return _made(call, links=links)

        def tell() -> None:
            told.write_text("\n".join(names))

        if self._wait(self._fork(store, container, hook, at_end=tell)):
            raise SystemExit(f"a dump that nobody disturbs fails: {container}")
        self._expected[container] = shard_bytes(store)
        shutil.rmtree(store)
        return told.read_text().splitlines()

    def _store(self) -> Path:
        return self.scene.folder / "killed"

    def _options(self, store: Path, container: str) -> list[str]:
        places = {"--teacher": self.scene.teacher, "--data": self.scene.data, "--out": store}
        named = [text for name, place in places.items() for text in (name, str(place))]
        more = ["--format", container, "--unit-tokens", str(UNIT_TOKENS), "--device", "cpu"]
        return ["dump", *named, *more]

    def _fork(
        self,
        store: Path,
        container: str,
        hook: Callable[[Call], Any] | None = None,
        *,
        at_end: Callable[[], None] | None = None,
    ) -> int:
        """The id of a process that runs the command."""
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            _silence()
            sys.argv = ["logitstore", *self._options(store, container)]
            with calling(store, hook or Call.made):
                command_line()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0
        finally:
            if at_end is not None:
                at_end()
            os._exit(code)

    @staticmethod
    def _wait(child: int) -> int:
        """The exit code of a process; the signal that killed it, negative."""
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _kill_after(self, child: int, seconds: float) -> bool:
        """Whether the kill hit the process while it ran."""
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        return self._wait(child) == -signal.SIGKILL

    def _judge(
        self,
        kind: str,
        store: Path,
        container: str,
        *,
        kept: dict[Path, bytes],
        kills: tuple[int, int],
        told: str,
        codes: Sequence[int] = (),
    ) -> None:
        """Compare the store, count its kills, and remove it."""
        problem = _problem(store, expected=self._expected[container], kept=kept)
        if any(codes):
            problem = problem or "a worker failed"
        killed, late = kills
        for _ in range(killed):
            self.outcomes.add(
                kind, "wrong" if problem else "same", told=f"{told}: {problem}, seed {self.seed}"
            )
        for _ in range(late):
            self.outcomes.add(
                kind,
                "wrong" if problem else "too late",
                told=f"{told}: {problem}, seed {self.seed}",
            )
        shutil.rmtree(store, ignore_errors=True)


def _killing_hook(number: int | None, *, torn: bool = False, links: bool) -> Callable[[Call], Any]:
    """Kills this process before the call of that number that changes something, or half through."""
    seen = 0

    def hook(call: Call) -> Any:
        nonlocal seen
        seen += call.name in CHANGES
        if seen == number and call.name in CHANGES:
            if torn and call.data is not None:
                call.make(call.data[: len(call.data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return _made(call, links=links)

    return hook


def _made(call: Call, *, links: bool) -> Any:
    if call.name == "link" and not links:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), call.paths[1])
    return call.make()


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _commits(store: Path) -> dict[Path, bytes]:
    """What is committed now."""
    folder = store / "commits"
    names = [path for path in folder.iterdir() if path.suffix == ".json"] if folder.is_dir() else []
    return {path: path.read_bytes() for path in names if not path.name.startswith(".")}


def _problem(store: Path, *, expected: dict[str, str], kept: dict[Path, bytes]) -> str | None:
    """What is wrong with a store that was killed and resumed."""
    try:
        if shard_bytes(store) != expected:
            return "other bytes"
        fault = next(iter(logitstore.verify(store, strict=True)), None)
    except logitstore.LogitStoreError as error:
        return str(error)
    if fault is not None:
        return str(fault)
    lost = [path.name for path, data in kept.items() if path.read_bytes() != data]
    if lost:
        return f"made again: {', '.join(lost)}"
    named = {*logitstore.open(store).layout.storage.list("")}
    left = {
        path.relative_to(store).as_posix()
        for path in store.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }
    return f"left behind: {', '.join(sorted(left - named))}" if left - named else None


if __name__ == "__main__":
    sys.exit(main())
