"""Answering: prompts become batches, and batches become answers, by transformers' `generate`.

How a model is run (`forward.py`) is tried out: some do not hide padding, and prompts of one length
alone share a batch then.

Shapes: B rows of a batch, L tokens of the longest prompt, T tokens of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitstore.generation.forward import run_generate, trusted_way
from logitstore.generation.sampler import Drawing, Sampler, answer_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from logitstore.generation.prompts import Prompt
    from logitstore.teacher.transformers import TransformersTeacher

__all__ = ["Answer", "Answerer", "Asked", "end_ids"]


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
        way = trusted_way(teacher)
        self._use_cache = way.use_cache
        self._alike = way.pads and len(teacher.lengths.groups([1, 1 << 30])) == 1

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

    def answers(
        self, batch: Sequence[Asked], *, on_step: Callable[[int], None] | None = None
    ) -> list[Answer]:
        """An answer to each of a batch; `on_step` is called with the steps so far, after each."""
        keys = [
            answer_key(
                seed=self._seed,
                prompt=one.prompt.id,
                answer=one.answer,
                turn=one.prompt.turn,
            )
            for one in batch
        ]
        sampler = Sampler(
            drawing=self._drawing, keys=keys, vocab_size=self._vocab_size, on_step=on_step
        )
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
        run_generate(
            self._model,
            prompts,
            sampler,
            tokens=tokens,
            ends=self._ends,
            use_cache=self._use_cache,
        )
