"""What `evaluate` takes: declared once, for the command line, the docs and Python alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitstore import SettingError
from logitstore.plumbing import MAX_MEMORY, ON_PROGRESS, SKIP_DAMAGED, STORE, option, refuse_uri
from trainer.training.options import TRAINER_DEVICE

__all__ = ["EvalOptions"]


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
        excludes=("data",),
        help="A store of held-out text, with its teacher's targets; or a Parquet file of answers, "
        "as `logitstore generate` writes it.",
        in_python="Or an open store, a `logitstore.Storage`, or a `trainer.StoreLike`.",
    )
    data: Any | None = option(
        None,
        refuse=refuse_uri,
        excludes=("logits",),
        help="Held-out text, without a teacher: a file, a folder or a Hub data set, as for `dump`.",
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
        help="The folder for eval.json.",
        unset="MODEL, where that is a run and --logits is a store; else none is written",
    )
    device: str = option(like=TRAINER_DEVICE)
    skip_damaged: Any = option(like=SKIP_DAMAGED, needs="logits")
    max_memory: Any = option(like=MAX_MEMORY, needs="logits")
    on_progress: Any = option(None, like=ON_PROGRESS)

    def __post_init__(self) -> None:
        """Raise SettingError where there is not one text and one model to measure."""
        if not isinstance(self.model, str | Path):
            self._check_loaded()
        if self.logits is None and self.data is None:
            raise SettingError(
                "there is no text to measure on", remedy="Give one of --logits and --data"
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
        if self.data is not None and self.tokenizer is None:
            raise SettingError("a loaded model needs a tokenizer", remedy="Give it as tokenizer=")
