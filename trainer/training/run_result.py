"""The result of a run: the model, the tokenizer and the history, by their names and hashes.

run.json names them once the run has finished, so that a model that is gone or has changed is not
taken for the result, and an evaluation of another model not for that of this one.
"""

from __future__ import annotations

import stat
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from logitstore import CorruptionError, StoreError
from logitstore.plumbing import LocalStorage, is_tokenizer_name, sha256_of
from trainer.training.checkpoints import find_checkpoints
from trainer.training.run_record import (
    RECORD,
    earlier_fingerprints,
    read_record,
    run_fingerprint,
)
from trainer.training.state_files import refuse_changed_file, warn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trainer.data.store import StoreLike
    from trainer.training.checkpoints import Checkpoint

__all__ = [
    "OF_A_RESULT",
    "checked_result",
    "has_checkpoint",
    "refuse_changed_weights",
    "refuse_in_the_way",
    "result_hashes",
    "share_weights",
    "tokenizer_of",
    "weight_hashes",
    "write_tokenizer",
]

_CONFIGS = (
    *("config.json", "adapter_config.json", "generation_config.json"),
    *("history.json", "held_out.json"),
)
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
OF_A_RESULT = ("files", "seconds", "metrics")  # what run.json has once the run has finished


def weight_hashes(model: Path) -> dict[str, str]:
    """The sha256 of each file of weights, by its name.

    Args:
        model: The folder of a model, or its GGUF file.
    """
    if model.is_file():
        return {model.name: sha256_of(LocalStorage(model.parent), model.name)}
    names = {path.name for pattern in _WEIGHTS for path in model.glob(pattern) if path.is_file()}
    return {name: sha256_of(LocalStorage(model), name) for name in sorted(names)}


def share_weights(out: Path) -> None:
    """Let whoever may read the model's configuration read its weights.

    safetensors makes files that nobody but their owner reads, whatever the umask says.

    Args:
        out: The folder of a run whose model has been saved.
    """
    configs = (out / name for name in ("config.json", "adapter_config.json"))
    mode = stat.S_IMODE(next(one for one in configs if one.is_file()).stat().st_mode)
    for path in {path for pattern in _WEIGHTS for path in out.glob(pattern)}:
        path.chmod(mode)


def result_hashes(out: Path, *, tokenizer: Mapping[str, bytes]) -> dict[str, str]:
    """The sha256 of each file of the result in the folder of a run, by its name.

    Args:
        out: The folder.
        tokenizer: The files of the tokenizer.
    """
    storage = LocalStorage(out)
    named = [name for name in (*_CONFIGS, *tokenizer) if storage.size(name) is not None]
    return weight_hashes(out) | {name: sha256_of(storage, name) for name in named}


def checked_result(out: Path, record: dict[str, Any], *, resume: bool) -> dict[str, Any]:
    """The record of a finished run whose result is as it was written.

    Where files of it are gone, `resume` and a checkpoint is left, it is the record of a run that is
    yet to be finished: the checkpoint makes them anew.

    Args:
        out: The folder of the run.
        record: The content of its run.json.
        resume: Whether the run may be finished once more.

    Raises StoreError where a file has changed, or is gone and is not to be made anew.
    """
    hashes: dict[str, str] | None = record.get("files")
    gone = [name for name in hashes or () if not (out / name).is_file()]
    if hashes is None:  # of an earlier version
        gone = _gone_unnamed(out)
    for name, sha256 in (hashes or {}).items():
        if name not in gone:
            _refuse_changed(out, name, sha256, record)
    if not gone:
        return record
    newest = _newest(out, record)
    if newest is None or not resume:
        raise StoreError("file of a finished run is gone", place=out / gone[0], remedy=_way(newest))
    warn(f"{out / gone[0]}: file of a finished run is gone; written anew from {newest.folder.name}")
    rest = {name: value for name, value in record.items() if name not in OF_A_RESULT}
    return rest | {"finished": False}


def refuse_changed_weights(model: Path) -> None:
    """Refuse the weights of a finished run that are not as the run wrote them.

    Args:
        model: The folder of a model, which may be that of a run.

    Raises StoreError for such weights, CorruptionError for a run.json that has changed. One that is
    of something else says nothing of them.
    """
    try:
        record = read_record(model) or {}
    except CorruptionError:
        raise
    except StoreError:
        return
    files = record["files"] if record.get("finished") is True and "files" in record else {}
    for name, sha256 in sorted(files.items()):
        if any(fnmatch(name, pattern) for pattern in _WEIGHTS) and (model / name).is_file():
            try:
                refuse_changed_file(model / name, sha256)
            except StoreError as error:
                error.remedy = (
                    "Put a copy of it back; to evaluate other weights, move them to a folder "
                    f"without {RECORD}"
                )
                raise


def _gone_unnamed(out: Path) -> list[str]:
    """What is not there of a model whose files run.json does not name."""
    weights = [path for pattern in _WEIGHTS for path in out.glob(pattern)]
    gone = [] if weights else ["model.safetensors"]
    return gone if (out / "config.json").is_file() else [*gone, "config.json"]


def _refuse_changed(out: Path, name: str, sha256: str, record: dict[str, Any]) -> None:
    try:
        refuse_changed_file(out / name, sha256)
    except StoreError as error:
        newest = _newest(out, record)
        first = "" if newest is None else "Move it to another folder. "
        raise type(error)(
            f"{error.problem}, by a run that has finished",
            place=error.place,
            found=error.found,
            allowed=error.allowed,
            remedy=first + _way(newest),
        ) from error


def _newest(out: Path, record: dict[str, Any]) -> Checkpoint | None:
    runs = (run_fingerprint(record), *earlier_fingerprints(record))
    return find_checkpoints(out, runs=runs).newest


def has_checkpoint(out: Path, record: dict[str, Any]) -> bool:
    """Whether a whole checkpoint of a run lies in its folder.

    Args:
        out: The folder of the run.
        record: The content of its run.json.
    """
    return _newest(out, record) is not None


def _way(newest: Checkpoint | None) -> str:
    if newest is None:
        return "No whole checkpoint is left to make it anew: train again in another folder (--out)"
    return f"{newest.folder.name} makes it anew: run the same command with --resume"


def tokenizer_of(store: StoreLike) -> dict[str, bytes]:
    """The files of the store's tokenizer by their names; none where it has none.

    A store may come from anywhere: what has a name that no file of a tokenizer has could be taken
    for a part of the model or of the run, and is left out with a warning.
    """
    files: Mapping[Any, Any] = getattr(store, "tokenizer_files", dict)()
    kept = {
        name: data
        for name, data in files.items()
        if isinstance(name, str) and is_tokenizer_name(name) and isinstance(data, bytes)
    }
    if len(kept) < len(files):
        odd = ", ".join(repr(name)[:80] for name in files if name not in kept)
        warn(f"files of the store's tokenizer that no tokenizer has are left out: {odd}")
    return kept


def refuse_in_the_way(out: Path, tokenizer: Mapping[str, bytes]) -> None:
    """Raise StoreError where the folder of the run holds another file than one of the tokenizer.

    Args:
        out: The folder of the run.
        tokenizer: The files that are to be written there, by their names.
    """
    for name, data in tokenizer.items():
        place = out / name
        if place.exists() and (not place.is_file() or place.read_bytes() != data):
            raise StoreError(
                "another file is where the store's tokenizer is to be written",
                place=place,
                remedy="Move it to another folder, then go on (--resume)",
            )


def write_tokenizer(out: Path, tokenizer: Mapping[str, bytes]) -> None:
    """Write the files of the store's tokenizer into the folder of the run; none is replaced.

    Args:
        out: The folder of the run.
        tokenizer: The files by their names.

    Raises as `refuse_in_the_way` does.
    """
    refuse_in_the_way(out, tokenizer)
    for name, data in tokenizer.items():
        LocalStorage(out).put_if_absent(name, data)
