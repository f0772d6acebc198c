"""The runs of a sweep: each a `fit` and an `evaluate`, skipped where it is done.

    runs/NAME_seed-0/    the folder of a run, as `fit` writes it
    results.json         what was measured of each run, by its weights

A run that was stopped goes on from its checkpoint; one whose weights were measured on the held-out
store is not measured again.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging

from logitstore import ModelError, WorkerError
from logitstore.plumbing import Meter, fingerprint
from trainer.evaluation.measure import evaluate
from trainer.sweeping.results import Results
from trainer.training.fit import fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logitstore.plumbing import OnProgress

__all__ = ["Run", "run_all"]

# Seconds: runs of several processes end in pairs, and skipped ones at once; the time between them
# is no pace.
_TOGETHER = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run: what `fit` is given, and where it is measured."""

    name: str
    seed: int
    options: dict[str, Any]
    eval_logits: Any

    @property
    def out(self) -> Path:
        """The folder of the run."""
        return Path(self.options["out"])

    def carry_out(self, known: dict[str, Any] | None) -> dict[str, Any]:
        """Train, unless that is done, and measure, unless `known` is of these weights."""
        began = time.monotonic()
        try:
            record = fit(**self.options, resume=(self.out / "run.json").is_file())
        except ModelError as error:  # it has diverged: the others go on
            return {"failed": str(error)}
        weights = fingerprint(record["files"])
        if known is not None and known.get("weights") == weights:
            return known
        measured = evaluate(self.out, logits=self.eval_logits, device=self.options["device"])
        return {
            "weights": weights,
            "steps": record["settings"]["steps"],
            "train_seconds": record["seconds"],
            "seconds": time.monotonic() - began,
            "bytes": sum(path.stat().st_size for path in self.out.glob("*.safetensors")),
            "measured": measured,
        }


def run_all(
    runs: Sequence[Run], *, jobs: int, results: Results, on_progress: OnProgress | None
) -> None:
    """Carry out all runs, and note what was measured of each.

    Args:
        runs: In the order in which they are begun.
        jobs: How many at the same time.
        results: Where what was measured is kept.
        on_progress: Is told how far it is.

    Raises what a run raises; WorkerError where a process of several has died. What is done is kept.
    """
    meter, told = Meter(on_progress, stage="sweeping", unit="runs"), time.monotonic()
    found = _one_by_one(runs, results) if jobs == 1 else _at_once(runs, results, jobs)
    for done, (run, measured) in enumerate(found, start=1):
        results.note(run.name, run.seed, measured)
        now = time.monotonic()
        if now - told >= _TOGETHER or done == len(runs):
            meter.tell(done, fraction=done / len(runs), detail=f"{done} of {len(runs)} runs")
            told = now


def _one_by_one(runs: Sequence[Run], results: Results) -> Iterator[tuple[Run, dict[str, Any]]]:
    for run in runs:
        yield run, run.carry_out(results.known(run.name, run.seed))


def _at_once(
    runs: Sequence[Run], results: Results, jobs: int
) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Each in a process that is started anew for it, so that none inherits threads or memory."""
    threads = max(1, torch.get_num_threads() // jobs)
    told = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with ProcessPoolExecutor(
        max_workers=jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(threads, *told),
    ) as pool:
        waiting = {
            pool.submit(run.carry_out, results.known(run.name, run.seed)): run for run in runs
        }
        try:
            while waiting:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for one in finished:
                    run = waiting.pop(one)
                    yield run, one.result()
        except BrokenProcessPool as error:
            raise WorkerError(
                "a process of the sweep has died: killed, or out of memory",
                remedy="Repeat the command: runs that are done are skipped; take fewer --jobs",
            ) from error
        finally:
            for one in waiting:
                one.cancel()


def _begin(threads: int, verbosity: int, bars: bool) -> None:
    """Set a process up like the one that it works for: what transformers prints of its own, too."""
    torch.set_num_threads(threads)
    logging.set_verbosity(verbosity)
    if not bars:
        logging.disable_progress_bar()
