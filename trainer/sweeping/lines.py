"""What the command line prints of a sweep. Importing this costs no torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trainer.evaluation.signs import SIGNS
from trainer.sweeping.marking import bounded
from trainer.training.report_lines import shown_as

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.sweeping.sweep import Swept

__all__ = ["as_object", "sweep_lines"]

_FIGURES = {"loss": "nats", "kl": "nats", "top1_agreement": ".1%"}  # and how each is shown


def as_object(swept: Swept) -> dict[str, Any]:
    """The object that `--json` prints.

    Args:
        swept: What a sweep found.
    """
    content = asdict(swept)
    return content | {"page": None if swept.page is None else str(swept.page)}


def sweep_lines(swept: Swept) -> Iterator[str]:
    """The table of settings and the answers; of a dry run the runs and their time.

    Args:
        swept: What a sweep found.
    """
    if swept.page is None:
        yield from swept.runs
        minutes = (swept.seconds or 0.0) / 60
        yield f"{len(swept.runs)} runs, about {minutes:.1f} minutes by the pace of a few steps"
        return
    width = max(len(row["setting"]) for row in swept.rows)
    yield f"{'setting':{width}}  {'loss':>17}  {'KL':>17}  {'top-1':>17}"
    for row in swept.rows:
        cells = "  ".join(f"{_cell(key, row.get(key), show):>17}" for key, show in _FIGURES.items())
        yield f"{row['setting']:{width}}  {cells}"
    used = {bounded(key, row[key])[0] for row in swept.rows for key in _FIGURES if key in row}
    yield from (f"{one.ascii} means: {one.meaning}." for key, one in SIGNS.items() if key in used)
    for answer in swept.answers:
        yield f"{answer[:1].upper()}{answer[1:]}."
    yield f"page: {swept.page}"


def _cell(name: str, found: dict[str, Any] | None, show: str) -> str:
    if found is None:
        return "-"
    sign, number = bounded(name, found)
    before = "" if sign is None else f"{SIGNS[sign].ascii} "
    half = "" if found["half"] is None else f" ± {shown_as(found['half'], show)}"
    return f"{before}{shown_as(number, show)}{half}"
