"""Options: each is declared once; command line, docs and Python signatures are made from that.

A job's options are the fields of a frozen dataclass, each made by `option(...)`; what belongs to
one kind of a table, such as a sparsifier, is an `Option` of its own. Either way a value is checked
in one place, before anything that costs time is imported or read.

    @dataclass(frozen=True, kw_only=True)
    class RunOptions:
        steps: int = option(100, help="Steps of the optimiser.", least=1)

    @takes(options_of(RunOptions))
    def run(**values: Any) -> None:
        options = RunOptions(**values)  # checked, defaults filled in
"""

from __future__ import annotations

import inspect
import re
import textwrap
import types
import typing
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from logitstore.errors import SettingError
from logitstore.format.numbers import real, reals, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "REQUIRED",
    "Option",
    "checked_options",
    "documented",
    "option",
    "options_of",
    "refuse_combinations",
    "refuse_uri",
    "signature_of",
    "takes",
]

REQUIRED: Any = inspect.Parameter.empty  # the default of an option that must be given

Result = TypeVar("Result")

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One option of a command and of the Python function that does what the command does.

    `kind` is bool, int, float, str, tuple (different numbers, separated by commas on the command
    line), Path, list (strings, each an argument of the command line), or object: what Python takes
    as it is and the command line as a string. Strings and paths are never empty. Bounds are
    inclusive but for `above`. `choices` is asked when a value is shown or checked, so that a table
    may be imported late.
    """

    name: str  # in Python
    kind: type
    help: str  # a sentence; choices and what None stands for are added where it is shown
    in_python: str | None = None  # a sentence more, on what Python alone takes
    default: Any = REQUIRED
    nullable: bool = False  # None is a value: off, or chosen by what else is known
    unset: str | None = None  # what None stands for, in words
    least: float | None = None
    above: float | None = None
    most: float | None = None
    choices: Callable[[], Iterable[str]] | None = None
    refuse: Callable[[Any], object] | None = None  # raises SettingError for a value it refuses
    excludes: tuple[str, ...] = ()  # options that cannot be given together with it
    needs: str | None = None  # the option without which it has no effect
    spelled: str | None = None  # on the command line, where it has another name there
    positional: bool = False  # given by its place; on the command line in capital letters
    python_only: bool = False  # the command line has no such option
    bare: str | None = None  # what the command line takes it for where no value follows
    repeated: bool = False  # an object that the command line takes several times: a list, then
    places: bool = False  # what stores lie in: URIs too, and in Python any object

    @property
    def flag(self) -> str:
        """Its name in messages: as on the command line, with the dashes."""
        name = self.spelled or self.name
        if self.python_only:
            return name
        return name.upper() if self.positional else _flag(name)

    @property
    def description(self) -> str:
        """Its help, its choices, what it fits together with, and what None stands for."""
        parts = [self.help]
        if self.choices is not None:
            parts.append(f"One of {', '.join(self.choices())}.")
        if self.needs is not None:
            parts.append(f"Only with {_flag(self.needs)}.")
        if self.excludes:
            parts.append(f"Not together with {' or '.join(map(_flag, self.excludes))}.")
        if self.unset is not None:
            parts.append(f"Default: {self.unset}.")
        return " ".join(parts)

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

        Numbers of other libraries become Python's. Raises SettingError, which names the option, the
        value and what is allowed, for a value of another type or out of bounds.
        """
        try:
            return self._checked(value)
        except SettingError as error:
            error.arguments = {self.flag: self.name}
            raise

    def _checked(self, value: Any) -> Any:
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
        self._refuse(value)
        return value

    def given(self, value: Any) -> bool:
        """Whether somebody has set it: `value` is not what it is where nobody does."""
        if self.nullable or self.kind is object:
            return value is not self.default
        return bool(value != self.default)

    def _refuse(self, value: Any) -> None:
        """Raise the SettingError of `refuse`, with the flag as its place."""
        if self.refuse is None:
            return
        try:
            self.refuse(value)
        except SettingError as error:
            raise SettingError(
                error.problem,
                place=self.flag,
                found=error.found,
                allowed=error.allowed,
                remedy=error.remedy,
            ) from error

    def _typed(self, value: Any) -> Any:
        if isinstance(value, bool) and self.kind in (int, float):
            raise SettingError(f"{self.flag} must be a number", found=value)
        if self.kind is int:
            return whole(self.flag, value)
        if self.kind is float:
            return real(self.flag, value)
        if self.kind is tuple:
            numbers = reals(self.flag, value)
            if not numbers or len(set(numbers)) < len(numbers):
                raise SettingError(f"{self.flag} needs different values", found=list(numbers))
            return numbers
        accepted = _ACCEPTED.get(self.kind, self.kind)
        if not isinstance(value, accepted):
            raise SettingError(
                f"{self.flag} must be {_KIND_WORDS[self.kind]}", found=repr(value)[:80]
            )
        for one in value if self.kind is list else (value,):
            self._refuse_no_name(one)
        return value if self.kind is object else self.kind(value)

    def _refuse_no_name(self, value: Any) -> None:
        """Refuse an empty string; of paths, what would become a folder called "s3:"."""
        if self.kind is list and not self.places and not isinstance(value, str | Path):
            raise SettingError(f"{self.flag} must be a string or a path", found=repr(value)[:80])
        if isinstance(value, str) and (not value.strip() or "\0" in value):
            problem = "holds a zero byte" if value.strip() else "is empty"
            raise SettingError(f"{self.flag} {problem}", found=repr(value)[:80])
        if self.kind in (Path, list) and not self.places:
            refuse_uri(value, flag=self.flag)

    def _within(self, number: float) -> bool:
        """Whether a number is finite and within the bounds."""
        return (
            number - number == 0
            and (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
        )


_ACCEPTED: dict[type, Any] = {Path: (str, Path), list: (list, tuple)}
_KIND_WORDS: dict[type, str] = {
    bool: "True or False",
    str: "a string",
    Path: "a path",
    list: "a list",
}


def refuse_uri(value: object, *, flag: str | None = None) -> None:
    """Raise SettingError where `value` is a URI, for an option that takes a path or a name.

    `flag` is what the message names, where the caller does not do so.
    """
    if isinstance(value, str) and _URI.match(value):
        raise SettingError(
            "a URI is not served here",
            place=flag,
            found=value,
            allowed="a path or a name",
            remedy="Copy or mount it to a folder and name that",
        )


def option(default: Any = REQUIRED, *, like: Option | None = None, **declared: Any) -> Any:
    """A field of a dataclass of options; `declared` are the other fields of its `Option`.

    `like` is an option that several dataclasses share; what is given beside it is changed.
    """
    if like is not None:
        changed = declared if default is REQUIRED else declared | {"default": default}
        shared = replace(like, **changed)
        return field(default=_in_field(shared.default), metadata={"option": shared})
    return field(default=_in_field(default), metadata={"option": declared})


def options_of(kind: type) -> tuple[Option, ...]:
    """The options that the dataclass `kind` declares, in its order; fields without one are none."""
    hints = typing.get_type_hints(kind)
    return tuple(
        _option_of(one.name, hints[one.name], one.default, one.metadata["option"])
        for one in fields(kind)
        if "option" in one.metadata
    )


def _option_of(name: str, hint: Any, default: Any, declared: Option | dict[str, Any]) -> Option:
    if isinstance(declared, Option):
        return replace(declared, name=name)
    default = REQUIRED if default is MISSING else default
    return Option(name=name, default=default, **_type_of(hint), **declared)


def _in_field(default: Any) -> Any:
    return MISSING if default is REQUIRED else default


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
            raise TypeError(f"{function}() missing 1 required {_how(one)} argument: {name!r}")
    checked = {name: one.check(values.get(name, one.default)) for name, one in known.items()}
    refuse_combinations(known.values(), checked)
    return checked


def refuse_combinations(options: Iterable[Option], values: Mapping[str, Any]) -> None:
    """Raise SettingError for options that exclude each other, or have no effect as given.

    `values` are those of all `options`, checked.
    """
    known = {one.name: one for one in options}
    given = {name: one for name, one in known.items() if one.given(values[name])}
    for name, one in given.items():
        for other in one.excludes:
            if other in given:
                raise SettingError(
                    f"{one.flag} and {known[other].flag} exclude each other",
                    remedy="Give one of them",
                )
        if one.needs is not None and one.needs not in given:
            raise SettingError(
                f"{one.flag} has no effect without {known[one.needs].flag}",
                found=values[name],
                remedy=f"Leave {one.flag} out",
            )


def takes(
    options: Iterable[Option], *, check: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Decorator of a function of keywords, which then takes `options` and is given them checked.

    `check` is then called with all of them, and refuses by a SettingError what does not fit
    together. `inspect.signature` and `help` show each option with its default and its help.
    """
    listed = tuple(options)

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        places = [one.name for one in listed if one.positional]

        @wraps(function)
        def checked(*given: Any, **values: Any) -> Result:
            if len(given) > len(places):
                raise TypeError(
                    f"{function.__name__}() takes {len(places)} positional arguments "
                    f"but {len(given)} were given"
                )
            placed = dict(zip(places, given, strict=False))
            for name in placed.keys() & values.keys():
                raise TypeError(f"{function.__name__}() got multiple values for argument {name!r}")
            known = checked_options(function.__name__, listed, placed | values)
            if check is not None:
                check(**known)
            return function(**known)

        returns = inspect.signature(function).return_annotation
        checked.__signature__ = signature_of(listed, returns=returns)  # type: ignore[attr-defined]
        checked.__doc__ = documented(function.__doc__, listed)
        return checked

    return decorate


def documented(text: str | None, options: Iterable[Option]) -> str:
    """The docstring `text`, and below it a paragraph for each of `options`."""
    listed = "\n".join(
        textwrap.fill(
            f"{one.name}: {one.description} {one.in_python or ''}".rstrip(),
            width=100,
            initial_indent="    ",
            subsequent_indent="        ",
        )
        for one in options
    )
    return f"{inspect.cleandoc(text or '')}\n\nOptions:\n{listed}\n"


def signature_of(
    options: Iterable[Option], *, returns: Any = inspect.Signature.empty
) -> inspect.Signature:
    """The signature of a Python function that takes `options`: by keyword, or by their place."""
    return inspect.Signature(
        [
            inspect.Parameter(
                one.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD
                if one.positional
                else inspect.Parameter.KEYWORD_ONLY,
                default=one.default,
                annotation=one.kind | None if one.nullable else one.kind,
            )
            for one in sorted(options, key=lambda one: not one.positional)
        ],
        return_annotation=returns,
    )


def _type_of(hint: Any) -> dict[str, Any]:
    """`kind` and `nullable` of a field's annotation."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    (kind,) = (part for part in parts if part is not type(None))
    plain = typing.get_origin(kind) or kind
    return {"kind": object if plain is Any else plain, "nullable": type(None) in parts}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _how(option: Option) -> str:
    return "positional" if option.positional else "keyword-only"


def _shown(number: float) -> str:
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:g}"
