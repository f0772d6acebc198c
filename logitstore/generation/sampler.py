"""The sampler: each token of an answer is drawn by random numbers of its own.

The logits are warped by transformers' own processors, in the order in which it applies them:
temperature, top-k, top-p, min-p. The token is then the argmax of the logits plus Gumbel noise,
which is a draw of their softmax. The noise depends on (seed, prompt, answer, position, token)
alone, so that an answer is the same in any batch, order or restart, as far as the model's numbers
are: a change of all logits by some 1e-5 gives one token in 40,000 another id
(docs/decisions/010-draws-of-answers.md).

Shapes: B rows of a batch, P >= V logit columns, V vocabulary, T tokens of an answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from logitstore.generation.noise import gumbel_noise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

__all__ = ["Drawing", "Sampler", "answer_key"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """From which distribution a token is drawn; temperature 0 takes the most probable one."""

    temperature: float
    top_p: float | None
    top_k: int | None
    min_p: float | None

    def warpers(self) -> list[LogitsProcessor]:
        """Those of transformers, in its order; what changes nothing is left out."""
        made: list[LogitsProcessor] = []
        if self.temperature != 1:
            made.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k is not None:
            made.append(TopKLogitsWarper(self.top_k))
        if self.top_p is not None and self.top_p < 1:
            made.append(TopPLogitsWarper(self.top_p))
        if self.min_p:
            made.append(MinPLogitsWarper(self.min_p))
        return made


def answer_key(*, seed: int, prompt: bytes, answer: int, turn: int) -> int:
    """The 64 bits of which all random numbers of an answer are made.

    seed: of the run.
    prompt: the prompt's id.
    answer: the number of the answer, from 0.
    turn: the number of the turn, from 0.
    """
    name = f"generate\0{seed}\0{answer}\0{turn}\0".encode() + prompt
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")


class Sampler(LogitsProcessor):
    """Draws the next token of every row, and leaves it alone with a logit that is not -inf.

    drawing: from which distribution.
    keys: of each row, by `answer_key`.
    vocab_size: V; columns behind it are no tokens.
    on_step: called with the number of steps so far, after each; None tells nobody.

    `tokens`, `sampled_logprobs` and `model_logprobs` are then of each step: the tokens, and their
    log-probabilities in the distribution that they were drawn from, and in the model's own, in
    nats. `finite_B` is False for a row whose numbers were no distribution.
    """

    def __init__(
        self,
        *,
        drawing: Drawing,
        keys: Sequence[int],
        vocab_size: int,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self.tokens: list[Tensor] = []
        self.sampled_logprobs: list[Tensor] = []
        self.model_logprobs: list[Tensor] = []
        self.finite_B: Tensor | None = None
        self._greedy = drawing.temperature == 0
        self._warpers = [] if self._greedy else drawing.warpers()
        self._keys_B = np.array(keys, dtype=np.uint64)
        self._vocab_size = vocab_size
        self._on_step = on_step

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """See `LogitsProcessor`: float [B, P], with 0 at the token that was drawn, -inf elsewhere.

        input_ids: int64 [B, L], what stands before.
        scores: float [B, P], the model's logits.
        """
        logits_BV = scores[:, : self._vocab_size].float()
        logits_BV = self._finite(logits_BV)
        model_BV = logits_BV.log_softmax(dim=-1)
        if self._greedy:
            token_B = logits_BV.argmax(dim=-1)
            sampled_B = torch.zeros(len(token_B), device=token_B.device)
        else:
            for warper in self._warpers:
                logits_BV = warper(input_ids, logits_BV)
            token_B, sampled_B = self._draw(logits_BV)
        self.tokens.append(token_B)
        self.sampled_logprobs.append(sampled_B)
        self.model_logprobs.append(model_BV.gather(1, token_B[:, None])[:, 0])
        if self._on_step is not None:
            self._on_step(len(self.tokens))
        chosen_BP = torch.full_like(scores, -torch.inf)
        return chosen_BP.scatter_(1, token_B[:, None], 0.0)

    def _finite(self, logits_BV: Tensor) -> Tensor:
        """The logits, with zeros in rows that are no distribution, which are noted."""
        good_B = logits_BV.logsumexp(dim=-1).isfinite()
        self.finite_B = good_B if self.finite_B is None else self.finite_B & good_B
        return torch.where(good_B[:, None], logits_BV, torch.zeros_like(logits_BV))

    def _draw(self, logits_BV: Tensor) -> tuple[Tensor, Tensor]:
        """A token of each row, and its log-probability."""
        device = logits_BV.device
        wide_BV = logits_BV.cpu() if device.type == "mps" else logits_BV  # which has no float64
        wide_BV = wide_BV.double()
        noise_BV = gumbel_noise(
            self._keys_B, count=self._vocab_size, draw=len(self.tokens), device=wide_BV.device
        )
        token_B1 = noise_BV.add_(wide_BV).argmax(dim=-1, keepdim=True)
        sampled_B1 = wide_BV.log_softmax(dim=-1).gather(1, token_B1)
        return token_B1[:, 0].to(device), sampled_B1[:, 0].float().to(device)
