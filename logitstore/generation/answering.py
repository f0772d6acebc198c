"""Answering: prompts become batches, and batches become answers, by transformers' `generate`.

Prompts of a batch are padded at the left, where the attention mask hides it. Where a model's
numbers depend on it all the same, prompts of one length alone share a batch: that is tried out, not
looked up.

Shapes: B rows of a batch, L tokens of the longest prompt, T tokens of an answer.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList

from logitstore.generation.sampler import Drawing, Sampler, answer_key
from logitstore.teacher.lm_head import evaluating
from logitstore.teacher.torch_state import neutral_torch_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logitstore.generation.prompts import Prompt
    from logitstore.teacher.transformers import TransformersTeacher

__all__ = ["Answer", "Answerer", "Asked", "end_ids"]

_SHORT, _LONG = 5, 17  # tokens of the prompts that a model is tried with
# By how much of the largest logit two layouts of a batch may differ: a sum in another order.
_MOST_NOISE = {torch.float32: 1e-3}
_MOST_NOISE_OF_HALVES = 0.05


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Asked:
    """One answer that is to be given."""

    prompt: Prompt
    answer: int  # its number, from 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answer:
    """One answer: its tokens, the end included, and how probable each was, in nats."""

    ids_T: np.ndarray  # uint32
    sampled_logprobs_T: np.ndarray  # float32, in the distribution that was drawn from
    model_logprobs_T: np.ndarray  # float32, in the model's own, at temperature 1
    ended: bool  # by an end token; else it was cut by its length
    finite: bool  # False where the model's numbers were no distribution


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The ids that end an answer: those of the generation config, else the tokenizer's.

    model: a transformers model.
    tokenizer: of transformers.
    """
    given = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if given is None:
        given = tokenizer.eos_token_id
    listed = given if isinstance(given, list | tuple) else [given]
    return tuple(sorted({int(one) for one in listed if one is not None}))


class Answerer:
    """A model that answers, in batches.

    teacher: the model, with what was found out about it.
    drawing: from which distribution tokens are drawn.
    seed: of the draws.
    ends: the ids that end an answer.
    max_new_tokens: the most tokens of an answer.
    batch_tokens: the most tokens of a batch.
    """

    def __init__(
        self,
        teacher: TransformersTeacher,
        *,
        drawing: Drawing,
        seed: int,
        ends: tuple[int, ...],
        max_new_tokens: int,
        batch_tokens: int,
    ) -> None:
        self._model = teacher.model
        self._vocab_size = teacher.head.vocab_size
        self._drawing = drawing
        self._seed = seed
        self._ends = ends
        self._max_new_tokens = max_new_tokens
        self._batch_tokens = batch_tokens
        self._alike = len(teacher.lengths.groups([1, 1 << 30])) == 1 and self._pads_alike()

    def batches(self, asked: Sequence[Asked]) -> Iterator[list[int]]:
        """The places of `asked` in batches, the longest first; a function of their lengths."""
        lengths = [len(one.prompt.input_ids_L) for one in asked]
        batch: list[int] = []
        for place in sorted(range(len(asked)), key=lambda place: -lengths[place]):
            # The first of a batch is its longest, so it sets the width of all.
            full = batch and (len(batch) + 1) * self._width(lengths[batch[0]]) > self._batch_tokens
            if full or (batch and not self._alike and lengths[place] != lengths[batch[0]]):
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    def answers(self, batch: Sequence[Asked]) -> list[Answer]:
        """An answer to each of a batch."""
        keys = [
            answer_key(
                seed=self._seed,
                prompt=one.prompt.id,
                answer=one.answer,
                turn=one.prompt.turn,
            )
            for one in batch
        ]
        sampler = Sampler(drawing=self._drawing, keys=keys, vocab_size=self._vocab_size)
        self._generate([one.prompt.input_ids_L for one in batch], sampler, self._max_new_tokens)
        columns = [
            torch.stack(one, dim=1).cpu().numpy()
            for one in (sampler.tokens, sampler.sampled_logprobs, sampler.model_logprobs)
        ]
        finite_B = np.ones(len(batch), dtype=bool)
        if sampler.finite_B is not None:
            finite_B = sampler.finite_B.cpu().numpy()
        return [
            self._answer(*(one_BT[row] for one_BT in columns), finite=bool(finite_B[row]))
            for row in range(len(batch))
        ]

    def _answer(
        self, ids_T: np.ndarray, sampled_T: np.ndarray, model_T: np.ndarray, *, finite: bool
    ) -> Answer:
        """The answer up to its end; what was drawn behind it is dropped."""
        places = np.flatnonzero(np.isin(ids_T, self._ends))
        stop = int(places[0]) + 1 if len(places) else len(ids_T)
        return Answer(
            ids_T=ids_T[:stop].astype(np.uint32),
            sampled_logprobs_T=sampled_T[:stop].astype(np.float32),
            model_logprobs_T=model_T[:stop].astype(np.float32),
            ended=bool(len(places)),
            finite=finite,
        )

    def _width(self, length: int) -> int:
        return length + self._max_new_tokens

    def _generate(self, prompts: Sequence[np.ndarray], sampler: Any, tokens: int) -> None:
        """Let transformers generate; `sampler` is called at each step."""
        ids_BL, mask_BL = _padded(prompts)
        config = GenerationConfig(
            max_new_tokens=tokens,
            do_sample=False,  # the sampler leaves one token to choose from
            eos_token_id=list(self._ends) or None,
            pad_token_id=self._ends[0] if self._ends else 0,
            use_cache=True,
        )
        device = self._model.device
        with neutral_torch_state(), evaluating(self._model), _own_config(self._model, config):
            self._model.generate(
                torch.from_numpy(ids_BL).to(device),
                attention_mask=torch.from_numpy(mask_BL).to(device),
                generation_config=config,
                logits_processor=LogitsProcessorList([sampler]),
            )

    def _pads_alike(self) -> bool:
        """Whether a short prompt has the same logits beside a longer one as alone."""
        long_L = np.arange(_LONG, dtype=np.uint32) % self._vocab_size
        short_L = np.arange(3, 3 + _SHORT, dtype=np.uint32) % self._vocab_size
        try:
            alone_V = self._first_logits([short_L])
            beside_V = self._first_logits([short_L, long_L])
        except (TypeError, ValueError, RuntimeError, IndexError):  # it takes no mask
            return False
        noise = _MOST_NOISE.get(self._model.dtype, _MOST_NOISE_OF_HALVES)
        return bool((alone_V - beside_V).abs().max() <= noise * alone_V.abs().max())

    def _first_logits(self, prompts: Sequence[np.ndarray]) -> torch.Tensor:
        """float32 [V]: the logits behind the first of `prompts`."""
        seen: list[torch.Tensor] = []

        def look(_: torch.Tensor, scores_BP: torch.Tensor) -> torch.Tensor:
            seen.append(scores_BP[0, : self._vocab_size].float().clone())
            return scores_BP

        self._generate(prompts, look, 1)
        return seen[0]


def _padded(prompts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """int64 [B, L]: ids padded at the left with id 0, and the mask, 1 where a prompt is."""
    longest = max(map(len, prompts))
    ids_BL = np.zeros((len(prompts), longest), dtype=np.int64)
    mask_BL = np.zeros((len(prompts), longest), dtype=np.int64)
    for row, prompt_L in enumerate(prompts):
        ids_BL[row, longest - len(prompt_L) :] = prompt_L
        mask_BL[row, longest - len(prompt_L) :] = 1
    return ids_BL, mask_BL


@contextmanager
def _own_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Inside: the model's generation config is `config`; else it would fill what is not set there.

    A checkpoint's may hold a penalty of repetition, or tokens that must not come.
    """
    before = model.generation_config
    model.generation_config = copy.deepcopy(config)
    try:
        yield
    finally:
        model.generation_config = before
