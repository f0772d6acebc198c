"""Standard errors of means over targets, from how the means of documents differ.

The targets of one document are alike, so their own spread would make an error too small. With s_d
the sum of a figure over document d and n_d its targets, the mean m = sum s_d / sum n_d is a ratio
of two sums over D documents, whose standard error is sqrt(D / (D - 1) sum (s_d - m n_d)^2) / sum
n_d (Cochran 1977, section 6.3).

Shapes: D documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["Spread"]


@dataclass(kw_only=True, slots=True)
class _Ratio:
    """The sums over documents from which a ratio's standard error follows."""

    documents: int = 0  # that count
    below: float = 0.0
    above: float = 0.0
    above_above: float = 0.0
    above_below: float = 0.0
    below_below: float = 0.0

    def add(self, above_D: Tensor, below_D: Tensor) -> None:
        self.documents += int((below_D > 0).sum())
        self.above += float(above_D.sum())
        self.below += float(below_D.sum())
        self.above_above += float(above_D @ above_D)
        self.above_below += float(above_D @ below_D)
        self.below_below += float(below_D @ below_D)

    def mean(self) -> float:
        return self.above / self.below

    def error(self) -> float:
        mean = self.mean()
        squares = self.above_above - 2 * mean * self.above_below + mean**2 * self.below_below
        corrected = max(0.0, squares) * self.documents / (self.documents - 1)
        return math.sqrt(corrected) / self.below


@dataclass(kw_only=True, slots=True)
class Spread:
    """How the documents differ that were added so far."""

    figures: Mapping[str, tuple[str, str]]  # a mean -> the sums over each document it is a ratio of
    ratios: dict[str, _Ratio] = field(init=False)

    def __post_init__(self) -> None:
        self.ratios = {name: _Ratio() for name in self.figures}

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Count more documents.

        Args:
            sums: Sums over each of them, float64 [D], by name. What they lack is not counted.
        """
        for name, (above, below) in self.figures.items():
            if above in sums:
                self.ratios[name].add(sums[above], sums[below])

    def standard_errors(self) -> dict[str, float]:
        """Of each mean that two documents or more tell of."""
        return {name: one.error() for name, one in self.ratios.items() if one.documents > 1}
