"""Hostile stores: one field with one fault each, every checksum made right, and what comes of it.

    python -m tools.torture_hostile [--share 1] [--container zarr|parquet] [--only TEXT] [--seed 0]

A small sound store in each container is changed in one field: of store.json, plan.json, a commit,
the manifest, a tokenizer, Zarr's metadata, chunks and indexes, Parquet's footer, pages and schema,
values of targets and documents, and what kind of file an object is. Then its hashes are made those
of what is there, and a process of its own reads it: all blocks of all draws, `verify`, `inspect`,
the tokenizer, `gc`, and batches of the trainer.

    refused        each step ends in the project's own error, in one line
    harmless       all is read as it was
    another store  other content is read, and `verify` finds it sound: it is consistent in itself,
                   so it is another store, and nothing but its fingerprint tells it from one
    wrong          another exception, a crash, a hang, more than 10 seconds of work, more than
                   100 MB above what the sound store takes, a fault that reading sees and `verify`
                   does not, a message of several lines or with codes of a terminal

`--share 0.1` tries every tenth kind, from one that the seed chooses. The exit code is 1 if anything
is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet  # noqa: F401 - what the children need is loaded once, before they fork
import torch
import zarr  # noqa: F401

import logitstore
from logitstore.corpus.tokenizer import load_tokenizer
from logitstore.errors import LogitStoreError
from logitstore.store.containers import load_container
from logitstore.store.verify import verify
from tools.hostile_files import file_kinds
from tools.hostile_json import Kind, json_kinds
from tools.hostile_parquet import parquet_kinds
from tools.hostile_values import value_kinds
from tools.hostile_zarr import zarr_kinds
from tools.reseal import container_of, reseal
from tools.torture_store import CONTAINERS, Outcomes, content, make_scene
from trainer.data.batches import Batches
from trainer.data.packing import Lengths
from trainer.data.rows import RowLayout
from trainer.training.batching import draw_of_epoch, plan_packing

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Reading", "kinds_of", "make_sound", "tried"]

_SECONDS, _MOST_BYTES = 10.0, 100 << 20
_HANGS = 120.0  # seconds: what others compute meanwhile counts here
_ROOM = 2 << 30  # beyond what a child has: no attack may take the machine
_LONGEST = 4000  # characters of a message
_BATCHES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a process that read a store says of each step, and what it took."""

    steps: dict[str, str]  # step -> "ok ..." or "refused ..." or "raised ..."
    bytes: int  # the most that it held
    seconds: float  # of work, all threads counted


def main() -> int:
    """Parse, attack, print; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--container", choices=CONTAINERS)
    parser.add_argument("--only", default="", help="kinds whose area or name holds this text")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for container in [given.container] if given.container else CONTAINERS:
            sound = make_sound(Path(folder) / container, container=container)
            outcomes = Outcomes(columns=("refused", "harmless", "another store", "wrong"))
            step = max(1, round(1 / given.share))
            chosen = kinds_of(sound)[given.seed % step :: step]
            chosen = [one for one in chosen if given.only in f"{one.area}: {one.name}"]
            slowest = tried(sound, chosen, outcomes, container=container)
            print(f"\n{container}; the slowest took {slowest:.1f} s\n")
            print(outcomes.table("area"), flush=True)
            wrong += outcomes.wrong
    return 1 if wrong else 0


def make_sound(folder: Path, *, container: str, records: int = 8) -> Path:
    """A small sealed store, made by a process of its own, which leaves no threads here.

    folder: is made, and holds it.
    container: its format.
    records: of its corpus.
    """
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_dump, args=(folder, container, records))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the dump ended with exit code {process.exitcode}")
    return folder / "store"


def _dump(folder: Path, container: str, records: int) -> None:
    make_scene(folder, records=records).dump(
        folder / "store", container=container, sparsify="hybrid", k=6
    )


def kinds_of(sound: Path) -> list[Kind]:
    """Every kind for a sound store, in an order that is always the same.

    sound: its folder.
    """
    container = container_of(sound)
    shards = zarr_kinds(sound) if container == "zarr" else parquet_kinds(sound)
    return [*json_kinds(sound), *file_kinds(sound), *value_kinds(container), *shards]


def tried(sound: Path, kinds: list[Kind], outcomes: Outcomes, *, container: str) -> float:
    """Try each kind on a copy of the store; the seconds that the slowest reading took.

    sound: the store's folder.
    kinds: what to try.
    outcomes: gets a row for each area.
    container: of the store.
    """
    base = _read(sound)
    slowest = base.seconds
    if not all(said.startswith("ok") for said in base.steps.values()):
        raise RuntimeError(f"the sound store is not read: {base.steps}")
    for kind in kinds:
        with tempfile.TemporaryDirectory(dir=sound.parent) as folder:
            store = Path(folder) / "store"
            shutil.copytree(sound, store)
            _in_child(partial(_attack, kind, store, container), seconds=_HANGS)
            found = _read(store)
            slowest = max(slowest, found.seconds)
            outcome, told = _judged(found, base)
            outcomes.add(kind.area, outcome, told=f"{container}: {kind.name}: {told}")
            _remove(store)
    return slowest


def _attack(kind: Kind, store: Path, container: str) -> None:
    kind.change(store)
    if kind.resealed:
        reseal(store, container=container, objects=kind.objects)


def _remove(store: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(store)


def _judged(found: Reading, base: Reading) -> tuple[str, str]:
    """The outcome, and what is told of it where it is wrong."""
    steps = found.steps
    raised = {name: said for name, said in steps.items() if said.startswith("raised")}
    if raised:
        return "wrong", str(raised)
    if len(steps) < len(base.steps):
        return "wrong", f"ended after {list(steps)}, {found.seconds:.1f} s"
    if found.seconds > _SECONDS:
        return "wrong", f"{found.seconds:.1f} s"
    if found.bytes > base.bytes + _MOST_BYTES:
        return "wrong", f"{(found.bytes - base.bytes) >> 20} MB above the sound store: {steps}"
    odd = [said for said in steps.values() if not said.isprintable() or len(said) > _LONGEST]
    if odd:
        return "wrong", f"a message is not one printable line: {odd[0][:200]!r}"
    if steps["read"].startswith("ok"):
        if steps["read"] == base.steps["read"]:
            same = steps["verify"].startswith("ok")
            return ("harmless" if same else "refused"), ""
        return ("another store" if steps["verify"].startswith("ok") else "refused"), ""
    if steps["verify"].startswith("ok"):
        return "wrong", f"reading sees a fault, verify none: {steps['read']}"
    return "refused", ""


# --- a process for each attack ---------------------------------------------------------------


def _read(store: Path) -> Reading:
    """What reading the store in all ways gives, in a process of its own."""
    lines, worked = _in_child(lambda: _say_steps(store), seconds=_HANGS)
    said = [json.loads(line) for line in lines if line.endswith("}")]
    most = max((one["bytes"] for one in said), default=0)
    steps = {one["step"]: one["said"] for one in said}
    return Reading(steps=steps, bytes=most, seconds=worked)


def _in_child(work: Callable[[], Any], *, seconds: float) -> tuple[list[str], float]:
    """What `work` prints in a fork of this process, and the seconds that it computed.

    The fork ends after so many seconds.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reading)
            os.dup2(writing, 1)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            work()
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    data, stop = b"", time.monotonic() + seconds
    while (left := stop - time.monotonic()) > 0:
        if not select.select([reading], [], [], left)[0]:
            break
        more = os.read(reading, 1 << 16)
        if not more:
            break
        data += more
    os.close(reading)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, _, used = os.wait4(child, 0)
    return data.decode(errors="replace").splitlines(), used.ru_utime + used.ru_stime


def _say_steps(store: Path) -> None:
    """One line of JSON for each step: what came of it, and the memory so far."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * os.sysconf("SC_PAGE_SIZE") + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    warnings.simplefilter("ignore")
    for name, step in _STEPS.items():
        try:
            said = f"ok {step(store)}"
        except LogitStoreError as error:
            said = f"refused: {error}"
        except BaseException as error:
            said = f"raised {type(error).__name__}: {error}"[:2000]
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        line = json.dumps({"step": name, "said": said, "bytes": most})
        os.write(1, f"{line}\n".encode())


def _verified(store: Path) -> str:
    faults = [str(one) for one in verify(store)]
    if faults:
        raise _Faults(faults[0])
    return "sound"


class _Faults(LogitStoreError):
    """What `verify` found."""


def _inspected(store: Path) -> str:
    return str(len(json.dumps(logitstore.inspect(store))))


def _tokenized(store: Path) -> str:
    """As an evaluation does with the tokenizer that a run has from its store."""
    files = logitstore.open(store, allow_partial=True).tokenizer_files()
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(data)
        tokenizer = load_tokenizer(folder)
        return f"{len(files)} files, {len(tokenizer('a b c')['input_ids'])} ids"


def _batches(store: Path) -> str:
    opened = logitstore.open(store)
    batches = Batches(
        opened,
        packing=plan_packing(opened, seed=0, batch_tokens=256, micro_tokens=None, window=None),
        lengths=Lengths(opened),
        layout=RowLayout.PADDED,
        draw_of_epoch=partial(draw_of_epoch, opened.spec.sparsifier, 1.0),
        epochs=1,
    )
    made = [one for one, _ in zip(batches, range(_BATCHES), strict=False)]
    return str(len(made))


def _garbage(store: Path) -> str:
    from logitstore.store.strays import gc

    return str(len(gc(store, yes=False).names))


_STEPS: dict[str, Callable[[Path], Any]] = {
    "read": partial(content, named=False),
    "verify": _verified,
    "inspect": _inspected,
    "tokenizer": _tokenized,
    "gc": _garbage,
    "batches": _batches,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for one in CONTAINERS:
        load_container(one)
    sys.exit(main())
