"""The lines that the command line prints of an evaluation by tasks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["STDERR", "error_name", "is_too_wide", "task_lines"]

_PERPLEXITY = "perplexity"
_WIDE = 0.5  # of the perplexity: beyond that its logarithm is known to worse than half a nat
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
                yield f"  {metric:16} {_shown(metric, value, figures.get(error_name(metric)))}"
    yield f"{'harness':18} {result['harness']}"
    yield f"{'model':18} {result['model']}"


def _shown(metric: str, value: float | None, error: float | None) -> str:
    """A figure with its standard error; of a perplexity that no one can tell, its logarithm."""
    if value is None:
        return "none"
    if is_too_wide(metric, value, error):
        return (
            f"about e^{math.log(value):.1f}  (no figure to compare: its standard error is "
            f"{(error or 0.0) / value:.3g} times itself)"
        )
    return f"{value:.4f}" + ("" if error is None else f"  (standard error {error:.4f})")


def is_too_wide(metric: str, value: float, error: float | None) -> bool:
    """Whether a figure is a perplexity that is hardly known, by its standard error.

    That of a model that knows little is a mean of which a few items are nearly all: another sample
    of items gives another order of magnitude.

    Args:
        metric: Its name.
        value: The figure.
        error: Its standard error; None where there is none.
    """
    if _PERPLEXITY not in metric or error is None or not 0 < value < math.inf:
        return False
    return not error < _WIDE * value  # an error that is no number too


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
