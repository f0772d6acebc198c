"""The hints of a run, from its options, its store and its student; refused where they cannot be.

Shapes: L tokens, R targets, D width of the student, W width of a hidden state of the teacher.
"""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitstore import ModelError, SettingError, SpecError
from logitstore.plumbing import DecoderLayers, evaluating, hidden_states, layer_name
from trainer.data.mixture import MixedStore, name_of
from trainer.losses.hint_pairs import HintPair, pairs_at_equal_depth, parse_pairs
from trainer.losses.hints import Hints, HintScale, hint_maps

if TYPE_CHECKING:
    from trainer.training.options import FitOptions

__all__ = ["hints_of", "hints_record", "hints_words", "refuse_unhinted"]

_SCALED_TARGETS = 4096  # at least, over whose states s is measured, where the store has so many
_SCALED_DOCUMENTS = 32  # that the student reads once, for u
_ADAM_BYTES = 12  # of a parameter: itself and two moments, in float32
_AGAIN = "Dump again with `logitstore dump --hidden-layers LAYERS`, or leave out --hint-weight"


def refuse_unhinted(options: FitOptions, store: Any) -> None:
    """Raise where the store cannot give the hints that are asked for; nothing is read.

    Args:
        options: Those of the run.
        store: What it learns from.

    Raises SpecError for a store without the states, and for several that are not alike in them.
    """
    if not options.hint_weight:
        return
    several = [one.store for one in store.parts] if isinstance(store, MixedStore) else [store]
    for one in several:
        states = getattr(one.spec, "states", None)
        if states is None or not states.layers:
            raise SpecError(
                "the store keeps no hidden states of the teacher's layers, which hints are",
                place=name_of(one),
                found=f"--hint-weight {options.hint_weight:g}",
                remedy=_AGAIN,
            )
        if _told(one) != _told(several[0]):
            raise SpecError(
                "the stores keep hidden states of different teachers, layers or number types, and "
                "one map cannot serve them all",
                place=name_of(one),
                found=_told(one),
                allowed=f"{_told(several[0])}, as in {name_of(several[0])}",
                remedy="Leave out --hint-weight, or learn from one of them",
            )
    stored = several[0].spec.states.layers
    for pair in parse_pairs(options.hint_layers) if options.hint_layers else ():
        if pair.teacher not in stored:
            raise SpecError(
                "the store keeps no hidden states behind this layer of the teacher",
                place="--hint-layers",
                found=f"{pair.teacher} in {pair}",
                allowed=", ".join(map(str, stored)),
                remedy="Name one of these behind the colon, or dump again with another "
                "--hidden-layers",
            )


def _told(store: Any) -> str:
    states, teacher = store.spec.states, store.spec.teacher
    layers = ",".join(map(str, states.layers))
    return f"{teacher.fingerprint[:12]}, layers {layers} of {states.depth}, {states.dtype}"


def hints_of(
    options: FitOptions, store: Any, student: Any, *, begun: dict[str, Any] | None
) -> Hints | None:
    """The hints of a run; None without any.

    Args:
        options: Those of the run.
        store: What it learns from, of which `refuse_unhinted` lets it pass.
        student: As transformers made it.
        begun: What run.json says of them, where the run goes on.

    Raises SettingError for a student that is an adapter, and for layers that it does not have;
    ModelError where the states behind its layers cannot be had.
    """
    if not options.hint_weight:
        return None
    if hasattr(student, "get_base_model"):
        raise SettingError(
            "hints are not served for a student that is an adapter: its checkpoints hold no maps",
            place="--hint-weight",
            found=options.student_name,
            remedy="Merge the adapter first, or leave out --hint-weight",
        )
    layers, states = DecoderLayers.of(student), store.spec.states
    pairs = (
        parse_pairs(options.hint_layers)
        if options.hint_layers
        else pairs_at_equal_depth(
            states.layers, teacher_depth=states.depth, student_depth=layers.depth
        )
    )
    for pair in pairs:
        if pair.student > layers.depth:
            raise ModelError(
                "the student has no such layer",
                place="--hint-layers",
                found=str(pair),
                allowed=f"1:{pair.teacher} to {layers.depth}:{pair.teacher}",
            )
    if begun is None:
        scales = _scales(store, student, layers, pairs)
    else:
        scales = tuple(HintScale(student=u, teacher=s) for u, s in begun["scales"])
    maps = hint_maps(
        pairs, student_width=layers.width, teacher_width=states.width, seed=options.seed
    )
    return Hints(weight=options.hint_weight, pairs=pairs, scales=scales, layers=layers, maps=maps)


def hints_record(hints: Hints) -> dict[str, Any]:
    """What run.json says of hints.

    Args:
        hints: Of the run.
    """
    return {
        "pairs": [[one.student, one.teacher] for one in hints.pairs],
        "scales": [[one.student, one.teacher] for one in hints.scales],
        "parameters": _parameters(hints),
    }


def hints_words(hints: Hints) -> str:
    """What is compared, and what the maps take while the student is trained.

    Args:
        hints: Of the run.
    """
    shape = next(iter(hints.maps.parameters())).shape
    count = _parameters(hints)
    return (
        f"hints: layers {', '.join(map(str, hints.pairs))} of student and teacher, counted from 1; "
        f"maps of {shape[1]:,} to {shape[0]:,} numbers, {count:,} parameters, "
        f"{count * _ADAM_BYTES:,} bytes with the moments of AdamW, in no result"
    )


def _parameters(hints: Hints) -> int:
    return sum(one.numel() for one in hints.maps.parameters())


def _scales(
    store: Any, student: Any, layers: DecoderLayers, pairs: tuple[HintPair, ...]
) -> tuple[HintScale, ...]:
    """How large states are behind the layers of each pair, before the first step.

    Raises ModelError where they are 0 throughout, or no finite numbers.
    """
    teachers = _teachers_squares(store, sorted({one.teacher for one in pairs}))
    students = _students_squares(store, student, layers, sorted({one.student for one in pairs}))
    for whose, squares in (("teacher", teachers), ("student", students)):
        for layer, square in squares.items():
            if not 0 < square < math.inf:
                raise ModelError(
                    f"the hidden states of the {whose} are 0 throughout, or no finite numbers",
                    place=f"--hint-layers: layer {layer} of the {whose}",
                    found=square,
                )
    return tuple(
        HintScale(student=students[one.student], teacher=teachers[one.teacher]) for one in pairs
    )


def _teachers_squares(store: Any, layers: list[int]) -> dict[int, float]:
    """The mean square of the teacher's states in the first blocks of the store, by layer."""
    sums: dict[int, float] = defaultdict(float)
    numbers = targets = 0
    for number in range(len(store.blocks)):
        states = store.read_block(number).targets.states
        for layer in layers:
            one_RW = states[layer_name(layer)].float32()
            sums[layer] += float(np.square(one_RW, dtype=np.float64).sum())
        numbers += one_RW.size
        targets += store.blocks[number].targets
        if targets >= _SCALED_TARGETS:
            break
    return {layer: sums[layer] / max(1, numbers) for layer in layers}


def _students_squares(
    store: Any, student: Any, own: DecoderLayers, layers: list[int]
) -> dict[int, float]:
    """The mean square of the student's states in the first documents of the store, by layer."""
    sums: dict[int, float] = defaultdict(float)
    numbers: dict[int, int] = defaultdict(int)
    counted = (one for one in store.read_block(0).split() if one.document.targets)
    for stored in islice(counted, _SCALED_DOCUMENTS):
        document = stored.document
        at_R = torch.from_numpy(np.flatnonzero(document.counted_L) - 1).to(student.device)

        def hear(layer: int, states_1LD: torch.Tensor, at_R: torch.Tensor = at_R) -> None:
            one_RD = states_1LD[0, at_R].double()
            sums[layer] += float(one_RD.square().sum())
            numbers[layer] += one_RD.numel()

        ids_L = torch.from_numpy(document.input_ids_L.astype(np.int64)).to(student.device)
        with torch.no_grad(), evaluating(student), own.listening(layers, hear):
            hidden_states(student, ids_L[None])
    return {layer: sums[layer] / max(1, numbers[layer]) for layer in layers}
