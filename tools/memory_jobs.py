"""What runs while its memory is watched: a dump, a training, and verifying and reading in rounds.

The corpus is longer than the dump can be, and the run has more steps than there is time for; the
other two go round in this module's own `main`, which is started as a process. The store that they
read has thousands of units: those of a small dump over and over, each committed as its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import logitstore
from logitstore.format.plan import Plan
from logitstore.store.commit import StoreWriter
from logitstore.store.layout import DATA, StoreLayout
from logitstore.store.verify import verify
from tools.tiny_teacher import make_teacher, texts, write_jsonl

__all__ = ["command", "main", "many_units", "prepare", "progress"]

_UNIT_TOKENS = 1_000
_DUMPED_A_MINUTE = 4 << 20  # bytes of text, more than a tiny teacher reads in a minute
_TEXTS, _SOURCE_TEXTS = 20_000, 600


def prepare(work: Path, *, minutes: float, units: int, seed: int) -> None:
    """Make in `work` a teacher, a student, a corpus for `minutes` and two stores to read."""
    teacher = make_teacher(work / "teacher", seed=seed)
    shutil.copy(teacher / "config.json", work / "student.json")
    part = write_jsonl(work / "part.jsonl", "text", texts(_TEXTS, seed=seed)).read_bytes()
    with (work / "corpus.jsonl").open("wb") as corpus:
        for _ in range(1 + int(minutes * _DUMPED_A_MINUTE) // len(part)):
            corpus.write(part)
    logitstore.dump(
        teacher=str(teacher),
        data=texts(_SOURCE_TEXTS, seed=seed),
        out=work / "source",
        device="cpu",
        unit_tokens=_UNIT_TOKENS,
    )
    many_units(work / "source", work / "many", units=units)


def many_units(source: Path, out: Path, *, units: int) -> None:
    """A sealed store in `out` of `units` units, which hold what those of the store `source` do."""
    store = logitstore.open(source)
    found = {commit.unit: commit for commit in store.commits}
    given = [unit for unit in store.layout.read_plan().units if found[unit.name].attempt]
    copies = [(given[number % len(given)], f"{number:06d}") for number in range(units)]
    writer = StoreWriter(StoreLayout.at(out))
    plan = Plan(units=tuple(replace(unit, name=name) for unit, name in copies))
    writer.begin(store.spec, plan, store.tokenizer_files())
    for unit, name in copies:
        commit = found[unit.name]
        shutil.copytree(
            source / DATA / f"{commit.folder}",
            out / DATA / f"{name}-{commit.attempt}",
            copy_function=os.link,
        )
        writer.commit(replace(commit, unit=name))
    writer.seal(plan, check=False)


def command(job: str, work: Path) -> list[str]:
    """The command line of the child that does `job`: dump, fit, verify or read."""
    python = [sys.executable, "-m"]
    return {
        "dump": [
            *(*python, "logitstore", "dump", "--teacher", f"{work}/teacher", "--device", "cpu"),
            *("--data", f"{work}/corpus.jsonl", "--out", f"{work}/dumped"),
            *("--unit-tokens", str(_UNIT_TOKENS)),
        ],
        "fit": [
            *(*python, "trainer", "fit", "--logits", f"{work}/source", "--device", "cpu"),
            *("--student", f"{work}/student.json", "--out", f"{work}/run"),
            *("--steps", "1000000000", "--batch-tokens", "1024", "--micro-tokens", "512"),
            *("--save-steps", "100", "--log-steps", "50"),
        ],
        "verify": [*python, "tools.memory_jobs", "verify", f"{work}/source"],
        "read": [*python, "tools.memory_jobs", "read", f"{work}/many"],
    }[job]


def progress(job: str, work: Path) -> str:
    """How far the child has come that does `job`, in words."""
    if job == "dump":
        return f"{len(list((work / 'dumped' / 'commits').glob('*.json'))):,} units"
    if job == "fit":
        steps = [int(one.name.partition("-")[2]) for one in (work / "run").glob("checkpoint-*")]
        return f"{max(steps, default=0):,} steps"
    lines = (work / f"{job}.txt").read_text().splitlines()
    return lines[-1] if lines else "no round"


def main() -> None:
    """Verify or read a store round after round, and print how many there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=("verify", "read"))
    parser.add_argument("store", type=Path)
    given = parser.parse_args()
    for number in count(1):
        if given.job == "verify":
            faults = list(verify(given.store))
            if faults:
                sys.exit(f"{faults[0]}")
        else:
            store = logitstore.open(given.store)
            for block in range(len(store.blocks)):
                store.read_block(block)
        print(f"{number:,} rounds", flush=True)


if __name__ == "__main__":
    main()
