"""A step with the teacher in memory beside a step from a store: time and peak memory.

    python -m tools.bench_resident [--teacher FOLDER] [--data FILE] [--steps 6] [--tokens 2048]

The same student, documents, layout of rows and optimiser. The resident teacher runs on every batch,
and the loss is the dense KL of its distribution and the student's. Each side runs in processes of
its own, in turns; peak memory is that of the whole process, weights and libraries included.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import kl_div
from transformers import AutoModelForCausalLM, Trainer

from tools.bench_corpus import teacher_folder
from tools.bench_step import made, our_steps, plain_steps

ROUNDS = 3


class _Resident(Trainer):
    """Trains on the dense KL to a teacher that runs beside the student."""

    teacher: Any

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
        """nats: the mean KL over the rows that count."""
        labels = inputs.pop("labels").flatten()
        rows = (labels != -100).nonzero()[:, 0] - 1
        with torch.no_grad():
            taught_RV = self.teacher(**inputs).logits.flatten(0, 1)[rows].log_softmax(-1)
        found_RV = model(**inputs).logits.flatten(0, 1)[rows].log_softmax(-1)
        taught_RV = taught_RV[:, : found_RV.shape[1]]
        return kl_div(found_RV, taught_RV, reduction="batchmean", log_target=True)


def main() -> None:
    """Parse, measure, print; or, as a process of its own, measure one side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, default=None)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--side", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        _measure(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        given.teacher = teacher_folder(given.teacher, work)
        made(given.teacher, given.data, work)
        found: dict[str, list[dict[str, Any]]] = {"store": [], "resident": []}
        for _ in range(ROUNDS):
            for side, runs in found.items():
                runs.append(_in_process(side, given, work))
    _print(found, tokens=given.tokens)


def _in_process(side: str, given: argparse.Namespace, work: Path) -> dict[str, Any]:
    sizes = ["--steps", str(given.steps), "--tokens", str(given.tokens)]
    places = ["--teacher", str(given.teacher), "--work", str(work)]
    command = [sys.executable, "-m", "tools.bench_resident", "--side", side, *sizes, *places]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _measure(given: argparse.Namespace) -> None:
    """One side's seconds of each step, and the peak memory of this process in MiB."""
    store, student = given.work / "store", given.work / "student.json"
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        sizes = {"steps": given.steps, "tokens": given.tokens}
        if given.side == "store":
            seconds = our_steps(store, student, Path(folder) / "run", **sizes)
        else:
            _Resident.teacher = AutoModelForCausalLM.from_pretrained(
                given.teacher, dtype=torch.float32
            ).eval()
            seconds = plain_steps(store, student, Path(folder) / "run", loop=_Resident, **sizes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("\n" + json.dumps({"seconds": seconds, "peak": peak}))


def _print(found: dict[str, list[dict[str, Any]]], *, tokens: int) -> None:
    medians = {
        side: (
            statistics.median(one for run in runs for one in run["seconds"]),
            statistics.median(run["peak"] for run in runs),
        )
        for side, runs in found.items()
    }
    (store, lean), (resident, fat) = medians["store"], medians["resident"]
    print(f"\n| step of {tokens:,} tokens | median, s | peak memory, MiB |\n|---|---|---|")
    print(f"| from the store (`trainer fit`, K = 64, T = 1) | {store:.2f} | {lean:,.0f} |")
    print(f"| teacher in memory, dense KL | {resident:.2f} | {fat:,.0f} |")
    print(f"| **ratio** | **{resident / store:.1f}** | **{fat / lean:.1f}** |")


if __name__ == "__main__":
    main()
