"""One page about several runs: what they reached, how they learned, what they were made of.

A run's folder holds up to three files, `run.json`, `history.json` and `eval.json`; one with only an
`eval.json` is a reference, such as the teacher. The page is one HTML file that asks the network for
nothing, and the same folders give the same bytes. What a folder lacks the page says; it fills
nothing in. Everything read is text from elsewhere: checked here, escaped by the template.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from logitstore import StorageError
from logitstore.plumbing import options_of, takes
from trainer.evaluation.signs import SIGNS, shown
from trainer.reporting.data import RunFolder, as_number, load_runs, printable, words
from trainer.reporting.figures import DASHES, PALETTE, Series, bar_chart, curve_chart
from trainer.reporting.figures import reliability_chart as draw_reliability
from trainer.reporting.options import ReportOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Report", "print_table", "render_table", "report"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The page that was written, and its summary.

    A row's keys are `name`, `reference`, `store`, `compared_at` (the temperature of KL and
    acceptance), `bounds` (figure -> its sign), `standard_errors` and those of `COLUMNS`; None
    stands where its folder says nothing. A figure with a sign of a bound is that bound, its coding
    error included. `notes` are sentences that belong below the table.
    """

    path: Path
    rows: list[dict[str, Any]]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    """A column of the summary: where its value stands, how it is shown, which value is best."""

    title: str
    source: str  # "file.key.key"
    show: str  # a format specification
    better: int = 0  # 1: more is better, -1: less, 0: neither
    short: str | None = None  # its title in the terminal, whose 80 columns have no room for all


COLUMNS = {
    "alpha": _Column(title="α", source="run.settings.alpha", show="g", short="α"),
    "temperature": _Column(title="T", source="run.settings.temperature", show="g"),
    "steps": _Column(title="Steps", source="run.settings.steps", show=",.0f"),
    "seconds": _Column(title="Training (s)", source="run.seconds", show=",.1f"),
    "parameters": _Column(
        title="Parameters", source="eval.parameters", show=",.0f", short="parameters"
    ),
    "targets": _Column(title="Held-out targets", source="eval.targets", show=",.0f"),
    "loss": _Column(
        title="Held-out loss (nats)", source="eval.loss", show=".3f", better=-1, short="loss"
    ),
    "perplexity": _Column(title="Perplexity", source="eval.perplexity", show=",.2f", better=-1),
    "kl": _Column(
        title="KL to teacher (nats)", source="eval.kl", show=".3f", better=-1, short="KL"
    ),
    "top1_agreement": _Column(
        title="Top-1 agreement", source="eval.top1_agreement", show=".1%", better=1, short="top-1"
    ),
    "acceptance": _Column(
        title="Acceptance", source="eval.acceptance", show=".1%", better=1, short="accepted"
    ),
    "ece": _Column(
        title="Calibration error", source="eval.ece", show=".1%", better=-1, short="ECE"
    ),
    # No best one: the machine's load is in it.
    "tokens_per_second": _Column(
        title="Speed (tokens/s)", source="eval.tokens_per_second", show=",.0f"
    ),
}
CURVES = {
    "loss": ("Training loss", "nats; not comparable between runs with another α or temperature"),
    "ce": ("Cross-entropy with the labels", "nats"),
    "kl": ("Forward KL from the teacher, whatever the loss", "nats"),
    "kl_binary": ("Part of it: how much mass is in the head", "nats"),
    "kl_head": ("Part of it: how the head shares its mass", "nats"),
    "agreement": ("Top-1 agreement with the teacher", "share of targets"),
    "lr": ("Learning rate", ""),
}
_LEGEND = (
    "loss, KL to the teacher: nats per target; top-1: agreement with the teacher; accepted: share "
    "of proposals that speculative decoding keeps; ECE: calibration error; *: best."
)
_BOUNDS = ("lower", "upper", "estimate")
_AT_A_TEMPERATURE = ("kl", "acceptance")


@takes(options_of(ReportOptions))
def report(dirs: Sequence[str | Path], *, out: Path) -> Report:
    """Compare runs on one page, which is written to `out`.

    Raises `SettingError` for a folder that is missing or named twice, `StoreError` for one without
    results or with a file that is not what it should be, `StorageError` where the disk refuses.
    """
    runs = load_runs(dirs)
    rows = [_row(run) for run in runs]
    notes = _notes(runs, rows)
    page = _page(runs, rows, notes)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError("the report cannot be written", place=out, found=error) from error
    return Report(path=out, rows=rows, notes=notes)


def render_table(report: Report) -> Table:
    """The summary as a table for the terminal: the best value of a column is bold and starred."""
    columns = {key: column.short for key, column in COLUMNS.items() if column.short}
    best = {key: _best(key, report.rows) for key in columns}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", overflow="fold")
    for title in columns.values():
        table.add_column(title, justify="right", no_wrap=True)
    for number, row in enumerate(report.rows):
        # Text, not str: a run's name is data, not markup for the terminal.
        cells = [Text(row["name"], style="italic" if row["reference"] else "")]
        for key in columns:
            shown = _cell(key, row)
            cells.append(Text(f"*{shown}", "bold") if number in best[key] else Text(shown))
        table.add_row(*cells)
    return table


def print_table(report: Report, *, console: Console | None = None) -> None:
    """Print the summary, what a reader must know of it, and where the page is."""
    console = console or Console()
    console.print(render_table(report))
    for note in (_LEGEND, *report.notes):
        console.print(Text(note), style="dim")
    console.print(Text(f"page: {report.path}"), soft_wrap=True)


# --- the summary ------------------------------------------------------------------------------


def _row(run: RunFolder) -> dict[str, Any]:
    row: dict[str, Any] = {key: run.number(column.source) for key, column in COLUMNS.items()}
    if row["parameters"] is None:
        row["parameters"] = run.number("run.parameters")
    signs: dict[str, str] = {}
    for key in COLUMNS:
        if row[key] is not None and (bound := run.value(f"eval.bounds.{key}")) in _BOUNDS:
            coding_error = run.number(f"eval.coding_errors.{key}")
            sign, row[key] = shown(key, row[key], bound=bound, coding_error=coding_error)
            signs |= {} if sign is None else {key: SIGNS[sign].page}
    errors = {key: run.number(f"eval.standard_errors.{key}") for key in COLUMNS}
    return {
        "name": run.name,
        "reference": run.reference,
        "bounds": signs,
        "standard_errors": {key: one for key, one in errors.items() if one is not None},
        "store": words(run.value("eval.store")),
        "compared_at": run.number("eval.temperature"),
        **row,
    }


def _best(key: str, rows: Sequence[dict[str, Any]]) -> set[int]:
    """Numbers of the rows with the best value; none where fewer than two students have one.

    None either where they were measured on other stores, or at other temperatures if that matters.
    """
    sign = COLUMNS[key].better
    values = {
        number: sign * row[key]
        for number, row in enumerate(rows)
        if sign and not row["reference"] and row[key] is not None and math.isfinite(row[key])
    }
    measured = {
        (rows[number]["store"], rows[number]["compared_at"] if key in _AT_A_TEMPERATURE else None)
        for number in values
    }
    if len(values) < 2 or len(measured) > 1:
        return set()
    return {number for number, value in values.items() if value == max(values.values())}


def _cell(key: str, row: dict[str, Any], *, with_error: bool = False) -> str:
    value, error = row[key], row["standard_errors"].get(key)
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    sign = row["bounds"].get(key, "")
    after = ""
    if with_error and error is not None and math.isfinite(error):
        after = f" ± {error:{COLUMNS[key].show}}"
    return f"{sign} {value:{COLUMNS[key].show}}{after}".strip()


def _notes(runs: Sequence[RunFolder], rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """What a reader of the table must know."""
    used = {sign for row in rows for sign in row["bounds"].values()}
    notes = [f"{one.page} means: {one.meaning}." for one in SIGNS.values() if one.page in used]
    if any(row["standard_errors"] for row in rows):
        notes.append(
            "± is one standard error of a mean over targets, by the spread over documents; of a "
            "bound, that of the figure before its coding error (on the page; not in the terminal)."
        )
    if len({words(run.value("eval.store")) for run in runs if run.evaluation}) > 1:
        notes.append("Not all were evaluated on the same store: do not compare across stores.")
    temperatures = sorted({row["compared_at"] for row in rows if row["compared_at"] is not None})
    if len(temperatures) > 1:
        listed = ", ".join(f"{one:g}" for one in temperatures)
        notes.append(
            f"KL and acceptance are at different temperatures ({listed}): compare neither."
        )
    unfinished = [run.name for run in runs if run.value("run.finished") is False]
    if unfinished:
        notes.append(f"Not finished: {', '.join(unfinished)}.")
    lacking = {
        "run.json, so no settings": [run for run in runs if not run.run and not run.reference],
        "history.json, so no curves": [
            run for run in runs if not run.history and not run.reference
        ],
        "eval.json, so no held-out figures": [run for run in runs if not run.evaluation],
    }
    notes += [
        f"Without {what}: {', '.join(run.name for run in some)}."
        for what, some in lacking.items()
        if some
    ]
    return tuple(notes)


# --- the page ---------------------------------------------------------------------------------


def _page(runs: Sequence[RunFolder], rows: Sequence[dict[str, Any]], notes: Sequence[str]) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    best = {key: _best(key, rows) for key in COLUMNS}
    return environment.from_string(source).render(
        headings=[column.title for column in COLUMNS.values()],
        rows=[
            {
                "name": row["name"],
                "reference": row["reference"],
                "cells": [
                    (_cell(key, row, with_error=True), number in best[key]) for key in COLUMNS
                ],
            }
            for number, row in enumerate(rows)
        ],
        notes=notes,
        legend=[
            {
                "name": run.name,
                "number": number % PALETTE,
                "dashes": " ".join(map(str, DASHES[number // PALETTE % len(DASHES)])),
                "learned": bool(run.history),
                "calibrated": bool(_bins(run)),
            }
            for number, run in enumerate(runs)
        ],
        curves=_curves(runs),
        bars=_bars(rows, runs),
        reliability=_reliability(runs),
        **_settings(runs),
        provenance=_provenance(runs),
    )


def _curves(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    charts = []
    for key, (title, unit) in CURVES.items():
        series = [one for one in (_curve(run, i, key) for i, run in enumerate(runs)) if one]
        if series:
            svg = curve_chart(series, key=f"curve-{key}", title=title, unit=unit.split(";")[0])
            charts.append({"svg": svg, "title": title, "unit": unit})
    return charts


def _curve(run: RunFolder, number: int, key: str) -> Series | None:
    """The finite points of one key of the run's history; None without any."""
    place = run.folder / "history.json"
    points = [
        (as_number(entry.get("step"), place), as_number(entry.get(key), place))
        for entry in run.history or ()
    ]
    kept = [(x, y) for x, y in points if x is not None and y is not None]
    kept = [(x, y) for x, y in kept if math.isfinite(x) and math.isfinite(y)]
    return _series(run.name, number, kept) if kept else None


def _reliability(runs: Sequence[RunFolder]) -> Any:
    series = [_series(run.name, i, bins) for i, run in enumerate(runs) if (bins := _bins(run))]
    return draw_reliability(series, key="reliability", title="Reliability") if series else None


def _bins(run: RunFolder) -> list[tuple[float, float]]:
    """(confidence, accuracy) of every bin that holds targets; none where nothing says so."""
    place = run.folder / "eval.json: reliability"
    found = run.value("eval.reliability")
    points = []
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict) and as_number(one.get("count"), place):
            x = as_number(one.get("confidence"), place)
            y = as_number(one.get("accuracy"), place)
            if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
                points.append((x, y))
    return points


def _bars(rows: Sequence[dict[str, Any]], runs: Sequence[RunFolder]) -> Any:
    bars = [
        _series(row["name"], number, [(0.0, row["loss"])])
        for number, row in enumerate(rows)
        if row["loss"] is not None and math.isfinite(row["loss"])
    ]
    if not bars:
        return None
    teacher = {run.number("eval.teacher_loss") for run in runs if run.evaluation} - {None}
    value = teacher.pop() if len(teacher) == 1 else None
    return bar_chart(
        bars,
        key="held-out",
        title="Held-out loss",
        unit="nats per target, less is better",
        line=("teacher", value) if value is not None and math.isfinite(value) else None,
    )


def _series(name: str, number: int, points: Sequence[tuple[Any, ...]]) -> Series:
    x_N, y_N = np.array(points, dtype=np.float64).T
    return Series(name=name, number=number, x_N=x_N, y_N=y_N)


def _settings(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Settings that all trained runs share, and those in which they differ."""
    named = [
        (run.name, {printable(key): words(value) for key, value in found.items()})
        for run in runs
        if isinstance(found := run.value("run.settings"), dict)
    ]
    keys = dict.fromkeys(key for _, settings in named for key in settings)
    values = {key: [settings.get(key, "–") for _, settings in named] for key in keys}
    differing = [key for key in keys if len(set(values[key])) > 1]
    return {
        "shared": {key: values[key][0] for key in keys if key not in differing},
        "differing": differing,
        "settings": [
            (name, [values[key][number] for key in differing])
            for number, (name, _) in enumerate(named)
        ],
    }


def _provenance(runs: Sequence[RunFolder]) -> list[tuple[str, dict[str, str]]]:
    """Per run, where everything came from; what no file says is called so."""
    sources = {
        "Student": "run.settings.student",
        "Teacher": "run.teacher",
        "Trained on": "run.store",
        "Command": "run.command",
        "Model evaluated": "eval.model",
        "Evaluated on": "eval.store",
        "KL and acceptance at T": "eval.temperature",
    }
    return [
        (
            run.name,
            {"Folder": printable(str(run.folder))}
            | {
                title: "not recorded" if (value := run.value(source)) is None else words(value)
                for title, source in sources.items()
                if source.startswith("eval") or not run.reference
            },
        )
        for run in runs
    ]
