"""Processes that do the same thing to one store at the same moment, again and again.

    python -m tools.torture_races [--processes 16] [--rounds 1000] [--seed 0]

In each round all processes wait for one another, then

    put_if_absent     each creates the same object, with and without hard links: one is told that it
                      won, all see its bytes, whole
    commit            each has an attempt at the same unit and commits it: one wins, its object
                      stays, those of the others are gone
    begin             each begins a store, in every second round with settings of its own (a round
                      in 20): the store has the settings of one that succeeds, and its plan
    seal              each seals a store whose every unit is committed (a round in 20): all get the
                      same manifest, and `verify` finds nothing
    gc beside a dump  two dumps make a store, the others run `gc` without any grace (a round in 50)
    dump              all make one store (a round in 100): its bytes are those of a dump alone, no
                      unit is there twice, nothing is left behind

A round in which all that holds is `right`. The exit code is 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import errno
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

import torch

import logitstore
from logitstore.errors import SpecError, StoreError
from logitstore.format.manifest import Commit
from logitstore.store.commit import StoreWriter
from logitstore.store.layout import StoreLayout
from logitstore.store.local import LocalStorage
from tools.torture_flips import unseal
from tools.torture_store import CONTAINERS, Outcomes, Scene, make_scene, shard_bytes

COLUMNS = ("right", "wrong")
Work: TypeAlias = Callable[[int, int], Any]  # process and round -> what JSON can say
_BEGINS, _GC, _DUMPS = 20, 50, 100  # rounds for one of these
_DUMPING = 2  # processes that dump where the others run gc


def main() -> int:
    """Parse, race, print; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scene = make_scene(Path(folder), seed=given.seed)
        outcomes = race_all(scene, processes=given.processes, rounds=given.rounds)
    print(f"\n{given.processes} processes\n\n{outcomes.table('race')}")
    return 1 if outcomes.wrong else 0


def race_all(scene: Scene, *, processes: int, rounds: int) -> Outcomes:
    """Run each race.

    scene: where the stores are made.
    processes: that race.
    rounds: of the quickest races; slower ones have fewer.
    """
    races = Races(scene=scene, processes=processes, outcomes=Outcomes(COLUMNS))
    for links in (True, False):
        races.put_if_absent(rounds, links=links)
        races.commit(rounds, links=links)
    races.begin(-(-rounds // _BEGINS))
    for container in CONTAINERS:
        races.seal(-(-rounds // _BEGINS), container)
        races.gc(-(-rounds // _GC), container)
        races.dump(-(-rounds // _DUMPS), container)
    return races.outcomes


@dataclass(frozen=True, kw_only=True, slots=True)
class Races:
    """Races of so many processes below the folder of a scene."""

    scene: Scene
    processes: int
    outcomes: Outcomes

    def put_if_absent(self, rounds: int, *, links: bool) -> None:
        """One object a round."""
        storage = LocalStorage(self._fresh("objects"))

        def work(process: int, number: int) -> Any:
            data = bytes([process]) * 1000
            won = storage.put_if_absent(f"some/{number}", data)
            return won, list(set(storage.read(f"some/{number}")))

        kind = f"put_if_absent{_without(links)}"
        for number, told in enumerate(self._race(rounds, work, links=links)):
            winners = [process for process, (won, _) in enumerate(told) if won]
            seen = {tuple(found) for _, found in told}
            right = len(winners) == 1 and seen == {(winners[0],)}
            self._count(kind, right, f"round {number}: winners {winners}, seen {seen}")

    def commit(self, rounds: int, *, links: bool) -> None:
        """One unit a round."""
        layout = StoreLayout.at(self._fresh("commits"))
        writer = StoreWriter(layout)

        def work(process: int, number: int) -> Any:
            unit, attempt = f"{number:06d}", f"{process:08x}"
            layout.storage.put(f"data/{unit}-{attempt}/x", attempt.encode())
            return writer.commit(_commit(unit, attempt)), attempt

        kind = f"commit{_without(links)}"
        for number, told in enumerate(self._race(rounds, work, links=links)):
            winners = [attempt for won, attempt in told if won]
            stored = layout.read_commit_named(f"commits/{number:06d}.json")
            left = sorted(layout.storage.list(f"data/{number:06d}-"))
            right = (
                len(winners) == 1
                and stored == _commit(f"{number:06d}", winners[0])
                and left == [f"data/{number:06d}-{winners[0]}/x"]
            )
            self._count(kind, right, f"round {number}: winners {winners}, left {left}")

    def begin(self, rounds: int) -> None:
        """One store a round; in every second one the settings differ."""
        whole = self._whole("zarr")
        layout = StoreLayout.at(whole)
        spec, plan, files = layout.read_spec(), layout.read_plan(), _tokenizer(whole)
        folder = self._fresh("begun")

        def own(process: int, number: int) -> Any:
            return replace(spec, batch_tokens=1000 + process) if number % 2 else spec

        def work(process: int, number: int) -> Any:
            try:
                StoreWriter(StoreLayout.at(folder / f"{number}")).begin(
                    own(process, number), plan, files
                )
            except SpecError:
                return False
            return True

        # All begin at once, and none works long: those who lose need not wait for the winners.
        with patch("logitstore.store.begin._PATIENCE_SECONDS", 1.0):
            told = self._race(rounds, work)
        for number, won in enumerate(told):
            begun = StoreLayout.at(folder / f"{number}")
            stored = begun.read_spec().identity()
            fits = [own(process, number).identity() == stored for process in range(self.processes)]
            sound = begun.read_plan() == plan and _tokenizer(folder / f"{number}") == files
            right = any(won) and sound and any(fits)
            right = right and (number % 2 == 1 or all(won))
            # Who was told that the store is theirs may have been followed by another: it notices.
            right = right and any(one and fit for one, fit in zip(won, fits, strict=True))
            self._count("begin", right, f"round {number}: {won}, {fits}")

    def seal(self, rounds: int, container: str) -> None:
        """One store a round, all of whose units are committed."""
        whole, folder = self._whole(container), self._fresh("sealed")
        for number in range(rounds):
            shutil.copytree(whole, folder / f"{number}")
            unseal(folder / f"{number}", unit=False)
        plan = StoreLayout.at(whole).read_plan()

        def work(_: int, number: int) -> Any:
            layout = StoreLayout.at(folder / f"{number}")
            return StoreWriter(layout).seal(plan).fingerprint

        for number, told in enumerate(self._race(rounds, work)):
            problem = self._problem(folder / f"{number}", whole)
            right = len(set(map(str, told))) == 1 and problem is None
            self._count(f"seal, {container}", right, f"round {number}: {told}, {problem}")

    def gc(self, rounds: int, container: str) -> None:
        """Dumps, and processes that would take their attempts for garbage."""
        whole, folder = self._whole(container), self._fresh("gc")

        def work(process: int, number: int) -> Any:
            store = folder / f"{number}"
            if process < _DUMPING:
                self.scene.dump(store, container=container)
                return None
            while not (store / "README.md").is_file():
                with suppress(StoreError):  # a dump is at work, or there is nothing yet
                    logitstore.gc(store, yes=True, grace=0.0)
                time.sleep(0.01)
            return None

        self._judge(f"gc beside a dump, {container}", rounds, work, whole, folder)

    def dump(self, rounds: int, container: str) -> None:
        """One store a round, made by all."""
        whole, folder = self._whole(container), self._fresh("dumped")

        def work(_: int, number: int) -> Any:
            self.scene.dump(folder / f"{number}", container=container)

        self._judge(f"dump, {container}", rounds, work, whole, folder)

    def _judge(self, kind: str, rounds: int, work: Work, whole: Path, folder: Path) -> None:
        for number, told in enumerate(self._race(rounds, work)):
            problem = self._problem(folder / f"{number}", whole)
            right = problem is None and not any(told)
            self._count(kind, right, f"round {number}: {problem}, {told}")

    def _problem(self, store: Path, whole: Path) -> str | None:
        """What is wrong with a store that should be the one that a dump alone has made."""
        try:
            if shard_bytes(store) != shard_bytes(whole):
                return "other bytes"
            fault = next(iter(logitstore.verify(store, hashes=True, strict=True)), None)
        except logitstore.LogitStoreError as error:
            return str(error)
        left = [path.name for path in store.rglob(".*")]
        return f"{fault}" if fault is not None else f"left: {left}" if left else None

    def _count(self, kind: str, right: bool, told: str) -> None:
        self.outcomes.add(kind, "right" if right else "wrong", told=told)

    def _fresh(self, name: str) -> Path:
        folder = self.scene.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def _whole(self, container: str) -> Path:
        """A store that one process has made alone."""
        whole = self.scene.folder / f"{container} alone"
        if not whole.exists():
            self.scene.dump(whole, container=container)
        return whole

    def _race(self, rounds: int, work: Work, *, links: bool = True) -> list[list[Any]]:
        """What each process says of each round: [round][process]."""
        barrier = multiprocessing.get_context("fork").Barrier(self.processes)
        told = self._fresh("told")
        told.mkdir()
        children = []
        for process in range(self.processes):
            child = os.fork()
            if not child:
                _run(process, rounds, work, barrier, told / f"{process}", links=links)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        lines = [(told / f"{process}").read_text() for process in range(self.processes)]
        return [list(one) for one in zip(*map(json.loads, lines), strict=True)]


def _run(process: int, rounds: int, work: Work, barrier: Any, told: Path, *, links: bool) -> None:
    """Be one of the processes: race, say what came of it, end."""
    said = []
    with nullcontext() if links else patch.object(os, "link", _refuse):
        for number in range(rounds):
            barrier.wait()
            try:
                said.append(work(process, number))
            except BaseException:
                said.append(traceback.format_exc())
    told.write_text(json.dumps(said))
    os._exit(0)


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def _without(links: bool) -> str:
    return "" if links else ", without hard links"


def _commit(unit: str, attempt: str) -> Commit:
    return Commit(
        unit=unit, attempt=attempt, objects=(), blocks=(), skipped=0, column_bytes={}, sums={}
    )


def _tokenizer(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store / "tokenizer").iterdir()}


if __name__ == "__main__":
    sys.exit(main())
