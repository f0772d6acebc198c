"""Wrong usage: each command tells it in one line, before anything that costs time is imported."""

import inspect
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import logitstore
from logitstore.dumping.options import OWN_OPTIONS, target_spec
from logitstore.errors import SettingError
from logitstore.options import Option
from logitstore.own_options import own_options
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.store.containers import CONTAINERS

JOB = ("--teacher", "/no/teacher", "--data", "/no/data")
HEAVY = ("torch", "transformers", "zarr", "pyarrow", "datasets", "matplotlib")

WRONG = {
    (
        "dump",
        "--sparsify",
        "magic",
    ): "--sparsify is unknown (found magic; allowed: hybrid",
    ("dump", "--format", "hdf5"): f"(found hdf5; allowed: {', '.join(CONTAINERS)})",
    ("dump", "--fidelity", "best"): "--fidelity is unknown (found best; allowed: compact",
    ("dump", "--dtype", "int4"): "--dtype is unknown (found int4; allowed: auto, float32",
    ("dump", "--k", "0"): "--k is out of range (found 0; allowed: 1 to 4,096)",
    ("dump", "--sparsify", "topp", "--top-p", "2"): "--top-p is out of range (found 2",
    ("dump", "--max-length", "1"): "--max-length is out of range (found 1; allowed: 2 or more)",
    ("dump", "--temperature", "abc"): "--temperature must be numbers separated by commas",
    ("dump", "--temperature", "1,1"): "--temperature needs different values",
    ("dump", "--temperature", "nan"): "--temperature is out of range (found nan",
    ("dump", "--sparsify", "topk", "--draws", "5"): "--draws means nothing to --sparsify topk",
    ("dump", "--limit", "0"): "--limit is out of range",
    ("dump", "--batch-tokens", "0"): "--batch-tokens is out of range",
    ("dump", "--seed", "-1"): "--seed is out of range",
    ("dump", "--text-field", "a", "--messages-field", "b"): "exclude each other",
    ("tune", "--text-field", "a", "--messages-field", "b"): "exclude each other",
    ("estimate", "--seconds", "0"): "--seconds is out of range (found 0; allowed: above 0)",
    ("tune", "--max-bytes", "9", "--max-error", "0.1"): "exclude each other",
    ("tune", "--out", "tune.txt"): "--out: this is no name of a picture",
    ("audit", "STORE", "--documents", "0"): "--documents is out of range",
    ("verify", "STORE", "--fast", "--hashes"): "exclude each other",
}


def _arguments(words: tuple[str, ...]) -> list[str]:
    given = {"dump": (*JOB, "--out", "/no/out"), "estimate": JOB, "tune": JOB, "audit": JOB[:2]}
    return [words[0], *given.get(words[0], ()), *words[1:]]


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """The command line, which says on its last line of errors what of HEAVY it has imported."""
    script = (
        "import atexit, sys\n"
        f"heavy = lambda: print(*(n for n in {HEAVY} if n in sys.modules), file=sys.stderr)\n"
        "atexit.register(heavy)\n"
        f"sys.argv = ['logitstore', *{arguments}]\n"
        "from logitstore.cli import main\n"
        "main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_a_value_that_cannot_be_is_told_before_torch_is_loaded(words: tuple[str, ...]) -> None:
    done = _run(_arguments(words))
    assert done.returncode == 2
    message, imported = done.stderr.splitlines()
    assert message.startswith("error: ")
    assert WRONG[words] in message
    assert imported == ""
    assert done.stdout == ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which each command finds something that it cannot use."""
    path = tmp_path_factory.mktemp("usage")
    for name in ("teacher", "none"):
        (path / name).mkdir()
    (path / "teacher" / "config.json").write_text("{}")
    (path / "none" / "notes.md").write_text("notes")
    (path / "body.jsonl").write_text('{"body": "a", "title": "b"}\n')
    (path / "text.jsonl").write_text('{"text": "a"}\n')
    (path / "empty.jsonl").touch()
    (path / "file").touch()
    return path


JOBS = ("dump", "estimate", "tune")
# What a path in the folder is refused with, by the words of the command.
LOCAL = {
    ("--data", "body.jsonl", "--text-field", "bodyy"): "no field 'bodyy' (found 'body, title'). "
    "Take --text-field body, or",
    ("--data", "text.jsonl", "--messages-field", "chat"): "Name one with --messages-field",
    ("--data", "text.jsonl", "--records", "alpaca"): "Take --records text",
    ("--data", "none"): "no file that can be read (found notes.md",
    ("--data", "text.jsonl", "--data", "empty.jsonl"): "empty.jsonl: there is nothing in it",
    ("--data", "*.csv"): "no file matches the pattern",
    ("--data", "text.jsonl", "--teacher", "./none"): "the folder holds no config.json",
}


def _main_in(folder: Path, package: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    script = (
        f"import sys\nsys.argv = ['x', *{words}]\nfrom {package}.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print(*{'torch', 'transformers'} & set(sys.modules), file=sys.stderr)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, check=False
    )


@pytest.mark.parametrize("words", LOCAL, ids=" ".join)
def test_a_path_of_no_use_is_told_before_torch_is_imported(
    folder: Path, words: tuple[str, ...]
) -> None:
    command = JOBS[len(LOCAL[words]) % len(JOBS)]
    given = [command, *([] if "--teacher" in words else ["--teacher", "./teacher"]), *words]
    done = _main_in(folder, "logitstore", [*given, *(["--out", "o"] * (command == "dump"))])
    assert done.returncode == 1
    message, imported = done.stderr.splitlines()
    assert LOCAL[words] in message
    assert imported == ""


@pytest.mark.parametrize(
    ("package", "words", "told"),
    [
        ("logitstore", "dump --teacher ./teacher --data text.jsonl --out file", "is a file"),
        ("logitstore", "audit none --teacher ./teacher", "no store here"),
        ("trainer", "fit --logits none --student s.json --out o", "no store here"),
        ("trainer", "eval ./none --data text.jsonl", "no config.json"),
        ("trainer", "student --from ./none --layers 2 --out o", "no config.json"),
        ("trainer", "student --from ./teacher --layers 2 --out none", "is not empty"),
    ],
)
def test_a_place_of_no_use_is_told_before_torch_is_imported(
    folder: Path, package: str, words: str, told: str
) -> None:
    done = _main_in(folder, package, words.split())
    assert done.returncode == 1
    message, imported = done.stderr.splitlines()
    assert told in message
    assert imported == ""


def test_a_temperature_that_was_not_given_is_not_named() -> None:
    done = _run(_arguments(("dump", "--temperature", "0.5")))
    assert "(found 0.5; allowed: 1 to 100). Dump with --sparsify unbiased" in done.stderr


def test_with_json_wrong_usage_is_an_object_too() -> None:
    done = _run([*_arguments(("estimate", "--seconds", "0")), "--json"])
    assert done.returncode == 2
    assert "--seconds" in json.loads(done.stdout)["error"]


def test_a_working_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    script = (
        "import os, sys\nos.rmdir(os.getcwd())\nsys.argv = ['x', 'verify', '../store', '--json']\n"
        "from logitstore.cli import main\nmain()"
    )
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path / "gone",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: the working directory is gone. Go to another one.\n"
    assert json.loads(done.stdout) == {"error": "the working directory is gone. Go to another one"}


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["dump", "--help"]])
def test_help_and_version_load_nothing(words: list[str]) -> None:
    done = _run(words)
    assert (done.returncode, done.stderr) == (0, "\n")
    if words == ["--version"]:
        assert done.stdout == f"logitstore {version('logitstore')}\n"


@pytest.mark.parametrize(
    ("function", "values"),
    [
        ("dump", {"k": 0, "out": "x"}),
        ("dump", {"sparsify": "topk", "draws": 5, "out": "x"}),
        ("dump", {"temperature": 1.0, "out": "x"}),
        ("dump", {"device": 3, "out": "x"}),
        ("dump", {"out": 3}),
        ("estimate", {"seconds": float("nan")}),
        ("tune", {"out": "tune.txt"}),
        ("audit", {"store": "x", "seed": -1}),
    ],
)
def test_python_refuses_the_same_values(function: str, values: dict[str, Any]) -> None:
    job = {"teacher": "/no/teacher"} | ({} if function == "audit" else {"data": "/no/data"})
    with pytest.raises(SettingError):
        getattr(logitstore, function)(**job, **values)


@pytest.mark.parametrize("function", ["dump", "estimate", "tune", "audit"])
def test_python_shows_every_option_with_its_default_and_its_help(function: str) -> None:
    call = getattr(logitstore, function)
    parameters = inspect.signature(call).parameters
    shown = inspect.getdoc(call) or ""
    for name in parameters:
        assert f"\n    {name}: " in shown
    assert parameters["device"].default == "auto"
    if function == "dump":
        assert parameters["sparsify"].default == "hybrid"
        assert parameters["k"].default is None
        assert "8 for hybrid" in " ".join(shown.split())


def test_a_new_sparsifiers_option_is_an_option_of_dump() -> None:
    min_p = Option(name="min_p", kind=float, help="The least probability.", above=0, most=1)
    rest = Option(name="k", kind=int, help="The entries.", least=1)
    kinds = {"minp": {min_p: 0.01, rest: 64}, "topk": {rest: 64}, "other": {rest: 8}}
    found = {one.name: one for one in own_options(kinds)}
    assert list(found) == ["min_p", "k"]
    assert (found["min_p"].flag, found["min_p"].default) == ("--min-p", None)
    assert found["min_p"].unset == "0.01 for minp"
    assert found["k"].unset == "64 for minp and topk, 8 for other"


@pytest.mark.parametrize("kind", sorted(SPARSIFIERS))
def test_every_option_of_a_sparsifier_is_one_of_dump(kind: str) -> None:
    defaults = SPARSIFIERS[kind].defaults
    assert set(defaults) <= {one.name for one in OWN_OPTIONS}
    assert target_spec({"sparsify": kind, "temperature": None, **defaults}) == sparsifier_spec(kind)


def test_an_option_that_means_something_else_to_each_sparsifier_says_so() -> None:
    few, most = (Option(name="k", kind=int, help=text, least=1) for text in ("Few.", "Most."))
    (found,) = own_options({"a": {few: 1}, "b": {few: 1}, "c": {most: 2}})
    assert found.help == "With a and b: few. With c: most."


@pytest.mark.parametrize("module", ["logitstore", "logitstore.cli", "trainer", "trainer.cli"])
def test_a_command_line_is_a_module_too(module: str) -> None:
    call = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert f"Usage: python -m {module} " in done.stdout
    assert done.stderr == ""
