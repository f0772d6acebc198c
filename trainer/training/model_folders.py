"""Folders of the trainer that hold no model yet: an unfinished run, and a folder of several runs.

Whoever names one for a model, or for a report, is told what lies there and what to name instead.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from logitstore import CorruptionError, ModelError, StoreError

__all__ = ["refuse_no_model_yet", "runs_in", "several_runs"]

_RECORD = "run.json"
_MODEL = ("config.json", "adapter_config.json")
_RUNS = "runs"  # in the folder of a sweep
_MOST = 1000  # folders that are looked into


def runs_in(folder: Path) -> list[Path]:
    """The folders of runs in a folder, or in that of a sweep, by their names; none for no folder.

    Args:
        folder: Any folder.
    """
    for place in (folder, folder / _RUNS):
        found = [one.parent for one in islice(sorted(place.glob(f"*/{_RECORD}")), _MOST)]
        if found:
            return found
    return []


def several_runs(folder: Path, runs: list[Path]) -> str:
    """What lies in a folder of runs, in words.

    Args:
        folder: The folder.
        runs: What `runs_in` gives of it.
    """
    count = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    page = folder / "sweep.html"
    return f"a sweep of {count}, whose page is {page}" if page.is_file() else count


def refuse_no_model_yet(name: str) -> None:
    """Raise ModelError for the folder of an unfinished run, or of several runs, without a model.

    Any other folder, and what is no folder, is left to whoever reads it.

    Args:
        name: How the user named a model.

    Raises CorruptionError for a run.json that has changed since it was written.
    """
    folder = Path(name)
    try:
        nothing = not folder.is_dir() or _holds_model(folder)
    except OSError:  # a name too long, or no permission to look
        return
    if nothing:
        return
    if (folder / _RECORD).is_file():
        _refuse_unfinished(folder)
        return
    runs = runs_in(folder)
    if runs:
        raise ModelError(
            "the folder holds no model",
            place=name,
            found=several_runs(folder, runs),
            remedy=f"Name one of its runs, as {next(filter(_holds_model, runs), runs[0])}",
        )


def _holds_model(folder: Path) -> bool:
    return any((folder / one).is_file() for one in _MODEL)


def _refuse_unfinished(folder: Path) -> None:
    from trainer.training.checkpoints import newest_completed  # they cost torch
    from trainer.training.run_record import read_record

    try:
        record = read_record(folder)
    except CorruptionError:
        raise
    except StoreError:  # of another program
        return
    if record is None or record["finished"]:
        return
    newest = newest_completed(folder)
    steps = record["settings"].get("steps")
    raise ModelError(
        "the run has not finished, so there is no model yet",
        place=folder,
        found="no checkpoint"
        if newest is None
        else newest + (f", of {steps} steps" if steps else ""),
        remedy="Go on with it (`trainer fit` with --resume and the options that it was begun with)"
        + ("" if newest is None else f", or name its checkpoint, {folder / newest}"),
    )
