"""The formats that can be imported, by the names that `--from` takes; a module for each."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logitstore.exchange.foreign_files import Foreign, Request

__all__ = ["IMPORTS", "ImportFormat", "open_foreign"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportFormat:
    """A format: what it is, and the function that opens a source of it."""

    summary: str  # for help texts
    opens: str  # "module:function", so that naming a format imports nothing


_HERE = "logitstore.exchange.imports"
IMPORTS: dict[str, ImportFormat] = {
    "distillkit": ImportFormat(
        summary="DistillKit's compressed Parquet, current, legacy or plain",
        opens=f"{_HERE}.distillkit:open_distillkit",
    ),
    "megatron": ImportFormat(
        summary="Megatron-LM's tar files of saved logits",
        opens=f"{_HERE}.megatron:open_megatron",
    ),
    "maxtext": ImportFormat(
        summary="MaxText's ArrayRecord files of top k", opens=f"{_HERE}.maxtext:open_maxtext"
    ),
    "llamacpp": ImportFormat(
        summary="the file of llama-perplexity --kl-divergence-base",
        opens=f"{_HERE}.llamacpp:open_llamacpp",
    ),
    "vllm": ImportFormat(
        summary="responses of vLLM as JSON lines, with prompt_logprobs or logprobs",
        opens=f"{_HERE}.responses:open_responses",
    ),
    "openai": ImportFormat(
        summary="responses as OpenAI's, with logprobs and top_logprobs, as JSON lines",
        opens=f"{_HERE}.responses:open_responses",
    ),
    "axolotl": ImportFormat(
        summary="axolotl's data sets of distillation", opens=f"{_HERE}.axolotl:open_axolotl"
    ),
}


def open_foreign(name: str, request: Request) -> Foreign:
    """A source of the format `name`, opened. Raises CorpusError or SettingError.

    name: one of IMPORTS.
    request: what was asked for.
    """
    module, function = IMPORTS[name].opens.split(":")
    found: Foreign = getattr(importlib.import_module(module), function)(request)
    return found
