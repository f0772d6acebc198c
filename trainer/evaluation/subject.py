"""The model that `evaluate` measures: by name, or loaded already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from logitstore import SettingError, TokenizerError
from logitstore.plumbing import (
    choose_device,
    gguf_file,
    holds_tokenizer,
    load_model,
    load_tokenizer,
    model_context,
    model_path,
    refuse_other_tokens,
    stored_tokenizer,
)
from trainer.training.adaptation import base_of, with_adapter
from trainer.training.model_folders import refuse_no_model_yet
from trainer.training.state_files import warn
from trainer.training.student import refuse_misfits
from trainer.training.tokens import folder_differences, token_differences

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from logitstore import StoreSpec
    from trainer.evaluation.material import EvalData
    from trainer.evaluation.options import EvalOptions

__all__ = ["Subject"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """A model to measure, not read yet where it is named.

    A loaded model stays on its device and in its number type.
    """

    name: str
    folder: Path | None  # None for a loaded model
    adapter: Path | None  # that comes upon the model in `folder`
    loaded: PreTrainedModel | None
    tokenizer: Any | None  # that the user gave, loaded
    device: str

    @staticmethod
    def of(options: EvalOptions) -> Subject:
        """The model that `options` name or hold. Raises ModelError where there is no such model."""
        tokenizer = options.tokenizer
        if isinstance(tokenizer, str | Path):
            tokenizer = load_tokenizer(str(tokenizer))
        if tokenizer is not None and not hasattr(tokenizer, "get_vocab"):
            raise SettingError(
                "tokenizer is no transformers tokenizer", found=type(tokenizer).__name__
            )
        if isinstance(options.model, str | Path):
            device = choose_device(options.device)
            refuse_no_model_yet(str(options.model))
            base, adapter = base_of(str(options.model))
            return Subject(
                name=str(options.model),
                folder=model_path(base),
                adapter=adapter,
                loaded=None,
                tokenizer=tokenizer,
                device=device,
            )
        model = options.model
        return Subject(
            name=getattr(model, "name_or_path", "") or type(model).__name__,
            folder=None,
            adapter=None,
            loaded=model,
            tokenizer=tokenizer,
            device=str(model.device),
        )

    @property
    def place(self) -> Path | None:
        """The folder of what is measured, which may be a run's; None for a loaded model."""
        return self.adapter or self.folder

    @property
    def context(self) -> int | None:
        """The most tokens that it reads; None where its configuration does not say."""
        found: int | None = model_context(self.loaded or str(self.folder))
        return found

    def open_tokenizer(self) -> Any:
        """The tokenizer of the model: the one that was given, or that of the folder."""
        return self.tokenizer or load_tokenizer(str(self.folder))

    def other_tokenizer(self, source: EvalData, spec: StoreSpec) -> Any | None:
        """The tokenizer of the model where ids mean other tokens to it; None where they do not.

        Args:
            source: The store's documents, and the files of its tokenizer.
            spec: That of the store.

        A .gguf file describes its tokenizer in words of its own: whether it is another is told when
        the model is opened.
        """
        found = self.tokenizer
        if found is None and self.folder is not None and gguf_file(self.folder) is None:
            found = load_tokenizer(str(self.folder)) if holds_tokenizer(self.folder) else None
        if found is None:
            return None
        try:
            token_differences(found, spec=spec, files=source.tokenizer_files, place=self.name)
        except TokenizerError:
            return found
        return None

    def open_model(self, source: EvalData | None) -> PreTrainedModel:
        """The model on its device, checked that it fits the store of `source`, if there is one."""
        spec, store = (None, None) if source is None else (source.spec, source.store)
        if source is not None and spec is not None:
            self._refuse_other_ids(source, spec)
        model: Any = self.loaded
        if self.folder is not None:
            model = load_model(self.folder, dtype=torch.float32)
        if self.adapter is not None:
            model = with_adapter(model, self.adapter, trainable=False)
        if spec is not None:
            refuse_misfits(model, self.folder or Path(self.name), spec=spec, store=store)
        return model if self.folder is None else model.to(self.device)

    def _refuse_other_ids(self, source: EvalData, spec: StoreSpec) -> None:
        """Raise TokenizerError where the ids of a store mean other tokens to the model.

        A .gguf file describes its tokenizer in words of its own, so the tokens are compared.
        """
        kept, differs = source.tokenizer_files, None
        file = None if self.folder is None else gguf_file(self.folder)
        files = {} if file is None else kept()
        if self.tokenizer is not None:
            differs = token_differences(self.tokenizer, spec=spec, files=kept, place="tokenizer")
        elif self.folder is not None and not files:
            differs = folder_differences(self.folder, spec=spec, files=kept)
        if differs is not None:
            warn(
                f"{self.name}: the model's tokenizer is another than the store's, but ids mean the "
                f"same: {differs}"
            )
        if self.tokenizer is not None or file is None or not files:
            return
        known = stored_tokenizer(files).get_vocab().items()
        size = spec.tokenizer.vocab_size
        refuse_other_tokens(file, {token: number for token, number in known if number < size})
