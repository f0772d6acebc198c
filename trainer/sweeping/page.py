"""The page of a sweep: its answers, charts with intervals, every setting, student beside teacher.

It is one file that asks the network for nothing, in the style of `trainer report`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.plumbing import printable
from trainer.reporting.figures import DASHES, PALETTE, Series, interval_chart
from trainer.reporting.page import rendered
from trainer.sweeping.statistics import mean_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markupsafe import Markup

    from trainer.sweeping.findings import Pair, Sweep
    from trainer.sweeping.grid import Setting

__all__ = ["shown_figure", "shown_number", "written"]

# Figure, its heading, how its mean is shown.
COLUMNS = {
    "loss": ("Held-out loss (nats)", ".3f"),
    "kl": ("KL to teacher (nats)", ".3f"),
    "top1_agreement": ("Top-1 agreement", ".1%"),
    "acceptance": ("Acceptance", ".1%"),
    "ece": ("Calibration error", ".1%"),
}
MODELS = {
    "parameters": ("Parameters", ",.0f"),
    "mib": ("Weights (MiB)", ",.1f"),
    "tokens_per_second": ("Speed (tokens/s)", ",.0f"),
    "loss": ("Held-out loss (nats)", ".3f"),
    "kl": ("KL to teacher (nats)", ".3f"),
    "ratio": ("Teacher / student", ".1f"),
}
_CHARTS = {"loss": "Held-out loss", "kl": "KL to the teacher"}


def written(
    sweep: Sweep,
    *,
    rows: Sequence[dict[str, Any]],
    models: Sequence[dict[str, Any]],
    answers: Sequence[str],
    options: dict[str, Any],
) -> str:
    """The page as HTML.

    Args:
        sweep: With its measurements.
        rows: The means of each setting.
        models: Students and teacher.
        answers: What the sweep shows, in sentences.
        options: What every run had alike.
    """
    best = min(rows, key=lambda row: row.get("loss", {}).get("mean", math.inf))
    return rendered(
        Path(__file__).with_name("sweep.html.jinja"),
        answers=[_sentence(one) for one in answers],
        charts=[chart for pair in enumerate(sweep.pairs) for chart in _charts(sweep, *pair)],
        headings=[title for title, _ in COLUMNS.values()],
        rows=[
            {
                "name": row["setting"],
                "best": row is best,
                "cells": [shown_figure(row.get(key), show) for key, (_, show) in COLUMNS.items()],
            }
            for row in rows
        ],
        model_headings=[title for title, _ in MODELS.values()],
        models=[
            {
                "name": row["name"],
                "cells": [shown_number(row[key], show) for key, (_, show) in MODELS.items()],
            }
            for row in models
        ],
        seeds=sweep.seeds,
        options=[(name, _words(value)) for name, value in options.items() if value],
    )


def shown_figure(found: dict[str, Any] | None, show: str) -> str:
    """A mean with its interval, as it stands in a table.

    Args:
        found: As `row_of` gives it; None where nothing was measured.
        show: A format specification.
    """
    if found is None:
        return "–"
    half = "" if found["half"] is None else f" ± {found['half']:{show}}"
    return f"{found['mean']:{show}}{half}"


def shown_number(value: float | None, show: str) -> str:
    """A number as it stands in a table; None and what is not finite was not measured.

    Args:
        value: The number.
        show: A format specification.
    """
    return "not measured" if value is None or not math.isfinite(value) else f"{value:{show}}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _charts(sweep: Sweep, number: int, pair: Pair) -> Iterator[dict[str, Any]]:
    """For a pair the losses over alpha and over T, where there are several values."""
    for axis, lines, called in (("alpha", "temperature", "T"), ("temperature", "alpha", "alpha")):
        shown = [one for one in pair.settings if axis == "alpha" or not one.hard]
        if len({getattr(one, axis) for one in shown}) < 2:
            continue
        for figure, title in _CHARTS.items():
            chart = _chart(
                sweep, shown, figure, axis=axis, lines=lines, key=f"{figure}-{axis}-{number}"
            )
            if chart is None:
                continue
            names = sorted({getattr(one, lines) for one in shown if not one.hard})
            several = len(names) > 1
            over = "alpha (0: hard labels, 1: soft)" if axis == "alpha" else "temperature"
            yield {
                "svg": chart,
                "title": f"{title} over {over}" + (f", {pair.label}" if pair.label else ""),
                "lines": [_line(place, f"{called} {value:g}") for place, value in enumerate(names)]
                if several
                else [],
            }


def _line(place: int, name: str) -> dict[str, Any]:
    dashes = " ".join(map(str, DASHES[place // PALETTE % len(DASHES)]))
    return {"name": name, "number": place % PALETTE, "dashes": dashes}


def _chart(
    sweep: Sweep, settings: Sequence[Setting], figure: str, *, axis: str, lines: str, key: str
) -> Markup | None:
    """One line for each value of `lines`; hard labels belong to all of them."""
    series, halves = [], []
    first = settings[0]
    same = [one for one in settings if (one.loss, one.lr) == (first.loss, first.lr)]
    values = sorted({getattr(one, lines) for one in same if not one.hard})
    for place, value in enumerate(values):
        own = [one for one in same if one.hard or getattr(one, lines) == value]
        found = {}
        for one in own:
            measured = sweep.results.figure(one.name, figure, seeds=sweep.seeds)
            if measured:
                found[getattr(one, axis)] = mean_of([*measured.values()])
        if not found:
            continue
        x_N = np.array(sorted(found), dtype=np.float64)
        y_N = np.array([found[x].mean for x in sorted(found)])
        series.append(Series(name=f"{value:g}", number=place, x_N=x_N, y_N=y_N))
        halves.append(np.array([found[x].half for x in sorted(found)]))
    if not series:
        return None
    teacher = sweep.results.figure(first.name, "teacher_loss", seeds=sweep.seeds)
    line = ("teacher", next(iter(teacher.values()))) if figure == "loss" and teacher else None
    return interval_chart(
        series,
        halves=halves,
        key=key,
        title=f"{_CHARTS[figure]} by {axis}",
        across=axis,
        unit="nats per target",
        line=line,
    )


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={one}" for name, one in value.items())
    if isinstance(value, list):
        return "; ".join(
            " ".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in value
        )
    return printable(str(value))
