"""Which means of a sweep are no exact values, and the numbers that are shown of them.

Nothing here imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.evaluation.signs import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["bounded"]


def bounded(name: str, found: Mapping[str, Any]) -> tuple[str | None, float]:
    """The key of a mean's sign, None for an exact one, and the number to show.

    Args:
        name: The figure's, as in an evaluation.
        found: As `row_of` gives it.
    """
    bound, coding_error = found.get("bound"), found.get("coding_error")
    return shown(name, found["mean"], bound=bound, coding_error=coding_error)
