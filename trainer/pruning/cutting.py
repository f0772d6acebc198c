"""A model of some of a teacher's layers, made of the teacher's own tensors.

Which tensors belong to a layer is not told by names: a model is built from the configuration with
fewer layers, on torch's meta device, and each list of modules that became shorter with it is a list
of layers. Its tensors are taken from the layers that are kept, all others from where they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from logitstore import ModelError
from logitstore.plumbing import auto_class
from trainer.pruning.configuration import OTHER_LAYERS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from trainer.pruning.configuration import Kept

__all__ = ["build_student", "empty_model", "kept_tensors", "layer_lists"]


def build_student(
    teacher: PreTrainedModel, config: Any, kept: Kept, *, place: object
) -> PreTrainedModel:
    """A model with the teacher's tensors, to be saved; its buffers are without values.

    Args:
        teacher: The whole model, on the CPU.
        config: The configuration of the kept layers.
        kept: The layers.
        place: What an error names as the place.

    Raises ModelError where a layer would have other tensors under its new number.
    """
    student = empty_model(config, dtype=teacher.dtype, place=place, remedy=OTHER_LAYERS)
    student.load_state_dict(kept_tensors(teacher, student, kept, place=place), assign=True)
    student.tie_weights()
    return student.eval()


def empty_model(config: Any, *, dtype: Any, place: object, remedy: str) -> PreTrainedModel:
    """A model of that configuration on torch's meta device: names and shapes without values.

    Args:
        config: Of transformers.
        dtype: Of torch, or None for the default.
        place: What an error names as the place.
        remedy: What an error says is to be done.

    Raises ModelError where transformers refuses to build it.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model: PreTrainedModel = auto_class(config).from_config(config, dtype=dtype)
    except Exception as error:  # models check their configurations with errors of many kinds
        raise ModelError(
            f"no such smaller model can be built: {' '.join(str(error).split())[:300]}",
            place=place,
            remedy=remedy,
        ) from error
    return model


def layer_lists(teacher: nn.Module, student: nn.Module, kept: Kept) -> dict[str, nn.ModuleList]:
    """The teacher's lists of layers by their names: those of which the student's are shorter.

    Where all layers are kept, every list of that length, which changes nothing.

    Args:
        teacher: The whole model.
        student: A model of the configuration with fewer layers.
        kept: The layers.
    """
    found: dict[str, nn.ModuleList] = {}
    others = dict(student.named_modules())
    for name, module in teacher.named_modules():
        inside = any(name.startswith(f"{one}.") for one in found)
        if inside or not isinstance(module, nn.ModuleList) or len(module) != kept.count:
            continue
        other = others.get(name)
        if isinstance(other, nn.ModuleList) and len(other) == len(kept.layers):
            found[name] = module
    return found


def kept_tensors(
    teacher: nn.Module, student: nn.Module, kept: Kept, *, place: object
) -> dict[str, Tensor]:
    """The teacher's tensors under the names that they have in the student.

    Args:
        teacher: The whole model.
        student: A model of the configuration with fewer layers; its tensors are not looked at.
        kept: The layers.
        place: What an error names as the place.

    Raises ModelError where names or shapes do not fit.
    """
    lists = layer_lists(teacher, student, kept)
    if not lists:
        raise ModelError(
            "its layers do not stand in a list whose length follows from its configuration",
            place=place,
            found=f"{kept.count} layers",
        )
    tensors = {}
    for name, tensor in teacher.state_dict().items():
        new = _new_name(name, lists, kept)
        if new is not None:
            tensors[new] = tensor
    wanted = {name: tensor.shape for name, tensor in student.state_dict().items()}
    odd = sorted(tensors.keys() ^ wanted.keys())
    if odd:
        raise ModelError(
            "a layer would have other tensors under its new number",
            place=place,
            found=", ".join(odd[:2]),
            remedy=OTHER_LAYERS,
        )
    return {name: _cut(name, tensor, wanted[name], kept, place) for name, tensor in tensors.items()}


def _new_name(name: str, lists: dict[str, nn.ModuleList], kept: Kept) -> str | None:
    """The name of a tensor in the student; None where it is of a layer that is left out."""
    for prefix in lists:
        if name.startswith(f"{prefix}."):
            layer, rest = name[len(prefix) + 1 :].split(".", 1)
            if int(layer) not in kept.layers:
                return None
            return f"{prefix}.{kept.layers.index(int(layer))}.{rest}"
    return name


def _cut(name: str, tensor: Tensor, shape: torch.Size, kept: Kept, place: object) -> Tensor:
    """A tensor as the student has it: of one with a block for each layer, those that are kept.

    Gemma 3n and 4 have embeddings for each layer, side by side in one matrix.
    """
    if tensor.shape == shape:
        return tensor
    unequal = [
        axis
        for axis, (whole, part) in enumerate(zip(tensor.shape, shape, strict=False))
        if whole != part
    ]
    if tensor.ndim == len(shape) and len(unequal) == 1:
        (axis,) = unequal
        block, rest = divmod(tensor.shape[axis], kept.count)
        if not rest and shape[axis] == block * len(kept.layers):
            blocks = tensor.unflatten(axis, (kept.count, block))
            chosen = blocks.index_select(axis, torch.tensor(kept.layers, device=tensor.device))
            return chosen.flatten(axis, axis + 1)
    raise ModelError(
        "a layer would have tensors of another shape under its new number",
        place=place,
        found=f"{name} {tuple(tensor.shape)}",
        allowed=str(tuple(shape)),
        remedy=OTHER_LAYERS,
    )
