"""An option that is given twice is refused by every command: the last would win without a word."""

import json
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from logitstore.cli.commands import app as logitstore_app
from trainer.cli import app as trainer_app

APPS: dict[str, Any] = {"logitstore": logitstore_app, "trainer": trainer_app}
SEVERAL = {
    *(("logitstore", name, "--data") for name in ("dump", "estimate", "tune", "extend", "audit")),
    *(("trainer", "fit", name) for name in ("--logits", "--freeze", "--set")),
}


def _options() -> list[tuple[str, str, Any]]:
    found = []
    for program, app in APPS.items():
        group: Any = typer.main.get_command(app)
        for name, one in group.commands.items():
            found += [(program, name, own) for own in one.params if own.param_type_name == "option"]
    return found


@pytest.mark.parametrize("program", APPS)
def test_every_option_of_every_command_is_refused_twice_unless_it_says_otherwise(
    program: str,
) -> None:
    several = set()
    for own, name, one in _options():
        if own != program:
            continue
        words = [one.opts[0]] if one.is_flag else [one.opts[0], "1"]
        done = CliRunner().invoke(APPS[program], [name, *words, *words])
        if one.multiple:
            several.add((program, name, one.opts[0]))
            assert "is given twice" not in done.stderr
            continue
        assert done.exit_code == 2, (name, one.opts)
        assert f"error: {one.opts[0]} is given twice. Try " in done.stderr
    assert several >= {one for one in SEVERAL if one[0] == program}


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "m", "--logits", "a", "--logits", "b"],
        ["eval", "m", "--logits=a", "--logits=b"],
        ["eval", "--logits", "a", "m", "--device", "cpu", "--logits", "a"],
        ["fit", "--resume", "--student", "s", "--resume", "--logits", "a", "--out", "o"],
        ["fit", "--skip-damaged", "--skip-damaged", "2"],
        ["--version", "--version"],
    ],
)
def test_it_is_one_line_wherever_the_two_stand(words: list[str]) -> None:
    done = CliRunner().invoke(trainer_app, words)
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "is given twice" in line
    if words[0] == "eval":
        assert "--logits is given twice" in line


def test_a_value_that_looks_like_the_option_is_a_value() -> None:
    done = CliRunner().invoke(trainer_app, ["eval", "--logits", "--logits"])
    assert "is given twice" not in done.stderr
    done = CliRunner().invoke(trainer_app, ["eval", "m", "--json", "--logits", "a", "--json"])
    assert json.loads(done.stdout) == {"error": "--json is given twice"}
