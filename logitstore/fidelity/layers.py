"""Stored hidden states behind layers, beside those that the live teacher has there.

How far they are apart is the root of the mean square of their difference, as a part of that of the
live states: the same measure for each layer, width and teacher. A state of another layer or of
another row is off by a part of the order of 1; between neighbouring layers of a deep teacher it may
be some hundredths.

A number that is stored with u bits behind its leading one is off by a part of at most 2^-(u + 1).

Shapes: R targets, W width of a hidden state.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from logitstore.dumping.states import states_teacher
from logitstore.fidelity.whole import MANTISSA
from logitstore.format.states import layer_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from logitstore.format.states import StatesSpec
    from logitstore.store.reader import Store
    from logitstore.targets.documents import Document
    from logitstore.targets.targets import SparseTargets
    from logitstore.teacher.base import StatesTeacher, Teacher

__all__ = ["LayerStates"]

_NOISE_FLOORS = 3  # how many of them a store may be away from its teacher
# What sums in another order cost, of the whole state: layers add up their roundings.
_FLOOR = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerStates:
    """What was measured so far of the states behind the layers of a store."""

    teacher: StatesTeacher
    states: StatesSpec
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @staticmethod
    def of(store: Store, teacher: Teacher) -> LayerStates | None:
        """Nothing yet; None for a store without such states.

        Raises ModelError for a teacher that does not give its hidden states.
        """
        states = store.spec.states
        if states is None or not states.layers:
            return None
        own = states_teacher(teacher, asking="the audit of a store with --hidden-layers")
        return LayerStates(teacher=own, states=states)

    @property
    def misfit(self) -> str | None:
        """What a teacher of another shape is, which has no such states; None of a fitting one."""
        own = self.teacher.layers()
        if (own.depth, own.width) == (self.states.depth, self.states.width):
            return None
        return (
            f"the teacher has {own.depth} layers of width {own.width}, and the states are those of "
            f"{self.states.depth} layers of width {self.states.width}"
        )

    def add(self, documents: Sequence[Document], targets: SparseTargets) -> None:
        """Compare the states of some documents, each read alone, and once more beside its twin.

        documents: as the store's teacher read them.
        targets: all of theirs, with their states.
        """
        if self.misfit is not None:
            return
        start = 0
        for one in documents:
            rows = slice(start, start + one.targets)
            read = one.as_read
            _, _, live = self.teacher.hidden_behind([read], self.states.layers)
            _, _, again = self.teacher.hidden_behind([read, read], self.states.layers)
            for layer, live_RW in live.items():
                name = layer_name(layer)
                stored_RW = targets.states[name].rows(rows).tensor().to(live_RW.device)
                self._keep(name, "square", live_RW.float())
                self._keep(name, "error", stored_RW.float() - live_RW.float())
                self._keep(name, "noise", again[layer][: one.targets].float() - live_RW.float())
            start = rows.stop

    def _keep(self, name: str, what: str, values: Tensor) -> None:
        self.sums[f"{name} {what}"] += float(values.double().square().sum())

    def results(self) -> dict[str, dict[str, float]]:
        """By the name of each layer: `error`, `noise` and `stated`, parts of the live states."""
        if self.misfit is not None:
            return {}
        return {
            name: {
                "error": self._part(name, "error"),
                "noise": self._part(name, "noise"),
                "stated": self._stated(),
            }
            for name in map(layer_name, self.states.layers)
        }

    def _part(self, name: str, what: str) -> float:
        square = self.sums[f"{name} square"]
        return (self.sums[f"{name} {what}"] / square) ** 0.5 if square > 0 else 0.0

    def _stated(self) -> float:
        """What rounding may cost; 0 where the teacher's own numbers are stored."""
        own = self.teacher.spec.dtype
        return 0.0 if own == self.states.dtype else 2.0 ** -(MANTISSA[self.states.dtype] + 1)

    def faults(self, results: dict[str, dict[str, float]]) -> Iterator[str]:
        """Which layers are not those of this teacher.

        results: what `results` gave.
        """
        if self.misfit is not None:
            yield f"states: {self.misfit}"
        floor = _FLOOR.get(self.teacher.spec.dtype, _FLOOR["bfloat16"])
        for name, one in results.items():
            allowed = one["stated"] + _NOISE_FLOORS * one["noise"] + floor
            if not one["error"] <= allowed:
                yield (
                    f"states {name} differ from the teacher's by {one['error']:.3g} of them, above "
                    f"{allowed:.3g} (stated {one['stated']:.3g} + {_NOISE_FLOORS} times the noise "
                    f"{one['noise']:.3g} + {floor:g}): they are of another layer, row or teacher"
                )
