"""Models whose numbers depend on the longest document of a batch.

LongRoPE takes other rotary frequencies once a sequence is longer than the model was first trained
for, dynamic RoPE stretches them with the length, and both ask for the longest sequence of the
batch. Their documents are run with their like only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from logitstore.teacher.lm_head import hidden_states

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LengthClasses"]

_SHORT, _LONG = 6, 24  # tokens of the documents that the model is tried with
# By how much of the largest hidden value two shapes of a batch may differ: a sum in another order.
_MOST_NOISE = {torch.float32: 1e-3}
_MOST_NOISE_OF_HALVES = 0.05


class LengthClasses:
    """Which lengths may share a forward pass of a model.

    model: a transformers model, on its device.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        kinds = dict(_rope_kinds(model.config.to_dict()))
        # The length up to which all documents are alike; None where length does not matter.
        self._alike = min(kinds.values()) if kinds else None
        self._stretches = "dynamic" in kinds
        if self._alike is None and _depends_on_mates(model):
            self._alike, self._stretches = 0, True

    @property
    def border(self) -> int | None:
        """The length up to which all documents may share a pass; None where length is nothing."""
        return self._alike

    @property
    def stretches(self) -> bool:
        """Whether each length beyond the border is a class of its own; else all are one."""
        return self._stretches

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """The places of `lengths` in groups that may share a forward pass, in order."""
        if self._alike is None:
            return [list(range(len(lengths)))]
        groups: dict[int, list[int]] = {}
        for place, length in enumerate(lengths):
            groups.setdefault(self._class(length), []).append(place)
        return list(groups.values())

    def forget(self) -> None:
        """Make the model forget the lengths that it has met, before each forward pass.

        Dynamic RoPE keeps the frequencies of the longest sequence so far until a short one comes.
        """
        if self._stretches:
            hidden_states(self._model, torch.zeros((1, 1), dtype=torch.long).to(self._model.device))

    def _class(self, length: int) -> int:
        """Lengths of one class may share a forward pass; 0 is that of the short ones."""
        if length <= (self._alike or 0):
            return 0
        return length if self._stretches else 1


def _rope_kinds(config: Any) -> list[tuple[str, int]]:
    """The kinds of RoPE in a configuration that look at lengths, and up to where they do not."""
    found = []
    if isinstance(config, dict):
        longest = config.get("original_max_position_embeddings")
        longest = longest or config.get("max_position_embeddings")
        for part in (config.get("rope_parameters"), config.get("rope_scaling"), config):
            for one in (part, *part.values()) if isinstance(part, dict) else ():
                kind = one.get("rope_type", one.get("type")) if isinstance(one, dict) else None
                if kind in ("longrope", "dynamic"):
                    original = one.get("original_max_position_embeddings") or longest
                    found.append((kind, original or 0))
        for one in config.values():
            found += _rope_kinds(one) if isinstance(one, dict) and "model_type" in one else []
    return found


def _depends_on_mates(model: Any) -> bool:
    """Whether a short document has other hidden states beside a longer one than alone."""
    size = model.get_input_embeddings().weight.shape[0]
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    long = _LONG if context is None else min(_LONG, context)
    short = min(_SHORT, max(1, long // 2))
    generator = torch.Generator().manual_seed(0)
    long_L = torch.randint(0, size, (long,), generator=generator)
    short_L = torch.randint(0, size, (short,), generator=generator)
    padded_BL = torch.stack([long_L, torch.nn.functional.pad(short_L, (0, long - short))])
    alone_LD = hidden_states(model, short_L[None].to(model.device))[0]
    beside_LD = hidden_states(model, padded_BL.to(model.device))[1, :short]
    largest = float(alone_LD.abs().max())
    allowed = _MOST_NOISE.get(alone_LD.dtype, _MOST_NOISE_OF_HALVES) * largest
    return float((alone_LD - beside_LD).abs().max()) > allowed
