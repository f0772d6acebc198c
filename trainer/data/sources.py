"""What is given as the stores of a run: one, or several with the weights that they are mixed by.

    "A"                  one store
    ["A", "B"]           two, each read once an epoch
    ["A@2", ("B", 0.5)]  two, of which A is read twice an epoch and B in half

A name ends in a weight where a number stands behind its last `@`. A name that is there as it stands
is that of a store; `A@2@1` is the store `A@2` in any case. Importing this costs no torch.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore import SettingError
from logitstore.plumbing import STORE
from trainer.data.options import WEIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Source", "sources_of"]

_WEIGHTED = re.compile(r"(?P<name>.+)@(?P<weight>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A store as it was given, not yet opened."""

    store: Any
    weight: float = 1.0


def sources_of(given: Any) -> tuple[Source, ...]:
    """The stores that are given, and their weights.

    Args:
        given: A store, or a list of stores and of pairs of a store and its weight. A store is an
            open one or what `logitstore.open` takes; a name may end in `@` and a weight.

    Raises SettingError for what is no store, for a weight that is out of range, and where a name is
    that of two stores.
    """
    if not isinstance(given, list | tuple):
        return (_source(given),)
    if not given:
        raise SettingError("there is no store to learn from", found="an empty list")
    return tuple(_pair(one) if isinstance(one, tuple) else _source(one) for one in given)


def _pair(given: Sequence[Any]) -> Source:
    if len(given) != 2 or isinstance(given[1], str):
        raise SettingError(
            "this is no store with its weight", found=repr(given)[:80], allowed='("STORE", 2.0)'
        )
    return Source(store=_checked(given[0]), weight=WEIGHT.check(given[1]))


def _source(given: Any) -> Source:
    found = _WEIGHTED.fullmatch(os.fspath(given)) if isinstance(given, str | os.PathLike) else None
    if found is None:
        return Source(store=_checked(given))
    name, weight = found["name"], found["weight"]
    if Path(given).exists():
        if Path(name).exists():
            same = f"{weight}0" if "." in weight else f"{weight}.0"
            raise SettingError(
                "the name is that of a store, and of another one with a weight",
                found=str(given),
                remedy=f"Write {given}@1 for the one, {name}@{same} for the other",
            )
        return Source(store=_checked(given))
    return Source(store=_checked(name), weight=WEIGHT.check(float(weight)))


def _checked(given: Any) -> Any:
    if isinstance(given, int | float | list | tuple):
        raise SettingError(
            "a store is an open store, a folder's path, a URI or a `logitstore.Storage`",
            found=repr(given)[:80],
        )
    return STORE.check(given)
