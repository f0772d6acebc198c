"""One page about several runs: what they reached, how they learned, what they were made of.

A run's folder holds `run.json`, `history.json`, `eval.json` and `evals/`, or some of them; one with
evaluations alone is a reference, such as the teacher. The page is one HTML file that asks the
network for nothing, and the same folders give the same bytes. What a folder lacks the page says; it
fills nothing in. Everything read is text from elsewhere: checked here, escaped by the template.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from logitstore import StorageError
from logitstore.plumbing import LocalStorage, options_of, printable, takes
from trainer.reporting.data import RunFolder, as_number, load_runs, words
from trainer.reporting.figures import DASHES, PALETTE, Series, bar_chart, curve_chart
from trainer.reporting.figures import reliability_chart as draw_reliability
from trainer.reporting.options import ReportOptions
from trainer.reporting.summary import COLUMNS, best_rows, cell, notes_of, other_rows, row_of
from trainer.reporting.task_table import TaskRow, best_runs, task_cell, task_notes, task_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Report", "print_table", "render_table", "rendered", "report"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The page that was written, and its summary.

    A row's keys are `name`, `reference`, `store`, `compared_at` (the temperature of KL and
    acceptance), `bounds` (figure -> its sign), `standard_errors` and those of `COLUMNS`; None
    stands where its folder says nothing. A figure with a sign of a bound is that bound, its coding
    error included. `others` are such rows of what the folders hold besides, on other stores and
    texts. `notes` are sentences that belong below the tables.
    """

    path: Path
    rows: list[dict[str, Any]]
    notes: tuple[str, ...]
    others: list[dict[str, Any]]
    tasks: list[TaskRow]
    runs: tuple[RunFolder, ...]  # what was read

    @staticmethod
    def of(runs: Sequence[RunFolder], *, path: Path) -> Report:
        """The summary of runs.

        Args:
            runs: What `load_runs` gave.
            path: The page, which need not be written yet.
        """
        rows = [row_of(run) for run in runs]
        tasks = task_rows(runs)
        return Report(
            path=path,
            rows=rows,
            notes=(*notes_of(runs, rows), *task_notes(runs, tasks)),
            others=[row for run in runs for row in other_rows(run)],
            tasks=tasks,
            runs=tuple(runs),
        )


CURVES = {
    "loss": ("Training loss", "nats; not comparable between runs with another α or temperature"),
    "ce": ("Cross-entropy with the labels", "nats"),
    "kl": ("Forward KL from the teacher at the run's temperature", "nats"),
    "kl_binary": ("Part of it: how much mass is in the head", "nats"),
    "kl_head": ("Part of it: how the head shares its mass", "nats"),
    "agreement": ("Top-1 agreement with the teacher", "share of targets"),
    "lr": ("Learning rate", ""),
}
_LEGEND = (
    "loss, KL to the teacher: nats per target; top-1: agreement with the teacher; accepted: share "
    "of proposals that speculative decoding keeps; ECE: calibration error; *: best."
)


@takes(options_of(ReportOptions))
def report(dirs: Sequence[str | Path], *, out: Path) -> Report:
    """Compare runs on one page, which is written to `out`.

    Raises `SettingError` for a folder that is missing or named twice, `StoreError` for one without
    results or with a file that is not what it should be, `StorageError` where the disk refuses.
    """
    found = Report.of(load_runs(dirs), path=out)
    page = _page(found)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError("the report cannot be written", place=out, found=error) from error
    storage, name = LocalStorage.of_file(out)
    storage.put(name, page.encode())
    return found


def render_table(report: Report) -> Table:
    """The summary of `report` as a table for the terminal.

    The best value of a column is bold and starred.
    """
    columns = {key: column.short for key, column in COLUMNS.items() if column.short}
    best = {key: best_rows(key, report.rows) for key in columns}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", overflow="fold")
    for title in columns.values():
        table.add_column(title, justify="right", no_wrap=True)
    for number, row in enumerate(report.rows):
        # Text, not str: a run's name is data, not markup for the terminal.
        cells = [Text(printable(row["name"]), style="italic" if row["reference"] else "")]
        for key in columns:
            shown = cell(key, row)
            cells.append(Text(f"*{shown}", "bold") if number in best[key] else Text(shown))
        table.add_row(*cells)
    return table


def _task_table(report: Report) -> Table:
    """A row for each metric of a task, a column for each run; the best is bold and starred."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", overflow="fold")
    for run in report.runs:
        table.add_column(Text(printable(run.name)), justify="right", overflow="fold")
    for row in report.tasks:
        best = best_runs(row, report.runs)
        shown = {run.name: task_cell(row, run.name) for run in report.runs}
        asked = f" ({row.asked})" if row.asked else ""
        table.add_row(
            Text(printable(f"{row.task} {row.metric}{asked}")),
            *(
                Text(f"*{one}", "bold") if name in best else Text(one)
                for name, one in shown.items()
            ),
        )
    return table


def print_table(report: Report, *, console: Console | None = None) -> None:
    """Print the summary, what a reader must know of it, and where the page is.

    Args:
        report: What `write_report` gave.
        console: Where to print. Default: standard output.
    """
    console = console or Console()
    console.print(render_table(report))
    if report.tasks:
        console.print(_task_table(report))
    for note in (_LEGEND, *report.notes):
        console.print(Text(printable(note)), style="dim")
    console.print(Text(printable(f"page: {report.path}")), soft_wrap=True)


# --- the page ---------------------------------------------------------------------------------


def _visible(value: Any) -> Any:
    """A text from elsewhere without what turns its direction around or cannot be seen."""
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value, keep="\n") if plain else value


def rendered(template: Path, **content: Any) -> str:
    """A page of a template; what it is given is text from elsewhere, and is escaped.

    Args:
        template: The file of the template, which may use `style`.
        content: By the names that the template uses.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    source = environment.from_string(template.read_text(encoding="utf-8"))
    return source.render(style=Markup(style), **content)


def _page(report: Report) -> str:
    runs, rows = report.runs, report.rows
    best = {key: best_rows(key, rows) for key in COLUMNS}
    return rendered(
        Path(__file__).with_name("report.html.jinja"),
        headings=[column.title for column in COLUMNS.values()],
        rows=[
            _shown_row(row, best=[number in best[key] for key in COLUMNS])
            for number, row in enumerate(rows)
        ],
        others=[_shown_row(row, best=[False] * len(COLUMNS)) for row in report.others],
        names=[run.name for run in runs],
        tasks=[
            {
                "title": " ".join((row.task, row.metric)),
                "asked": row.asked,
                "cells": [
                    (task_cell(row, run.name), run.name in best_runs(row, runs)) for run in runs
                ],
            }
            for row in report.tasks
        ],
        notes=report.notes,
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


def _shown_row(row: dict[str, Any], *, best: Sequence[bool]) -> dict[str, Any]:
    cells = [cell(key, row, with_error=True) for key in COLUMNS]
    return {
        "name": row["name"],
        "reference": row["reference"],
        "cells": list(zip(cells, best, strict=True)),
    }


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
            }
            | _mixed(run.value("run.parts") or run.value("run.averaged")),
        )
        for run in runs
    ]


def _mixed(parts: Any) -> dict[str, str]:
    """The stores of a run that learnt from several, each with its weight; else nothing."""
    listed = parts if isinstance(parts, list) else []
    named = [
        f"{words(one.get('name'))} ({words(one.get('store'))[:12]}), weight "
        f"{words(one.get('weight'))}"
        for one in listed
        if isinstance(one, dict)
    ]
    return {"Stores": "; ".join(named)} if named else {}
