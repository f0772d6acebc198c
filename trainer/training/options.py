"""The options of `fit`, declared once for the command line, the docs and Python.

Importing this costs no torch, so that a command line can refuse a value at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from logitstore import SettingError
from logitstore.plumbing import (
    DEVICE,
    DTYPE,
    MAX_MEMORY,
    ON_PROGRESS,
    SKIP_DAMAGED,
    STORE,
    option,
    refuse_uri,
)
from trainer.data.answer_files import is_answers, refuse_teacher
from trainer.data.options import BATCH_TOKENS, EPOCHS, MICRO_TOKENS, SEED, SPAN_ENDS, WINDOW
from trainer.losses import SPAN_LOSSES
from trainer.losses.options import ALPHA, LOSS, TEMPERATURE

__all__ = ["TRAINER_DEVICE", "FitOptions"]

# They change no weight of the result, so a resumed run may have others. The store is identified by
# its fingerprint.
_NOT_OF_THE_RESULT = (
    "logits",
    "out",
    "save_steps",
    "log_steps",
    "resume",
    "max_memory",
    "device",
    "student_tokenizer",  # by its fingerprint it is part of the store's
    "report",
    "on_progress",
)

# The devices that the loop of transformers takes; it has no name for a second GPU.
TRAINER_DEVICE = replace(
    DEVICE,
    help="The device to compute on: auto takes a GPU where there is one. Of several GPUs, "
    "CUDA_VISIBLE_DEVICES chooses.",
    choices=lambda: ("auto", "cpu", "cuda", "mps"),
)


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The options of a run, each within its bounds."""

    logits: Any = option(
        like=STORE,
        positional=False,
        help="The store to learn from; or with --alpha 0 a Parquet file of answers, as `logitstore "
        "generate` writes it.",
        in_python="Or an open store, a `logitstore.Storage`, or a `trainer.StoreLike`.",
    )
    student: Any = option(
        refuse=refuse_uri,
        help="The student: a transformers folder, a Hub id, or a configuration file .json, from "
        "which one is made with fresh weights.",
    )
    out: Path = option(help="The folder of the run: a new one, or that of a run to go on with.")
    alpha: float = option(like=ALPHA)
    temperature: float = option(like=TEMPERATURE)
    loss: str = option(like=LOSS)
    student_tokenizer: Any = option(
        None,
        refuse=refuse_uri,
        help="The folder or Hub id of the student's tokenizer, where that is another than the "
        "store's; for the losses alm and uld.",
        unset="that of the student's folder, else the store's",
    )
    span_ends: str = option(like=SPAN_ENDS)
    epochs: int | None = option(
        like=EPOCHS, unset="1, where --steps is not given", excludes=("steps",)
    )
    steps: int | None = option(
        None,
        help="The number of optimiser steps.",
        unset="as many as --epochs takes",
        least=1,
        excludes=("epochs",),
    )
    batch_tokens: int = option(like=BATCH_TOKENS)
    micro_tokens: int | None = option(like=MICRO_TOKENS)
    lr: float = option(
        3e-4, help="The highest learning rate, which falls to 0 along a cosine.", above=0
    )
    warmup: float = option(
        0.03,
        help="The share of the steps in which the learning rate rises; a rise of one step is none.",
        least=0,
        most=1,
    )
    weight_decay: float = option(0.1, help="The weight decay of AdamW.", least=0)
    seed: int = option(
        like=SEED, help="The seed of the order of documents, of fresh weights and of dropout."
    )
    window: int | None = option(like=WINDOW)
    save_steps: int = option(500, help="The number of steps between checkpoints.", least=1)
    log_steps: int = option(10, help="The number of steps between reports.", least=1)
    resume: bool = option(
        False,
        help="Go on with an unfinished run from its newest checkpoint, or begin a new one.",
    )
    device: str = option(like=TRAINER_DEVICE)
    dtype: str = option(
        like=DTYPE,
        help="The number type of the forward pass, by autocast: auto is bfloat16 on cuda, else "
        "float32. Weights are float32.",
        choices=lambda: ("auto", "float32", "bfloat16"),
    )
    skip_damaged: Any = option(like=SKIP_DAMAGED)
    max_memory: Any = option(like=MAX_MEMORY)
    report: Any = option(
        None, help="A function that is called with each report of the loss.", python_only=True
    )
    on_progress: Any = option(None, like=ON_PROGRESS)

    def __post_init__(self) -> None:
        """Raise SettingError for objects of a wrong type.

        A student must be a name, because a resumed run loads it again.
        """
        if not isinstance(self.student, str | Path):
            raise SettingError(
                "--student must be a name",
                found=type(self.student).__name__,
                allowed="a transformers folder, a Hub id, or a configuration file .json",
                remedy="Save the model with save_pretrained and name the folder, or train it with "
                "`trainer.DistillationTrainer`",
            )
        if is_answers(self.logits):
            refuse_teacher(self.logits, alpha=self.alpha)
        self._check_spans()
        if self.report is not None and not callable(self.report):
            raise SettingError("report must be a function", found=repr(self.report)[:80])

    def _check_spans(self) -> None:
        """Raise SettingError for options of another tokenizer that the loss does not look at."""
        given = {
            "--student-tokenizer": self.student_tokenizer,
            "--span-ends": None if self.span_ends == SPAN_ENDS.default else self.span_ends,
        }
        for name, value in given.items():
            if value is not None and self.loss not in SPAN_LOSSES:
                raise SettingError(
                    f"{name} has no effect with a loss over tokens",
                    place="--loss",
                    found=self.loss,
                    allowed=", ".join(SPAN_LOSSES),
                )

    def wanted(self, *, store: str, dtype: str) -> dict[str, Any]:
        """The settings that decide the weights of the result, as run.json holds them.

        Args:
            store: The fingerprint of the store that `logits` names.
            dtype: The number type that "auto" stands for here.
        """
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in _NOT_OF_THE_RESULT:
            del content[name]
        if self.epochs is None and self.steps is None:
            content["epochs"] = 1
        if self.loss not in SPAN_LOSSES:
            del content["span_ends"]
        if self.skip_damaged is not None:
            content["skip_damaged"] = "all"  # which are left out, run.json says
        return content | {"student": str(self.student), "dtype": dtype, "store": store}
