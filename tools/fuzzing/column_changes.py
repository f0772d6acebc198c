"""Changes of columns: of values, lengths, widths and names; types stay those of a container."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logitstore.format.columns import Columns
    from tools.fuzzing.choices import Choices

__all__ = ["changed_columns", "changed_tables"]

_MOST_CHANGES = 4


def changed_columns(columns: Columns, choices: Choices) -> Columns:
    """A copy of `columns` with a few changes."""
    for _ in range(1 + choices.below(_MOST_CHANGES)):
        group = choices.one_of(
            ("entries", "scalars", "tokens_N", "counted_N", "documents_DC", "scalars")
        )
        found: Any = getattr(columns, group)
        if isinstance(found, np.ndarray):
            changes: dict[str, Any] = {group: _changed_array(found, choices)}
        else:
            changes = {group: _changed_group(found, choices)}
        columns = replace(columns, **changes)
    return columns


def changed_tables(tables: Mapping[str, np.ndarray], choices: Choices) -> dict[str, np.ndarray]:
    """A copy of `tables` with a change, or as they are."""
    return dict(tables) if choices.below(4) else _changed_group(tables, choices)


def _changed_group(group: Mapping[str, np.ndarray], choices: Choices) -> dict[str, np.ndarray]:
    changed = dict(group)
    name, kind = choices.one_of(sorted(changed)) if changed else "", choices.below(10)
    if not changed:
        return changed
    if kind == 0:
        del changed[name]
    elif kind == 1:
        changed[choices.one_of(("count", "sampler_logprob", "entropy_draw1", "tail_9", "x"))] = (
            changed[name]
        )
    elif kind == 2:
        other = choices.one_of(sorted(changed))
        changed[name], changed[other] = changed[other], changed[name]
    elif kind == 3:  # of all columns alike, so that the lengths agree
        rows = choices.below(6)
        changed = {one: array[:rows] for one, array in changed.items()}
    elif kind == 4:
        wide = choices.below(6)
        changed = {one: array[..., :wide] for one, array in changed.items()}
    else:
        changed[name] = _changed_array(changed[name], choices)
    return changed


def _changed_array(array: np.ndarray, choices: Choices) -> np.ndarray:
    array = array.copy()
    most = int(np.iinfo(array.dtype).max)
    kind = choices.below(8)
    if kind == 0:
        return array[: choices.below(len(array) + 1)]
    if kind == 1:
        return np.concatenate([array[:0], *[array] * choices.below(4)])
    if kind == 2:
        array[...] = choices.integer() % (most + 1)
    elif kind == 3 and array.ndim == 2 and array.size:
        array[:, choices.below(array.shape[1])] = choices.integer() % (most + 1)
    elif array.size:
        for _ in range(1 + choices.below(4)):
            place = choices.below(array.size)
            array.flat[place] = choices.integer(int(array.flat[place])) % (most + 1)
    return array
