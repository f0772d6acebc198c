"""Changes of JSON: any value of it may become another, be left out, doubled, moved or buried."""

from __future__ import annotations

import copy
import json
import math
from typing import TYPE_CHECKING, Any

from logitstore.format.json import canonical_json, with_check

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.fuzzing.choices import Choices

__all__ = ["changed", "json_bytes", "odd_value"]

_FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-300, 1e16, 1e18, 1e300, 5e-324, math.nan, math.inf)
_MOST_CHANGES, _DEEP = 4, 40


def changed(content: Any, choices: Choices) -> Any:
    """A copy of `content` with a few changes."""
    holder = [copy.deepcopy(content)]
    for _ in range(1 + choices.below(_MOST_CHANGES)):
        _change_one(holder, choices)
    return holder[0] if holder else None


def json_bytes(content: Any, choices: Choices, *, check: bool) -> bytes:
    """`content` as the project writes it, with its hash if `check`; now and then as others would.

    What has no canonical form, such as NaN, is written as Python's json does.
    """
    style = choices.below(8)
    if style < 6:
        try:
            whole = check and isinstance(content, dict)
            return with_check(content) if whole else canonical_json(content)
        except (ValueError, TypeError):
            pass
    text = json.dumps(content, indent=None if style == 7 else 1).encode()
    if style == 7:
        place = choices.below(len(text) + 1)
        return text[:place] + choices.take(choices.below(6)) + text[place + choices.below(4) :]
    return text


def odd_value(choices: Choices, near: Any = None) -> Any:
    """A value of JSON: like `near`, or of another type."""
    kind = choices.below(10)
    if kind < 4 and isinstance(near, str):
        return choices.text(near)
    if kind < 4 and isinstance(near, int | float) and not isinstance(near, bool):
        return choices.integer(int(near)) if isinstance(near, int) else choices.one_of(_FLOATS)
    if kind == 8:
        return _buried(near, choices)
    plain = (choices.integer, choices.text, lambda: choices.one_of(_FLOATS), lambda: None)
    more = (lambda: True, lambda: False, list, dict, lambda: [near, near])
    makers: tuple[Callable[[], Any], ...] = (*plain, *more)
    return makers[choices.below(9)]()


def _buried(value: Any, choices: Choices) -> Any:
    for _ in range(choices.below(_DEEP)):
        value = [value] if choices.chance(0.5) else {"": value}
    return value


def _change_one(holder: list[Any], choices: Choices) -> None:
    """One change at a place to which the choices lead, from the outermost value inwards."""
    parent: Any = holder
    key: Any = 0
    while isinstance(parent[key], dict | list) and parent[key] and choices.below(6):
        parent = parent[key]
        keys = sorted(parent) if isinstance(parent, dict) else range(len(parent))
        key = choices.one_of(keys)
    change = choices.below(8)
    if change == 0 and parent is not holder:
        del parent[key]
    elif change == 1 and isinstance(parent, dict):
        parent[choices.text(key)] = parent[key]
    elif change == 2 and isinstance(parent, list) and parent is not holder:
        parent.extend([parent[key]] * choices.below(20))
    elif change == 3 and parent is not holder:
        other = choices.one_of(sorted(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[key], parent[other] = parent[other], parent[key]
    else:
        parent[key] = odd_value(choices, parent[key])
