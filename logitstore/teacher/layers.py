"""The states behind the layers of a model: the residual stream as each layer leaves it.

They are heard by hooks on the layers, so that of a batch the layers that nobody asked for are kept
nowhere. Layers are counted from 1: behind layer k means after k of them, and behind the last one
before the final norm. What is found is compared with the hidden states that the model's own class
gives before it is trusted.

Shapes: B documents of a batch, L tokens, W width of a state.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from logitstore.errors import ModelError
from logitstore.teacher.lm_head import evaluating, hidden_states, model_body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

__all__ = ["DecoderLayers", "layer_count"]

_PROBE_TOKENS = 8  # the first ids of the vocabulary, where no text is at hand
# By how much of the largest number the states heard may differ from the model's own: two passes of
# one input differ by nothing on most devices.
_TOLERANCE = {torch.float32: 1e-4}
_TOLERANCE_OF_HALVES = 2e-2


def layer_count(config: Any) -> int | None:
    """How many layers a configuration says that a model has; None where it does not say.

    config: of transformers.
    """
    count = getattr(config.get_text_config(), "num_hidden_layers", None)
    return count if type(count) is int and count > 0 else None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecoderLayers:
    """The layers of a model in the order in which they run, each once in a pass."""

    modules: tuple[nn.Module, ...]
    width: int  # W

    @property
    def depth(self) -> int:
        """How many there are."""
        return len(self.modules)

    @staticmethod
    def of(model: Any) -> DecoderLayers:
        """The layers of a model, found by a pass over a few tokens.

        model: a transformers model, with or without an adapter.

        Raises ModelError where no list of modules runs as layers do: each once, in order, and each
        giving [B, L, W]; or where what they give are not the hidden states of the model's class.
        """
        count = layer_count(model.config)
        body = model_body(model)
        tokens = min(_PROBE_TOKENS, model.get_input_embeddings().weight.shape[0])
        probe_BL = torch.arange(tokens, device=model.device)[None]
        lists = [
            one
            for one in body.modules()
            if isinstance(one, nn.ModuleList) and len(one) == (count or -1)
        ]
        with torch.no_grad(), evaluating(model):
            found = [_run_through(model, list(one), probe_BL) for one in lists]
            own = _own_states(model, probe_BL)
        for modules, states in zip(lists, found, strict=True):
            if states is not None and own is not None and _agree(states, own):
                return DecoderLayers(modules=tuple(modules), width=states[0].shape[-1])
        raise ModelError(
            "the states behind the layers of this model cannot be had",
            place=f"model {model.config.model_type}",
            found="layers that do not run one after another, each once"
            if not any(states is not None for states in found)
            else "other states than the model's class gives",
            remedy="Leave out --hidden-layers, or the weight of hints",
        )

    @contextmanager
    def listening(
        self, layers: Sequence[int], hear: Callable[[int, Tensor], None]
    ) -> Iterator[None]:
        """Within it `hear(layer, states_BLW)` is called whenever one of `layers` has run.

        layers: counted from 1.
        hear: is given the tensor that goes on to the next layer, and must not change it.
        """
        handles = [
            self.modules[layer - 1].register_forward_hook(_telling(layer, hear)) for layer in layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _telling(layer: int, hear: Callable[[int, Tensor], None]) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        hear(layer, _state(output))

    return hook


def _state(output: Any) -> Any:
    """The states among what a layer gives, which is a tuple in many families."""
    return output[0] if isinstance(output, tuple | list) and output else output


def _run_through(model: Any, modules: Sequence[nn.Module], probe_BL: Tensor) -> list[Tensor] | None:
    """What the modules give in a pass; None where they do not run as layers do."""
    heard: list[tuple[int, Any]] = []
    layers = DecoderLayers(modules=tuple(modules), width=0)
    numbers = range(1, len(modules) + 1)
    with layers.listening(numbers, lambda layer, state: heard.append((layer, state))):
        hidden_states(model, probe_BL)
    states = [state for _, state in heard]
    in_order = [layer for layer, _ in heard] == list(numbers)
    shapes = {tuple(one.shape) if isinstance(one, torch.Tensor) else None for one in states}
    if not in_order or len(shapes) != 1:
        return None
    (shape,) = shapes
    fits = shape is not None and len(shape) == 3 and shape[:2] == tuple(probe_BL.shape)
    return states if fits else None


def _own_states(model: Any, probe_BL: Tensor) -> Sequence[Tensor] | None:
    """What the model's class calls its hidden states: the embeddings', then those of each layer."""
    outputs = model_body(model)(input_ids=probe_BL, use_cache=False, output_hidden_states=True)
    found = getattr(outputs, "hidden_states", None)
    return found if isinstance(found, tuple | list) else None


def _agree(states: Sequence[Tensor], own: Sequence[Tensor]) -> bool:
    """Whether the states are the model's own.

    Most classes give the embeddings first, and in place of the last states these after the norm;
    Mamba and RWKV give those of each layer, and the normed ones behind them.
    """
    if len(own) != len(states) + 1:
        return False
    return _equal(states[:-1], own[1:-1]) or _equal(states, own[:-1])


def _equal(states: Sequence[Tensor], own: Sequence[Tensor]) -> bool:
    for one, other in zip(states, own, strict=True):
        if one.shape != other.shape:
            return False
        allowed = _TOLERANCE.get(one.dtype, _TOLERANCE_OF_HALVES) * float(other.abs().max())
        if not float((one.float() - other.float()).abs().max()) <= allowed:
            return False
    return True
