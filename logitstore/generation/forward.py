"""How transformers' `generate` runs a model, tried out against the model's plain forward.

Prompts of a batch are padded at the left, where the attention mask hides it, and what was read is
kept in a cache. Not every model bears both: a recurrent one may read the padding, and a cache may
be ignored in silence. The first way that gives the numbers of a plain forward pass is taken.

Shapes: B rows of a batch, L tokens of the longest prompt, S steps, V vocabulary.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList

from logitstore.errors import ModelError
from logitstore.teacher.lm_head import evaluating
from logitstore.teacher.torch_state import neutral_torch_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from logitstore.teacher.transformers import TransformersTeacher

__all__ = ["Way", "run_generate", "trusted_way"]

_SHORT, _LONG, _STEPS = 5, 17, 4  # tokens of the prompts that a model is tried with, and of answers
# By how much of the largest logit two ways to it may differ: sums in another order. Of half
# precision the mean is taken, for a router of experts may send a token elsewhere.
_MOST_NOISE = 1e-3
_MOST_NOISE_OF_HALVES = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How a model may be run."""

    pads: bool  # prompts of unlike length share a batch
    use_cache: bool


def trusted_way(teacher: TransformersTeacher) -> Way:
    """The cheapest way in which a model gives the numbers of its plain forward.

    teacher: the model.

    Raises ModelError where there is none.
    """
    room = teacher.context or _LONG + _STEPS
    long = max(1, min(_LONG, room - _STEPS))
    short = max(1, min(_SHORT, long - 1))
    for use_cache in (True, False):
        for pads in (True, False):
            lengths = (short, long) if pads else (long, long)
            if _agrees(teacher, lengths, use_cache=use_cache):
                return Way(pads=pads, use_cache=use_cache)
    raise ModelError(
        "transformers' generate gives other numbers for it than its own forward pass, so its "
        "answers could not be trusted",
        place=f"model {teacher.spec.name}",
        found=teacher.spec.architecture,
        remedy="Let an inference engine answer, and give `dump` the tokens",
    )


def run_generate(
    model: Any,
    prompts: Sequence[np.ndarray],
    choose: Callable[..., Any],
    *,
    tokens: int,
    ends: Sequence[int],
    use_cache: bool,
) -> None:
    """Let transformers generate; nothing of the checkpoint's generation config is used.

    model: of transformers.
    prompts: the ids of each.
    choose: called at each step with the ids and the logits [B, V]; the largest that it gives back
        is taken.
    tokens: the most of an answer.
    ends: the ids that end an answer.
    use_cache: whether what was read is kept.
    """
    ids_BL, mask_BL = _padded(prompts)
    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=list(ends) or None,
        pad_token_id=ends[0] if ends else 0,
        use_cache=use_cache,
    )
    with neutral_torch_state(), evaluating(model), _own_config(model, config):
        model.generate(
            torch.from_numpy(ids_BL).to(model.device),
            attention_mask=torch.from_numpy(mask_BL).to(model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([choose]),
        )


def _agrees(teacher: TransformersTeacher, lengths: Sequence[int], *, use_cache: bool) -> bool:
    """Whether steps of `generate` have the logits of a plain forward over each row alone."""
    size = teacher.head.vocab_size
    prompts = [(np.arange(length) + 3 * row) % size for row, length in enumerate(lengths)]
    steps: list[torch.Tensor] = []

    def look(_: torch.Tensor, scores_BP: torch.Tensor) -> torch.Tensor:
        steps.append(scores_BP[:, :size].float().clone())
        return scores_BP[:, :size]

    try:
        run_generate(teacher.model, prompts, look, tokens=_STEPS, ends=(), use_cache=use_cache)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False  # it takes no mask, or no cache
    found_BSV = torch.stack(steps, dim=1)
    said_BS = found_BSV.argmax(dim=-1).cpu().numpy()
    return all(
        _near(
            found_BSV[row],
            _plain(teacher, prompt_L, said_BS[row]),
            dtype=teacher.model.dtype,
        )
        for row, prompt_L in enumerate(prompts)
    )


def _plain(teacher: TransformersTeacher, prompt_L: np.ndarray, said_S: np.ndarray) -> torch.Tensor:
    """float32 [S, V]: the logits before each token of an answer."""
    ids_L = torch.from_numpy(np.concatenate([prompt_L, said_S[:-1]]).astype(np.int64))
    model = teacher.model
    with neutral_torch_state(), evaluating(model):
        outputs = model(input_ids=ids_L[None].to(model.device), use_cache=False)
    logits_SV: torch.Tensor = outputs.logits[0, -len(said_S) :, : teacher.head.vocab_size]
    return logits_SV.float()


def _near(found_SV: torch.Tensor, plain_SV: torch.Tensor, *, dtype: torch.dtype) -> bool:
    gap_SV, largest = (found_SV - plain_SV).abs(), float(plain_SV.abs().max())
    if dtype == torch.float32:
        return float(gap_SV.max()) <= _MOST_NOISE * largest
    return float(gap_SV.mean()) <= _MOST_NOISE_OF_HALVES * largest


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
