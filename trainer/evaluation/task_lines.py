"""The lines that the command line prints of an evaluation by tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["STDERR", "error_name", "task_lines"]

STDERR = "_stderr"  # what stands behind the name of a metric in that of its standard error


def task_lines(result: dict[str, Any]) -> Iterator[str]:
    """A line for each task and each of its metrics.

    Args:
        result: What `evaluate` gives with `tasks`.
    """
    yield f"{'parameters':18} {result['parameters']}"
    for task, figures in result["tasks"].items():
        yield f"{task}: {_asked(result, task)}"
        for metric, value in figures.items():
            if STDERR not in metric:
                shown = "none" if value is None else f"{value:.4f}"
                error = figures.get(error_name(metric))
                behind = "" if error is None else f"  (standard error {error:.4f})"
                yield f"  {metric:16} {shown}{behind}"
    yield f"{'harness':18} {result['harness']}"
    yield f"{'model':18} {result['model']}"


def error_name(metric: str) -> str:
    """The name of the standard error of a metric; the name of a filter stays behind it.

    Args:
        metric: As in "acc", or "exact_match,strict-match".
    """
    name, comma, kind = metric.partition(",")
    return f"{name}{STDERR}{comma}{kind}"


def _asked(result: dict[str, Any], task: str) -> str:
    count = result["items"].get(task, {}).get("count", 0)
    shots = result["num_fewshot"].get(task) or 0
    examples = "no solved examples" if not shots else f"{shots} solved examples before each"
    return f"{count:,} {'item' if count == 1 else 'items'}, {examples}"
