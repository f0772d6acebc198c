"""Hints: the student's hidden states, mapped, are to be the teacher's behind some of its layers.

FitNets (Romero et al., arXiv 1412.6550, equation 3) in the form of TinyBERT (Jiao et al., arXiv
1909.10351, equation 8): of each pair of layers the squared difference between the teacher's state
and a learnt linear map of the student's, without a bias, both in units of their own size:

    hint of a target = mean over pairs of  |M h / sqrt(u) - t / sqrt(s)|^2 / width

u and s are the mean squares of a number of the student's states and of the teacher's behind those
layers, measured before the first step: 1 is what a map of zeros gives, 0 is the teacher's state
itself, whatever the width, the teacher and how far the student is. They are the same for the whole
run, so no loss depends on what else is in its batch. Maps are trained with the student and saved in
checkpoints; a result has none.

Shapes: R targets, D width of the student, W width of the teacher's states, N positions of a batch.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from logitstore import SettingError
from logitstore.plumbing import layer_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from logitstore import SparseTargets
    from logitstore.plumbing import DecoderLayers
    from trainer.data.rows import Batch
    from trainer.losses.hint_pairs import HintPair

__all__ = [
    "HINT_MAPS",
    "Heard",
    "HintScale",
    "HintTargets",
    "Hints",
    "hint_maps",
    "without_hint_maps",
]

HINT_MAPS = "hint_maps"  # what the maps are called in the student while it is trained


def hint_maps(
    pairs: tuple[HintPair, ...], *, student_width: int, teacher_width: int, seed: int
) -> nn.ModuleDict:
    """A map for each pair, float32 [W, D]: the identity, or as near to it as widths allow.

    Args:
        pairs: Of layers.
        student_width: D.
        teacher_width: W. Where it is another, the map is orthogonal: it keeps norms, or those of
            what it does not drop.
        seed: Of such maps.
    """
    generator = torch.Generator().manual_seed(seed)
    maps = nn.ModuleDict()
    for pair in pairs:
        one = nn.Linear(student_width, teacher_width, bias=False)
        with torch.no_grad():
            if student_width == teacher_width:
                one.weight.copy_(torch.eye(teacher_width))
            else:
                nn.init.orthogonal_(one.weight, generator=generator)
        maps[f"{pair.student}_{pair.teacher}"] = one
    return maps


def without_hint_maps(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a student without those of its maps.

    Args:
        state: By their names.
    """
    return {name: one for name, one in state.items() if not name.startswith(f"{HINT_MAPS}.")}


@dataclass(frozen=True, kw_only=True, slots=True)
class HintScale:
    """The mean square of a number of the states behind the layers of a pair, above 0."""

    student: float  # u
    teacher: float  # s


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Hints:
    """The hints of a run: which layers are compared, how, and the maps that are trained."""

    weight: float  # of the hint of a target, beside its loss
    pairs: tuple[HintPair, ...]
    scales: tuple[HintScale, ...]  # of each pair
    layers: DecoderLayers  # of the student
    maps: nn.ModuleDict  # in the order of the pairs

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the teacher's layers, each once."""
        return tuple(dict.fromkeys(layer_name(one.teacher) for one in self.pairs))

    @contextmanager
    def attached(self, model: Any) -> Iterator[None]:
        """Within it the maps are a part of the model, for its optimiser, wrappers and checkpoints.

        Args:
            model: The student, as transformers made it.
        """
        model.add_module(HINT_MAPS, self.maps.to(next(model.parameters()).device))
        try:
            yield
        finally:
            delattr(model, HINT_MAPS)

    @contextmanager
    def listening(self) -> Iterator[Heard]:
        """Within it the states behind the student's layers are kept, of each pass of a batch."""
        wanted = sorted({one.student for one in self.pairs})
        heard: Heard = {layer: [] for layer in wanted}
        # A layer may be computed a second time in the backward pass; nobody listens then, so the
        # hook may do no more than keep the tensor.
        with self.layers.listening(wanted, lambda layer, state: heard[layer].append(state)):
            yield heard

    def nothing(self) -> Tensor:
        """0, on which each map depends: every rank must take part in the exchange of gradients."""
        return torch.stack([one.weight.float().sum() * 0.0 for one in self._linear()]).sum()

    def sum(self, heard: Heard, batch: Batch, targets: HintTargets) -> Tensor:
        """The hint summed over the targets of a batch, float32, differentiable.

        Args:
            heard: What was kept in the passes over the batch.
            batch: The one that was read.
            targets: The teacher's states of its rows, on the device of the student.

        Where targets are selected, those alone count, with the weight of the soft part.
        """
        rows_R = torch.zeros(len(targets.at_R), device=targets.at_R.device)
        # Under autocast differences would be rounded to bfloat16.
        with torch.autocast(rows_R.device.type, enabled=False):
            for pair, scale, one in zip(self.pairs, self.scales, self._linear(), strict=True):
                student_ND = batch.flattened(heard[pair.student])
                mapped_RW = one(student_ND[targets.at_R].float() / scale.student**0.5)
                state_RW = targets.states[layer_name(pair.teacher)].float() / scale.teacher**0.5
                rows_R = rows_R + (mapped_RW - state_RW).square().mean(dim=1)
            rows_R = rows_R / len(self.pairs)
            return (rows_R if targets.soft_R is None else rows_R * targets.soft_R).sum()

    def _linear(self) -> list[Any]:
        return list(self.maps.values())


Heard = dict[int, list[Any]]  # the student's layer -> its states in each pass, [B, L, D]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HintTargets:
    """What the hints of a batch need of it, on the device of the student."""

    at_R: Tensor  # int64, the positions among those of the batch
    states: dict[str, Tensor]  # [R, W] by the names of layers
    soft_R: Tensor | None  # float32, the weight of each row; None is 1

    @staticmethod
    def of(batch: Batch, hints: Hints, *, device: torch.device) -> HintTargets | None:
        """Those of a batch; None where nothing counts.

        Args:
            batch: The batch.
            hints: Of the run.
            device: Of the student.

        Raises SettingError for a batch without the states.
        """
        stored: SparseTargets | Any = batch.targets
        if stored is None:
            return None
        found = getattr(stored, "states", {})
        missing = [name for name in hints.names if name not in found]
        if missing:
            raise SettingError(
                "the batch has no hidden states of the teacher's layer",
                place="batch",
                found=", ".join(found) or "none",
                allowed=", ".join(hints.names),
            )
        return HintTargets(
            at_R=batch.at_R.to(device),
            states={name: found[name].tensor().to(device) for name in hints.names},
            soft_R=None if batch.weights is None else batch.weights.soft_R.to(device),
        )
