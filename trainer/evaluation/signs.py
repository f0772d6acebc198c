"""How a figure that is no exact value is shown: a sign, the number beside it, and what it means.

An eval.json holds what was measured, which side of the exact value that is on (`bounds`), and how
far rounding may have moved it (`coding_errors`). What is shown of a bound is the number behind
which the exact value cannot be. Nothing here imports torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.training.report_lines import shown_nats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["SIGNS", "Sign", "agreement_note", "lines", "shown"]

_MOST = {"acceptance": 1.0, "top1_agreement": 1.0}  # no such figure is larger
_IN_NATS = {"loss", "kl", "teacher_loss", "teacher_entropy", "span_kl"}
_AT_TEMPERATURE = {"kl", "acceptance", "teacher_entropy"}


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
        meaning="an estimate: from drawn entries or from rounded values, right on the average; "
        "or from those targets alone that tell the teacher's most probable token",
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


def agreement_note(result: Mapping[str, Any]) -> str | None:
    """How many targets tell the teacher's most probable token, where they are not all.

    Args:
        result: What `evaluate` or `diagnose` gives; one of an earlier version does not say it.
    """
    judged, targets = result.get("judged"), result.get("targets")
    if judged is None or targets is None or judged == targets:
        return None
    return f"{judged:,} of {targets:,} targets tell the teacher's most probable token"


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The lines that the command line prints of an evaluation, the meaning of signs at their end.

    Args:
        result: What `evaluate` gives.
    """
    errors, used = result["standard_errors"], set()
    for name, value in result.items():
        if isinstance(value, float):
            line, sign = _line(name, value, result)
            yield line
            used |= set() if sign is None else {sign}
        elif value is None and (why := _unknown(name, result)) is not None:
            yield f"{name:18} not known: {why}"
        elif isinstance(value, int | str) and not isinstance(value, bool) and name != "judged":
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


def _line(name: str, value: float, result: Mapping[str, Any]) -> tuple[str, str | None]:
    """The line of a figure, and the key of its sign."""
    coding, error = result["coding_errors"].get(name), result["standard_errors"].get(name)
    sign, number = shown(name, value, bound=result["bounds"].get(name), coding_error=coding)
    notes = []
    if _words(name, number) != _words(name, value):
        notes.append(f"measured {_words(name, value)}")
    if error is not None:
        notes.append(f"standard error {_words(name, error)}")
    if sign == "estimate" and coding:
        notes.append(f"rounding {_words(name, coding)}")
    if name in _AT_TEMPERATURE and result.get("temperature") not in (None, 1):
        notes.append(f"at T = {result['temperature']:g}")
    if name == "top1_agreement" and (told := agreement_note(result)) is not None:
        notes.append(told)
    before = "" if sign is None else f"{SIGNS[sign].ascii} "
    after = f"  ({', '.join(notes)})" if notes else ""
    return f"{name:18} {before}{_words(name, number)}{after}", sign


def _words(name: str, value: float) -> str:
    return shown_nats(value) if name in _IN_NATS else f"{value:.4f}"


def _unknown(name: str, result: Mapping[str, Any]) -> str | None:
    """Why a figure is not known; None where nothing is to be said, as of one without a teacher."""
    if name == "top1_agreement":
        return agreement_note(result)
    if name == "acceptance" and result.get("judged") is not None and result["kl"] is not None:
        return "the store keeps too little of each distribution exactly at this temperature"
    return None
