"""What `evaluate` takes: declared once, for the command line, the docs and Python alike."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitstore import SettingError
from logitstore.plumbing import MAX_MEMORY, ON_PROGRESS, SKIP_DAMAGED, STORE, option, refuse_uri
from trainer.training.options import TRAINER_DEVICE

__all__ = ["EvalOptions", "task_names"]

_FILE_NAME = "[A-Za-z0-9][A-Za-z0-9._+-]{0,99}"


def task_names(value: Any) -> tuple[str, ...]:
    """The names in `value`, each once: a list of them, or a string with commas between them.

    Raises SettingError where it holds none, or something else.
    """
    refuse_uri(value)
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(one, str) for one in listed):
        raise SettingError("these are no names of tasks", found=repr(value)[:80])
    names = tuple(dict.fromkeys(one.strip() for one in listed))
    if not names or "" in names:
        raise SettingError("a name of a task is missing", found=repr(value)[:80])
    return names


def refuse_no_file_name(value: str) -> None:
    """Raise SettingError where `value` cannot be the name of a file on every system."""
    if not re.fullmatch(_FILE_NAME, value):
        raise SettingError(
            "this is no name to keep a file under",
            found=repr(value)[:80],
            allowed="up to 100 letters, digits, dots, +, - and _, a letter or digit first",
        )


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """The options of an evaluation, each within its bounds."""

    model: Any = option(
        refuse=refuse_uri,
        help="The model to measure: the folder of a run, a transformers folder, a .gguf file, or a "
        "Hub id.",
        in_python="Or a loaded transformers model, which stays on its device and in its number "
        "type.",
        positional=True,
    )
    tokenizer: Any | None = option(
        None,
        help="The tokenizer of the model, or its folder or Hub id; a loaded model needs one for "
        "`data`.",
        unset="that of the model's folder",
        python_only=True,
    )
    logits: Any | None = option(
        None,
        like=STORE,
        nullable=True,
        positional=False,
        excludes=("data", "tasks"),
        help="A store of held-out text, with its teacher's targets; or a Parquet file of answers, "
        "as `logitstore generate` writes it.",
        in_python="Or an open store, a `logitstore.Storage`, or a `trainer.StoreLike`.",
    )
    data: Any | None = option(
        None,
        refuse=refuse_uri,
        excludes=("logits", "tasks"),
        help="Held-out text, without a teacher: a file, a folder or a Hub data set, as for `dump`.",
    )
    tasks: Any | None = option(
        None,
        refuse=task_names,
        excludes=("logits", "data", "batch_tokens"),
        help="Tasks of lm-evaluation-harness by its names, separated by commas, as in "
        "`lambada_openai,hellaswag`.",
        in_python="Or a list of names.",
    )
    task_data: Path | None = option(
        None,
        help="A folder with the items of each task in TASK.jsonl, in the fields of its data set.",
        unset="each task's data set, from the Hub",
        needs="tasks",
    )
    limit: int | None = option(
        None,
        help="The most items of a task, from its first on.",
        unset="all",
        least=1,
        needs="tasks",
    )
    num_fewshot: int | None = option(
        None,
        help="The number of solved examples before each item.",
        unset="as the task says, mostly 0",
        least=0,
        needs="tasks",
    )
    batch_size: int = option(
        8, help="The most requests of tasks in one forward pass.", least=1, needs="tasks"
    )
    temperature: float = option(
        1.0,
        help="The temperature of the KL to the teacher and of the acceptance.",
        above=0,
        needs="logits",
    )
    batch_tokens: int = option(
        4096,
        help="The most tokens in one forward pass; a longer document has a pass of its own.",
        least=1,
        excludes=("tasks",),
    )
    max_length: int | None = option(
        None,
        help="The most tokens of a document; longer ones are split.",
        unset="the model's context, 1024 at most",
        least=2,
        needs="data",
    )
    text_field: str | None = option(
        None,
        help="The field of a record that holds its text.",
        unset="'text', where there is one",
        needs="data",
        excludes=("messages_field",),
    )
    messages_field: str | None = option(
        None,
        help="The field of a record that holds its chat.",
        unset="'messages', where there is one",
        needs="data",
        excludes=("text_field",),
    )
    out: Path | None = option(
        None,
        help="The folder for eval.json and for evals/, where evaluations are kept by name.",
        unset="MODEL, where that is a run and --logits is a store, or --tasks or --name is given; "
        "else none is written",
    )
    name: str | None = option(
        None,
        refuse=refuse_no_file_name,
        help="The name under which the result is kept, as evals/NAME.json; eval.json is then left "
        "as it is.",
        unset="one made of the store, the text or the tasks",
    )
    device: str = option(like=TRAINER_DEVICE)
    skip_damaged: Any = option(like=SKIP_DAMAGED, needs="logits")
    max_memory: Any = option(like=MAX_MEMORY, needs="logits")
    on_progress: Any = option(None, like=ON_PROGRESS)

    def __post_init__(self) -> None:
        """Raise SettingError where there is not one text and one model to measure."""
        if not isinstance(self.model, str | Path):
            self._check_loaded()
        if self.logits is None and self.data is None and self.tasks is None:
            raise SettingError(
                "there is nothing to measure on", remedy="Give one of --logits, --data and --tasks"
            )

        if self.data is not None and not isinstance(self.data, str | Path):
            raise SettingError("--data must be a name or a path", found=type(self.data).__name__)

    def _check_loaded(self) -> None:
        if not all(hasattr(self.model, name) for name in ("get_output_embeddings", "config")):
            raise SettingError(
                "model is neither a name nor a loaded transformers model",
                found=type(self.model).__name__,
            )
        if self.device != "auto":
            raise SettingError(
                "--device means nothing to a model that is loaded already",
                found=self.device,
                remedy="Leave it out, and move the model before",
            )
        if self.logits is None and self.tokenizer is None:
            raise SettingError("a loaded model needs a tokenizer", remedy="Give it as tokenizer=")
