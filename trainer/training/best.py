"""The weights of the measured step that was best: a folder beside the checkpoints.

    best-N/              the model after step N, float32, as transformers saves it
    best-N/best.json     the sha256 of every file, written last

An older one is removed when a checkpoint names the newer: whatever a run goes on from, the weights
that it calls the best are there.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from logitstore import StoreError
from logitstore.plumbing import LocalStorage, sha256_of
from trainer.training.state_files import (
    HASHES,
    TEXT,
    read_state,
    refuse_changed_file,
    refuse_odd_fields,
    write_state,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["best_folder", "checked_best", "forget_best", "save_best"]

_MARKER = "best.json"
_FORMAT = "trainer-best/1"
_NAME = re.compile(r"best-[0-9]{1,15}")


def best_folder(out: Path, step: int) -> Path:
    """Where the best weights of a run lie.

    Args:
        out: The folder of the run.
        step: After which they were measured.
    """
    return out / f"best-{step}"


def save_best(out: Path, step: int, save: Callable[[Path], None], *, writes: bool) -> None:
    """Save the weights after a step as the best.

    Args:
        out: The folder of the run.
        step: The step.
        save: Saves the model into a folder; every rank calls it.
        writes: Whether this process is the one that writes.
    """
    folder = best_folder(out, step)
    if writes and folder.exists():
        shutil.rmtree(folder)  # torn, or of before a resume: these are the same weights again
    save(folder)
    if writes:
        storage = LocalStorage(folder)
        storage.delete("training_args.bin")
        storage.sync()
        hashes = {name: sha256_of(storage, name) for name in storage.list("")}
        write_state(folder / _MARKER, {"format": _FORMAT, "files": hashes})


def checked_best(out: Path, step: int) -> Path:
    """The folder of the best weights, all of it as it was written.

    Args:
        out: The folder of the run.
        step: The step that was best.

    Raises StoreError, which names the file, where it is not.
    """
    folder = best_folder(out, step)
    place = folder / _MARKER
    marker = read_state(place, kind=_FORMAT, unhashed=None)
    if marker is None:
        raise StoreError(
            "the weights of the best step are gone",
            place=place,
            remedy="Put the folder back, or train anew in another folder (--out)",
        )
    refuse_odd_fields(marker, {"format": TEXT, "files": HASHES}, place=place)
    for name, sha256 in sorted(marker["files"].items()):
        refuse_changed_file(folder / name, sha256)
    return folder


def forget_best(out: Path, *, but: int | None = None) -> None:
    """Remove the best weights that no checkpoint names.

    Args:
        out: The folder of the run.
        but: The step whose weights stay; None removes all.
    """
    kept = None if but is None else best_folder(out, but)
    for folder in out.glob("best-*"):
        if folder != kept and folder.is_dir() and _NAME.fullmatch(folder.name):
            shutil.rmtree(folder)
