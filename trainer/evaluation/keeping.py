"""Where an evaluation is kept: in `evals/`, one file for each name; and the newest in `eval.json`.

The name is given, or made of what was measured, so that another store, temperature, text or list of
tasks takes another file, and the same measurement again takes the same. `eval.json` holds the
newest comparison with a store that was given no name: the one that a report shows first.

    evals/store-1f2e3d4c5b6a.json          evals/store-1f2e3d4c5b6a-T2.json
    evals/text-heldout.jsonl.json          evals/hellaswag+lambada_openai-5shot-first100.json
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from logitstore import SettingError
from trainer.evaluation.options import task_names
from trainer.training import run_folder
from trainer.training.run_record import RECORD
from trainer.training.run_result import weight_hashes
from trainer.training.state_files import EVALS, EVALUATION, NEWEST, write_state

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainer.evaluation.material import EvalData
    from trainer.evaluation.options import EvalOptions

__all__ = ["Place", "file_name", "refuse_nowhere"]

_LONGEST = 100  # characters of a name that is made


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the result of an evaluation goes, or of a diagnosis."""

    folder: Path | None  # None: nowhere
    name: str  # in the subfolder
    is_newest: bool  # whether eval.json holds it too
    subfolder: str = EVALS
    format: str = EVALUATION

    @staticmethod
    def of(options: EvalOptions, *, model: Path | None, store: EvalData | None) -> Place:
        """The place of an evaluation that is about to begin, which can be written.

        Args:
            options: Those of the evaluation.
            model: The folder or file of the model; None for a loaded one.
            store: What it is measured on, where that is a store or answers.

        Raises SettingError for a name without a folder, StorageError where the folder cannot be
        written.
        """
        folder, named = options.out, options.name is not None
        compared = store is not None and store.comparison is not None
        is_run = model is not None and (model / RECORD).is_file()
        if folder is None and is_run and (compared or options.tasks is not None or named):
            folder = model
        refuse_nowhere(folder, name=options.name)
        return Place(
            folder=folder,
            name=options.name or _made_name(options, store),
            is_newest=not named and options.tasks is None,
        )

    def keep(self, result: dict[str, Any], *, model: Path | None) -> None:
        """Write the result, with the hashes of the weights that it is of.

        Args:
            result: What was measured.
            model: The folder or file of the model; None for a loaded one.
        """
        if self.folder is None:
            return
        weights = None if model is None else weight_hashes(model)
        content = {"format": self.format, "weights": weights} | result
        write_state(self.folder / self.subfolder / f"{self.name}.json", content)
        if self.is_newest:
            write_state(self.folder / NEWEST, content)


def refuse_nowhere(folder: Path | None, *, name: str | None) -> None:
    """Raise SettingError for a name without a folder, StorageError for one that is not writable.

    Args:
        folder: Where a result is to be kept; None keeps none.
        name: The name that was asked for.
    """
    if folder is not None:
        run_folder.refuse_unwritable(folder)
    elif name is not None:
        raise SettingError(
            "there is no folder in which to keep the result",
            place="--name",
            found=name,
            remedy="Name one (--out): MODEL is no folder of a run",
        )


def _made_name(options: EvalOptions, store: EvalData | None) -> str:
    if options.tasks is not None:
        parts = ["+".join(sorted(task_names(options.tasks)))]
        parts += [] if options.num_fewshot is None else [f"{options.num_fewshot}shot"]
        parts += [] if options.limit is None else [f"first{options.limit}"]
    elif store is not None:
        kind = "store" if store.comparison is not None else "answers"
        parts = [kind, str(store.fingerprint)[:12]]
        parts += [] if options.temperature == 1 else [f"T{options.temperature:g}"]
    else:
        parts = ["text", PurePath(str(options.data)).name]
    return file_name(parts)


def file_name(parts: Sequence[str]) -> str:
    """A name that a file may have on every system, made of parts that say what it holds.

    Args:
        parts: In their order.
    """
    name = re.sub("[^A-Za-z0-9._+-]", "_", "-".join(parts)).lstrip("._+-") or "evaluation"
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST - 13]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return name
