"""A tiny teacher and its tokenizer, made on the spot, and text for it to read.

A Llama of two layers with fresh weights, far from uniform, and a byte-level BPE of 300 ids; its
logits are padded from 300 to 304. All is a function of the seed, so two runs on one machine with
one set of libraries make the same files.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

__all__ = ["chats", "make_teacher", "texts", "tiny_tokenizer", "write_jsonl"]

CONTEXT = 64
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
_PADDED_VOCAB = 304
_SENTENCE = (
    "the teacher reads a text once and writes what it thinks of every next token ; student learns "
    "from rows, heads, tails: draws at two temperatures (or four) é 日本 = 0.25 Zarr Parquet"
)


def make_teacher(folder: Path, *, seed: int = 0, chat: bool = False) -> Path:
    """Save a teacher in `folder`; with `chat` its tokenizer has a template for chats."""
    logging.disable_progress_bar()
    tokenizer = tiny_tokenizer()
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=_PADDED_VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.lm_head.weight.data.mul_(40)  # entropies of 0 to 3 nats
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def texts(count: int, *, seed: int = 0, longest: int = 40) -> list[str]:
    """`count` texts of 2 to `longest` words."""
    generator, words = random.Random(seed), _SENTENCE.split()
    return [
        " ".join(generator.choices(words, k=generator.randint(2, longest))) for _ in range(count)
    ]


def chats(count: int, *, seed: int = 0) -> list[list[dict[str, str]]]:
    """`count` chats of one to three questions and answers."""
    generator, words = random.Random(seed), _SENTENCE.split()
    roles = ("user", "assistant")
    return [
        [
            {"role": roles[turn % 2], "content": " ".join(generator.choices(words, k=4))}
            for turn in range(2 * generator.randint(1, 3))
        ]
        for _ in range(count)
    ]


def write_jsonl(path: Path, field: str, values: list) -> Path:
    """A corpus of one object a line, which holds a value in `field`."""
    path.write_text("".join(json.dumps({field: value}) + "\n" for value in values))
    return path


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 ids, <|endoftext|> its only special token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([_SENTENCE], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
