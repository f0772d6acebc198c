"""Hidden states of a teacher, a row for each target, in the number type in which they are stored.

numpy has no bfloat16, so the values are kept as the bits that they have; `float32` and `tensor`
make numbers of them, without rounding.

Shapes: R targets, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.errors import CorruptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["States", "bits_dtype"]

# Number type -> the bits of its exponent, all of which are set in what is no finite number.
_EXPONENTS = {"bfloat16": 0x7F80, "float16": 0x7C00, "float32": 0x7F800000}


def bits_dtype(dtype: str) -> np.dtype[Any]:
    """The unsigned integers that hold the bits of a number type of `STATE_BYTES`."""
    return np.dtype(np.uint32 if dtype == "float32" else np.uint16)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class States:
    """R hidden states of D numbers. Raises CorruptionError for bits of another width."""

    dtype: str  # one of STATE_BYTES
    bits_RD: np.ndarray  # uint16, or uint32 for float32

    def __post_init__(self) -> None:
        if self.bits_RD.ndim != 2 or self.bits_RD.dtype != bits_dtype(self.dtype):
            raise CorruptionError(
                "hidden states are not as wide as their number type",
                place="states",
                found=f"{self.bits_RD.dtype} of {self.bits_RD.ndim} axes",
                allowed=f"{bits_dtype(self.dtype)} of 2 axes",
            )

    def __len__(self) -> int:
        return len(self.bits_RD)

    def __repr__(self) -> str:
        return f"<States: {len(self):,} of {self.width} x {self.dtype}>"

    @property
    def width(self) -> int:
        """D, the numbers of a state."""
        return self.bits_RD.shape[1]

    def rows(self, index: slice | np.ndarray) -> States:
        """The states of the rows `index`: a slice, which gives a view, or an array of numbers."""
        return replace(self, bits_RD=self.bits_RD[index])

    def finite_R(self) -> np.ndarray:
        """bool [R]: in which rows every number is finite."""
        exponent = self.bits_RD.dtype.type(_EXPONENTS[self.dtype])
        return ~((self.bits_RD & exponent) == exponent).any(axis=1)

    def float32(self) -> np.ndarray:
        """float32 [R, D]: the same numbers."""
        if self.dtype == "bfloat16":
            return (self.bits_RD.astype(np.uint32) << np.uint32(16)).view(np.float32)
        found = np.ascontiguousarray(self.bits_RD).view(self.dtype)
        return found.astype(np.float32, copy=False)

    def tensor(self) -> Tensor:
        """[R, D] in the number type itself, on the CPU."""
        import torch

        signed = np.int32 if self.dtype == "float32" else np.int16
        bits_RD = torch.from_numpy(np.array(self.bits_RD).view(signed))
        return bits_RD.view(getattr(torch, self.dtype))

    @staticmethod
    def of(states_RD: Tensor, *, dtype: str) -> States:
        """The numbers of a tensor, rounded to `dtype` where they are of another type."""
        import torch

        rounded_RD = states_RD.detach().to(getattr(torch, dtype)).cpu().contiguous()
        signed = torch.int32 if dtype == "float32" else torch.int16
        return States(dtype=dtype, bits_RD=rounded_RD.view(signed).numpy().view(bits_dtype(dtype)))

    @staticmethod
    def concatenate(parts: Sequence[States]) -> States:
        """The rows of all `parts`, one after another; the parts have one type and width."""
        return replace(parts[0], bits_RD=np.concatenate([one.bits_RD for one in parts]))
