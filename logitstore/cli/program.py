"""Command lines made from options: what a command takes is declared once, in its options.

    program = new_program("logitstore", summary="Run a teacher once.")

    @command(program, options=(STORE, JSON))
    def inspect(*, store: str, json: bool) -> None:
        "Show what a store holds."

Every value is checked before the command's body runs, so a wrong one costs no import of torch.
Exit codes: 0 done, 1 a fault found or an expected error, 2 wrong usage, 130 ended by Ctrl-C, 143 by
SIGTERM.
"""

from __future__ import annotations

import inspect
import re
import sys
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer.core import TyperCommand, TyperGroup

from logitstore.cli.console import RESUMES, print_json, reporting_errors
from logitstore.errors import SettingError
from logitstore.options import Option, refuse_combinations, signature_of
from logitstore.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["JSON", "command", "command_signature", "new_program"]

JSON = Option(name="json", kind=bool, default=False, help="Print one JSON object and nothing else.")

# Titles of a help, and the names of the options below each.
Sections: TypeAlias = "Iterable[tuple[str, tuple[str, ...]]]"
_OTHERS = "Options"

# typer's own copy of click, or click itself, by its version: the class is named by its subclass.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


def new_program(name: str, *, summary: str) -> typer.Typer:
    """A program without commands; `--version` prints the version of the installed package."""
    program = typer.Typer(
        name=name,
        cls=_Program,
        help=summary,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    program.callback()(_start)
    return program


def _show_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(f"{context.command.name} {VERSION}")
        raise typer.Exit


_VersionOption = Annotated[
    bool,
    typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version."),
]


def _start(version: _VersionOption = False) -> None:
    """Options of the program itself."""


def command(
    program: typer.Typer,
    *,
    options: Iterable[Option],
    name: str | None = None,
    check: Callable[..., Any] | None = None,
    again: str = RESUMES,
    sections: Sections = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: the function becomes a command of `program` that takes `options` by keyword.

    Its docstring is the command's help, and `name` the command's where it is not the function's.
    Each option is checked, then all together by `check`, which takes the same keywords; their
    SettingError is wrong usage. A LogitStoreError of the function itself is one message and exit
    code 1; `again` is how an interrupted command is taken up again. `sections` are the titles under
    which the help shows options, with their names; what is in none of them comes last. A function
    with a parameter `context` is given typer's.
    """
    listed = tuple(one for one in options if not one.python_only)
    _BARE.update({one.flag: one.bare for one in listed if one.bare is not None})

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        wants_context = "context" in inspect.signature(function).parameters

        def run(context: typer.Context, **given: Any) -> None:
            try:
                values = {one.name: _read(one, given[one.name]) for one in listed}
                refuse_combinations(listed, values)
                if check is not None:
                    check(**{name: one for name, one in values.items() if name != JSON.name})
            except SettingError as error:
                raise _UsageError(error.command_line_message) from error
            with reporting_errors(json=values.get(JSON.name, False), again=again):
                function(**values, **({"context": context} if wants_context else {}))

        run.__doc__ = function.__doc__
        signature = command_signature(listed)
        first = inspect.Parameter(
            "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
        )
        signature = signature.replace(parameters=[first, *signature.parameters.values()])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {
            name: parameter.annotation for name, parameter in signature.parameters.items()
        }
        kind = _sectioned(sections) if sections else _Command
        program.command(name=name or function.__name__, cls=kind)(run)
        return function

    return decorate


def _sectioned(sections: Sections) -> type[TyperCommand]:
    """The class of a command whose help shows its options under titles."""
    titles = {name: title for title, names in sections for name in names}

    class Sectioned(_Command):
        section_of = staticmethod(lambda name: titles.get(name, _OTHERS))

        def format_options(self, ctx: Any, formatter: Any) -> None:
            """The options, section by section."""
            shown: dict[str, list[Any]] = {title: [] for title, _ in sections} | {_OTHERS: []}
            for one in self.get_params(ctx):
                record = one.get_help_record(ctx)
                if record is not None:
                    shown[titles.get(str(one.name), _OTHERS)].append(record)
            for title, records in shown.items():
                if records:
                    with formatter.section(title):
                        formatter.write_dl(records)

    return Sectioned


def command_signature(options: Iterable[Option]) -> inspect.Signature:
    """The signature from which typer makes the parameters of a command that takes `options`."""
    listed = tuple(options)
    signature = signature_of(listed)
    by_name = {one.name: one for one in listed}
    return signature.replace(
        parameters=[
            parameter.replace(annotation=_annotation(by_name[name]))
            for name, parameter in signature.parameters.items()
        ]
    )


def _annotation(option: Option) -> Any:
    # A path is read as a string: an empty one would become the current folder.
    kinds: dict[type, Any] = {object: str, Path: str, tuple: str, list: list[str]}
    kind: Any = list[str] if option.repeated else kinds.get(option.kind, option.kind)
    if option.nullable:
        kind = kind | None
    if option.positional:
        metavar = f"{option.flag}..." if option.kind is list else option.flag
        return Annotated[kind, typer.Argument(metavar=metavar, help=option.description)]
    return Annotated[kind, typer.Option(option.flag, help=option.description)]


def _read(option: Option, given: Any) -> Any:
    """The checked value of what typer has parsed, which leaves lists of numbers as strings."""
    if option.repeated and isinstance(given, list):
        # Several strings would be texts, where they name no places of stores.
        several = given if option.places else [*map(_path(option), given)]
        return option.check(given[0] if len(given) == 1 else several)
    if option.kind is list and not given and option.nullable:
        given = None
    if option.kind is tuple and isinstance(given, str):
        try:
            given = [float(one) for one in given.split(",")]
        except ValueError as error:
            raise SettingError(
                f"{option.flag} must be numbers separated by commas", found=repr(given)
            ) from error
    return option.check(given)


_OPTION = re.compile(r"-(?!\d)")  # a number below zero is a value, though no good one
_BARE: dict[str, str] = {}  # flags that need no value -> the value they stand for without one


def _with_bare_values(words: list[str]) -> list[str]:
    """The words of a command line, with a value for each flag that stands alone.

    As in argparse and click, a word behind such a flag is its value unless it is an option.
    """
    filled = []
    for word, following in zip_longest(words, words[1:]):
        alone = following is None or _OPTION.match(following)
        filled.append(f"{word}={_BARE[word]}" if alone and word in _BARE else word)
    return filled


def _path(option: Option) -> Callable[[str], Path]:
    return lambda given: Path(option.check(given))


class _OnceEach:
    """What takes each option once, unless the option says otherwise: the last would win unsaid."""

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        """Refuse a command line that gives an option twice."""
        this: Any = self
        _, _, given = this.make_parser(context).parse_args(args=list(words))
        for number, one in enumerate(given):
            if one in given[:number] and not getattr(one, "multiple", False):
                raise _UsageError(f"{one.opts[0]} is given twice", context)
        rest: list[str] = super().parse_args(context, words)  # type: ignore[misc]
        return rest


class _Command(_OnceEach, TyperCommand):
    """A command of a program."""


class _Program(_OnceEach, TyperGroup):
    """Wrong usage is one line on standard error; with `--json` an object on standard output too."""

    def main(  # type: ignore[override]  # typer's own takes more by place
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        *,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        words = _with_bare_values(list(sys.argv[1:] if args is None else args))
        if not standalone_mode:
            return super().main(words, prog_name, standalone_mode=False, **extra)
        if not _is_somewhere():
            _tell("the working directory is gone. Go to another one", words)
            sys.exit(1)
        try:
            code = super().main(words, prog_name, standalone_mode=False, **extra)
        except _UsageError as error:
            if not words:
                error.show()  # the help
            else:
                _show_usage_error(error, words)
            sys.exit(error.exit_code)
        except typer.Abort:
            code = 1
        sys.exit(code if isinstance(code, int) else 0)


def _show_usage_error(error: Any, words: Sequence[str]) -> None:
    path = "" if error.ctx is None else f" Try '{error.ctx.command_path} --help'."
    _tell(error.format_message(), words, more=path)


def _tell(problem: str, words: Sequence[str], *, more: str = "") -> None:
    """An error on standard error, and with `--json` as an object on standard output too."""
    if f"--{JSON.name}" in words:
        print_json({"error": problem})
    print(f"error: {problem.rstrip('.')}.{more}", file=sys.stderr)


def _is_somewhere() -> bool:
    """Whether there is a working directory; somebody may have removed it."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True
