"""Which layers of a model a choice stands for, and what is no choice."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

import trainer
from logitstore.errors import SettingError
from trainer.pruning.options import LayerChoice


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("every:2", (0, 2, 4, 6, 8, 10)),
        ("every:5", (0, 5, 10)),
        ("every:12", (0,)),
        ("first:3", (0, 1, 2)),
        ("last:2", (10, 11)),
        ("6", (0, 2, 4, 7, 9, 11)),
        ("3", (0, 6, 11)),
        ("2", (0, 11)),
        ("1", (0,)),
        ("12", tuple(range(12))),
        ("0, 3,11", (0, 3, 11)),
        (4, (0, 4, 7, 11)),
        ([5], (5,)),
    ],
)
def test_layers_are_chosen_of_twelve(text: Any, layers: tuple[int, ...]) -> None:
    assert LayerChoice.of(text).layers(12) == layers


@pytest.mark.parametrize("count", [2, 7, 30, 61])
def test_a_number_of_layers_is_spread_without_a_double_one(count: int) -> None:
    for number in range(2, count + 1):
        layers = LayerChoice.of(str(number)).layers(count)
        steps = {after - before for before, after in pairwise(layers)}
        assert (len(layers), layers[0], layers[-1]) == (number, 0, count - 1)
        assert max(steps) - min(steps) <= 1
        assert min(steps) >= 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("every", "this names no layers"),
        ("every:0", "no layer would be kept"),
        ("0", "no layer would be kept"),
        ("some:3", "this names no layers"),
        ("3,", "this names no layers"),
        ("-1", "this names no layers"),
        ("1.5", "this names no layers"),
        (True, "this names no layers"),
        ([], "this names no layers"),
        ([0, "1"], "this names no layers"),
        ("0,3,3", r"each once.*allowed: 0,3\)"),
        ("3,0", r"in their order.*allowed: 0,3\)"),
    ],
)
def test_what_names_no_layers_is_refused(value: Any, message: str) -> None:
    with pytest.raises(SettingError, match=rf"^layers: .*{message}|^layers: {message}"):
        trainer.make_student(teacher="teacher", layers=value, out="student")
