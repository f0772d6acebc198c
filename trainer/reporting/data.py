"""What the report reads: the files of a run's folder, checked before anything is made of them.

    run.json, history.json    from `trainer fit`: settings, provenance, course of training
    eval.json, evals/*.json   from `trainer eval`; alone in their folder they are a reference
    diagnoses/*.json          from `trainer diagnose`: what is likely wrong with the run

They may come from anywhere, so numbers must be numbers, texts lose their control characters, and a
message names the file and the place in it. JSON is read with the caps and the errors of this module
and not with `logitstore.plumbing.parse_json`, which reads objects of a store: that refuses NaN and
infinities, which other programs write for a run that has diverged and which the page shows as "not
finite", and files above 64 MiB, which the history of a long run exceeds.

What carries a hash must have it. The figures of an evaluation are those of a run only if it names
weights that run.json names too: others are left out, and the report says so. Files of earlier
versions name none.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore import SettingError, StorageError, StoreError
from logitstore.plumbing import checked_content, printable
from trainer.training.model_folders import runs_in, several_runs
from trainer.training.run_record import FORMAT
from trainer.training.state_files import (
    CHECK,
    DIAGNOSES,
    DIAGNOSIS,
    EVALS,
    EVALUATION,
    NEWEST,
    refuse_changed_file,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RunFolder", "as_number", "load_runs", "words"]

MAX_JSON_BYTES = 256 * 2**20  # a history of a million reports takes about 200 MB
MAX_KEPT = 1000  # files in evals/, or in diagnoses/


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """One folder's files; None for one that is not there."""

    name: str
    folder: Path
    run: dict[str, Any] | None
    history: list[dict[str, Any]] | None
    evaluation: dict[str, Any] | None
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)  # those of evals/, by their names
    diagnoses: dict[str, dict[str, Any]] = field(default_factory=dict)  # likewise, of diagnoses/
    strays: dict[str, str] = field(default_factory=dict)  # file -> why it is not the run's

    @property
    def stray(self) -> bool:
        """Whether there is an eval.json that is not the run's."""
        return NEWEST in self.strays

    @property
    def reference(self) -> bool:
        """Whether it is something to compare with, not a run that was trained."""
        return self.run is None and self.history is None

    def value(self, source: str) -> Any:
        """What stands at `source`, as in "run.settings.alpha"; None where nothing does.

        Args:
            source: "run" or "eval", which is the file, and the keys that lead to the value.
        """
        file, *keys = source.split(".")
        value: Any = self.run if file == "run" else self.evaluation
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def number(self, source: str) -> float | None:
        """The number that stands at `source`, as `value` reads it; None where nothing does.

        Raises `StoreError` where something else stands there.
        """
        file, _, keys = source.partition(".")
        return as_number(self.value(source), f"{self.folder / file}.json: {keys}")


def load_runs(dirs: Sequence[str | Path]) -> list[RunFolder]:
    """The runs in folders, in their order.

    Args:
        dirs: The folders. A run is called by its folder's own name, by the whole path where two
            folders have the same.

    Raises `SettingError` for a folder that is missing or named twice, `StoreError` for one without
    results or with a file that is not what it should be, `StorageError` where the disk refuses.
    """
    return [_load(Path(folder), name) for folder, name in zip(dirs, _names(dirs), strict=True)]


def _names(dirs: Sequence[str | Path]) -> list[str]:
    """The folders' own names, whole paths where two are called the same."""
    if not dirs:
        raise SettingError("a report needs at least one folder")
    resolved = Counter(Path(folder).resolve() for folder in dirs)
    for folder, times in resolved.items():
        if times > 1:
            raise SettingError("a folder is named twice", place=folder)
    counts = Counter(folder.name for folder in resolved)
    return [
        printable(path.resolve().name if counts[path.resolve().name] == 1 else str(path))
        for path in map(Path, dirs)
    ]


def _load(folder: Path, name: str) -> RunFolder:
    if not folder.is_dir():
        raise SettingError("no such folder", place=folder)
    record = _read(folder / "run.json", kind=dict)
    files = record.get("files") if record is not None else None
    history = _read(folder / "history.json", kind=list)
    if isinstance(files, dict) and history is not None:
        refuse_changed_file(folder / "history.json", str(files.get("history.json")))
    files_of = [NEWEST, *_kept(folder, EVALS), *_kept(folder, DIAGNOSES)]
    content = {name: _read(folder / name, kind=dict) for name in files_of}
    found = {name: _why_stray(record, one) for name, one in content.items()}
    strays = {name: why for name, why in found.items() if why is not None}
    sound = {name: one for name, one in content.items() if name not in strays and one is not None}
    newest = sound.pop(NEWEST, None)
    kept = {_short(name): one for name, one in sound.items() if name.startswith(EVALS)}
    run = RunFolder(
        name=name,
        folder=folder,
        run=record,
        history=history,
        evaluation=_of_held_out(newest, kept),
        kept=kept,
        diagnoses={_short(name): one for name, one in sound.items() if name.startswith(DIAGNOSES)},
        strays=strays,
    )
    if run.reference and run.evaluation is None and not run.kept:
        runs = runs_in(folder)
        if runs:
            raise StoreError(
                "a folder without results of its own",
                place=folder,
                found=several_runs(folder, runs),
                remedy=f"Name its runs: trainer report {runs[0].parent}/*",
            )
        raise StoreError(
            "a folder without results",
            place=folder,
            allowed="run.json, history.json, eval.json, evals/",
            remedy="`trainer fit` writes the first two, `trainer eval --out` the others",
        )
    return run


def _of_held_out(
    newest: dict[str, Any] | None, kept: dict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """The newest evaluation; of a store that was learnt from, only where there is no other."""
    if newest is None or newest.get("trained_on") is not True:
        return newest
    others = (one for one in kept.values() if one.get("trained_on") is False)
    return next(others, newest)


def _kept(folder: Path, subfolder: str) -> list[str]:
    """The files in a subfolder of a run, as far as there are any, from the run's folder on."""
    kept = sorted(islice((folder / subfolder).glob("*.json"), MAX_KEPT + 1))
    if len(kept) > MAX_KEPT:
        raise StoreError("too many files", place=folder / subfolder, allowed=MAX_KEPT)
    return [f"{subfolder}/{path.name}" for path in kept]


def _short(name: str) -> str:
    """What a file of `evals/` or `diagnoses/` is called on the page."""
    return printable(Path(name).stem)


def _why_stray(run: dict[str, Any] | None, evaluation: dict[str, Any] | None) -> str | None:
    """Why an evaluation is not that of the run beside it; None where it is, or nothing says so."""
    if run is None or evaluation is None or run.get("format") != FORMAT:
        return None  # a reference, or a run of an earlier version
    if not run.get("finished"):
        return "the run has not finished"
    weights, files = evaluation.get("weights"), run.get("files")
    if not isinstance(weights, dict) or not weights:
        return "it names no weights"
    if not isinstance(files, dict) or not weights.items() <= files.items():
        return "it is of other weights"
    return None


def _read(path: Path, *, kind: type) -> Any:
    """The JSON in `path`, which must be a dict or a list of dicts; None without such a file."""
    if not path.exists():
        return None
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise StoreError("too large a file", place=path, found=size, allowed=MAX_JSON_BYTES)
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise StorageError("the file cannot be read", place=path, found=error) from error
    except (ValueError, RecursionError) as error:
        raise StoreError("not valid JSON", place=path, found=printable(str(error))) from error
    objects = content if kind is list else [content]
    if not isinstance(content, kind) or not all(isinstance(one, dict) for one in objects):
        allowed = "a list of objects" if kind is list else "an object"
        raise StoreError("unexpected JSON", place=path, found=words(content), allowed=allowed)
    return _checked(content, path) if isinstance(content, dict) else content


def _checked(content: dict[str, Any], path: Path) -> Any:
    """`content` without its hash. Raises StoreError where it lacks its own."""
    if content.get("format") in (FORMAT, EVALUATION, DIAGNOSIS) and CHECK not in content:
        raise StoreError("lacks the hash of its content", place=path, allowed=f"a field {CHECK}")
    try:
        return checked_content(content, place=str(path))
    except ValueError as error:  # NaN has no canonical form
        raise StoreError("not valid JSON", place=path, found=printable(str(error))) from error


def as_number(value: Any, place: object) -> float | None:
    """`value` as a float, perhaps not finite; None for None.

    Args:
        value: What was read.
        place: Where it stood, for the message.

    Raises `StoreError` where it is no number.
    """
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # An integer beyond float's range would raise, and is no figure of ours either.
        return float(value) if isinstance(value, float) or abs(value) < 1e300 else math.inf
    raise StoreError("not a number", place=place, found=words(value))


def words(value: Any) -> str:
    """`value`, anything of JSON, as one line of printable text, cut off after 400 characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = printable(text)
    return text if len(text) <= 400 else f"{text[:399]}…"
