"""Dumps and readers on a file system whose calls fail, one after another.

    python -m tools.torture_io [--faults 4000] [--seed 0]

Six commands run in this process: a dump, one that resumes, one that only seals, `gc`, a reader of
all values, and `verify`. Of the calls that each makes below the store one fails, with EIO, ENOSPC,
EDQUOT, ESTALE, EACCES or EINTR: before it is made, or behind it, as when a reply is lost on the
way; or all calls of its kind fail from then on. A third of them runs without hard links. In some
every call about a lease fails; in some none, but each does a part of what it was asked for.

    went on    the command ended well, and the store has the bytes that it would have had
    told       it ended with one StorageError, and nothing that was committed is lost; the same
               command again ends well, and the store has those bytes
    wrong      anything else; also any error at all where nothing but a lease was refused

The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import logitstore
from logitstore.errors import StorageError
from tools.torture_calls import CHANGES, Call, calling
from tools.torture_flips import unseal
from tools.torture_store import CONTAINERS, Outcomes, Scene, content, make_scene, shard_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COLUMNS = ("went on", "told", "wrong")
COMMANDS = ("dump", "resume", "seal", "gc", "read", "verify")
CODES = ("EIO", "ENOSPC", "EDQUOT", "ESTALE", "EACCES", "EINTR")
_READ_CODES = ("EIO", "ESTALE", "EACCES", "EINTR")
_SHARES = {"dump": 0.4, "resume": 0.15, "seal": 0.15, "gc": 0.1, "read": 0.1, "verify": 0.1}
_UNLINKED, _RARE = 3, 40  # one in so many
_HANGS = 120  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What goes wrong: the nth call fails so.

    number: of the call, from 1; 0 for none.
    code: of the error, by name.
    how: `before` the call, `behind` it, or all of its kind `from then on`; `leases`: all that are
        about a lease; `short` is no error.
    links: whether there are hard links.
    """

    number: int
    code: str
    how: str
    links: bool

    def __str__(self) -> str:
        links = "" if self.links else ", without hard links"
        return f"call {self.number}: {self.code} {self.how}{links}"


@dataclass(slots=True)
class Failing:
    """A hook that makes a fault happen, and notes what it was about."""

    fault: Fault
    seen: list[Call] = field(default_factory=list)
    failed: list[Call] = field(default_factory=list)

    def __call__(self, call: Call) -> Any:
        """Make the call, or not."""
        self.seen.append(call)
        if call.name == "link" and not self.fault.links:
            raise _error("EPERM", call)
        if self.fault.how == "short":
            return _short(call)
        again = self.failed and self.fault.how == "from then on"
        lease = self.fault.how == "leases" and _is_advisory(call)
        if (
            len(self.seen) != self.fault.number
            and not lease
            and not (again and self._is_alike(call))
        ):
            return call.make()
        self.failed.append(call)
        if self.fault.how == "behind":
            call.make()
        raise _error(self.fault.code, call)

    def _is_alike(self, call: Call) -> bool:
        changes = {"ENOSPC", "EDQUOT"} & {self.fault.code} and self.failed[0].name in CHANGES
        return (
            call.name in ("write", "create", "mkdir")
            if changes
            else (call.name == self.failed[0].name)
        )

    @property
    def advisory(self) -> bool:
        """Whether nothing but leases was refused."""
        return all(map(_is_advisory, self.failed))


def _is_advisory(call: Call) -> bool:
    return all("leases" in Path(path).parts for path in call.paths)


def _error(code: str, call: Call) -> OSError:
    number = getattr(errno, code)
    return OSError(number, os.strerror(number), call.paths[0])


def _short(call: Call) -> Any:
    """A part of what the call is asked for, as the system may do at any time."""
    if call.data is not None and len(call.data) > 1:
        return call.make(call.data[: len(call.data) // 2 + 1])
    if call.name == "pread":
        return call.make()[: 1 << 12]
    return call.make()


def main() -> int:
    """Parse, fail, print; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = fail(make_scene(Path(folder)), faults=given.faults, seed=given.seed)
    print(f"\n{outcomes.table('container, command')}")
    return 1 if outcomes.wrong else 0


def fail(
    scene: Scene, *, faults: int, seed: int, containers: Sequence[str] = CONTAINERS
) -> Outcomes:
    """Let calls of each command fail.

    scene: where the stores are made.
    faults: how many, in all.
    seed: of which call fails how.
    containers: of the stores.
    """
    outcomes = Outcomes(COLUMNS)
    for container in containers:
        attacked = Attacked.of(scene, container)
        for command in COMMANDS:
            generator = random.Random(f"{seed} {container} {command}")
            count = round(_SHARES[command] * faults / len(containers))
            for fault in _faults(attacked, command, count=count, generator=generator):
                outcome, told = attacked.outcome(command, fault)
                outcomes.add(f"{container}, {command}", outcome, told=f"{fault}, {told}")
    return outcomes


def _faults(
    attacked: Attacked, command: str, *, count: int, generator: random.Random
) -> Iterator[Fault]:
    """`count` faults, each call in its turn, as far as there are enough."""
    for number in range(count):
        links = command in ("read", "verify") or number % _UNLINKED > 0
        if number % _RARE == _RARE - 1:
            yield Fault(number=0, code="nothing", how="short", links=links)
            continue
        if number % _RARE == _RARE - 2:
            yield Fault(number=0, code=generator.choice(_READ_CODES), how="leases", links=links)
            continue
        calls = attacked.calls(command, links=links)
        at = generator.randrange(len(calls)) if count < len(calls) else number % len(calls)
        changes = calls[at] in CHANGES
        code = generator.choice(CODES if changes else _READ_CODES)
        hows = ("before", "behind", "from then on") if changes else ("before", "from then on")
        yield Fault(number=at + 1, code=code, how=generator.choice(hows), links=links)


@dataclass(slots=True)
class Attacked:
    """The stores of one container that commands start from, and what they must end with."""

    scene: Scene
    container: str
    folder: Path
    expected: dict[str, str]
    values: str
    _calls: dict[tuple[str, bool], list[str]] = field(default_factory=dict)

    @staticmethod
    def of(scene: Scene, container: str) -> Attacked:
        """Stores of `container` in each state that a command finds.

        scene: where they are made.
        container: their format.
        """
        folder = scene.folder / f"{container} stores"
        scene.dump(folder / "read", container=container)
        for state in ("verify", "resume", "seal", "gc"):
            shutil.copytree(folder / "read", folder / state)
            if state != "verify":
                unseal(folder / state, unit=state in ("resume", "gc"))
        return Attacked(
            scene=scene,
            container=container,
            folder=folder,
            expected=shard_bytes(folder / "read"),
            values=content(folder / "read"),
        )

    def calls(self, command: str, *, links: bool) -> list[str]:
        """The names of the calls of a command on which nothing fails.

        command: one of `COMMANDS`.
        links: whether there are hard links.
        """
        if (command, links) not in self._calls:
            failing = Failing(Fault(number=0, code="nothing", how="before", links=links))
            store = self._store(command)
            with calling(store, failing):
                self._run(command, store)
            self._calls[command, links] = [call.name for call in failing.seen]
        return self._calls[command, links]

    def outcome(self, command: str, fault: Fault) -> tuple[str, str]:
        """What came of a fault, and what was said.

        command: one of `COMMANDS`.
        fault: what goes wrong in it.
        """
        store, failing = self._store(command), Failing(fault)
        before = _kept(store)
        try:
            with _no_hang(), calling(store, failing):
                self._run(command, store)
        except StorageError as error:
            outcome, told = "told", str(error)
            if (failing.failed and failing.advisory) or "\n" in told:
                outcome = "wrong"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            outcome, told = "wrong", traceback.format_exc()
        else:
            outcome, told = "went on", ""
        told = f"{', '.join(map(str, failing.failed[:3]))}: {told}".replace(str(store), "")
        swept = not any(call.name in ("unlink", "rmdir", "scandir") for call in failing.failed)
        again = outcome != "went on"
        problem = self._problem(command, store, before=before, again=again, strict=again or swept)
        return ("wrong", f"{told}; then {problem}") if problem else (outcome, told)

    def _problem(
        self, command: str, store: Path, *, before: dict[str, bytes], again: bool, strict: bool
    ) -> str | None:
        """What is wrong with the store now; the command runs again if it has failed.

        Garbage that could not be removed is in nobody's way: only `strict` takes it for a fault.
        """
        lost = [name for name, data in before.items() if not _is(store / name, data)]
        if lost:
            return f"lost: {', '.join(lost)}"
        try:
            if again:
                self._run(command, store)
            if command == "gc":
                self._run("dump", store)
            if shard_bytes(store) != self.expected:
                return "other bytes"
            fault = next(iter(logitstore.verify(store, hashes=True, strict=strict)), None)
        except Exception:
            return traceback.format_exc()
        return None if fault is None else str(fault)

    def _run(self, command: str, store: Path) -> None:
        """Raises StorageError where the storage refuses, AssertionError for a wrong answer."""
        if command == "read":
            if content(store) != self.values:
                raise AssertionError("other values are read")
        elif command == "verify":
            for fault in logitstore.verify(store):
                raise StorageError(fault.problem, place=fault.place)
        elif command == "gc":
            logitstore.gc(store, yes=True, grace=0.0)
        else:
            self.scene.dump(store, container=self.container)

    def _store(self, command: str) -> Path:
        """A fresh copy of the store that a command starts from."""
        store = self.scene.folder / "attacked"
        shutil.rmtree(store, ignore_errors=True)
        if command != "dump":
            shutil.copytree(self.folder / command, store)
        return store


def _kept(store: Path) -> dict[str, bytes]:
    """What is committed: commits and the files that they name."""
    if not (store / "store.json").is_file():
        return {}
    opened = logitstore.open(store, allow_partial=True)
    names = [opened.layout.commit_name(commit.unit) for commit in opened.commits]
    names += [
        f"{opened.layout.shard_prefix(commit)}{one.path}"
        for commit in opened.commits
        for one in commit.objects
    ]
    return {name: (store / name).read_bytes() for name in names}


def _is(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


@contextmanager
def _no_hang() -> Iterator[None]:
    """Raise TimeoutError in the main thread where it takes two minutes."""

    def give_up(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    sys.exit(main())
