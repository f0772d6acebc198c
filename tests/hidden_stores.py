"""Stores of hidden states, made by dumps, and the live teacher that they are compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import logitstore

__all__ = [
    "DEPTH",
    "TEXTS",
    "WIDTH",
    "corpus_of",
    "dense",
    "dumped",
    "layered_teacher",
    "states_of",
]

DEPTH, WIDTH = 4, 32  # of `layered_teacher`

TEXTS = [
    "The teacher reads the text once.",
    "A target is the distribution of the next token given the tokens before it. " * 2,
    "the student reads what the teacher wrote",
    "A student.",
]


def corpus_of(folder: Path, *, times: int = 3, first: int = 0) -> Path:
    """A corpus of so many times four short texts, no two alike."""
    path = folder / f"corpus-{first}.jsonl"
    texts = [f"{first + number} {text}" for number, text in enumerate(TEXTS * times)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def layered_teacher(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A teacher of more layers than other tests have, whose states differ from each other."""
    config = LlamaConfig(
        vocab_size=304,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def dumped(out: Path, teacher: Path, corpus: Path, **options: Any) -> Any:
    """The store of a dump on the CPU, by default of hidden states, in several units."""
    settings: dict[str, Any] = {"sparsify": "hidden", "unit_tokens": 150, "device": "cpu"}
    logitstore.dump(teacher=str(teacher), data=str(corpus), out=out, **(settings | options))
    return logitstore.open(out)


def dense(teacher: Path, stored: Any, *, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """float64 [R, 300]: log-probabilities of the live teacher for the targets of a document."""
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=dtype).eval()
    ids_L = torch.from_numpy(stored.document.input_ids_L.astype(np.int64))
    with torch.inference_mode():
        logits_LV = model(ids_L[None]).logits[0, :, :300]
    at_R = np.flatnonzero(stored.document.counted_L) - 1
    return logits_LV[at_R].double().log_softmax(-1).numpy()


def states_of(store: Any) -> np.ndarray:
    """The bits of the last states of all targets, in order."""
    return np.concatenate([one.targets.states["last"].bits_RD for one in store])
