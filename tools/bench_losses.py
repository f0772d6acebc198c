"""What each loss of the table costs: forward and backward of the fused pass, beside forward KL.

    python -m tools.bench_losses [--rows 256] [--width 576] [--vocab 49152] [--rounds 7] [--hidden]

Random hidden states, an output layer, and top-k targets of random logits. In each round every loss
has its turn. Seconds are those of one core, so other load on the machine counts little; a ratio is
the median over rounds. With `--hidden` targets are hidden states of a teacher of the same width,
beside forward KL of top-k targets.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from logitstore.plumbing import SPARSIFIERS, LMHead
from logitstore.sparsify.build import sparsifier_spec
from trainer.losses import LOSSES, Loss, TargetTensors
from trainer.losses.fused import sparse_distillation_loss

K = 64
TEMPERATURES = (1.0, 2.0)
SPEC = sparsifier_spec("topk", k=K)
HIDDEN = sparsifier_spec("hidden")
_BESIDE = f"forward_kl, topk {K}"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--vocab", type=int, default=49_152)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hidden", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    scene = Scene(rows=given.rows, width=given.width, vocab_size=given.vocab)
    seconds: dict[tuple[str, float], list[float]] = defaultdict(list)
    for number in range(given.rounds + 1):
        for name, loss in LOSSES.items():
            for temperature in temperatures(loss):
                took = scene.seconds(loss, temperature, hidden=given.hidden)
                if number:  # the first round warms up
                    seconds[name, temperature].append(took)
        for temperature in TEMPERATURES if number else ():
            took = scene.seconds(LOSSES["forward_kl"], temperature, hidden=False)
            seconds[_BESIDE, temperature].append(took)
    print(
        f"\n{given.rows} rows, V = {given.vocab:,}, D = {given.width}, K = {K}"
        f"{', from hidden states' if given.hidden else ''}\n\n"
        f"| loss | T = 1, s | / {_BESIDE} | T = 2, s | / {_BESIDE} |\n|---|---|---|---|---|"
    )
    for name in LOSSES:
        cells = [
            f"{median(seconds[name, one]):.3f} | "
            f"{ratio(seconds[name, one], seconds[_BESIDE, one]):.3f}"
            if seconds[name, one]
            else "- | -"
            for one in TEMPERATURES
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def temperatures(loss: Loss) -> tuple[float, ...]:
    """Those that it is taken at: one of sampled tokens at 1 alone."""
    return (1.0,) if loss.of_samples else TEMPERATURES


def ratio(ours: list[float], other: list[float]) -> float:
    """The median of ratios, round by round."""
    return median(one / two for one, two in zip(ours, other, strict=True))


class Scene:
    """Hidden states, an output layer and targets of as many rows."""

    def __init__(self, *, rows: int, width: int, vocab_size: int) -> None:
        g = torch.Generator().manual_seed(0)
        self.hidden_ND = torch.randn(rows, width, generator=g).requires_grad_()
        weight_PD = torch.randn(vocab_size, width, generator=g) / width**0.5
        self.head = LMHead(
            weight_PD=weight_PD.requires_grad_(),
            bias_P=None,
            scale=1.0,
            softcap=None,
            vocab_size=vocab_size,
        )
        self.labels_N = torch.randint(0, vocab_size, (rows,), generator=g)
        logits_NV = 2.5 * torch.randn(rows, vocab_size, generator=g)
        keys_N = np.arange(rows, dtype=np.uint64)
        (targets,) = SPARSIFIERS["topk"].draw(logits_NV, self.labels_N, keys_N, SPEC)
        self.targets = TargetTensors.of(targets)
        self.states = replace(
            self.targets,
            kind=SPARSIFIERS["hidden"].targets,
            state_NW=torch.randn(rows, width, generator=g),
        )
        teacher_PD = 2.5 * torch.randn(vocab_size, width, generator=g) / width**0.5
        self.teacher = replace(self.head, weight_PD=teacher_PD)

    def seconds(self, loss: Loss, temperature: float, *, hidden: bool) -> float:
        """Of one forward and backward, from hidden states or from top-k targets."""
        self.hidden_ND.grad = self.head.weight_PD.grad = None
        began = time.process_time()
        found = sparse_distillation_loss(
            self.hidden_ND,
            self.head,
            self.states if hidden else self.targets,
            self.labels_N,
            alpha=0.9,
            temperature=temperature,
            loss=loss,
            sparsifier=HIDDEN if hidden else SPEC,
            teacher=self.teacher if hidden else None,
            vocab_size=self.head.vocab_size,
            sampler_logprobs_N=self.targets.label_logprob_N,
        )
        found.loss.backward()
        return time.process_time() - began


if __name__ == "__main__":
    main()
