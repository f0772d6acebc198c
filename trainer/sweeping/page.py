"""The page of a sweep: its answers, charts with intervals, every setting, student beside teacher.

It is one file that asks the network for nothing, in the style of `trainer report`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.plumbing import printable
from trainer.evaluation.signs import SIGNS
from trainer.reporting.figures import DASHES, PALETTE, Series, interval_chart
from trainer.reporting.page import rendered
from trainer.sweeping.marking import bounded
from trainer.sweeping.statistics import mean_of
from trainer.training.report_lines import shown_as

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markupsafe import Markup

    from trainer.sweeping.findings import Pair, Sweep
    from trainer.sweeping.grid import Setting

__all__ = ["written"]

# Figure, its heading, how its mean is shown.
COLUMNS = {
    "loss": ("Held-out loss (nats)", "nats"),
    "kl": ("KL to teacher (nats)", "nats"),
    "top1_agreement": ("Top-1 agreement", ".1%"),
    "acceptance": ("Acceptance", ".1%"),
    "ece": ("Calibration error", ".1%"),
}
MODELS = {
    "parameters": ("Parameters", ",.0f"),
    "mib": ("Weights (MiB)", ",.1f"),
    "tokens_per_second": ("Speed (tokens/s)", ",.0f"),
    "loss": ("Held-out loss (nats)", "nats"),
    "kl": ("KL to teacher (nats)", "nats"),
    "ratio": ("Teacher / student", ".1f"),
}
_CHARTS = {"loss": "Held-out loss", "kl": "KL to the teacher"}
_CALLED = {  # what a chart of a figure that is no exact value shows
    "lower": " (lower bounds, before rounding is taken off)",
    "upper": " (upper bounds, before rounding is added)",
    "estimate": " (estimates)",
}


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
                "cells": [_figure(key, row.get(key), show) for key, (_, show) in COLUMNS.items()],
            }
            for row in rows
        ],
        model_headings=[title for title, _ in MODELS.values()],
        models=[
            {
                "name": row["name"],
                "cells": [_model_cell(row, key, show) for key, (_, show) in MODELS.items()],
            }
            for row in models
        ],
        meanings=_meanings(rows, models),
        seeds=sweep.seeds,
        options=[(name, _words(value)) for name, value in options.items() if value],
    )


def _figure(name: str, found: dict[str, Any] | None, show: str) -> str:
    """A mean with its sign and its interval; a dash where there is none."""
    if found is None:
        return "–"
    sign, number = bounded(name, found)
    before = "" if sign is None else f"{SIGNS[sign].page} "
    half = "" if found["half"] is None else f" ± {shown_as(found['half'], show)}"
    return f"{before}{shown_as(number, show)}{half}"


def _model_cell(row: dict[str, Any], key: str, show: str) -> str:
    """A figure of a student or of the teacher."""
    value = row[key]
    if value is None or not math.isfinite(value):
        return "not measured"
    if key == "kl":
        return _figure(key, {"mean": value, "half": None} | row["kl_bound"], show)
    after = " (as the store tells)" if key == "loss" and row["loss_of_store"] else ""
    return f"{shown_as(value, show)}{after}"


def _meanings(rows: Sequence[dict[str, Any]], models: Sequence[dict[str, Any]]) -> list[str]:
    """What the signs mean that stand in the tables."""
    means = [(key, row[key]) for row in rows for key in COLUMNS if key in row]
    means += [
        ("kl", {"mean": row["kl"]} | row["kl_bound"]) for row in models if row["kl"] is not None
    ]
    used = {bounded(key, found)[0] for key, found in means}
    return [f"{one.page} means: {one.meaning}." for key, one in SIGNS.items() if key in used]


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
            bound = sweep.results.bound(shown[0].name, figure, seeds=sweep.seeds)
            what = title + _CALLED.get(bound.get("bound", ""), "")
            yield {
                "svg": chart,
                "title": f"{what} over {over}" + (f", {pair.label}" if pair.label else ""),
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
