"""Stores whose files rot or change places, sealed and unfinished, read by everything that reads.

    python -m tools.torture_flips [--flips 10000] [--swaps 2000] [--resumed 1500] [--seed 0]

A flip turns one bit of one file around; one in five cuts the file, makes it longer, zeroes a page
of it or removes it. Each file is as likely to be hit as any other. A swap puts one file, chunk or
row group in the place of another, of another unit, block or store. Of each sealed store all values
are read, and it is checked by `verify`, `verify --hashes` and `verify --fast`. Each unfinished one
is dumped to its end by the same command, every fourth with `--no-check`:

    refused          the file is named, with a way out for an unfinished store; where that is to
                     delete a file, the dump then ends with the bytes that it would have had
    harmless         all values, or all bytes of the store that is sealed now, are as before
    left to verify   the command does not read those bytes, and `verify` finds them: those of
                     shards and output layers, for `verify --fast` and `dump --no-check`
    wrong            anything else: other values, another error, a name that leads elsewhere

The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import logitstore
from logitstore import LogitStoreError
from tools.torture_changes import Change, change, equal_sizes, swap
from tools.torture_store import (
    CONTAINERS,
    SPARSIFIERS,
    Outcomes,
    Scene,
    content,
    make_scene,
    shard_bytes,
)

COLUMNS = ("refused", "harmless", "left to verify", "wrong")
VERIFY: dict[str, dict[str, Any]] = {
    "verify": {},
    "verify --hashes": {"hashes": True},
    "verify --fast": {"fast": True},
}
_DELETE = re.compile(r"Delete (\S+) and run the same command again")
_THIRD = 3  # one unfinished store in three has all its units, and lacks its seal alone


def main() -> int:
    """Parse, attack, print; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=10_000, help="of files of sealed stores")
    parser.add_argument("--swaps", type=int, default=2_000, help="in sealed stores")
    parser.add_argument("--resumed", type=int, default=1_500, help="of both in unfinished stores")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scene = make_scene(Path(folder))
        sealed = attack_sealed(scene, flips=given.flips, swaps=given.swaps, seed=given.seed)
        print(f"\n{given.flips:,} flips and {given.swaps:,} swaps in sealed stores\n")
        print(sealed.table("container, command"), flush=True)
        resumed = attack_unfinished(scene, count=given.resumed, seed=given.seed)
        print(f"\n{given.resumed:,} flips and swaps in unfinished stores\n")
        print(resumed.table("container, command"))
    return 1 if sealed.wrong or resumed.wrong else 0


def attack_sealed(scene: Scene, *, flips: int, swaps: int, seed: int) -> Outcomes:
    """Attack sealed stores of both containers, and count what each command makes of it.

    scene: where they are made.
    flips: how many, in all stores together.
    swaps: how many.
    seed: of what is attacked how.
    """
    outcomes, generator = Outcomes(COLUMNS), random.Random(seed)
    pairs = _pairs_of_stores(scene)
    for number, (container, store, other) in enumerate(pairs):
        sound = content(store)
        attacks = [
            *(change(store, generator=generator) for _ in range(number, flips, len(pairs))),
            *(swap(store, other, generator=generator) for _ in range(number, swaps, len(pairs))),
        ]
        for one in attacks:
            _attack(outcomes, container, store, one, sound=sound)
    return outcomes


def attack_equal_sizes(scene: Scene, *, most: int) -> Outcomes:
    """Exchange files of two units that have the same size, as many as there are, or `most`.

    scene: of so many records that there are some.
    most: of each container.
    """
    outcomes = Outcomes(COLUMNS)
    for container in CONTAINERS:
        store = scene.folder / f"{container} of many"
        scene.dump(store, container=container)
        sound = content(store)
        for _, one in zip(range(most), equal_sizes(store), strict=False):
            _attack(outcomes, container, store, one, sound=sound)
    return outcomes


def _pairs_of_stores(scene: Scene) -> list[tuple[str, Path, Path]]:
    """Container, store, and the store of other values that swaps take files from."""
    pairs = []
    for container in CONTAINERS:
        for name, options in SPARSIFIERS.items():
            store, other = (scene.folder / f"{container}, {name}{one}" for one in ("", ", other"))
            scene.dump(store, container=container, **options)
            scene.dump(other, container=container, **options, fidelity="compact")
            pairs.append((container, store, other))
    return pairs


def _attack(outcomes: Outcomes, container: str, store: Path, one: Change, *, sound: str) -> None:
    in_shards = one.in_shards
    with one.applied():
        outcome, told = _read(store, one, sound=sound)
        outcomes.add(f"{container}, open and read", outcome, told=f"{one}: {told}")
        for command, options in VERIFY.items():
            outcome, told = _verified(store, one, options, in_shards=in_shards)
            outcomes.add(f"{container}, {command}", outcome, told=f"{one}: {told}")


def _read(store: Path, one: Change, *, sound: str) -> tuple[str, str]:
    outcome, told = _judged(one, lambda: [content(store)])
    if outcome != "silent":
        return outcome, told
    return ("harmless", "") if told == sound else ("wrong", "other values are read")


def _verified(
    store: Path, one: Change, options: dict[str, Any], *, in_shards: bool
) -> tuple[str, str]:
    outcome, told = _judged(one, lambda: logitstore.verify(store, **options))
    if outcome != "silent":
        return outcome, told
    if not one.vouched:
        return "harmless", ""
    if "fast" in options and in_shards:
        return "left to verify", ""
    return "wrong", "no fault is found"


def _judged(one: Change, read: Callable[[], Iterable[object]]) -> tuple[str, str]:
    """`refused` or `wrong` with what was said; `silent` with what was read, where nothing was."""
    try:
        first = next(iter(read()), None)
    except LogitStoreError as error:
        first = error
    except Exception:
        return "wrong", traceback.format_exc()
    if first is None or isinstance(first, str):
        return "silent", first or ""
    return ("refused" if one.is_named(str(first)) else "wrong"), str(first)


def attack_unfinished(scene: Scene, *, count: int, seed: int) -> Outcomes:
    """Attack stores that a killed dump has left, and dump them to their end.

    scene: where they are made.
    count: of the attacks, in all stores together.
    seed: of what is attacked how.
    """
    outcomes, generator = Outcomes(COLUMNS), random.Random(seed)
    for number, container in enumerate(CONTAINERS):
        whole, other = (scene.folder / f"{container} to resume{one}" for one in ("", ", other"))
        scene.dump(whole, container=container)
        scene.dump(other, container=container, fidelity="compact")
        expected = shard_bytes(whole)
        for attack in range(number, count, len(CONTAINERS)):
            store = scene.folder / "resumed"
            shutil.copytree(whole, store)
            unseal(store, unit=attack % _THIRD > 0)
            flipped = attack % 5 or attack % _THIRD
            one = (
                change(store, generator=generator)
                if flipped
                else swap(store, other, generator=generator)
            )
            in_shards = one.in_shards
            one.apply()
            no_check = attack // 2 % 4 == 0
            outcome, told = _resumed(scene, store, container, one, expected, no_check=no_check)
            if no_check and told == "other bytes" and in_shards:
                outcome, told = _found_later(store, one)
            command = "dump --no-check" if no_check else "dump"
            outcomes.add(f"{container}, {command}", outcome, told=f"{one}: {told}")
            shutil.rmtree(store)
    return outcomes


def unseal(store: Path, *, unit: bool) -> None:
    """Make a sealed store one that was killed before its seal.

    store: its folder.
    unit: whether its last unit goes too, but for a part of its attempt.
    """
    (store / "manifest.json").unlink()
    (store / "README.md").unlink()
    if unit:
        commit = max((store / "commits").iterdir())
        commit.unlink()
        shard = next((store / "data").glob(f"{commit.stem}-*"))
        max(path for path in shard.rglob("*") if path.is_file()).unlink()


def _resumed(
    scene: Scene,
    store: Path,
    container: str,
    one: Change,
    expected: dict[str, str],
    *,
    no_check: bool,
) -> tuple[str, str]:
    """What the same command makes of an unfinished store."""
    try:
        scene.dump(store, container=container, no_check=no_check)
    except LogitStoreError as error:
        return _way_out(scene, store, container, one, error, expected=expected)
    except Exception:
        return "wrong", traceback.format_exc()
    return ("harmless", "") if _same(store, expected) else ("wrong", "other bytes")


def _same(store: Path, expected: dict[str, str]) -> bool:
    try:
        return shard_bytes(store) == expected
    except LogitStoreError:
        return False


def _way_out(
    scene: Scene,
    store: Path,
    container: str,
    one: Change,
    error: LogitStoreError,
    *,
    expected: dict[str, str],
) -> tuple[str, str]:
    """`refused` where the file is named, and what is said to do helps."""
    message = str(error)
    if not one.is_named(message) or error.remedy is None:
        return "wrong", message
    found = _DELETE.search(message)
    if found is None:
        return "refused", message
    named = Path(str(error.place) if found[1] == "it" else found[1])
    if not named.is_file() or named.is_relative_to(store / "data"):
        return "wrong", message
    named.unlink()
    again, told = _resumed(scene, store, container, one, expected, no_check=False)
    return ("refused" if again in ("harmless", "refused") else "wrong"), f"{message}; then {told}"


def _found_later(store: Path, one: Change) -> tuple[str, str]:
    """Whether `verify` finds what was sealed without a look."""
    outcome, told = _judged(one, lambda: logitstore.verify(store))
    return ("left to verify" if outcome == "refused" else "wrong"), told


if __name__ == "__main__":
    sys.exit(main())
