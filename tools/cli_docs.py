"""docs/cli.md, made from the programs themselves: `python -m tools.cli_docs` writes it.

A test compares the file with what `render` gives, so the page cannot fall behind the program.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from logitstore.cli.commands import app as logitstore_app
from trainer.cli import app as trainer_app

__all__ = ["PAGE", "render"]

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

_HEAD = """# Command lines

Made from the programs by `make docs`; do not edit. Exit codes: 0 done, 1 a fault was found or the
command failed (one message on standard error), 2 wrong usage: a value that cannot be, or options
that do not fit together; this is told before a model is loaded. Ctrl-C gives 130 and SIGTERM 143,
with one message that says how to go on; within a second they count as one, later a second one
ends the command where it stands, which loses nothing that was committed. With `--json` a command
prints one JSON object and nothing else on standard output, also on exit code 1 and 2. Losses are
in nats per target. Each command is also a Python function with the same names:
`logitstore.dump(teacher=...)`, `trainer.fit(logits=...)`; `trainer eval` is `trainer.evaluate`,
`trainer student` is `trainer.make_student`.
"""


def render() -> str:
    """The page."""
    parts = [_HEAD]
    for program, app in (("logitstore", logitstore_app), ("trainer", trainer_app)):
        group: Any = typer.main.get_command(app)
        for name, command in group.commands.items():
            parts.append("\n".join(_section(f"{program} {name}", command)))
    return "\n".join(parts) + "\n"


def _section(title: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    usage = " ".join([title, *(_metavar(one) for one in arguments), "[options]"])
    text = command.help.replace("\b\n", "").strip()  # which keeps the lines of an example
    yield f"## {title}\n\n{text}\n\n    {usage}\n"
    section_of = getattr(command, "section_of", None)
    shown = [one for one in (*arguments, *options) if one.name != "help"]
    if section_of is None:
        yield from _table(shown, arguments)
        return
    for title in dict.fromkeys(section_of(one.name) for one in shown):
        yield f"### {title}\n"
        yield from _table([one for one in shown if section_of(one.name) == title], arguments)


def _table(parameters: list[Any], arguments: list[Any]) -> Iterator[str]:
    yield "| option | default | meaning |\n|---|---|---|"
    for one in parameters:
        shown = _metavar(one) if one in arguments else ", ".join(f"`{o}`" for o in one.opts)
        yield f"| {shown} | {_default(one)} | {' '.join((one.help or '').split())} |"
    yield ""


def _metavar(parameter: Any) -> str:
    shown = parameter.metavar or parameter.name.upper()
    repeated = parameter.nargs == -1 and not shown.endswith("...")
    return f"{shown}..." if repeated else shown


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default is None or parameter.default is False or callable(parameter.default):
        return ""
    return f"`{parameter.default}`"


if __name__ == "__main__":
    PAGE.write_text(render())
