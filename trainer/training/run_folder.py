"""A run's folder: whether a run may begin in it or go on, and what keeps one from being written.

run.json             settings, store, packing; rewritten once more when the run has finished
history.json         one object for each report of the loss
checkpoint-N/        what a run goes on from (checkpoints.py)
model.safetensors    with config.json and the tokenizer: the result (run_result.py)
"""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from logitstore import CorruptionError, SpecError, StorageError, StoreError
from logitstore.plumbing import LocalStorage
from trainer.training.fit_options import FIT_OPTIONS
from trainer.training.run_record import LENGTH, RECORD, read_record
from trainer.training.run_result import OF_A_RESULT, checked_result, has_checkpoint
from trainer.training.state_files import same, warn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "begin",
    "explain_failed_write",
    "refuse_no_place",
    "refuse_other_settings",
    "refuse_unwritable",
]

_ELSEWHERE = "Name another folder (--out)"
_GO_ON = "Go on with it (--resume), or name another folder (--out)"
_BEGIN_ANEW = "Begin the run anew (--resume): nothing else is there"
_PUT_BACK = "Put the file back as it was, or name another folder (--out)"
# What `torch.save` says in its RuntimeError when a file cannot be written; it gives no reason.
_TORCH_WRITES = ("inline_container", "iostream", "PytorchStreamWriter")


def begin(
    out: Path,
    *,
    wanted: Mapping[str, Any],
    resume: bool,
    parts: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any] | None:
    """The content of run.json of a run that was begun with the settings `wanted`; None if new.

    Args:
        out: The folder of the run.
        wanted: The settings that decide the result.
        parts: Where several stores are learnt from, the name, the fingerprint and the weight of
            each, as run.json has them.
        resume: Whether an unfinished run may go on. A finished one is then given back as unfinished
            if files of its result are gone and a checkpoint can make them anew; and either if it is
            to be longer now, with `settings.steps` None where they are yet to be counted.

    Raises SpecError where the run in `out` was begun with other settings; StoreError where the
    folder holds something else, an unfinished run that nobody asked to resume, or files that have
    changed since they were written; StorageError where the folder cannot be read or written. A
    finished run needs no folder that can be written.
    """
    with _explain_bad_folder(out):
        found = _begun(out, resume=resume) if out.is_dir() else None
        there = (out / RECORD).exists()
    if found is not None:
        _refuse_other_parts(found, parts, store=wanted["store"], place=out / RECORD)
        longer = _made_longer(out, found, wanted) if resume else None
        if longer is not None:
            found = longer
        refuse_other_settings(found["wanted"], wanted, place=out / RECORD)
        if found["finished"]:
            found = checked_result(out, found, resume=resume)
        elif not resume:
            raise StoreError("holds an unfinished run", place=out, remedy=_GO_ON)
    elif resume and not there:
        warn(f"{out}: there is no run to go on with, so a new one begins")
    if found is None or not found["finished"]:
        refuse_unwritable(out)
    return found


def _made_longer(
    out: Path, found: dict[str, Any], wanted: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The record of a run that is to have more steps than before; None for any other change.

    Raises StoreError for a finished run without a checkpoint to go on from.
    """
    before = found["wanted"]
    others = [name for name in {*before, *wanted} if name not in LENGTH]
    if any(not same(before.get(name), wanted.get(name)) for name in others):
        return None
    steps, epochs = wanted.get("steps"), wanted.get("epochs")
    more_steps = steps is not None and steps > found["settings"]["steps"]
    more_epochs = epochs is not None and (before.get("epochs") is None or epochs > before["epochs"])
    if not more_steps and not more_epochs:
        return None
    if found["finished"] and not has_checkpoint(out, found):
        raise StoreError(
            "the finished run keeps no checkpoint from which it could be made longer",
            place=out,
            remedy="Train it anew in another folder, or another run that begins with its model "
            f"(--student {out}); --keep-checkpoints keeps one",
        )
    rest = {name: value for name, value in found.items() if name not in OF_A_RESULT}
    return rest | {
        "wanted": dict(wanted),
        "settings": dict(wanted) | {"steps": steps},
        "finished": False,
        "extended": [*found.get("extended", []), found["settings"]["steps"]],
    }


def refuse_no_place(out: Path) -> None:
    """Refuse a folder in which no run was begun and none can begin.

    Args:
        out: The folder of a run, which need not be there.

    Raises StoreError where it holds something else, StorageError where it cannot be written.
    """
    with _explain_bad_folder(out):
        if (out / RECORD).exists():
            return
        if out.is_dir():
            _begun(out, resume=False)
    refuse_unwritable(out)


def _begun(out: Path, *, resume: bool) -> dict[str, Any] | None:
    """The content of run.json in the folder `out`; None where a run may begin.

    That is in a folder without files, and, where it is to be resumed, in one with nothing but a
    run.json that cannot be read: that run was stopped before it had anything to lose.
    """
    others = [name for name in islice(LocalStorage(out).list(""), 2) if name != RECORD]
    try:
        found = read_record(out)
    except CorruptionError as error:
        if others or not resume:
            raise _with_remedy(error, _PUT_BACK if others else _BEGIN_ANEW) from error
        warn(f"{error}; nothing else is there, so the run begins anew")
        return None
    except StoreError as error:
        raise _with_remedy(error, _ELSEWHERE) from error
    if found is None and others:
        if any(out.glob("checkpoint-*")):
            raise StoreError("file is gone", place=out / RECORD, remedy=_PUT_BACK)
        raise StoreError("holds something else than a run", place=out, remedy=_ELSEWHERE)
    return found


def _with_remedy(error: StoreError, remedy: str) -> StoreError:
    return type(error)(
        error.problem, place=error.place, found=error.found, allowed=error.allowed, remedy=remedy
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
            remedy=_ELSEWHERE,
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
    different = [
        key for key in sorted({*found, *wanted}) if not same(found.get(key), wanted.get(key))
    ]
    if different:
        flags = {one.name: one.flag for one in FIT_OPTIONS}
        listed = ", ".join(
            f"{flags.get(key, key)} {_told(found.get(key))} there, {_told(wanted.get(key))} here"
            for key in different
        )
        raise SpecError(
            f"the run was begun with other settings: {listed}",
            place=place,
            remedy="Repeat the settings it was begun with, or name another folder (--out)",
        )


def _refuse_other_parts(
    found: Mapping[str, Any],
    parts: Sequence[Mapping[str, Any]] | None,
    *,
    store: str,
    place: Path,
) -> None:
    """Raise SpecError, naming stores and weights, where a run has others than it was begun with."""
    there, here = found.get("parts"), parts
    if found["store"] == store or (there is None and here is None):
        return  # the same stores; or one and another one, which differ as any setting does
    raise SpecError(
        "the run was begun with other stores, or other weights: "
        f"{_stores(there, found['store'])} there, {_stores(here, store)} here",
        place=place,
        remedy="Repeat the stores it was begun with, or name another folder (--out)",
    )


def _stores(parts: Sequence[Mapping[str, Any]] | None, store: str) -> str:
    if parts is None:
        return f"one store ({store[:12]})"
    return " and ".join(f"{one['name']}@{one['weight']:g} ({one['store'][:12]})" for one in parts)


def _told(value: Any) -> str:
    return "not given" if value is None else str(value)


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
