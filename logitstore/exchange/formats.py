"""The formats that can be imported, by the names that `--from` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from logitstore.exchange.axolotl import open_axolotl
from logitstore.exchange.distillkit import open_distillkit
from logitstore.exchange.llamacpp import open_llamacpp
from logitstore.exchange.maxtext import open_maxtext
from logitstore.exchange.megatron import open_megatron
from logitstore.exchange.responses import open_responses

if TYPE_CHECKING:
    from collections.abc import Callable

    from logitstore.exchange.files import Foreign, Request

__all__ = ["IMPORTS", "ImportFormat"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportFormat:
    """A format: its name, what it is, and the function that opens it."""

    name: str
    summary: str
    open: Callable[[Request], Foreign]


IMPORTS: dict[str, ImportFormat] = {
    one.name: one
    for one in (
        ImportFormat(
            name="distillkit",
            summary="DistillKit's compressed Parquet, current, legacy or plain",
            open=open_distillkit,
        ),
        ImportFormat(
            name="megatron", summary="Megatron-LM's tar files of saved logits", open=open_megatron
        ),
        ImportFormat(
            name="maxtext", summary="MaxText's ArrayRecord files of top k", open=open_maxtext
        ),
        ImportFormat(
            name="llamacpp",
            summary="the file of llama-perplexity --kl-divergence-base",
            open=open_llamacpp,
        ),
        ImportFormat(
            name="vllm",
            summary="responses of vLLM as JSON lines, with prompt_logprobs or logprobs",
            open=open_responses,
        ),
        ImportFormat(
            name="openai",
            summary="responses as OpenAI's, with logprobs and top_logprobs, as JSON lines",
            open=open_responses,
        ),
        ImportFormat(
            name="axolotl", summary="axolotl's data sets of distillation", open=open_axolotl
        ),
    )
}
