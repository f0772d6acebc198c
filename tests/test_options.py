"""Options: one declaration, from which Python's signature and the command line are made."""

import inspect
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from logitstore.cli.program import JSON, command, new_program
from logitstore.errors import ModelError, SettingError
from logitstore.options import Option, checked_options, option, options_of, takes


@dataclass(frozen=True, kw_only=True)
class BakeOptions:
    """What a baker is told."""

    cake: str = option(help="The cake.", choices=lambda: ("apple", "plum"))
    eggs: int = option(2, help="Eggs.", least=1, most=12)
    sugar: float | None = option(None, help="Sugar in grams.", above=0, unset="to taste")
    minutes: tuple[float, ...] | None = option(None, help="Times to look.", least=0)
    out: Path = option(Path("cake"), help="The tin.", spelled="tin")
    hot: bool = option(False, help="Serve it hot.")
    watch: object | None = option(None, help="Is called often.", python_only=True)
    name: str | None = option(None, help="What stands on it.", needs="icing")
    icing: object | None = option(None, help="The icing.", excludes=("sugar",))
    weight: float = 1.0  # no option


OPTIONS = options_of(BakeOptions)


@takes(OPTIONS)
def bake(**values: Any) -> BakeOptions:
    """Bake a cake."""
    return BakeOptions(**values)


def test_a_dataclass_declares_its_options() -> None:
    assert [one.name for one in OPTIONS] == [
        *("cake", "eggs", "sugar", "minutes", "out", "hot", "watch", "name", "icing")
    ]
    kinds = [one.kind for one in OPTIONS]
    assert kinds == [str, int, float, tuple, Path, bool, object, str, object]
    nullable = [one.name for one in OPTIONS if one.nullable]
    assert nullable == ["sugar", "minutes", "watch", "name", "icing"]
    assert [one.flag for one in OPTIONS][3:6] == ["--minutes", "--tin", "--hot"]


def test_an_option_that_several_share_is_declared_once() -> None:
    shared = Option(name="seed", kind=int, default=0, help="Seed of the order.", least=0)

    @dataclass(frozen=True, kw_only=True)
    class Other:
        seed: int = option(like=shared)
        late: int = option(7, like=shared, help="Seed of the rest.")

    seed, late = options_of(Other)
    assert seed == shared
    assert (late.name, late.default, late.help, late.least) == ("late", 7, "Seed of the rest.", 0)
    assert Other().late == 7


def test_signature_and_docstring_show_every_option() -> None:
    signature = inspect.signature(bake)
    assert list(signature.parameters) == [one.name for one in OPTIONS]
    assert signature.parameters["eggs"].default == 2
    assert signature.parameters["cake"].default is inspect.Parameter.empty
    shown = inspect.getdoc(bake) or ""
    assert shown.startswith("Bake a cake.")
    assert "cake: The cake. One of apple, plum." in shown
    assert "sugar: Sugar in grams. Default: to taste." in shown
    assert "name: What stands on it. Only with --icing." in shown
    assert "icing: The icing. Not together with --sugar." in shown


def test_values_are_checked_and_become_the_options_type() -> None:
    made = bake(cake="plum", sugar=3, minutes=[1, 2], out="tin")
    assert made == BakeOptions(cake="plum", sugar=3.0, minutes=(1.0, 2.0), out=Path("tin"))
    assert type(made.sugar) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cake": "stone"}, "^cake is unknown.*found stone.*apple, plum"),
        ({"cake": 3}, "^cake must be a string"),
        ({"cake": "plum", "eggs": 0}, "^eggs is out of range.*found 0; allowed: 1 to 12"),
        ({"cake": "plum", "eggs": 2.0}, "^eggs must be a whole number"),
        ({"cake": "plum", "eggs": 10**5000}, "^eggs is out of range.*found a number of 16610 bits"),
        ({"cake": "plum", "sugar": 10**400}, "^sugar is out of range.*too large"),
        ({"cake": "plum", "eggs": True}, "^eggs must be a number"),
        ({"cake": "plum", "eggs": None}, "^eggs must be a whole number"),
        ({"cake": "plum", "sugar": float("nan")}, "^sugar is out of range"),
        ({"cake": "plum", "sugar": float("inf")}, "^sugar is out of range"),
        ({"cake": "plum", "sugar": 0}, "^sugar is out of range.*above 0"),
        ({"cake": "plum", "sugar": "3"}, "^sugar must be a number"),
        ({"cake": "plum", "minutes": [1, 1]}, "^minutes needs different values"),
        ({"cake": "plum", "minutes": []}, "^minutes needs different values"),
        ({"cake": "plum", "minutes": 3}, "^minutes must be a list of numbers"),
        ({"cake": "plum", "minutes": [-1]}, "^minutes is out of range"),
        ({"cake": "plum", "hot": 1}, "^hot must be True or False"),
        ({"cake": "plum", "out": 3}, "^out must be a path"),
        ({"cake": ""}, "^cake is empty"),
        ({"cake": "plum", "out": " "}, "^out is empty"),
        ({"cake": "plum", "icing": "\t"}, "^icing is empty"),
        ({"cake": "plum", "icing": "a\0b"}, "^icing holds a zero byte"),
        ({"cake": "plum", "out": "s3://tin"}, "^out: a URI is not served here.*s3://tin"),
        ({"cake": "plum", "name": "Ann"}, "^name has no effect without icing.*Leave name out"),
        ({"cake": "plum", "sugar": 1, "icing": "red"}, "^icing and sugar exclude each other"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        bake(**values)


def test_a_message_names_arguments_in_python_and_flags_on_the_command_line() -> None:
    with pytest.raises(SettingError) as caught:
        OPTIONS[4].check(3)
    assert str(caught.value) == "out must be a path (found 3)"
    assert caught.value.command_line_message == "--tin must be a path (found 3)"
    place = Option(name="places", kind=list, help="Places.", positional=True)
    with pytest.raises(SettingError, match=r"^places must be a list \(found 'PLACES'\)$"):
        place.check("PLACES")
    error = ModelError(
        "--batch-tokens / --micro-tokens is no whole number",
        place="/data/--odd",
        found="--k",
        allowed="with --top-p",
        remedy="Leave --x out, or `bake --out`",
    )
    assert str(error) == (
        "/data/--odd: batch_tokens / micro_tokens is no whole number "
        "(found --k; allowed: with top_p). Leave x out, or `bake --out`"
    )
    assert error.command_line_message.count("--") == 7
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_unknown_and_missing_options_are_what_python_makes_of_them() -> None:
    with pytest.raises(TypeError, match=r"bake\(\) got an unexpected keyword argument 'flour'"):
        bake(cake="plum", flour=1)
    with pytest.raises(TypeError, match=r"bake\(\) missing 1 required keyword-only .*'cake'"):
        bake()
    with pytest.raises(TypeError, match=r"bake\(\) takes 0 positional arguments but 1"):
        bake("plum")
    assert checked_options("bake", OPTIONS, {"cake": "plum"})["eggs"] == 2


def test_an_option_may_be_given_by_its_place() -> None:
    place = Option(name="place", kind=str, help="Where.", positional=True)

    @takes((*OPTIONS, place))
    def find(**values: Any) -> str:
        return str(values["place"])

    assert find("here", cake="plum") == find(place="here", cake="plum") == "here"
    assert next(iter(inspect.signature(find).parameters)) == "place"
    with pytest.raises(TypeError, match="multiple values for argument 'place'"):
        find("here", place="there", cake="plum")


def _refuse_hot_plums(*, cake: str, hot: bool, **_: Any) -> None:
    if cake == "plum" and hot:
        raise SettingError("--hot means nothing to plums")


PROGRAM = new_program("baker", summary="Bake.")
BAKED: list[dict[str, Any]] = []


@command(PROGRAM, options=(*OPTIONS, JSON), check=_refuse_hot_plums)
def make(**values: Any) -> None:
    """Bake a cake."""
    BAKED.append(values)
    if values["eggs"] == 12:
        raise ModelError("too many eggs")


@command(
    PROGRAM,
    name="list",
    options=(Option(name="dirs", kind=list, help="Places.", positional=True), JSON),
)
def show(*, dirs: list[str], json: bool) -> None:
    """List what there is."""
    BAKED.append({"dirs": dirs, "json": json})


def _run(*words: str) -> Any:
    return CliRunner().invoke(PROGRAM, words)


def test_a_command_is_given_checked_values() -> None:
    assert _run("make", "--cake", "plum", "--minutes", "1,2.5").exit_code == 0
    assert BAKED[-1] == {
        "cake": "plum",
        "eggs": 2,
        "sugar": None,
        "minutes": (1.0, 2.5),
        "out": Path("cake"),
        "hot": False,
        "name": None,
        "icing": None,
        "json": False,
    }
    assert _run("list", "a", "b", "--json").exit_code == 0
    assert BAKED[-1] == {"dirs": ["a", "b"], "json": True}


WRONG = {
    "--eggs 0 --cake plum": "--eggs is out of range (found 0; allowed: 1 to 12)",
    "--eggs many --cake plum": "--eggs",
    "--cake stone": "found stone",
    "--cake plum --minutes 1,1": "--minutes needs different values",
    "--cake plum --minutes abc": "--minutes must be numbers separated by commas",
    "--cake plum --minutes nan": "--minutes is out of range",
    "--cake plum --hot": "means nothing to plums",
    "--cake plum --tin=": "--tin is empty",
    "--cake plum --tin=file:///tin": "--tin: a URI is not served here",
    "--cake plum --name Ann": "--name has no effect without --icing",
    "--cake plum --icing=": "--icing is empty",
    "--cake plum --sugar 1 --icing red": "exclude each other",
    "--cake plum --flour 1": "--flour",
    "--eggs 3": "--cake",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_usage_is_exit_code_2_and_one_line(words: str) -> None:
    before = len(BAKED)
    plain, as_json = _run("make", *words.split()), _run("make", *words.split(), "--json")
    assert (plain.exit_code, as_json.exit_code) == (2, 2)
    assert WRONG[words] in plain.stderr
    assert plain.stderr.startswith("error: ")
    assert plain.stderr.count("\n") == 1
    assert plain.stdout == ""
    assert WRONG[words] in json.loads(as_json.stdout)["error"]
    assert len(BAKED) == before


def test_an_expected_error_of_the_body_is_exit_code_1() -> None:
    failed = _run("make", "--cake", "plum", "--eggs", "12", "--json")
    assert failed.exit_code == 1
    assert json.loads(failed.stdout) == {"error": "too many eggs"}


def test_help_names_every_option_and_no_command_is_wrong_usage() -> None:
    shown = " ".join(_run("make", "--help").stdout.split())
    for words in ("--tin", "[default: 2]", "One of apple, plum.", "Default: to taste."):
        assert words in shown
    assert "--watch" not in shown
    assert "Commands:" in _run("--help").stdout
    assert _run().exit_code == 2
    wrong = _run("bake")
    assert (wrong.exit_code, "No such command" in wrong.stderr) == (2, True)


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    shown = _run("--version")
    assert (shown.exit_code, shown.stdout) == (0, f"baker {version('logitstore')}\n")
