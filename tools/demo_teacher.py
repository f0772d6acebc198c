"""The demo's teacher: a byte-level BPE of 2,000 ids and a small Llama, trained from scratch.

One plain loop over packed windows, AdamW, warm-up and cosine decay, a number of steps rather than
of seconds, so that a seed gives one teacher on one kind of machine. With two minutes of two cores a
shallow, narrow model that sees more text wins: at equal cost two layers of width 128 reached a
held-out loss of 4.01 nats, four of 128 4.11, four of 192 4.96. Batches of half the size were no
better (4.13), nor were learning rates of 2.5e-3 (4.15) and 8e-3 (4.45) with four layers.

Shapes: N tokens of the corpus, B windows of L tokens, V vocabulary.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["TrainedTeacher", "held_out_loss", "llama_config", "train_teacher", "train_tokenizer"]

END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 2000
WINDOW = 256  # tokens, the context of teacher and students


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainedTeacher:
    """A trained teacher, and how well it predicts the text that it never saw."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    loss: float  # nats per token of the held-out text
    seconds: float


def train_teacher(
    *,
    train: Path,
    heldout: Path,
    out: Path,
    steps: int = 1950,
    width: int = 128,
    layers: int = 2,
    windows: int = 4,
    lr: float = 4e-3,
    seed: int = 0,
    vocab_size: int = VOCAB_SIZE,
    report: Callable[[str], None] = print,
) -> TrainedTeacher:
    """Train tokenizer and teacher on `train`, save both in `out`, measure on `heldout`."""
    started = time.monotonic()
    disable_progress_bar()
    tokenizer = train_tokenizer(_texts(train), vocab_size=vocab_size)
    train_N, heldout_N = _tokens(train, tokenizer), _tokens(heldout, tokenizer)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(**llama_config(vocab_size=len(tokenizer), width=width, layers=layers))
    )
    report(
        f"{len(tokenizer):,} ids; {len(train_N):,} training tokens; "
        f"{model.num_parameters():,} parameters; {steps:,} steps of {windows * WINDOW} tokens"
    )
    _fit(model, train_N, steps=steps, windows=windows, lr=lr, seed=seed, report=report)
    loss = held_out_loss(model, heldout_N)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return TrainedTeacher(
        model=model, tokenizer=tokenizer, loss=loss, seconds=time.monotonic() - started
    )


def train_tokenizer(texts: list[str], *, vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """A byte-level BPE: it can spell every text, and knows the end of one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def llama_config(*, vocab_size: int, width: int, layers: int) -> dict[str, Any]:
    """The config.json of a Llama with heads of 64 (32 when narrow) and tied embeddings."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": width * 8 // 3 // 32 * 32,
        "num_hidden_layers": layers,
        "num_attention_heads": max(2, width // 64),
        "num_key_value_heads": max(2, width // 64),
        "max_position_embeddings": WINDOW,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
    }


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, tokens_N: torch.Tensor) -> float:
    """Mean cross-entropy in nats over whole windows of `tokens_N`."""
    model.eval()
    windows_BL = tokens_N[: len(tokens_N) // WINDOW * WINDOW].view(-1, WINDOW)
    total = sum(
        float(model(input_ids=part_BL, labels=part_BL, use_cache=False).loss) * len(part_BL)
        for part_BL in windows_BL.split(16)
    )
    return total / len(windows_BL)


def _fit(
    model: LlamaForCausalLM,
    tokens_N: torch.Tensor,
    *,
    steps: int,
    windows: int,
    lr: float,
    seed: int,
    report: Callable[[str], None],
) -> None:
    """`steps` updates of AdamW; gains and biases keep their size, matrices decay."""
    model.train()
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)
    started, recent = time.monotonic(), 0.0
    for step, batch_BL in enumerate(_batches(tokens_N, windows=windows, seed=seed), start=1):
        for group in optimizer.param_groups:
            group["lr"] = lr * _share(step, steps)
        loss = model(input_ids=batch_BL, labels=batch_BL, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = loss.item() if step == 1 else 0.98 * recent + 0.02 * loss.item()
        if step % max(1, steps // 13) == 0:
            seconds = time.monotonic() - started
            report(f"step {step:,} of {steps:,}: loss {recent:.2f}, {seconds:.0f} s")
        if step == steps:
            return


def _share(step: int, steps: int) -> float:
    """Of the learning rate: a linear warm-up over 5 % of the steps, then half a cosine to 0."""
    warmup = max(1, steps // 20)
    if step <= warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batches(tokens_N: torch.Tensor, *, windows: int, seed: int) -> Iterator[torch.Tensor]:
    """[B, L] without end: every epoch cuts the text elsewhere, in another order."""
    generator = np.random.default_rng(seed)
    while True:
        start = int(generator.integers(WINDOW))
        count = (len(tokens_N) - start) // WINDOW
        rows_BL = tokens_N[start : start + count * WINDOW].view(count, WINDOW)
        order = torch.from_numpy(generator.permutation(count))
        yield from (rows_BL[part] for part in order.split(windows) if len(part) == windows)


def _texts(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def _tokens(path: Path, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """int64 [N]: the texts of `path` end to end, each with its end-of-text."""
    encoded = tokenizer(_texts(path), add_special_tokens=False)["input_ids"]
    return torch.tensor([token for ids in encoded for token in (*ids, tokenizer.eos_token_id)])
