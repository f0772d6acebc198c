"""Tasks side by side: a row for each metric of a task, a column for each run and reference.

Figures stand in one row only if they are of the same items, solved examples and version of the
task, so what stands beside each other may be compared.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from logitstore.plumbing import printable
from trainer.evaluation.task_lines import STDERR, error_name, is_too_wide
from trainer.reporting.data import as_number, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trainer.reporting.data import RunFolder

__all__ = ["TaskRow", "best_runs", "task_cell", "task_notes", "task_rows"]

_BETTER = {"true": 1, "false": -1}  # what `higher_is_better` says, as JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRow:
    """One metric of one task as several runs reached it."""

    task: str
    metric: str
    asked: str  # how many items, with how many solved examples before each
    better: int  # 1: more is better, -1: less, 0: nobody says
    values: dict[str, float] = field(default_factory=dict)  # by the name of the run
    errors: dict[str, float] = field(default_factory=dict)  # standard errors, likewise

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {name: getattr(self, name) for name in ("task", "metric", "asked")} | {
            "values": self.values,
            "standard_errors": self.errors,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What must be the same of two figures that are compared."""

    task: str
    metric: str
    shots: float | None
    count: float | None
    sha256: str
    version: str

    def words(self, *, alike: bool) -> str:
        """In words; with a piece of the hash where others are called the same."""
        what = "item" if self.count == 1 else "items"
        parts = [] if self.count is None else [f"{self.count:,.0f} {what}"]
        parts += [f"{self.shots:.0f}-shot"] if self.shots else []
        parts += [f"items {self.sha256[:8]}, version {self.version}"] if alike else []
        return ", ".join(parts)


def task_rows(runs: Sequence[RunFolder]) -> list[TaskRow]:
    """The rows, those of a task together, in the order in which the folders have them.

    Args:
        runs: The runs and references.

    Raises StoreError for a figure that is no number.
    """
    found: dict[_Asked, TaskRow] = {}
    kinds = list(dict.fromkeys(asked for run in runs for asked, *_ in _figures(run)))
    tasks = list(dict.fromkeys(one.task for one in kinds))
    called = Counter((one.task, one.metric, one.words(alike=False)) for one in kinds)
    for run in runs:
        for asked, value, error, better in _figures(run):
            alike = called[asked.task, asked.metric, asked.words(alike=False)] > 1
            row = found.setdefault(
                asked,
                TaskRow(
                    task=asked.task,
                    metric=asked.metric,
                    asked=asked.words(alike=alike),
                    better=better,
                ),
            )
            row.values[run.name] = value
            if error is not None:
                row.errors[run.name] = error
    return sorted(found.values(), key=lambda row: tasks.index(row.task))


def _figures(run: RunFolder) -> Iterator[tuple[_Asked, float, float | None, int]]:
    """What a run reached: what was asked, the value, its standard error, which way is better."""
    for file, one in _with_tasks(run).items():
        place = f"{run.folder / file}: tasks"
        for task, figures in _dict(one, "tasks").items():
            items = _dict(one, "items", task)
            for metric, found in figures.items() if isinstance(figures, dict) else ():
                value = as_number(found, f"{place}.{task}.{metric}")
                if STDERR in metric or value is None:
                    continue
                up = _dict(one, "higher_is_better", task).get(metric.partition(",")[0])
                asked = _Asked(
                    task=printable(task),
                    metric=printable(metric),
                    shots=as_number(_dict(one, "num_fewshot").get(task), f"{place}.{task}"),
                    count=as_number(items.get("count"), f"{place}.{task}"),
                    sha256=words(items.get("sha256", "")),
                    version=words(_dict(one, "task_versions").get(task, "")),
                )
                error = as_number(figures.get(error_name(metric)), f"{place}.{task}.{metric}")
                yield asked, value, error, _BETTER.get(words(up), 0)


def _with_tasks(run: RunFolder) -> dict[str, dict[str, Any]]:
    """The evaluations by tasks of a run, by the names of their files."""
    return {
        f"evals/{name}.json": one
        for name, one in run.kept.items()
        if isinstance(one.get("tasks"), dict)
    }


def _dict(value: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def best_runs(row: TaskRow, runs: Sequence[RunFolder]) -> set[str]:
    """The names of the students with the best figure of a row; none where fewer than two have one.

    Args:
        row: The row.
        runs: The runs and references.
    """
    students = {run.name for run in runs if not run.reference}
    values = {
        name: row.better * value
        for name, value in row.values.items()
        if row.better
        and name in students
        and math.isfinite(value)
        and not is_too_wide(row.metric, value, row.errors.get(name))
    }
    if len(values) < 2:
        return set()
    return {name for name, value in values.items() if value == max(values.values())}


def task_cell(row: TaskRow, name: str) -> str:
    """What stands in the cell of a run.

    Args:
        row: The row.
        name: The run's.
    """
    value, error = row.values.get(name), row.errors.get(name)
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    if is_too_wide(row.metric, value, error):
        return f"about e^{math.log(value):.1f}"
    behind = "" if error is None or not math.isfinite(error) else f" ± {error:,.3f}"
    return f"{value:,.3f}{behind}"


def task_notes(runs: Sequence[RunFolder], rows: Sequence[TaskRow]) -> list[str]:
    """What a reader of the tasks must know, in sentences; none where there are no tasks.

    Args:
        runs: The runs and references.
        rows: The rows.
    """
    notes = []
    if any(row.errors for row in rows):
        notes.append("± behind a figure of a task is its standard error, as the harness gives it.")
    if any(
        is_too_wide(row.metric, value, row.errors.get(name))
        for row in rows
        for name, value in row.values.items()
    ):
        notes.append(
            "about e^: a perplexity with a standard error of more than half of itself, which is no "
            "figure to compare; the numbers are in evals/."
        )
    if max(Counter((row.task, row.metric) for row in rows).values(), default=0) > 1:
        notes.append(
            "Rows of one task differ in items, solved examples or version: compare within a row."
        )
    harnesses = {words(one.get("harness")) for run in runs for one in _with_tasks(run).values()}
    if len(harnesses) > 1:
        notes.append(f"Tasks were asked by different versions: {', '.join(sorted(harnesses))}.")
    return notes
