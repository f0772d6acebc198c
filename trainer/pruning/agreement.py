"""Whether a student computes what its teacher does without the layers that were left out.

The student is one that was loaded from its folder. Its tensors must be the teacher's, bit by bit;
what its layers hold beside tensors must be the same, but for their numbers; and on tokens its
hidden states and logits must be those of the teacher with the other layers passed over.

Shapes: B x L a batch of tokens, D width, V vocabulary.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from logitstore import ModelError
from logitstore.plumbing import LMHead, evaluating, hidden_states
from trainer.pruning.configuration import OTHER_LAYERS
from trainer.pruning.cutting import kept_tensors, layer_lists

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from trainer.pruning.configuration import Kept

__all__ = [
    "difference_of",
    "outputs",
    "plain_ids",
    "probe",
    "probe_lengths",
    "refuse_other_model",
    "same_tensors",
]

_SHORT = 24  # tokens
_BEYOND = 8  # tokens more than a window has
# Multiply-adds of one forward pass over the long probe: about 5 s on two cores.
_MOST_WORK = 4e11
# Of the largest value. Both models do the same operations on the same numbers, so they agree to the
# last bit where the machine does; a layer of another kind differs by 1e-2 and more.
_TOLERANCE = 1e-4
# What says only where a layer stands.
_NUMBER = re.compile(r"(layer|block).*(idx|id|index|number)|idx|index|num_hidden_layers")
_WINDOW = re.compile(r".*window(_size)?|attention_chunk_size")
_SPECIAL = re.compile(r".*token_(id|index)")


def refuse_other_model(
    teacher: PreTrainedModel, student: PreTrainedModel, kept: Kept, *, place: object
) -> float:
    """The largest relative difference on the probes, which is 0 or rounding.

    Args:
        teacher: The whole model, as it was loaded.
        student: The model of the kept layers, loaded from its folder.
        kept: The layers.
        place: What an error names as the place.

    Raises ModelError where the student is not the teacher without the other layers, or where its
    output layer is none that can be trained on.
    """
    _refuse_other_tensors(teacher, student, kept, place=place)
    lists = layer_lists(teacher, student, kept)
    for name, layers in lists.items():
        for new, layer in enumerate(kept.layers):
            _refuse_other_kind(
                layers[layer], student.get_submodule(f"{name}.{new}"), (layer, new), place=place
            )
    vocabulary = len(student.get_output_embeddings().weight)
    LMHead.checked(student, vocab_size=vocabulary)
    most = 0.0
    for length in probe_lengths(student):
        ids_BL = probe(student, length, vocabulary)
        with torch.no_grad(), evaluating(teacher), evaluating(student):
            with _passing_over(lists, kept):
                wanted = outputs(teacher, ids_BL)
            difference = difference_of(outputs(student, ids_BL), wanted)
        if not difference <= _TOLERANCE:  # a NaN must fail too
            raise ModelError(
                f"the student does not compute what the teacher does without the other layers, on "
                f"{length} tokens, so a layer is of another kind under its new number",
                place=place,
                found=f"a relative difference of {difference:.2g}",
                allowed=f"at most {_TOLERANCE:g}",
                remedy=OTHER_LAYERS,
            )
        most = max(most, difference)
    return most


def _refuse_other_tensors(
    teacher: PreTrainedModel, student: PreTrainedModel, kept: Kept, *, place: object
) -> None:
    same_tensors(kept_tensors(teacher, student, kept, place=place), student, place=place)


def same_tensors(wanted: Mapping[str, Tensor], student: nn.Module, *, place: object) -> None:
    """Raise ModelError where a tensor of the student is not the one that was to be written."""
    found = student.state_dict()
    for name, tensor in wanted.items():
        if tensor.dtype != found[name].dtype or not torch.equal(
            _bytes(tensor), _bytes(found[name])
        ):
            raise ModelError(
                "a tensor was not written and read as the teacher has it", place=place, found=name
            )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def _refuse_other_kind(
    layer: nn.Module, other: nn.Module, numbers: tuple[int, int], *, place: object
) -> None:
    """Raise ModelError where a layer holds something else under its new number."""
    others = dict(other.named_modules())
    for name, module in layer.named_modules():
        wanted, found = _facts(module), _facts(others[name])
        for fact in sorted(wanted.keys() | found.keys()):
            if wanted.get(fact) != found.get(fact):
                raise ModelError(
                    f"layer {numbers[0]} would compute something else as layer {numbers[1]} of the "
                    f"student: its {fact} follows from the numbers of layers",
                    place=place,
                    found=str(found.get(fact)),
                    allowed=str(wanted.get(fact)),
                    remedy=OTHER_LAYERS,
                )


def _facts(module: nn.Module) -> dict[str, Any]:
    """What a module holds beside its parameters, but for what says where it stands."""
    plain = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, int | float | str | None) and not _NUMBER.fullmatch(name)
    }
    buffers = {name: _Numbers.of(value) for name, value in module.named_buffers(recurse=False)}
    return {"class": type(module).__name__} | plain | buffers


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What a tensor holds, by a hash: a mask may have millions of numbers."""

    sha256: str

    @staticmethod
    def of(tensor: Tensor) -> _Numbers:
        return _Numbers(hashlib.sha256(_bytes(tensor).cpu().numpy().tobytes()).hexdigest())

    def __str__(self) -> str:
        return f"numbers of the hash {self.sha256[:12]}"


@contextmanager
def _passing_over(lists: dict[str, nn.ModuleList], kept: Kept) -> Iterator[None]:
    """Inside, the layers that are not kept give what they are given."""
    given: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, values: Any, named: Any) -> None:
        hidden = values[0] if values else named["hidden_states"]
        given[layer] = hidden.clone()  # a layer may add to it in place

    def pass_over(layer: nn.Module, _: Any, output: Any) -> Any:
        hidden = given.pop(layer)
        return type(output)([hidden, *output[1:]]) if isinstance(output, tuple | list) else hidden

    handles = [
        handle
        for layers in lists.values()
        for number, layer in enumerate(layers)
        if number not in kept.layers
        for handle in (
            layer.register_forward_pre_hook(note, with_kwargs=True),
            layer.register_forward_hook(pass_over),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def outputs(model: PreTrainedModel, ids_BL: Tensor) -> tuple[Tensor, ...]:
    """The hidden states [B, L, D], and of a short text the logits [B, L, V]."""
    hidden_BLD = hidden_states(model, ids_BL)
    if ids_BL.shape[1] > _SHORT:
        return (hidden_BLD,)
    return hidden_BLD, model(input_ids=ids_BL, use_cache=False).logits


def difference_of(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    """The largest one, as a part of the largest value."""
    return max(
        float((one.float() - other.float()).abs().max() / other.float().abs().max().clamp(1e-30))
        for one, other in zip(found, wanted, strict=True)
    )


def probe_lengths(model: PreTrainedModel) -> list[int]:
    """How many tokens the probes have: few, and more than each window that is short enough."""
    config = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or _SHORT
    windows = {
        value
        for name, value in config.to_dict().items()
        if isinstance(value, int) and _WINDOW.fullmatch(name)
    }
    weights = sum(parameter.numel() for parameter in model.parameters())
    longer = [
        window + _BEYOND
        for window in sorted(windows)
        if _SHORT < window + _BEYOND <= context and (window + _BEYOND) * weights <= _MOST_WORK
    ]
    return [min(_SHORT, context), *longer[-1:]]


def probe(model: PreTrainedModel, length: int, vocabulary: int) -> Tensor:
    """Ids [1, L], each below `vocabulary`, none of them special."""
    plain = plain_ids(model, min(vocabulary, 5000))
    generator = torch.Generator().manual_seed(0)
    return plain[torch.randint(len(plain), (1, length), generator=generator)]


def plain_ids(model: PreTrainedModel, vocabulary: int) -> Tensor:
    """The ids below `vocabulary` that the configuration does not name as special."""
    config = model.config
    settings = config.to_dict() | config.get_text_config().to_dict()
    special = {
        one
        for name, value in settings.items()
        if _SPECIAL.fullmatch(name)
        for one in (value if isinstance(value, list) else [value])
    }
    return torch.tensor([one for one in range(vocabulary) if one not in special])
