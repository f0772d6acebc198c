"""Options that belong to kinds of a table, such as sparsifiers or losses, as options of a command.

A kind declares its options itself, with defaults of its own. A command takes those of all kinds;
which kind is chosen is known only when it is called, so there each is None until it is set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logitstore.options import Option

__all__ = ["listed", "own_options"]


def own_options(kinds: Mapping[str, Mapping[Option, Any]]) -> tuple[Option, ...]:
    """The options of all kinds of a table, each once, with the help and default that each gives it.

    Each may be left out, and is None then.

    Args:
        kinds: Name of a kind -> its options, each with its default.
    """
    declared: dict[str, Option] = {}
    defaults: dict[str, dict[Any, list[str]]] = defaultdict(lambda: defaultdict(list))
    helps: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for kind, options in kinds.items():
        for one, default in options.items():
            declared.setdefault(one.name, one)
            defaults[one.name][default].append(kind)
            helps[one.name][one.help].append(kind)
    return tuple(
        replace(
            one,
            default=None,
            nullable=True,
            help=_help_by_kind(helps[name]),
            unset=_in_words(defaults[name]),
        )
        for name, one in declared.items()
    )


def listed(names: list[str]) -> str:
    """The names as in "a, b and c"."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _help_by_kind(kinds_of: Mapping[str, list[str]]) -> str:
    """The one help of an option; where kinds differ, that of each after their names."""
    if len(kinds_of) == 1:
        return next(iter(kinds_of))
    return " ".join(
        f"With {listed(kinds)}: {text[:1].lower()}{text[1:]}" for text, kinds in kinds_of.items()
    )


def _in_words(kinds_of: Mapping[Any, list[str]]) -> str:
    """Defaults and the kinds that have them: "8 for hybrid, 64 for topk and topp"."""
    return ", ".join(f"{default} for {listed(kinds)}" for default, kinds in kinds_of.items())
