"""A dump that is killed at random moments, compared with one that is not.

    python -m tools.bench_kills [--teacher FOLDER] [--kills 20] [--characters 1100000]

The same command runs until SIGKILL comes, at a moment drawn from its start to a few units later,
and runs again. After the last kill it may finish; then every shard must hold the bytes of the
undisturbed dump, the fingerprints must agree, and `verify` must find nothing.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import logitstore
from logitstore.store.layout import StoreLayout
from logitstore.store.verify import verify
from tools.bench_corpus import docstrings, teacher_folder

UNIT_TOKENS = 20_000


def main() -> int:
    """Parse, kill, compare; exit code 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, default=None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--characters", type=int, default=1_100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        teacher = teacher_folder(given.teacher, work)
        data = docstrings(work / "docstrings.jsonl", characters=given.characters)
        started = time.monotonic()
        subprocess.run(_command(teacher, data, work / "alone"), check=True, capture_output=True)
        whole = time.monotonic() - started
        kills = _killed_dump(_command(teacher, data, work / "killed"), given.kills, whole)
        return _compare(work / "alone", work / "killed", kills)


def _command(teacher: Path, data: Path, out: Path) -> list[str]:
    options = ["--unit-tokens", str(UNIT_TOKENS), "--dtype", "float32"]
    places = ["--teacher", str(teacher), "--data", str(data), "--out", str(out)]
    return [sys.executable, "-m", "logitstore", "dump", *places, *options]


def _killed_dump(command: list[str], kills: int, whole: float) -> int:
    """Run `command` to its end through `kills` kills; how many hit it while it ran."""
    generator = random.Random(0)
    hit = 0
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(generator.uniform(1.0, 4.0 + whole / (2 * kills)))
        hit += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    return hit


def _compare(alone: Path, killed: Path, kills: int) -> int:
    faults = list(verify(killed))
    same = _shards(alone) == _shards(killed)
    stores = [logitstore.open(folder) for folder in (alone, killed)]
    named = stores[0].fingerprint == stores[1].fingerprint
    attempts = len(list((killed / "data").iterdir()))
    print(
        f"\n| what | found |\n|---|---|\n| targets | {stores[0].targets:,} |\n"
        f"| work units | {len(stores[0].commits)} |\n| kills while it ran | {kills} |\n"
        f"| faults that verify finds | {len(faults)} |\n"
        f"| attempts left besides those committed | {attempts - len(stores[1].commits)} |\n"
        f"| every shard byte-identical | {same} |\n| same fingerprint | {named} |"
    )
    # Kills that all came too late would prove nothing.
    return 0 if kills and same and named and not faults else 1


def _shards(folder: Path) -> dict[str, bytes]:
    """Unit and file name -> bytes, whatever the attempts were called."""
    layout = StoreLayout.at(folder)
    return {
        f"{commit.unit}/{one.path}": layout.storage.read(f"{layout.shard_prefix(commit)}{one.path}")
        for commit in logitstore.open(folder).commits
        for one in commit.objects
    }


if __name__ == "__main__":
    sys.exit(main())
