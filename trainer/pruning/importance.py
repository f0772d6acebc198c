"""Which channels and neurons of a teacher are kept, measured on texts that it drew itself.

A channel of the residual stream counts by its share of the stream's energy, averaged over the
layers; a neuron by the root mean square of what it gives, times the norm of its weights in the
projection that reads it, so by what it writes to the stream. Both are activations on a few hundred
tokens, as in Minitron (Muralidharan et al., arXiv 2407.14679), but need no data: ids start at
random, and each is drawn anew, several times, from the teacher's own distribution at its place.
Data that a teacher generates serve for calibration (LLM-QAT, Liu et al., arXiv 2305.17888);
drawing all places at once takes three passes instead of one for each token.

Shapes: B x L a batch of tokens, V vocabulary, D width, I neurons of one MLP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from logitstore import ModelError
from logitstore.plumbing import evaluating, model_body
from trainer.pruning.agreement import plain_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

__all__ = ["drawn_ids", "measured", "most"]

_ROWS, _TOKENS = 8, 64
_ROUNDS = 3


def drawn_ids(model: PreTrainedModel) -> Tensor:
    """Ids [B, L] that the model drew; the same ones each time.

    Args:
        model: A causal language model, on the CPU.
    """
    head = model.get_output_embeddings()
    vocabulary = min(len(head.weight), len(model.get_input_embeddings().weight))
    plain = plain_ids(model, vocabulary)
    generator = torch.Generator().manual_seed(0)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or _TOKENS
    ids_BL = plain[torch.randint(len(plain), (_ROWS, min(_TOKENS, context)), generator=generator)]
    with torch.no_grad(), evaluating(model):
        for _ in range(_ROUNDS):
            # A row at a time: the logits of one take 64 V numbers.
            drawn = [_drawn(model, row_L[None], plain, generator) for row_L in ids_BL]
            ids_BL = torch.cat([ids_BL[:, :1], torch.cat(drawn)[:, :-1]], dim=1)
    return ids_BL


def _drawn(
    model: PreTrainedModel, ids_1L: Tensor, plain: Tensor, generator: torch.Generator
) -> Tensor:
    logits_1LV = model(input_ids=ids_1L, use_cache=False).logits[..., plain].float()
    return plain[torch.multinomial(logits_1LV[0].softmax(-1), 1, generator=generator).T]


def measured(
    model: PreTrainedModel, ids_BL: Tensor, projections: Sequence[str], *, place: object
) -> tuple[Tensor, dict[str, Tensor]]:
    """How much each channel [D] and each neuron [I] of the MLPs counts.

    Args:
        model: The teacher, on the CPU.
        ids_BL: Tokens.
        projections: The names of the modules that read the neurons of an MLP.
        place: What an error names as the place.

    The first sums to 1. Raises ModelError for a model whose hidden states are not B x L x D, or one
    of whose MLPs was not used.
    """
    squares: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(_adding_squares(squares, name))
        for name in projections
    ]
    energy_D: Tensor | None = None
    try:
        with torch.no_grad(), evaluating(model):
            for row_L in ids_BL:
                energy_D = _add(energy_D, _energy(model, row_L[None], place))
    finally:
        for handle in handles:
            handle.remove()
    unused = [name for name in projections if name not in squares]
    if energy_D is None or unused:
        raise ModelError("an MLP is not used on text", place=place, found=", ".join(unused[:1]))
    weighed = {
        name: (square_I / ids_BL.numel()).sqrt() * _reading_norm(model.get_submodule(name))
        for name, square_I in squares.items()
    }
    return energy_D / energy_D.sum(), weighed


def most(weights: Tensor, number: int) -> Tensor:
    """The places of the largest ones, ascending; of equal ones the first.

    Args:
        weights: One number for each place.
        number: How many are taken.
    """
    return weights.sort(descending=True, stable=True).indices[:number].sort().values


def _energy(model: PreTrainedModel, ids_1L: Tensor, place: object) -> Tensor:
    outputs = model_body(model)(input_ids=ids_1L, use_cache=False, output_hidden_states=True)
    states = outputs.hidden_states
    width = model.config.get_text_config().hidden_size
    if not states or any(one.shape != (*ids_1L.shape, width) for one in states):
        raise ModelError(
            "its residual stream is not one vector for each token",
            place=place,
            found=str(tuple(states[0].shape)) if states else "no hidden states",
        )
    total_D = torch.zeros(width, dtype=torch.float64)
    for state_1LD in states:
        square_D = state_1LD.double().square().sum((0, 1))
        total_D += square_D / square_D.sum().clamp(1e-300)
    return total_D


def _adding_squares(squares: dict[str, Tensor], name: str) -> Any:
    def add(_: Any, given: tuple[Tensor, ...]) -> None:
        square_I = given[0].double().square().flatten(0, -2).sum(0)
        squares[name] = _add(squares.get(name), square_I)

    return add


def _add(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total + more


def _reading_norm(module: Any) -> Tensor:
    """The norm of the weights that read each neuron; Linear has them in columns, Conv1D in rows."""
    weight = module.weight.detach().double()
    return weight.norm(dim=0 if isinstance(module, torch.nn.Linear) else 1)
