"""Dumps on a disk that loses power, as `tools.power_loss` models it.

    python -m tools.torture_power [--losses 1500] [--seed 0]

A dump is recorded; half of them were killed before and go on, a third has no hard links. After a
step of it the power is lost: what no `fsync` covered is gone, or there, or partly there. The same
command then goes on with what is left.

    same     what the storage had promised is there: each object that `put` or `put_if_absent` had
             returned from, commits among them; the dump ends with the bytes of an undisturbed one
    wrong    anything else

The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch

import logitstore
from logitstore.store import durable
from logitstore.store.local import LocalStorage
from tools.power_loss import LOSSES, Disk
from tools.torture_calls import CHANGES, Call
from tools.torture_store import CONTAINERS, Outcomes, Scene, make_scene, shard_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = ("same", "wrong")
_OF_A_DUMP = 25  # losses for each that is recorded
_LAST_KILL = 100  # calls that change something; a dump makes 105 (Parquet) or 291 (Zarr)


@dataclass(frozen=True, slots=True)
class _Promise:
    """An object that may be so from now on; `kept`: that is so, and in no other way."""

    name: str
    data: bytes | None
    kept: bool


class _Killed(BaseException):
    """Stands for the end of a process: no call that comes later does anything."""


def main() -> int:
    """Parse, lose, print; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losses", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = lose(make_scene(Path(folder)), losses=given.losses, seed=given.seed)
    print(f"\n{outcomes.table('container, what is left of what nothing covers')}")
    return 1 if outcomes.wrong else 0


def lose(scene: Scene, *, losses: int, seed: int) -> Outcomes:
    """Lose power behind steps of dumps.

    scene: where they are made.
    losses: how often, in all.
    seed: of when, and of what is left.
    """
    outcomes, generator = Outcomes(COLUMNS), random.Random(seed)
    for number, container in enumerate(CONTAINERS):
        scene.dump(scene.folder / f"{container}, whole", container=container)
        expected = shard_bytes(scene.folder / f"{container}, whole")
        wanted = len(range(number, losses, len(CONTAINERS)))
        for dump, start in enumerate(range(0, wanted, _OF_A_DUMP)):
            killed_at = generator.randint(1, _LAST_KILL) if dump % 2 else None
            disk = recorded(scene, container, killed_at=killed_at, links=dump % 3 < 2)
            for at in range(min(_OF_A_DUMP, wanted - start)):
                loss = LOSSES[at % len(LOSSES)]
                count = generator.randint(1, len(disk.steps))
                when = f"dump {dump}, killed at {killed_at}, {count} of {len(disk.steps)} steps"
                problem = _problem(scene, container, disk, count, loss, generator, expected)
                kind = f"{container}, {loss}"
                outcomes.add(
                    kind, "wrong" if problem else "same", told=f"seed {seed}, {when}: {problem}"
                )
    return outcomes


def recorded(scene: Scene, container: str, *, killed_at: int | None, links: bool) -> Disk:
    """All steps of a dump, or of one that was killed and one that goes on.

    scene: where it is made, in `disk/store`.
    container: its format.
    killed_at: the call that changes something before which it is killed.
    links: whether there are hard links.
    """
    root = scene.folder / "disk"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    disk = Disk(root)

    def links_alone(call: Call) -> None:
        if call.name == "link" and not links:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), call.paths[1])

    with promises(disk), patch.object(durable, "_DURABLE", {}):
        if killed_at is not None:
            before = _killing(killed_at, links_alone)
            with suppress(_Killed), disk.recording(before):
                scene.dump(root / "store", container=container)
            durable._DURABLE.clear()  # another process goes on
        with disk.recording(links_alone):
            scene.dump(root / "store", container=container)
    return disk


def _killing(number: int, then: Callable[[Call], None]) -> Callable[[Call], None]:
    seen = 0

    def before(call: Call) -> None:
        nonlocal seen
        seen += call.name in CHANGES
        if seen >= number:
            raise _Killed
        then(call)

    return before


@contextmanager
def promises(disk: Disk) -> Iterator[None]:
    """Note among the steps what the storage has promised meanwhile.

    disk: that records.
    """
    put, put_if_absent, delete = LocalStorage.put, LocalStorage.put_if_absent, LocalStorage.delete

    def putting(storage: LocalStorage, name: str, data: bytes) -> None:
        disk.note(_Promise(name, data, kept=False))
        put(storage, name, data)
        disk.note(_Promise(name, data, kept=True))

    def putting_if_absent(storage: LocalStorage, name: str, data: bytes) -> bool:
        disk.note(_Promise(name, data, kept=False))
        won = put_if_absent(storage, name, data)
        if won:
            disk.note(_Promise(name, data, kept=True))
        return won

    def deleting(storage: LocalStorage, name: str) -> None:
        disk.note(_Promise(name, None, kept=False))
        delete(storage, name)

    with (
        patch.object(LocalStorage, "put", putting),
        patch.object(LocalStorage, "put_if_absent", putting_if_absent),
        patch.object(LocalStorage, "delete", deleting),
    ):
        yield


def broken(disk: Disk, count: int, store: Path) -> list[str]:
    """The objects that are not as the storage had promised behind so many steps.

    disk: that has recorded.
    count: of its steps.
    store: what is left.
    """
    allowed: dict[str, set[bytes | None]] = {}
    for one in disk.steps[:count]:
        if isinstance(one, _Promise):
            may_be = allowed.setdefault(one.name, {None})
            allowed[one.name] = {one.data} if one.kept else may_be | {one.data}
    found = {
        name: (store / name).read_bytes() if (store / name).is_file() else None for name in allowed
    }
    return [name for name, values in allowed.items() if found[name] not in values]


def _problem(
    scene: Scene,
    container: str,
    disk: Disk,
    count: int,
    loss: str,
    generator: random.Random,
    expected: dict[str, str],
) -> str | None:
    left = scene.folder / "left"
    shutil.rmtree(left, ignore_errors=True)
    disk.after(count, left, loss=loss, generator=generator)
    store = left / "store"
    lost = broken(disk, count, store)
    if lost:
        return f"lost: {', '.join(lost)}"
    try:
        scene.dump(store, container=container)
        if shard_bytes(store) != expected:
            return "other bytes"
        fault = next(iter(logitstore.verify(store, hashes=True, strict=True)), None)
    except Exception:
        return traceback.format_exc()
    return None if fault is None else str(fault)


if __name__ == "__main__":
    sys.exit(main())
