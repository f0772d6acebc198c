"""How figures of tasks are shown: a perplexity that is hardly known is not read as a figure."""

from __future__ import annotations

import math

import pytest

from trainer.evaluation.task_lines import is_too_wide, task_lines
from trainer.reporting.data import RunFolder
from trainer.reporting.task_table import TaskRow, best_runs, task_cell


def result(**figures: float | None) -> dict:
    return {
        "parameters": 10,
        "tasks": {"lambada_openai": figures},
        "items": {"lambada_openai": {"count": 20}},
        "num_fewshot": {},
        "harness": "0",
        "model": "run",
    }


def test_a_perplexity_with_an_error_larger_than_itself_is_shown_as_a_power() -> None:
    value = math.exp(16.25)
    shown = list(task_lines(result(perplexity=value, perplexity_stderr=174 * value)))
    assert "about e^16.2 " in shown[2] or "about e^16.3 " in shown[2]
    assert "its standard error is 174 times itself" in shown[2]
    assert f"{value:.4f}" not in shown[2]


def test_what_is_known_well_and_what_is_no_perplexity_is_shown_as_it_is() -> None:
    figures = {"perplexity": 48.4, "perplexity_stderr": 9.4, "acc": 0.005, "acc_stderr": 0.005}
    shown = "\n".join(task_lines(result(**figures)))
    assert "perplexity       48.4000  (standard error 9.4000)" in shown
    assert "acc              0.0050  (standard error 0.0050)" in shown
    shown = "\n".join(task_lines(result(perplexity=48.4, perplexity_stderr=None, acc=None)))
    assert "perplexity       48.4000\n" in shown
    assert "acc              none" in shown


@pytest.mark.parametrize(
    ("metric", "value", "error", "wide"),
    [
        ("perplexity", 10.0, 4.9, False),
        ("perplexity", 10.0, 5.1, True),
        ("perplexity", 10.0, math.inf, True),
        ("perplexity", 10.0, math.nan, True),
        ("perplexity", math.inf, 5.0, False),  # told as what it is
        ("perplexity", 10.0, None, False),
        ("word_perplexity,none", 10.0, 50.0, True),
        ("acc", 0.01, 0.02, False),
    ],
)
def test_half_of_itself_is_the_limit(
    metric: str, value: float, error: float | None, wide: bool
) -> None:
    assert is_too_wide(metric, value, error) is wide


def test_the_page_shows_no_such_figure_and_stars_none() -> None:
    row = TaskRow(task="lambada_openai", metric="perplexity", asked="20 items", better=-1)
    row.values.update(a=100.0, b=200.0, c=300.0)
    row.errors.update(a=500.0, b=20.0, c=20.0)
    runs = [
        RunFolder(name=name, folder="x", run={}, history=None, evaluation=None) for name in "abc"
    ]
    assert task_cell(row, "a") == "about e^4.6"
    assert task_cell(row, "b") == "200.000 ± 20.000"
    assert best_runs(row, runs) == {"b"}
    row.errors["c"] = 400.0
    assert best_runs(row, runs) == set()
