"""A diagnosis as lines to read: first what was found and what to do, then the figures.

Nothing here imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore.plumbing import printable
from trainer.evaluation.signs import SIGNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["diagnosis_lines"]

_FIGURES = {  # name -> what stands behind its number, and how it is shown
    "student_loss": ("nats, with the true tokens", ".4f"),
    "teacher_loss": ("nats, likewise", ".4f"),
    "counting_loss": ("nats, of one who knows how often each token occurs here", ".4f"),
    "loss_error": ("a standard error of the difference of student and teacher", ".4f"),
    "retained_mass": ("of the teacher in the kept entries, at T = 1", ".1%"),
    "tempered_mass": ("likewise at the temperature", ".1%"),
    "support_mass": ("of the student in the same entries, at the temperature", ".1%"),
    "no_token_mass": ("of the student in columns that are no token", ".2%"),
    "top1_agreement": ("same most probable token", ".1%"),
    "kl": ("nats, to the student at the temperature", ".4f"),
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
        if value is None or (name == "tempered_mass" and result["temperature"] == 1):
            continue
        sign = f"{bound}, about" if bound in ("lower", "upper") else bound
        before = f"{SIGNS[sign].ascii} " if sign in SIGNS else ""
        used |= {sign} if sign in SIGNS else set()
        yield f"{name:18} {before}{value:{show}}  ({meaning})"
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
        cells = "".join(f"{'':>9}" if value is None else f"{value:9.3f}" for value in figures)
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
