"""How long a sweep would take: a few steps of each student, in a folder that goes away."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.batches import count_steps
from trainer.data.packing import Lengths
from trainer.data.store import as_store
from trainer.evaluation.measure import evaluate
from trainer.training.batching import plan_packing
from trainer.training.fit import fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.sweeping.running import Run

__all__ = ["seconds_of"]

_STEPS = 4  # the first of which is slower, and is left out


def seconds_of(runs: Sequence[Run], *, jobs: int) -> float:
    """The seconds that runs would take, by the pace of a few steps.

    Args:
        runs: All of them; those of one student and one store have one pace.
        jobs: How many run at the same time; it is taken for granted that they do not slow each
            other down.
    """
    paces: dict[tuple[str, str], float] = {}
    total = 0.0
    for run in runs:
        key = (str(run.options["student"]), str(run.options["logits"]))
        if key not in paces:
            paces[key] = _pace(run)
        total += paces[key]
    return total / jobs


def _pace(run: Run) -> float:
    """The seconds of one run, its measurement included."""
    steps = _steps(run.options)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "trial"
        trial = run.options | {
            "out": out,
            "steps": min(_STEPS, steps),
            "epochs": None,
            "log_steps": 1,
            "save_steps": 1 << 30,
        }
        fit(**trial)
        seconds = [one["seconds"] for one in json.loads((out / "history.json").read_bytes())]
        per_step = (seconds[-1] - seconds[0]) / max(1, len(seconds) - 1) or seconds[-1]
        found = evaluate(out, logits=run.eval_logits, device=run.options["device"])
    return steps * per_step + found["targets"] / found["tokens_per_second"]


def _steps(options: dict[str, Any]) -> int:
    if options["steps"] is not None:
        return int(options["steps"])
    store = as_store(options["logits"], max_memory=options["max_memory"])
    packing = plan_packing(
        store,
        seed=options["seed"],
        batch_tokens=options["batch_tokens"],
        micro_tokens=options["micro_tokens"],
        window=options["window"],
    )
    return count_steps(packing, Lengths(store), epochs=options["epochs"] or 1)
