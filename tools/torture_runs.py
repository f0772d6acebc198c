"""A run whose files rot: bits are flipped one at a time, and the run is read as for `--resume`.

    python -m tools.torture_runs [--flips 2000] [--trained 10] [--seed 0]

A tiny student learns from a tiny store, once to the end and once until it is stopped behind its
second checkpoint. Then one bit of one file is flipped, half of the time in a small state file, and
what `trainer fit --resume` and `trainer report` read of the folder is compared with what they read
of the sound one:

    refused     the file is named, and the run is refused or goes on from the checkpoint before
    harmless    all that is read is as before: the bit is in a blank, or nothing is read of the file
    wrong       anything else: another content, another error, no word

Some flips of the stopped run are trained to its end as well, and must give the weights of the run
that was not stopped. The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import logitstore
import trainer
from logitstore import LogitStoreError
from tools.tiny_teacher import make_teacher, texts
from trainer.reporting.data import load_runs
from trainer.training import run_folder
from trainer.training.checkpoints import find_checkpoints
from trainer.training.run_record import run_fingerprint
from trainer.training.run_result import weight_hashes
from trainer.training.state_files import EVALS, RunWarning

_STATE_FILES = ("run.json", "complete.json", "eval.json", "history.json", "trainer_state.json")
_SETTINGS: dict[str, Any] = {
    "steps": 8,
    "save_steps": 3,
    "log_steps": 1,
    "batch_tokens": 256,
    "micro_tokens": 128,
    "device": "cpu",
}
_STOP = 7  # behind the checkpoints of steps 3 and 6


@dataclass(frozen=True, kw_only=True, slots=True)
class _Flip:
    """One bit of one file."""

    file: Path
    place: int
    bit: int

    def apply(self) -> None:
        """Flip it; twice is as before."""
        data = bytearray(self.file.read_bytes())
        data[self.place] ^= 1 << self.bit
        self.file.write_bytes(data)


def main() -> int:
    """Parse, train, flip, print; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--trained", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RunWarning)
    generator = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        fit = _runs(work)
        counts = Counter[str]()
        for run, share in ((work / "stopped", 0.6), (work / "whole", 0.4)):
            counts += _tortured(run, flips=round(share * given.flips), generator=generator)
        wrong = _trained(work, fit, flips=given.trained, generator=generator)
    print(
        "\n| flips | refused | harmless | wrong | trained to the end | other weights |\n"
        "|---|---|---|---|---|---|\n"
        f"| {counts.total():,} | {counts['refused']:,} | {counts['harmless']:,} | "
        f"{counts['wrong']:,} | {given.trained:,} | {wrong:,} |"
    )
    return 1 if counts["wrong"] or wrong else 0


def _runs(work: Path) -> Any:
    """Make a store, a whole run and a stopped one; gives what trains into a folder."""
    teacher = make_teacher(work / "teacher")
    logitstore.dump(teacher=str(teacher), data=texts(60), out=work / "store", device="cpu")
    student = shutil.copy(teacher / "config.json", work / "student.json")

    def fit(out: Path, **more: Any) -> Any:
        return trainer.fit(
            logits=str(work / "store"), student=str(student), out=out, **_SETTINGS, **more
        )

    def stop(one: dict[str, float]) -> None:
        if one["step"] == _STOP:
            raise KeyboardInterrupt

    fit(work / "whole")
    trainer.evaluate(str(work / "whole"), logits=str(work / "store"), device="cpu")
    with suppress(KeyboardInterrupt):
        fit(work / "stopped", report=stop)
    return fit


def _flips(run: Path, *, flips: int, generator: random.Random) -> list[_Flip]:
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size)
    small = [path for path in files if path.name in _STATE_FILES or path.parent.name == EVALS]
    chosen = [generator.choice(small if number % 2 else files) for number in range(flips)]
    return [
        _Flip(file=one, place=generator.randrange(one.stat().st_size), bit=generator.randrange(8))
        for one in chosen
    ]


def _tortured(run: Path, *, flips: int, generator: random.Random) -> Counter[str]:
    """What came of flips in the files of `run`."""
    wanted = load_runs([run])[0].run
    sound = _read(run, wanted=wanted["wanted"] if wanted else {})
    counts = Counter[str]()
    for flip in _flips(run, flips=flips, generator=generator):
        flip.apply()
        outcome = _outcome(run, flip, sound=sound)
        counts[outcome] += 1
        if outcome == "wrong":
            print(f"wrong: {flip}", file=sys.stderr)
        flip.apply()
    return counts


def _read(run: Path, *, wanted: dict[str, Any]) -> dict[str, Any]:
    """All that is read of a run when it is resumed and reported."""
    record = run_folder.begin(run, wanted=wanted, resume=True)
    found = find_checkpoints(run, runs=(run_fingerprint(record),)) if record is not None else None
    newest = None if found is None else found.newest
    [shown] = load_runs([run])
    return {
        "wanted": wanted,
        "record": record,
        "state": None if newest is None else newest.state,
        "folder": None if newest is None else newest.folder,
        "damaged": () if found is None else found.damaged,
        "shown": (shown.run, shown.history, shown.evaluation, shown.kept, shown.strays),
    }


def _outcome(run: Path, flip: _Flip, *, sound: dict[str, Any]) -> str:
    try:
        found = _read(run, wanted=sound["wanted"])
    except LogitStoreError as error:
        return "refused" if flip.file.name in str(error) else "wrong"
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return "wrong"
    if found["damaged"]:
        named = any(str(flip.file) in str(one) for one in found["damaged"])
        return "refused" if named and found["record"] == sound["record"] else "wrong"
    if found != sound:
        # An unfinished run's history is written anew when it goes on; nothing vouches for it.
        only_shown = {**found, "shown": None} == {**sound, "shown": None}
        vouched = sound["record"]["finished"] or flip.file.name != "history.json"
        return "wrong" if vouched or not only_shown else "harmless"
    result = flip.file.parent == run and flip.file.name in found["record"].get("files", ())
    used = flip.file.parent == found["folder"] or result
    blank = flip.file.name in ("complete.json", "run.json", "eval.json")
    blank = blank or flip.file.parent.name == EVALS
    return "harmless" if blank or not used else "wrong"


def _trained(work: Path, fit: Any, *, flips: int, generator: random.Random) -> int:
    """How many of some flips end in other weights than the run that was not stopped."""
    expected = weight_hashes(work / "whole")
    wrong = 0
    for number, flip in enumerate(_flips(work / "stopped", flips=flips, generator=generator)):
        run = work / f"trained{number}"
        shutil.copytree(work / "stopped", run)
        _Flip(
            file=run / flip.file.relative_to(work / "stopped"), place=flip.place, bit=flip.bit
        ).apply()
        with suppress(LogitStoreError):
            fit(run, resume=True)
            wrong += weight_hashes(run) != expected
    return wrong


if __name__ == "__main__":
    sys.exit(main())
