"""A narrower model, cut out of a teacher's own tensors.

The channels that are left out of the residual stream are read as zeros, so that the student is the
teacher whose residual stream is projected to the kept channels. A norm then divides by the root
mean square over D' channels where the teacher's is over D, most of them zeros: its weights are
multiplied by sqrt(D / D'). A family that multiplies its embeddings by the root of its width (Gemma)
gets larger ones, and where its output layer shares them, a smaller last norm.

Shapes: D width, D' width of the student, I neurons of one MLP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from logitstore import ModelError
from logitstore.plumbing import evaluating
from trainer.pruning.agreement import probe
from trainer.pruning.cutting import empty_model
from trainer.pruning.importance import drawn_ids, measured, most

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

    from trainer.pruning.sizes import Axes, Narrowing

__all__ = [
    "Cut",
    "build_narrow",
    "choose_cut",
    "neuron_groups",
    "refuse_bare_norms",
    "residual_norms",
]

_REMEDY = "Leave layers out instead (--layers)"
_SAME = 2e-2  # of a scale: rounding of bfloat16 stays below, other widths are above


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """What is kept of a teacher: for each tensor and axis the places, ascending."""

    places: Mapping[str, Mapping[int, Tensor]]
    channels: Tensor | None  # of the residual stream
    energy: float | None  # the part of the residual stream's energy that they hold
    scale: float  # sqrt(D / D'), by which norms are multiplied

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """The part of a tensor of the teacher that the student has."""
        for axis, places in self.places.get(name, {}).items():
            tensor = tensor.index_select(axis, places)
        return tensor.clone()

    def spread(self, name: str, tensor: Tensor, shape: Iterable[int]) -> Tensor:
        """The other way round: a tensor of the student at the teacher's size, else zeros."""
        whole = list(shape)
        for axis, places in self.places.get(name, {}).items():
            size = [*tensor.shape]
            size[axis] = whole[axis]
            tensor = tensor.new_zeros(size).index_copy_(axis, places, tensor)
        return tensor


def choose_cut(
    teacher: PreTrainedModel, narrow: Narrowing, groups: Mapping[str, str], *, place: object
) -> Cut:
    """Which channels and neurons are kept: those that count most on texts of the teacher's own.

    Args:
        teacher: The whole model, on the CPU.
        narrow: The axes.
        groups: As `neuron_groups` gave them.
        place: What an error names as the place.

    Raises ModelError where they cannot be measured.
    """
    energy_D, neurons = measured(teacher, drawn_ids(teacher), list(groups), place=place)
    places: dict[str, dict[int, Tensor]] = {}
    channels, held, scale = None, None, 1.0
    if narrow.channels is not None:
        channels = most(energy_D, narrow.channels.kept)
        held = float(energy_D[channels].sum())
        scale = math.sqrt(narrow.channels.size / narrow.channels.kept)
        for name, axes in narrow.channels.parts.items():
            places.setdefault(name, {}).update(dict.fromkeys(axes, channels))
    if narrow.neurons is not None:
        for projection, prefix in groups.items():
            kept_I = most(neurons[projection], narrow.neurons.kept)
            for name, axes in narrow.neurons.parts.items():
                if name.startswith(f"{prefix}."):
                    for axis, times in axes.items():
                        every = [kept_I + part * narrow.neurons.size for part in range(times)]
                        places.setdefault(name, {})[axis] = torch.cat(every)
    return Cut(places, channels, held, scale)


def neuron_groups(config: Any, axes: Axes | None, *, place: object) -> dict[str, str]:
    """The module that reads the neurons of each MLP, and the prefix of all its tensors' names.

    Args:
        config: Of the teacher, with the layers that are kept.
        axes: Of the neurons; none where they all are kept.
        place: What an error names as the place.

    Raises ModelError where neurons are not those of one MLP, as with experts in one tensor.
    """
    if axes is None:
        return {}
    model = empty_model(config, dtype=None, place=place, remedy="Leave out --intermediate")
    groups = {}
    for name, by_axis in axes.parts.items():
        owner, _, tensor = name.rpartition(".")
        reading = {nn.Linear: 1, Conv1D: 0}.get(type(model.get_submodule(owner)))
        if tensor == "weight" and by_axis == {reading: 1}:
            groups[owner] = owner.rpartition(".")[0]
    for name in axes.parts:
        if sum(name.startswith(f"{prefix}.") for prefix in groups.values()) != 1:
            raise ModelError(
                "its neurons are not those of one MLP with a projection of its own: --intermediate "
                "cannot cut experts that share a tensor",
                place=place,
                found=name,
                remedy="Leave out --intermediate",
            )
    return groups


def refuse_bare_norms(config: Any, axes: Axes | None, *, place: object) -> None:
    """Raise ModelError where norms have no weights (OLMo, nanochat).

    Args:
        config: Of the teacher, with the layers that are kept.
        axes: Of the residual stream; none where all channels are kept.
        place: What an error names as the place.
    """
    if axes is None:
        return
    if not residual_norms(empty_model(config, dtype=None, place=place, remedy=_REMEDY), axes):
        raise ModelError(
            "its norms have no weights, to which the scale of fewer channels could be given: "
            "--width cannot cut this family",
            place=place,
            found=config.model_type,
            remedy=_REMEDY,
        )


def residual_norms(model: nn.Module, channels: Axes | None) -> list[str]:
    """The names of the modules with nothing but a weight, or a weight and a bias, of D numbers.

    Args:
        model: The teacher, or a model of its shapes.
        channels: The axes of the residual stream.
    """
    parts = {} if channels is None else channels.parts
    return [
        name
        for name, module in model.named_modules()
        if name
        and {key for key, _ in module.named_parameters(recurse=False)}
        in ({"weight"}, {"weight", "bias"})
        and all(
            one.ndim == 1 and f"{name}.{key}" in parts
            for key, one in module.named_parameters(recurse=False)
        )
    ]


def build_narrow(
    teacher: PreTrainedModel, narrow: Narrowing, cut: Cut, *, place: object
) -> PreTrainedModel:
    """The student, to be saved: the teacher's tensors cut, norms and embeddings scaled.

    Args:
        teacher: The whole model, on the CPU.
        narrow: The configuration of the student.
        cut: What is kept.
        place: What an error names as the place.

    Raises ModelError for a norm of an unknown form, or embeddings of an unknown scale.
    """
    tensors = {name: cut.cut(name, tensor) for name, tensor in teacher.state_dict().items()}
    empty = empty_model(narrow.config, dtype=teacher.dtype, place=place, remedy=_REMEDY)
    norms = residual_norms(teacher, narrow.channels)
    for name in norms:
        key = f"{name}.weight"
        tensors[key] = _scaled(teacher.get_submodule(name), tensors[key], cut.scale, name, place)
    # Not from the empty model: what is no tensor of the file (rotations) gets its values here.
    student = type(empty).from_pretrained(
        None, config=narrow.config, state_dict=tensors, dtype=teacher.dtype
    )
    student = student.eval()
    if cut.channels is not None:
        _rescale_embeddings(teacher, student, cut, norms, place)
    return student


def _scaled(module: nn.Module, weight: Tensor, scale: float, name: str, place: object) -> Tensor:
    """The weights of a norm that gives `scale` times as much; some families hold them less 1."""
    wide = next(module.parameters())
    probe_1D = torch.linspace(-1, 2, len(wide), dtype=wide.dtype)[None]
    rest = {key: torch.zeros_like(one) for key, one in module.named_parameters(recurse=False)}
    with torch.no_grad():
        nothing, once = (
            functional_call(module, {**rest, "weight": torch.full_like(wide, value)}, (probe_1D,))
            for value in (0.0, 1.0)
        )
    if not nothing.any() and once.any():
        return (weight.float() * scale).to(weight.dtype)
    if nothing.any() and torch.allclose(once.float(), 2 * nothing.float(), rtol=_SAME, atol=_SAME):
        return ((weight.float() + 1) * scale - 1).to(weight.dtype)
    raise ModelError(
        "a norm does not multiply by its weights, so that it cannot be given the scale of fewer "
        "channels",
        place=place,
        found=f"{name}, {type(module).__name__}",
        remedy=_REMEDY,
    )


def _rescale_embeddings(
    teacher: PreTrainedModel, student: PreTrainedModel, cut: Cut, norms: list[str], place: object
) -> None:
    """Make what enters the first layer the teacher's, where the width is a factor in it."""
    ratio = _embedding_ratio(teacher, student, cut)
    if abs(ratio - 1) < _SAME / 4:
        return
    table = student.get_input_embeddings().weight
    head = student.get_output_embeddings().weight
    last = [name for name in norms if not any(part.isdigit() for part in name.split("."))]
    if not abs(ratio * cut.scale - 1) < _SAME or (head is table and len(last) != 1):
        raise ModelError(
            "its embeddings follow from the width in a way that cannot be undone",
            place=place,
            found=f"{ratio:.3g} times the teacher's",
            allowed=f"1 or {1 / cut.scale:.3g}",
            remedy=_REMEDY,
        )
    with torch.no_grad():
        table.copy_((table.float() * cut.scale).to(table.dtype))
        if head is table:  # its scale and that of fewer channels cancel out
            name = f"{last[0]}.weight"
            student.get_parameter(name).copy_(cut.cut(name, teacher.state_dict()[name]))


def _embedding_ratio(teacher: PreTrainedModel, student: PreTrainedModel, cut: Cut) -> float:
    """How large the student's first hidden states are, those of the teacher being 1."""
    vocabulary = min(len(one.get_output_embeddings().weight) for one in (teacher, student))
    ids_BL = probe(teacher, 24, vocabulary)
    states = []
    for model in (teacher, student):
        with torch.no_grad(), evaluating(model):
            given = model(input_ids=ids_BL, use_cache=False, output_hidden_states=True)
        states.append(given.hidden_states[0].double())
    wanted = states[0].index_select(-1, cut.channels)
    return float((states[1] * wanted).sum() / wanted.square().sum())
