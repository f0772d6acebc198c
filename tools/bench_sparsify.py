"""What sparsifying costs beside the forward that it follows, on the same batches of real text.

Two teachers: one given (or trained here), and one of 135 M parameters with random weights, whose
speed is that of a trained one. Each round runs the bare forward `model(ids).logits` and then every
sparsifier on those logits, in turn; the fastest round counts.

    python -m tools.bench_sparsify --teacher FOLDER
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from tools.bench_corpus import teacher_folder

TOKENS = 512
# Rows of logits at a time, as in a dump.
CHUNK_BYTES = 8 << 20
SPECS = {
    "topk 64": sparsifier_spec("topk", k=64),
    "topp 0.98": sparsifier_spec("topp", k=64, top_p=0.98),
    "sample 50": sparsifier_spec("sample", draws=50),
    "unbiased 8": sparsifier_spec("unbiased", k=8),
    "unbiased 16": sparsifier_spec("unbiased", k=16),
    "hybrid 8 + 8": sparsifier_spec("hybrid", k=8, tail_draws=8),
    "hybrid 8 + 16": sparsifier_spec("hybrid", k=8, tail_draws=16),
}


def shape_of_135m() -> Any:
    """The shape of a well-known small model: 30 layers of width 576, V = 49,152, a tied head."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=TOKENS,
            tie_word_embeddings=True,
        )
    )


def measure(model: Any, *, rounds: int) -> tuple[float, dict[str, float]]:
    """Microseconds a token of the forward, and of each sparsifier."""
    vocab_size = model.config.vocab_size
    ids_BL = torch.randint(vocab_size, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    forward, best = float("inf"), dict.fromkeys(SPECS, float("inf"))
    with torch.inference_mode():
        for _ in range(rounds):
            began = time.perf_counter()
            logits_RV = model(ids_BL).logits.flatten(0, 1)
            forward = min(forward, time.perf_counter() - began)
            for name in SPECS:
                best[name] = min(best[name], _sparsify(name, logits_RV))
    tokens = ids_BL.numel()
    return forward / tokens * 1e6, {name: one / tokens * 1e6 for name, one in best.items()}


def _sparsify(name: str, logits_RV: torch.Tensor) -> float:
    """Seconds for all rows, a chunk at a time and always in one buffer, as in a dump."""
    spec = SPECS[name]
    rows = max(128, CHUNK_BYTES // (4 * logits_RV.shape[1]))
    seconds, buffer_RV = 0.0, torch.empty_like(logits_RV[:rows])
    for start in range(0, len(logits_RV), rows):
        of_chunk_RV = logits_RV[start : start + rows]
        chunk_RV = buffer_RV[: len(of_chunk_RV)].copy_(of_chunk_RV)
        labels_R = torch.zeros(len(chunk_RV), dtype=torch.int64)
        keys_R = np.arange(start, start + len(chunk_RV), dtype=np.uint64)
        began = time.perf_counter()
        SPARSIFIERS[spec.name].draw(chunk_RV, labels_R, keys_R, spec)
        seconds += time.perf_counter() - began
    return seconds


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, help="transformers folder; default: train one")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = teacher_folder(args.teacher, Path(scratch))
        given = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, model in (("teacher", given), ("135 M", shape_of_135m().eval())):
        forward, sparsified = measure(model, rounds=args.rounds)
        print(f"\n{name}, V = {model.config.vocab_size:,}: forward {forward:.0f} us a token\n")
        print("| sparsifier | us a token | of the forward |\n|---|---|---|")
        for one, cost in sparsified.items():
            print(f"| {one} | {cost:.1f} | {cost / forward:.1%} |")


if __name__ == "__main__":
    main()
