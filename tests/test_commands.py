"""All commands of both programs: one rule each, held over every option there is."""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import logitstore
import trainer
from logitstore.cli.commands import app as logitstore_app
from logitstore.dumping.options import DUMP_OPTIONS
from logitstore.editing.options import (
    CONVERT_OPTIONS,
    EXTEND_OPTIONS,
    MERGE_OPTIONS,
    SUBSET_OPTIONS,
)
from logitstore.errors import SettingError
from logitstore.exchange.options import EXPORT_OPTIONS, IMPORT_OPTIONS
from logitstore.fidelity.options import AUDIT_OPTIONS
from logitstore.forecast.options import ESTIMATE_OPTIONS, TUNE_OPTIONS
from logitstore.generation.options import GENERATE_OPTIONS
from logitstore.options import Option, options_of
from logitstore.serving.options import SERVE_OPTIONS
from logitstore.sharing.options import PULL_OPTIONS, PUSH_OPTIONS
from logitstore.store.options import GC_OPTIONS, INSPECT_OPTIONS, VERIFY_OPTIONS
from logitstore.viewing.options import VIEW_OPTIONS
from trainer.cli import app as trainer_app
from trainer.diagnosis.options import DiagnoseOptions
from trainer.evaluation.options import EvalOptions
from trainer.pruning.options import StudentOptions
from trainer.reporting.options import ReportOptions
from trainer.sweeping.options import PASSED, SweepOptions
from trainer.training.fit_options import FIT_OPTIONS

APPS = {"logitstore": logitstore_app, "trainer": trainer_app}
FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Option, ...]]] = {
    "logitstore dump": (logitstore.dump, DUMP_OPTIONS),
    "logitstore generate": (logitstore.generate, GENERATE_OPTIONS),
    "logitstore estimate": (logitstore.estimate, ESTIMATE_OPTIONS),
    "logitstore tune": (logitstore.tune, TUNE_OPTIONS),
    "logitstore convert": (logitstore.convert, CONVERT_OPTIONS),
    "logitstore merge": (logitstore.merge, MERGE_OPTIONS),
    "logitstore subset": (logitstore.subset, SUBSET_OPTIONS),
    "logitstore extend": (logitstore.extend, EXTEND_OPTIONS),
    "logitstore import": (logitstore.import_store, IMPORT_OPTIONS),
    "logitstore export": (logitstore.export_store, EXPORT_OPTIONS),
    "logitstore push": (logitstore.push, PUSH_OPTIONS),
    "logitstore pull": (logitstore.pull, PULL_OPTIONS),
    "logitstore view": (logitstore.view, VIEW_OPTIONS),
    "logitstore serve": (logitstore.serve, SERVE_OPTIONS),
    "logitstore verify": (logitstore.verify, VERIFY_OPTIONS),
    "logitstore gc": (logitstore.gc, GC_OPTIONS),
    "logitstore audit": (logitstore.audit, AUDIT_OPTIONS),
    "logitstore inspect": (logitstore.inspect, INSPECT_OPTIONS),
    "trainer fit": (trainer.fit, FIT_OPTIONS),
    "trainer eval": (trainer.evaluate, options_of(EvalOptions)),
    "trainer diagnose": (trainer.diagnose, options_of(DiagnoseOptions)),
    "trainer student": (trainer.make_student, options_of(StudentOptions)),
    "trainer sweep": (trainer.sweep, (*options_of(SweepOptions), *PASSED)),
    "trainer report": (trainer.report, options_of(ReportOptions)),
}
# Python draws no picture unless a file is named for it.
OTHER_DEFAULTS = {("logitstore tune", "out"): None}
# What an option may be set to, where the least it allows will not do.
VALUES: dict[str, Any] = {
    "out": "tune.png",
    "temperature": 2.0,
    "warmup": 0.5,
    "best_by": "kl",
    "select_labels": "selected",
    "data": "d.jsonl",
    "records": "text",
    "max_memory": "8G",
    "skip_damaged": 2,
    "device": "cpu",
    "dtype": "float32",
}
# What is any text, and names no place.
_TEXTS = (
    *("license", "teacher_license", "corpus_license", "host", "bos"),
    *("lora", "freeze", "attn", "report_to", "set", "alpha_schedule", "temperature_schedule"),
    *("select", "positions", "hidden_layers", "hint_layers"),
)


def _word(value: Any) -> str:
    return value.name if isinstance(value, Option) else str(value)


def _commands() -> dict[str, Any]:
    found = {}
    for program, app in APPS.items():
        group: Any = typer.main.get_command(app)
        for name, one in group.commands.items():
            found[f"{program} {name}"] = one
    return found


def _call(command: str, values: dict[str, Any]) -> Any:
    """The command with these values of options, by their Python names."""
    program, name = command.split()
    words, places = [], []
    for one in FUNCTIONS[command][1]:
        if one.name not in values:
            continue
        value = values[one.name]
        if one.positional:
            places += value if isinstance(value, list) else [str(value)]
        elif one.kind is bool:
            words += [one.flag]
        elif isinstance(value, list):
            words += [word for part in value for word in (one.flag, str(part))]
        else:
            words += [one.flag, str(value)]
    return CliRunner().invoke(APPS[program], [name, *words, "--", *places])


def _choice(option: Option) -> str:
    return "name" if option.choices is None else next(iter(option.choices()))


def _required(command: str, *, given: set[str]) -> dict[str, Any]:
    """Values of the options that must be given, beside those that are."""
    values: dict[str, Any] = {
        one.name: ["run"] if one.kind is list else _choice(one)
        for one in FUNCTIONS[command][1]
        if one.default is inspect.Parameter.empty
    }
    if command == "logitstore subset":
        values["documents"] = "0:5"
    if command == "trainer eval" and not given & {"data", "logits", "tasks"}:
        values["logits"] = "name"
    if command == "trainer student" and not given & {"layers", "width", "intermediate"}:
        values["layers"] = "2"
    if command == "logitstore generate":
        values["out"] = "name.parquet"
    return values


def _refused(command: str, values: dict[str, Any]) -> str:
    """The message of the command line; Python refuses the same, by its own names of options."""
    done = _call(command, values)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    with pytest.raises(SettingError) as caught:
        FUNCTIONS[command][0](**values)
    assert caught.value.command_line_message.rstrip(".") in done.stderr
    return done.stderr


def test_every_command_is_one_function() -> None:
    assert set(_commands()) == set(FUNCTIONS)


@pytest.mark.parametrize("command", FUNCTIONS)
def test_python_and_command_line_call_their_options_alike(command: str) -> None:
    function, options = FUNCTIONS[command]
    python = inspect.signature(function).parameters
    shown = {
        one.name: one for one in _commands()[command].params if one.name not in ("help", "json")
    }
    only_in_python = {one.name for one in options if one.python_only}
    assert set(shown) == set(python) - only_in_python
    for name, one in shown.items():
        if one.param_type_name == "option":
            assert one.opts == [next(o.flag for o in options if o.name == name)]
        default = OTHER_DEFAULTS.get((command, name), one.default)
        wanted = python[name].default
        if wanted is inspect.Parameter.empty:
            assert one.required, name
        else:
            assert default == wanted, name


def _named(*, fields: bool) -> Iterator[tuple[str, Option]]:
    """The options of each command whose value is a path or a name, that of a field or not."""
    for command, (_, options) in FUNCTIONS.items():
        for one in options:
            named = one.kind in (str, object, list) or issubclass(one.kind, Path)
            left_out = one.python_only or one.choices is not None or one.name == "device"
            place = not one.name.endswith("_field") and one.name not in _TEXTS
            place = place and (command, one.name) != ("logitstore import", "teacher")
            if named and not left_out and (fields or place):
                yield command, one


@pytest.mark.parametrize("empty", ["", "  "])
@pytest.mark.parametrize(("command", "option"), list(_named(fields=True)), ids=_word)
def test_an_empty_string_is_no_value(command: str, option: Option, empty: str) -> None:
    value = [empty] if option.kind is list else empty
    values = _required(command, given={option.name}) | {option.name: value}
    if option.needs is not None:
        values = values | {option.needs: "name"}
        values.pop("logits", None)
    assert f"{option.flag} is empty" in _refused(command, values)


@pytest.mark.parametrize("uri", ["ftp://host/name", "s4://bucket/name", "hf://name"])
@pytest.mark.parametrize(("command", "option"), list(_named(fields=False)), ids=_word)
def test_a_uri_that_nothing_serves_is_refused(command: str, option: Option, uri: str) -> None:
    if option.name == "out" and command == "logitstore tune":
        uri += ".png"
    value = [uri] if option.kind is list else uri
    values = _required(command, given={option.name}) | {option.name: value}
    assert f"{option.flag}: " in _refused(command, values)


@pytest.mark.parametrize("device", ["cudaa", "gpu", "cuda:x", "-1", "", "CPU", "cuda:-1", "meta"])
@pytest.mark.parametrize("command", [c for c in FUNCTIONS if "device" in str(FUNCTIONS[c][1])])
def test_what_is_no_device_is_refused(command: str, device: str) -> None:
    values = _required(command, given=set()) | {"device": device}
    assert "--device" in _refused(command, values)


def _excluding() -> Iterator[tuple[str, Option, Option]]:
    for command, (_, options) in FUNCTIONS.items():
        known = {one.name: one for one in options}
        for one in options:
            for other in one.excludes:
                assert one.name in known[other].excludes, "declared on both sides"
                yield command, one, known[other]


def _some(option: Option) -> Any:
    """A value that the option may be set to."""
    if option.kind is bool:
        return True
    return VALUES.get(option.name, 2 if option.kind in (int, float) else "name")


@pytest.mark.parametrize(("command", "one", "other"), list(_excluding()), ids=_word)
def test_options_that_exclude_each_other_are_refused(
    command: str, one: Option, other: Option
) -> None:
    values = {one.name: _some(one), other.name: _some(other)}
    values = _required(command, given=set(values)) | values
    if one.needs is not None:
        values = values | {one.needs: "name"}
        values.pop("logits", None)
    message = _refused(command, values)
    assert "exclude each other" in message
    assert one.flag in message
    assert other.flag in message


def _needing() -> Iterator[tuple[str, Option]]:
    for command, (_, options) in FUNCTIONS.items():
        yield from ((command, one) for one in options if one.needs is not None)


@pytest.mark.parametrize(("command", "option"), list(_needing()), ids=_word)
def test_an_option_without_effect_is_refused(command: str, option: Option) -> None:
    values = {option.name: _some(option)}
    other = {"data": "logits", "logits": "data"}.get(str(option.needs))
    if other is not None:
        values[other] = "name"
    message = _refused(command, _required(command, given=set(values)) | values)
    assert f"{option.flag} has no effect without" in message


def test_what_is_refused_costs_no_torch() -> None:
    script = (
        "import sys\nfrom typer.testing import CliRunner\n"
        "from logitstore.cli.commands import app\nfrom trainer.cli import app as other\n"
        "for words in (['verify', 'hf://b'], ['inspect', ''],"
        " ['audit', 'hf://b', '--teacher', 't'],"
        " ['dump', '--teacher', '', '--data', 'd', '--out', 'o']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 2, words\n"
        "for words in (['fit', '--logits', 'hf://b', '--student', 's', '--out', 'o'],"
        " ['eval', 'm', '--logits', 's', '--device', 'gpu'], ['report', '']):\n"
        "    assert CliRunner().invoke(other, words).exit_code == 2, words\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("package", [logitstore, trainer])
def test_a_package_lists_its_names_and_its_version(package: Any) -> None:
    assert set(package.__all__) < set(dir(package))
    assert package.__version__ == version("logitstore")


@pytest.mark.parametrize("program", APPS)
def test_no_help_is_cut_at_80_columns(program: str) -> None:
    shown = CliRunner().invoke(APPS[program], ["--help"], terminal_width=80).stdout
    assert "..." not in shown.partition("Commands:")[2]
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("command", FUNCTIONS)
def test_every_help_is_of_whole_sentences(command: str) -> None:
    for one in FUNCTIONS[command][1]:
        for sentence in (one.help, one.in_python or "A."):
            assert sentence[:1].isupper(), one.name
            assert sentence.endswith("."), one.name


@pytest.mark.parametrize("command", FUNCTIONS)
def test_no_help_of_an_option_is_a_page(command: str) -> None:
    """What needs more is said in docs; twenty lines of a help at 80 columns are 1,000 letters."""
    for one in FUNCTIONS[command][1]:
        assert len(one.help) <= 450, one.name
        assert len(one.description) <= 700, one.name


@pytest.mark.parametrize("command", FUNCTIONS)
def test_files_that_a_help_points_to_are_there(command: str) -> None:
    program, name = command.split()
    shown = CliRunner().invoke(APPS[program], [name, "--help"], terminal_width=80).stdout
    pages = set(re.findall(r"docs/[a-z-]+\.md", shown))
    assert all((Path(__file__).parent.parent / one).is_file() for one in pages)
    if command == "trainer fit":
        assert {"docs/fitting.md", "docs/students.md", "docs/losses.md"} <= pages
        example = next(line for line in shown.splitlines() if line.startswith("      trainer fit "))
        given = example.split()[2:]
        needed = [one for one in FIT_OPTIONS if one.default is inspect.Parameter.empty]
        assert all(one.flag in given for one in needed)
