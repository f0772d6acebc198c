"""A run's folder: what was asked for, how far it got, and which checkpoints are whole.

    run.json           settings, store, packing; rewritten once more when the run has finished
    history.json       one object for each report of the loss
    checkpoint-N/      what transformers writes after step N, and complete.json, written last
    model.safetensors  with config.json and the tokenizer: the result

A checkpoint is used only if its complete.json has the hash of every file: transformers writes a
dozen files in no fixed order, so a killed run leaves folders that look like checkpoints.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from logitstore import SpecError, StorageError, StoreError
from logitstore.plumbing import LocalStorage, options_of, parse_json, sha256_of
from trainer.training.options import FitOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "begin",
    "complete_checkpoint",
    "explain_failed_write",
    "find",
    "newest_checkpoint",
    "read_json",
    "refuse_other_settings",
    "refuse_unwritable",
    "remove_torn_checkpoints",
    "whole_checkpoint",
    "write_json",
]

FORMAT = "trainer-run/1"
MARKER = "complete.json"
_PREFIX = "checkpoint-"
# What `torch.save` says in its RuntimeError when a file cannot be written; it gives no reason.
_TORCH_WRITES = ("inline_container", "iostream", "PytorchStreamWriter")
_OBJECTS = ("wanted", "settings", "packing")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON to `path`, whole or not at all."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    LocalStorage(path.parent).put(path.name, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """What `write_json` wrote to `path`; None where there is no such file.

    Raises StoreError where the file cannot be read or holds no JSON.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError("the file cannot be read", place=path, found=error) from error
    return parse_json(data, place=str(path))


def begin(out: Path, *, wanted: Mapping[str, Any], resume: bool) -> dict[str, Any] | None:
    """The content of run.json of a run that was begun with the settings `wanted`; None if new.

    Args:
        out: The folder of the run.
        wanted: The settings that decide the result.
        resume: Whether an unfinished run may go on.

    Raises SpecError where the run in `out` was begun with other settings, StoreError where the
    folder holds something else, or an unfinished run that nobody asked to resume, StorageError
    where the folder cannot be read or written. A finished run needs no folder that can be written.
    """
    found = find(out)
    if found is not None:
        _refuse_other_run(found, wanted, out=out, resume=resume)
    if found is None or not found["finished"]:
        refuse_unwritable(out)
    return found


def find(out: Path) -> Any:
    """What run.json in `out` holds; None where no run was begun there.

    Raises StoreError where the folder holds something else, StorageError where it cannot be read.

    Args:
        out: The folder of a run, which need not be there.
    """
    with _explain_bad_folder(out):
        there = out.is_dir()
        found = read_json(out / "run.json") if there else None
        if not there and out.exists():
            raise FileExistsError(errno.EEXIST, "a file is in the way", str(out))
        foreign = found is None and there and any(out.iterdir())
    if foreign:
        raise StoreError(
            "holds something else than a run", place=out, remedy="Name another folder (--out)"
        )
    return found


def _refuse_other_run(found: Any, wanted: Mapping[str, Any], *, out: Path, resume: bool) -> None:
    """Raise StoreError or SpecError where a run that was begun is not to be gone on with."""
    whole = isinstance(found, dict) and found.get("format") == FORMAT
    if (
        not whole
        or not all(isinstance(found.get(name), dict) for name in _OBJECTS)
        or not isinstance(found.get("finished"), bool)
    ):
        raise StoreError("is no run of this program", place=out / "run.json", allowed=FORMAT)
    refuse_other_settings(found["wanted"], wanted, place=out / "run.json")
    if not found["finished"] and not resume:
        raise StoreError(
            "holds an unfinished run",
            place=out,
            remedy="Go on with it (--resume), or name another folder (--out)",
        )


def refuse_unwritable(folder: Path) -> None:
    """Raise StorageError where `folder` cannot be made, or no file in it; it leaves nothing behind.

    The user then knows before a model is loaded, and not when the first checkpoint is written.
    """
    made: list[Path] = []
    try:
        with _explain_bad_folder(folder):
            for one in reversed([folder, *folder.parents]):
                if not one.is_dir():
                    one.mkdir()
                    made.append(one)
            trial = folder / f".{secrets.token_hex(4)}.tmp"
            trial.touch(exist_ok=False)
            trial.unlink()
    finally:
        for one in reversed(made):
            with suppress(OSError):
                one.rmdir()


@contextmanager
def _explain_bad_folder(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        place = getattr(error, "filename", None) or str(folder)
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "a file is in the way"
            if os.path.islink(place) and not os.path.exists(place):  # noqa: PTH114, PTH110
                reason = "it is a link to a folder that is not there"
        raise StorageError(
            f"the folder cannot be used: {reason}",
            place=place,
            remedy="Name another folder (--out)",
        ) from error


def refuse_other_settings(
    found: Mapping[str, Any], wanted: Mapping[str, Any], *, place: Path
) -> None:
    """Raise SpecError, naming every setting that differs.

    Args:
        found: The settings that the run was begun with.
        wanted: The settings that are given now.
        place: What the error names as the place.
    """
    different = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    if different:
        flags = {one.name: one.flag for one in options_of(FitOptions)}
        listed = ", ".join(
            f"{flags.get(key, key)} {_told(found.get(key))} there, {_told(wanted.get(key))} here"
            for key in different
        )
        raise SpecError(
            f"the run was begun with other settings: {listed}",
            place=place,
            remedy="Repeat the settings it was begun with, or name another folder (--out)",
        )


def _told(value: Any) -> str:
    return "not given" if value is None else str(value)


def complete_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Mark a checkpoint as whole: sync every file to the disk, then write complete.json.

    Args:
        folder: The folder of the checkpoint.
        state: What a resumed run needs besides the files: its step, position and sums.
    """
    storage = LocalStorage(folder)
    storage.sync()
    hashes = {name: sha256_of(storage, name) for name in storage.list("") if name != MARKER}
    write_json(folder / MARKER, {"files": hashes, "state": dict(state)})


def newest_checkpoint(out: Path) -> tuple[Path, dict[str, Any]] | None:
    """The latest whole checkpoint in `out` and its state; None where there is none."""
    for folder in sorted(out.glob(f"{_PREFIX}*"), key=_step, reverse=True):
        found = whole_checkpoint(folder)
        if found is not None:
            return found
    return None


def whole_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint in `folder` and its state; None unless it is whole."""
    state = _state(folder)
    return None if state is None else (folder, state)


def remove_torn_checkpoints(out: Path) -> None:
    """Delete the checkpoints in `out` that an interrupted run did not complete."""
    for folder in out.glob(f"{_PREFIX}*"):
        if _state(folder) is None:
            shutil.rmtree(folder)


def _state(folder: Path) -> dict[str, Any] | None:
    """The state of a checkpoint; None unless every file is as it was when it was completed."""
    try:
        marker = read_json(folder / MARKER)
    except StoreError:  # no JSON
        marker = None
    if not isinstance(marker, dict) or not isinstance(marker.get("files"), dict):
        return None
    for name, sha256 in marker["files"].items():
        storage = LocalStorage(folder)
        if storage.size(name) is None or sha256_of(storage, name) != sha256:
            return None
    state = marker.get("state")
    return state if isinstance(state, dict) and isinstance(state.get("stream"), dict) else None


def _step(folder: Path) -> int:
    number = folder.name.removeprefix(_PREFIX)
    return int(number) if number.isdecimal() else -1


@contextmanager
def explain_failed_write(place: Path, *, remedy: str) -> Iterator[None]:
    """Turn what libraries raise when they cannot write into a StorageError.

    Args:
        place: The file or folder that is written, where the library names none.
        remedy: How the user continues the run.
    """
    try:
        yield
    except StorageError as error:
        raise StorageError(error.problem, place=error.place, remedy=remedy) from error
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror or error}",
            place=error.filename or place,
            remedy=remedy,
        ) from error
    except SafetensorError as error:
        raise StorageError(f"cannot be written: {error}", place=place, remedy=remedy) from error
    except RuntimeError as error:
        if not any(word in str(error) for word in _TORCH_WRITES):
            raise
        raise StorageError(
            "cannot be written: the disk is full, or refuses files of this size",
            place=place,
            remedy=remedy,
        ) from error
