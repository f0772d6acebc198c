"""What the command line prints of a sweep. Importing this costs no torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.sweeping.sweep import Swept

__all__ = ["as_object", "sweep_lines"]


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
    yield f"{'setting':{width}}  {'loss':>15}  {'KL':>15}  {'top-1':>15}"
    for row in swept.rows:
        cells = "  ".join(
            f"{_cell(row.get(key), show):>15}"
            for key, show in (("loss", ".3f"), ("kl", ".3f"), ("top1_agreement", ".1%"))
        )
        yield f"{row['setting']:{width}}  {cells}"
    for answer in swept.answers:
        yield f"{answer[:1].upper()}{answer[1:]}."
    yield f"page: {swept.page}"


def _cell(found: dict[str, Any] | None, show: str) -> str:
    if found is None:
        return "-"
    half = "" if found["half"] is None else f" ± {found['half']:{show}}"
    return f"{found['mean']:{show}}{half}"
