"""Options: each is declared once; command line, docs and Python signatures are made from that.

A job's options are the fields of a frozen dataclass, each made by `option(...)`; what belongs to
one kind of a table, such as a sparsifier, is an `Option` of its own. Either way a value is checked
in one place, before anything that costs time is imported or read.
"""

from __future__ import annotations

import inspect
import types
import typing
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.errors import SettingError
from logitstore.format.numbers import real, reals, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["REQUIRED", "Option", "checked_options", "option", "options_of", "signature_of"]


class _Required(Enum):
    REQUIRED = "required"


REQUIRED = _Required.REQUIRED  # the default of an option that must be given


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One option of a command and of the Python function that does what the command does.

    `kind` is bool, int, float, str, tuple (numbers; separated by commas on the command line), Path,
    or object: what Python takes as it is and the command line as a string. Bounds are inclusive but
    for `above`. `choices` is asked when a value is checked, so that a table may be imported late.
    """

    name: str  # in Python
    kind: type
    help: str  # a sentence; the default is added where it is shown
    default: Any = REQUIRED
    nullable: bool = False  # None is a value: off, or chosen by what else is known
    least: float | None = None
    above: float | None = None
    most: float | None = None
    choices: Callable[[], Iterable[str]] | None = None
    spelled: str | None = None  # on the command line, where the name's own spelling is taken

    @property
    def flag(self) -> str:
        """Its name on the command line, with the dashes."""
        return f"--{(self.spelled or self.name).replace('_', '-')}"

    @property
    def allowed(self) -> str:
        """The values it may have, in words; empty where any of its type will do."""
        if self.choices is not None:
            return ", ".join(self.choices())
        if self.above is not None:
            upper = "" if self.most is None else f", up to {self.most:g}"
            return f"above {self.above:g}{upper}"
        if self.least is None:
            return "" if self.most is None else f"up to {_shown(self.most)}"
        upper = " or more" if self.most is None else f" to {_shown(self.most)}"
        return f"{_shown(self.least)}{upper}"

    def check(self, value: Any) -> Any:
        """`value` as the option's own type.

        Numbers of other libraries become Python's. Raises SettingError, which names the flag, the
        value and what is allowed, for a value of another type or out of bounds.
        """
        if value is None and self.nullable:
            return None
        value = self._typed(value)
        numbers = value if self.kind is tuple else (value,)
        if self.kind in (int, float, tuple) and not all(map(self._within, numbers)):
            raise SettingError(
                f"{self.flag} is out of range",
                found=", ".join(f"{one:g}" for one in numbers) or "none",
                allowed=self.allowed,
            )
        if self.choices is not None and value not in (choices := tuple(self.choices())):
            raise SettingError(f"{self.flag} is unknown", found=value, allowed=", ".join(choices))
        return value

    def _typed(self, value: Any) -> Any:
        if self.kind is int:
            return whole(self.flag, value)
        if self.kind is float:
            return real(self.flag, value)
        if self.kind is tuple:
            return reals(self.flag, value)
        accepted = (str, Path) if self.kind is Path else self.kind
        if self.kind is not object and not isinstance(value, accepted):
            raise SettingError(
                f"{self.flag} must be a {self.kind.__name__}", found=repr(value)[:80]
            )
        return Path(value) if self.kind is Path else value

    def _within(self, number: float) -> bool:
        """Whether a number is finite and within the bounds."""
        return (
            number - number == 0
            and (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
        )


def option(default: Any = REQUIRED, **declared: Any) -> Any:
    """A field of a dataclass of options; `declared` are the other fields of its `Option`."""
    missing = MISSING if default is REQUIRED else default
    return field(default=missing, metadata={"option": declared})


def options_of(kind: type) -> tuple[Option, ...]:
    """The options that the dataclass `kind` declares, in its order; fields without one are none."""
    hints = typing.get_type_hints(kind)
    return tuple(
        Option(
            name=one.name,
            default=REQUIRED if one.default is MISSING else one.default,
            **_type_of(hints[one.name]),
            **declared,
        )
        for one in fields(kind)
        if (declared := one.metadata.get("option")) is not None
    )


def checked_options(
    function: str, options: Iterable[Option], values: Mapping[str, Any]
) -> dict[str, Any]:
    """`values` checked, and the defaults of the options that they leave out.

    `function` is named where an option is unknown or missing, which is a TypeError as Python raises
    it itself. Raises SettingError for a value that does not fit.
    """
    known = {one.name: one for one in options}
    for name in values:
        if name not in known:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
    for name, one in known.items():
        if one.default is REQUIRED and name not in values:
            raise TypeError(f"{function}() missing 1 required keyword-only argument: {name!r}")
    return {name: one.check(values.get(name, one.default)) for name, one in known.items()}


def signature_of(
    options: Iterable[Option], *, returns: Any = inspect.Signature.empty
) -> inspect.Signature:
    """The signature of a Python function that takes `options` by keyword."""
    empty = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=empty if one.default is REQUIRED else one.default,
                annotation=one.kind | None if one.nullable else one.kind,
            )
            for one in options
        ],
        return_annotation=returns,
    )


def _type_of(hint: Any) -> dict[str, Any]:
    """`kind` and `nullable` of a field's annotation."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    (kind,) = (part for part in parts if part is not type(None))
    plain = typing.get_origin(kind) or kind
    return {"kind": object if plain is Any else plain, "nullable": type(None) in parts}


def _shown(number: float) -> str:
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:g}"
