"""What `report` takes: declared once, for the command line and the docs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from logitstore.plumbing import option

__all__ = ["ReportOptions"]


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """The options of a report."""

    dirs: list[str] = option(
        help="The folders of the runs to compare; one with evaluations alone is a reference.",
        positional=True,
        spelled="dir",
    )
    out: Path = option(Path("report.html"), help="The page to write.")
