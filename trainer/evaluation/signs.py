"""How a figure that is no exact value is shown: a sign, the number beside it, and what it means.

An eval.json holds what was measured, which side of the exact value that is on (`bounds`), and how
far rounding may have moved it (`coding_errors`). What is shown of a bound is the number behind
which the exact value cannot be. Nothing here imports torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SIGNS", "Sign", "lines", "shown"]

_MOST = {"acceptance": 1.0, "top1_agreement": 1.0}  # no such figure is larger


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign:
    """What stands before a number."""

    ascii: str
    page: str  # on a page of HTML, and in a table of the terminal
    meaning: str  # of a number behind it


SIGNS = {
    "lower": Sign(
        ascii=">=",
        page="≥",
        meaning="the exact value is at least this: the store keeps a part of each distribution, "
        "and the rounding of what it keeps is taken off",
    ),
    "upper": Sign(
        ascii="<=",
        page="≤",
        meaning="the exact value is at most this: the store keeps a part of each distribution, "
        "and the rounding of what it keeps is added",
    ),
    "lower, about": Sign(
        ascii=">~",
        page="≳",
        meaning="the exact value is at least about this: an error of the stored tail's mass "
        "(interpolated at this temperature) or of rounding is not taken off",
    ),
    "upper, about": Sign(
        ascii="<~",
        page="≲",
        meaning="the exact value is at most about this: an error of the stored tail's mass "
        "(interpolated at this temperature) or of rounding is not added",
    ),
    "estimate": Sign(
        ascii="~",
        page="≈",
        meaning="an estimate, right on the average: from drawn entries, or from rounded values",
    ),
}


def shown(
    name: str, value: float, *, bound: str | None, coding_error: float | None
) -> tuple[str | None, float]:
    """The key in `SIGNS` of a figure, None for an exact one, and the number to show.

    Args:
        name: The figure's, as in eval.json.
        value: What was measured.
        bound: What `bounds` says of it: "lower", "upper" or "estimate"; None for an exact one.
        coding_error: What `coding_errors` says of it; None where that says nothing.
    """
    if bound not in SIGNS or not math.isfinite(value):
        return None, value
    if bound == "estimate":
        return bound, value
    if coding_error is None:
        return f"{bound}, about", value
    if bound == "lower":
        return bound, max(0.0, value - coding_error)
    return bound, min(_MOST.get(name, math.inf), value + coding_error)


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The lines that the command line prints of an evaluation, the meaning of signs at their end.

    Args:
        result: What `evaluate` gives.
    """
    bounds, coding, errors = (
        result[name] for name in ("bounds", "coding_errors", "standard_errors")
    )
    used: set[str] = set()
    for name, value in result.items():
        if isinstance(value, float):
            sign, number = shown(name, value, bound=bounds.get(name), coding_error=coding.get(name))
            notes = []
            if f"{number:.4f}" != f"{value:.4f}":
                notes.append(f"measured {value:.4f}")
            if name in errors:
                notes.append(f"standard error {errors[name]:.4f}")
            if sign == "estimate" and coding.get(name):
                notes.append(f"rounding {coding[name]:.4f}")
            before = "" if sign is None else f"{SIGNS[sign].ascii} "
            yield f"{name:18} {before}{number:.4f}" + (f"  ({', '.join(notes)})" if notes else "")
            used |= set() if sign is None else {sign}
        elif isinstance(value, int | str) and not isinstance(value, bool):
            yield f"{name:18} {value}"
    yield from (f"{one.ascii} means: {one.meaning}." for key, one in SIGNS.items() if key in used)
    if result.get("trained_on"):
        yield (
            "The model has learnt from this very store: what it knows by heart looks better here "
            "than it is, estimates from its draws too. Measure it on a held-out store."
        )
    if errors:
        yield (
            "standard error: of a mean over targets, by the spread over the "
            f"{result['documents']} documents."
        )
