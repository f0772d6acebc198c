"""Conditions on documents, compared with what Python makes of the same text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitstore.editing.expression import parse_condition
from logitstore.errors import SettingError

NAMES = ("entropy", "loss", "tokens")
VALUES = np.array([-2.0, 0.0, 0.5, 1.0, 1e3])

operands = st.one_of(
    st.sampled_from(NAMES), st.sampled_from(["0", "1", "-2", ".5", "1e3", "+0.5", "2."])
)
comparisons = st.tuples(
    operands, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), operands
).map(lambda parts: " ".join(parts))
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        inner.map(lambda one: f"not {one}"),
        inner.map(lambda one: f"( {one})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
    ),
    max_leaves=8,
)


@given(conditions, st.lists(st.lists(st.sampled_from(VALUES), min_size=3, max_size=3), min_size=1))
def test_a_condition_holds_where_python_says_so(text: str, rows: list[list[float]]) -> None:
    columns = {
        name: np.array(one) for name, one in zip(NAMES, zip(*rows, strict=True), strict=True)
    }
    condition = parse_condition(text, names=NAMES)
    wanted = [bool(eval(text, {}, dict(zip(NAMES, row, strict=True)))) for row in rows]
    assert condition.of(columns).tolist() == wanted
    assert condition.names == {name for name in NAMES if name in text}


def test_a_document_of_which_something_is_not_known_fits_no_comparison_with_it() -> None:
    columns = {"loss": np.array([np.nan, 1.0])}
    for text in ("loss < 2", "loss != 2", "loss == loss"):
        assert parse_condition(text, names=("loss",)).of(columns).tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a number or the name of a column is missing, at character 1"),
        ("entropy >", "missing, at character 10"),
        ("entropy", "a comparison is missing, one of < <= > >= == !=, at character 8"),
        ("entropy = 2", "this is no part of a condition, at character 9"),
        ("entropy > 2 loss < 1", "goes on with and, or, at character 13"),
        ("(entropy > 2", "a bracket is not closed, at character 13"),
        ("mass > 2", "there is no such column, at character 1 (found mass; allowed: entropy"),
        ("and > 2", "a number or the name of a column is missing, at character 1"),
        ("1 < loss < 2", "goes on with and, or, at character 10"),
        ("__import__('os')", "this is no part of a condition, at character 12"),
        ("os > 1", "there is no such column"),
        ("loss > 1e999", "a number is larger than any value, at character 8"),
        ("loss > \u0663", "this is no part of a condition, at character 8"),
        ("loss > 2x", "this is no part of a condition, at character 8"),
        ("not " * 60 + "loss > 1", "nested deeper than 50 levels"),
        ("(" * 3000 + "loss > 1", "nested deeper than 50 levels"),
        ("loss > 1 or " * 400, "the condition is too long"),
    ],
)
def test_what_is_no_condition_is_refused_with_its_place(text: str, told: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_condition(text, names=NAMES)
    assert told in str(caught.value)
