"""A diagnosis as lines to read: first what was found and what to do, then the figures.

Nothing here imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore.plumbing import printable
from trainer.evaluation.signs import SIGNS, agreement_note
from trainer.training.report_lines import shown_nats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["diagnosis_lines"]

_NATS = "nats"
_FIGURES = {  # name -> what stands behind its number, and how it is shown
    "student_loss": ("nats, with the true tokens", _NATS),
    "teacher_loss": ("nats, likewise", _NATS),
    "counting_loss": ("nats, of one who knows how often each token occurs here", _NATS),
    "loss_error": ("a standard error of the difference of student and teacher", _NATS),
    "retained_mass": ("of the teacher in the kept entries, at T = 1", ".1%"),
    "tempered_mass": ("likewise at the temperature", ".1%"),
    "support_mass": ("of the student in the same entries, at the temperature", ".1%"),
    "no_token_mass": ("of the student in columns that are no token", ".2%"),
    "top1_agreement": ("same most probable token", ".1%"),
    "kl": ("nats, to the student at the temperature", _NATS),
    "gradient_angle": ("degrees between the gradients of divergence and cross-entropy", ".1f"),
    "gradient_ratio": ("of their norms, divergence over cross-entropy", ".3f"),
}
_GROUPS = {
    "by_entropy": "teacher's entropy",
    "by_position": "position",
    "by_frequency": "times in the sample",
}


def diagnosis_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The lines that the command line prints.

    Args:
        result: What `diagnose` gives.
    """
    found = result["findings"]
    if not found:
        yield "nothing found"
    for number, one in enumerate(found, start=1):
        yield printable(f"{number}. {one['name']}: {one['says']}.")
        yield printable(f"   {one['remedy']}.")
    where = "documents that it has learnt from" if result["trained_on"] else "documents"
    yield (
        f"measured on {result['targets']:,} targets of {result['documents']:,} {where}, with "
        f"--loss {result['loss']} --alpha {result['alpha']:g} "
        f"--temperature {result['temperature']:g}"
    )
    used = set()
    for name, (meaning, show) in _FIGURES.items():
        value, bound = result[name], result["bounds"].get(name)
        note = agreement_note(result) if name == "top1_agreement" else None
        if value is None and note is not None:
            yield f"{name:18} not known: {note}"
        if value is None or (name == "tempered_mass" and result["temperature"] == 1):
            continue
        sign = f"{bound}, about" if bound in ("lower", "upper") else bound
        before = f"{SIGNS[sign].ascii} " if sign in SIGNS else ""
        used |= {sign} if sign in SIGNS else set()
        words = shown_nats(value) if show == _NATS else f"{value:{show}}"
        yield f"{name:18} {before}{words}  ({note or meaning})"
    for name, title in _GROUPS.items():
        yield from _table(title, result[name])
    yield from (f"{one.ascii} means: {one.meaning}." for key, one in SIGNS.items() if key in used)


def _table(title: str, parts: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each part of the sample; none where it has no parts."""
    if not parts:
        return
    yield f"{title:22}{'targets':>9}{'KL':>9}{'student':>9}{'teacher':>9}"
    for one in parts:
        figures = [one["kl"], one["student_loss"], one["teacher_loss"]]
        cells = "".join(
            f"{'' if value is None else shown_nats(value, decimals=3):>9}" for value in figures
        )
        edges = _nats(one) if title == _GROUPS["by_entropy"] else _whole(one)
        yield f"{edges:22}{one['targets']:9,}{cells}".rstrip()


def _nats(part: Mapping[str, Any]) -> str:
    return f"{part['from']:.2f} to {part['to']:.2f}"


def _whole(part: Mapping[str, Any]) -> str:
    """The whole numbers of a part."""
    low = part["from"]
    if "to" not in part:
        return f"{low:g} and more"
    return f"{low:g}" if part["to"] == low + 1 else f"{low:g} to {part['to'] - 1:g}"
