"""SparseTargets on the way to a loss: the same columns as tensors, on any device.

Shapes: N packed tokens (rows), K entries, B stored temperatures, W width of a hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitstore.plumbing import LAST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from logitstore import SparseTargets
    from logitstore.plumbing import TargetKind

__all__ = ["TargetTensors"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TargetTensors:
    """The targets of N rows as tensors; see `SparseTargets`.

    Padding may hold any id below V: it is never looked at.
    """

    kind: TargetKind  # what its entries are, and whether it has a tail
    ids_NK: Tensor  # int64, < V
    logprobs_NK: Tensor  # float32, nats; of a drawn entry the log of its weight
    sampled_NK: Tensor  # bool, which entries were drawn
    count_N: Tensor  # int64, 1..K
    tail_logmass_NB: Tensor  # float32
    entropy_N: Tensor  # float32, nats
    label_logprob_N: Tensor  # float32, nats, of the true token at T = 1
    state_NW: Tensor | None = None  # the teacher's last hidden state, where it is kept

    @staticmethod
    def of(targets: SparseTargets) -> TargetTensors:
        """The columns of `targets` as tensors on the CPU."""
        state = targets.states.get(LAST)
        return TargetTensors(
            kind=targets.kind,
            ids_NK=torch.from_numpy(targets.ids_RK.astype(np.int64)),
            logprobs_NK=_float32(targets.logprobs_RK),
            sampled_NK=torch.tensor(targets.sampled_RK, dtype=torch.bool),
            count_N=torch.from_numpy(targets.count_R.astype(np.int64)),
            tail_logmass_NB=_float32(targets.tail_logmass_RB),
            entropy_N=_float32(targets.entropy_R),
            label_logprob_N=_float32(targets.label_logprob_R),
            state_NW=None if state is None else state.tensor(),
        )

    def __len__(self) -> int:
        return len(self.ids_NK)

    @property
    def used_NK(self) -> Tensor:
        """bool [N, K]: which entries are in use."""
        return torch.arange(self.ids_NK.shape[1], device=self.ids_NK.device) < self.count_N[:, None]

    @property
    def exact_NK(self) -> Tensor:
        """bool [N, K]: which entries are in use and hold the teacher's own probability."""
        return self.used_NK & ~self.sampled_NK if self.kind.drawn else self.used_NK

    def to(self, device: torch.device | str) -> TargetTensors:
        """The same targets on `device`."""
        return replace(
            self, **{name: value.to(device, non_blocking=True) for name, value in self._tensors()}
        )

    def rows(self, index: slice) -> TargetTensors:
        """The targets at `index`, as views."""
        return replace(self, **{name: value[index] for name, value in self._tensors()})

    def _tensors(self) -> Iterator[tuple[str, Any]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                yield field.name, value


def _float32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
