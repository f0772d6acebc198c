"""Checkpoints of a run: which of them are as they were written, and which one a run goes on from.

    checkpoint-N/                  what transformers writes after step N, and complete.json, last
    checkpoint-N/complete.json     the sha256 of every file, the position, and the run that it is of
    damaged-checkpoint-N/          one that was passed over, kept for its user to look at

transformers writes a dozen files in no fixed order, so a killed run leaves folders that look like
checkpoints: without complete.json they never were, and are removed. One that has a complete.json
which does not fit is damaged: it is named, passed over and put aside, never removed.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore import LogitStoreError, StoreError
from logitstore.plumbing import LocalStorage, sha256_of
from trainer.training.metrics import SUMMED
from trainer.training.state_files import (
    HASHES,
    NUMBERS,
    SECONDS,
    TEXT,
    Field,
    count,
    read_json,
    read_state,
    refuse_changed_file,
    refuse_odd_fields,
    warn,
    write_state,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "MARKER",
    "Checkpoint",
    "Found",
    "complete_checkpoint",
    "find_checkpoints",
    "newest_completed",
    "read_checkpoint",
    "remove_checkpoints",
]

FORMAT = "trainer-checkpoint/2"
MARKER = "complete.json"
_NAME = re.compile(r"checkpoint-([0-9]{1,15})")
_TRAINER_STATE = "trainer_state.json"

_OBJECT = Field(allowed="an object", fits=lambda value: isinstance(value, dict))
_UNHASHED = {"files": HASHES, "state": _OBJECT}  # of earlier versions
_RUN = Field(allowed="a text or null", fits=lambda value: value is None or TEXT.fits(value))
_MARKER = _UNHASHED | {"format": TEXT, "run": _RUN}
_SUMS = Field(
    allowed=f"numbers by the names {', '.join(SUMMED)}",
    fits=lambda value: NUMBERS.fits(value) and {*value} <= {*SUMMED},
)
# Of a run that is measured on a held-out store: the best step so far.
_MEASURED = {"best": Field(allowed="a step, a value, a count", fits=lambda one: _is_best(one))}
_STATE = {"step": count(1), "stream": _OBJECT, "seconds": SECONDS, "sums": _SUMS}


def _is_best(value: Any) -> bool:
    """Whether it is what `Best` holds."""
    known = {"step": count(0), "since": count(0)}
    return (
        isinstance(value, dict)
        and value.keys() == {"step", "value", "since"}
        and all(field.fits(value[name]) for name, field in known.items())
        and NUMBERS.fits({"value": value["value"]})
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """One that is as it was written."""

    folder: Path
    state: dict[str, Any]  # what a resumed run needs beside the files: step, stream, seconds, sums
    hashed: bool  # whether the state carries a hash, as that of earlier versions does not

    @property
    def step(self) -> int:
        """The step after which it was written."""
        step: int = self.state["step"]
        return step


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The checkpoint that a run goes on from, and those that were passed over for it."""

    newest: Checkpoint | None
    damaged: tuple[StoreError, ...] = ()  # newest first; each names the file and the fault
    torn: tuple[Path, ...] = ()  # those whose writing was never completed

    def refuse_none(self, out: Path) -> None:
        """Raise StoreError where there are checkpoints, and all of them are damaged."""
        if self.newest is None and self.damaged:
            raise StoreError(
                "no checkpoint of the run is as it was written: "
                + "; ".join(str(one) for one in self.damaged),
                place=out,
                remedy="Put the files back as they were, or begin another run (--out); nothing was "
                "removed",
            )

    def tell(self, kept: Sequence[Path]) -> None:
        """Warn of what was passed over, and of a state without a hash.

        Args:
            kept: Where it lies now, as `clear` says.
        """
        then = "" if self.newest is None else f"; going on from {self.newest.folder.name}"
        for one, folder in zip(self.damaged, kept, strict=True):
            warn(f"{one}: passed over and kept as {folder.name}{then}")
        if self.newest is not None and not self.newest.hashed:
            warn(
                f"{self.newest.folder / MARKER}: written by an earlier version, without a hash of "
                "its own: that it has not changed since cannot be told"
            )

    def clear(self, out: Path) -> list[Path]:
        """Remove what is torn in `out`, and put aside what is damaged: both would be in the way.

        Returns where the damaged ones lie now, in the order of `damaged`.

        transformers counts folders when it removes the oldest checkpoint: with a damaged one among
        them it would remove the only whole one.
        """
        for folder in self.torn:
            shutil.rmtree(folder)
        kept: list[Path] = []
        for folder in _newest_first(out):
            if self.newest is None or folder == self.newest.folder:
                break
            kept.append(folder.rename(_free_name(out / f"damaged-{folder.name}")))
        return kept


def complete_checkpoint(folder: Path, state: Mapping[str, Any], *, run: str | None) -> None:
    """Mark a checkpoint as whole: sync every file to the disk, then write complete.json.

    Args:
        folder: The folder of the checkpoint.
        state: What a resumed run needs besides the files: its step, position and sums.
        run: The hash of what decides the result of the run; None where no run.json says it.
    """
    storage = LocalStorage(folder)
    storage.sync()
    hashes = {name: sha256_of(storage, name) for name in storage.list("") if name != MARKER}
    content = {"format": FORMAT, "files": hashes, "state": dict(state), "run": run}
    write_state(folder / MARKER, content)


def find_checkpoints(
    out: Path, *, runs: Sequence[str] = (), fits: Callable[[dict[str, Any]], None] | None = None
) -> Found:
    """The newest whole checkpoint in `out`, and those that were passed over for it.

    Args:
        out: The folder of the run.
        runs: As for `read_checkpoint`.
        fits: As for `read_checkpoint`.
    """
    damaged: list[StoreError] = []
    torn: list[Path] = []
    newest = None
    for folder in _newest_first(out):
        try:
            newest = read_checkpoint(folder, runs=runs, fits=fits)
        except StoreError as error:
            damaged.append(error)
            continue
        if newest is not None:
            break
        torn.append(folder)
    return Found(newest=newest, damaged=tuple(damaged), torn=tuple(torn))


def remove_checkpoints(out: Path) -> None:
    """Remove all checkpoints of a run that has finished; damaged ones that were put aside stay.

    Args:
        out: The folder of the run.
    """
    for folder in _newest_first(out):
        # Without its marker it is torn, whenever this is interrupted.
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)


def newest_completed(out: Path) -> str | None:
    """The name of the newest checkpoint that was completed, by its marker alone; None without one.

    Args:
        out: The folder of the run.
    """
    names = (folder.name for folder in _newest_first(out) if (folder / MARKER).is_file())
    return next(names, None)


def read_checkpoint(
    folder: Path,
    *,
    runs: Sequence[str] = (),
    fits: Callable[[dict[str, Any]], None] | None = None,
) -> Checkpoint | None:
    """The checkpoint in `folder`, all of it checked; None where its writing was never completed.

    Args:
        folder: The folder of the checkpoint.
        runs: The hashes that the run which goes on may be called by; none asks for none.
        fits: Raises LogitStoreError for a position (`stream`) that the store cannot have.

    Raises StoreError, which names the file, where anything has changed since it was written.
    """
    place = folder / MARKER
    marker = read_state(place, kind=FORMAT, unhashed=None)
    if marker is None:
        return None
    hashed = "format" in marker
    refuse_odd_fields(marker, _MARKER if hashed else _UNHASHED, place=place)
    fields = _STATE | (_MEASURED if "best" in marker["state"] else {})
    refuse_odd_fields(marker["state"], fields, place=place, of="state.")
    if hashed and runs and marker["run"] not in runs:
        raise StoreError(
            "the checkpoint is of another run", place=place, found=marker["run"], allowed=runs[0]
        )
    _refuse_changed_files(folder, marker["files"])
    _refuse_other_step(folder, marker["state"]["step"])
    if fits is not None:
        try:
            fits(marker["state"]["stream"])
        except LogitStoreError as error:
            raise StoreError(f"state.stream: {error.problem}", place=place) from error
    return Checkpoint(folder=folder, state=marker["state"], hashed=hashed)


def _refuse_changed_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise StoreError for a file that is gone, has changed, or was not there when it was saved.

    A file that was not there may be one that transformers would load before another.
    """
    storage = LocalStorage(folder)
    there = {name for name in storage.list("") if not _is_hidden(name)} - {MARKER}
    for name in sorted(there | {*hashes}):
        if name not in hashes:
            raise StoreError("the checkpoint was saved without this file", place=folder / name)
        refuse_changed_file(folder / name, hashes[name])


def _refuse_other_step(folder: Path, step: int) -> None:
    """Raise StoreError unless the name, the marker and the state of transformers name one step."""
    state = read_json(folder / _TRAINER_STATE)
    found = state.get("global_step") if isinstance(state, dict) else None
    if found != step or _step(folder) not in (step, None):
        raise StoreError(
            "the checkpoint is of another step",
            place=folder / MARKER,
            found=f"{step}, {_TRAINER_STATE} says {found}",
            allowed=folder.name,
        )


def _is_hidden(name: str) -> bool:
    """Whether it is a file of the operating system's, such as .DS_Store, which nothing loads."""
    return name.rpartition("/")[2].startswith(".")


def _free_name(path: Path) -> Path:
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _newest_first(out: Path) -> list[Path]:
    """The folders in `out` that are called as checkpoints are, by their steps."""
    steps = [(_step(path), path) for path in out.glob("checkpoint-*") if path.is_dir()]
    named = [(step, path) for step, path in steps if step is not None]
    return [path for _, path in sorted(named, reverse=True)]


def _step(folder: Path) -> int | None:
    """The step that the name of a checkpoint's folder names; None for another name."""
    found = _NAME.fullmatch(folder.name)
    return None if found is None else int(found[1])
