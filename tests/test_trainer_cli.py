"""The command line `trainer`: its names, its output, its exit codes."""

import importlib.metadata
import inspect
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import logitstore
import trainer
from logitstore import SettingError
from logitstore.plumbing import options_of
from logitstore.sparsify.build import sparsifier_spec
from tests.memory_store import MemoryStore
from tests.tiny_models import CONFIGS, tiny
from trainer.cli import app
from trainer.evaluation.options import EvalOptions
from trainer.losses import LOSSES
from trainer.losses.options import LOSS_OPTIONS
from trainer.training.fit_options import FIT_OPTIONS, FIT_SECTIONS

FEW = ["--steps", "2", "--batch-tokens", "64", "--device", "cpu"]
QUICK = [*FEW, "--micro-tokens", "16"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a student's configuration, where every store is one in memory."""
    (tmp_path / "tokenizer").mkdir()
    store = MemoryStore(tokenizer=tmp_path / "tokenizer")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "S").mkdir()
    (tmp_path / "S" / "store.json").touch()  # its name is looked up before torch is imported
    monkeypatch.setattr(logitstore, "open", lambda _, **__: store, raising=False)
    (tmp_path / "student.json").write_text(CONFIGS["llama"].to_json_string())
    return tmp_path


def fit(folder, *arguments):
    student, out = str(folder / "student.json"), str(folder / "run")
    quick = FEW if "--micro-tokens" in arguments else QUICK
    return call("fit", "--logits", "S", "--student", student, "--out", out, *quick, *arguments)


def call(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_fit_reports_on_standard_error_and_says_what_it_left(folder):
    result = fit(folder)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("step 1  loss ")
    assert len(result.stderr.splitlines()) == 2
    assert result.stdout.startswith(f"{folder / 'run'}: 2 steps, loss ")
    again = fit(folder)
    assert again.stdout == f"{folder / 'run'}: finished before; no step was left\n"
    assert again.stderr == ""


def test_fit_prints_one_object_and_nothing_else(folder):
    result = fit(folder, "--json")
    assert json.loads(result.stdout)["finished"] is True


def test_eval_prints_one_object_with_the_promised_keys(folder):
    tiny().save_pretrained(folder / "model")
    result = call("eval", folder / "model", "--logits", "S", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    promised = (
        "parameters targets loss perplexity kl top1_agreement ece acceptance tokens_per_second"
    )
    assert set(json.loads(result.stdout)) >= set(promised.split())


def test_eval_prints_a_line_for_each_figure(folder):
    fit(folder)
    result = call("eval", folder / "run", "--logits", "S", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert {"loss", "kl", "acceptance"} <= set(lines)
    for name in ("loss", "kl", "top1_agreement", "acceptance"):
        assert "standard error 0." in lines[name]
    assert "by the spread over the " in lines["standard"]
    assert (folder / "run" / "eval.json").is_file()


def test_a_store_of_draws_is_learnt_from_measured_and_reported(folder, monkeypatch):
    """No top-1 where no probability is known; an estimate is marked as one."""
    spec = sparsifier_spec("sample", draws=12, repeats=2)
    store = MemoryStore(tokenizer=folder / "tokenizer", sparsifier=spec)
    monkeypatch.setattr(logitstore, "open", lambda _, **__: store, raising=False)
    result = fit(folder)
    assert result.exit_code == 0, result.stderr
    assert "top-1" not in result.stdout + result.stderr
    result = call("eval", folder / "run", "--logits", "S", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["kl"].startswith("~ ")
    assert "rounding 0." in lines["kl"]
    assert lines["~"].startswith("means: an estimate")
    assert not {">=", "<="} & set(lines)
    assert lines["acceptance"].startswith("not known: ")
    assert lines["top1_agreement"].startswith("not known: 0 of ")
    page = folder / "page.html"
    result = call("report", folder / "run", "--out", page)
    assert result.exit_code == 0, result.stderr
    assert "≈" in result.stdout
    assert "left out" not in result.stdout
    assert "≈ means: an estimate" in page.read_text()


def test_a_bound_is_printed_behind_its_sign_and_the_sign_explained(folder, monkeypatch):
    store = MemoryStore(tokenizer=folder / "tokenizer", k=6, fidelity="compact")
    monkeypatch.setattr(logitstore, "open", lambda _, **__: store, raising=False)
    fit(folder)
    result = call("eval", folder / "run", "--logits", "S", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    found = json.loads((folder / "run" / "eval.json").read_text())
    shown = found["kl"] - found["coding_errors"]["kl"]
    assert lines["kl"].startswith(f">= {shown:.4f}  (measured {found['kl']:.4f}, standard error ")
    assert lines["acceptance"].startswith("<= ")
    assert lines[">="].startswith("means: the exact value is at least this")
    assert lines["<="].startswith("means: the exact value is at most this")


def test_what_a_run_passes_over_is_a_line_on_standard_error(folder):
    out = folder / "run"
    result = fit(folder, "--resume", "--keep-checkpoints")
    assert result.exit_code == 0, result.stderr
    begun = f"warning: {out}: there is no run to go on with, so a new one begins"
    assert begun in result.stderr.splitlines()
    (out / "model.safetensors").unlink()
    result = fit(folder)
    assert result.exit_code == 1
    assert result.stderr.endswith("makes it anew: run the same command with --resume\n")
    result = fit(folder, "--resume")
    assert result.exit_code == 0, result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert "model.safetensors: file of a finished run is gone; written anew from" in line
    assert (out / "model.safetensors").is_file()


def test_an_option_of_the_loss_is_a_setting_of_the_run(folder):
    """It stands in run.json, and a run is not gone on with at another value."""
    other = ("--loss", "jensen_shannon", "--beta", "0.25")
    result = fit(folder, *other, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["settings"]["beta"] == 0.25
    assert fit(folder, *other).exit_code == 0
    result = fit(folder, "--loss", "jensen_shannon", "--resume")
    assert result.exit_code == 1
    assert "the run was begun with other settings: --beta 0.25 there, 0.5 here" in result.stderr


def test_a_loss_without_options_adds_nothing_to_the_settings(folder):
    """So runs of before there were any still go on."""
    names = {one.name for one in LOSS_OPTIONS}
    assert not names & set(json.loads(fit(folder, "--json").stdout)["settings"])
    result = fit(folder, "--loss", "reverse_kl", "--beta", "0.5")
    assert result.exit_code == 2
    assert "--beta has no effect with --loss reverse_kl" in result.stderr


def test_no_two_options_of_fit_have_one_name():
    names = [one.name for one in FIT_OPTIONS]
    assert len(set(names)) == len(names)


def test_the_help_shows_each_option_once_and_the_needed_ones_first():
    listed = [name for _, names in FIT_SECTIONS for name in names]
    shown = {one.name for one in FIT_OPTIONS if not one.python_only} | {"json", "help"}
    assert sorted(listed) == sorted(shown)
    text = call("fit", "--help").stdout
    places = [text.index(f"\n{title}:\n") for title, _ in FIT_SECTIONS]
    assert places == sorted(places)
    assert text.index("  --alpha ") < text.index("  --lr ") < text.index("  --micro-tokens ")


def test_the_help_names_every_loss():
    shown = " ".join(call("fit", "--help").stdout.split())
    assert [name for name in LOSSES if name not in shown] == []


def test_report_compares_runs(folder):
    fit(folder)
    call("eval", folder / "run", "--logits", "S", "--device", "cpu")
    page = folder / "page.html"
    result = call("report", folder / "run", "--out", page, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["report"] == str(page)
    assert page.is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "--micro-tokens", "5"),
        ("eval", "./nowhere", "--logits", "S", "--device", "cpu"),
        ("report", "nowhere"),
    ],
)
def test_an_expected_error_is_one_message_and_exit_code_1(folder, arguments):
    command, *rest = arguments
    result = fit(folder, *rest) if command == "fit" else call(command, *rest)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_an_error_is_an_object_too_with_json(folder):
    for arguments, code in ((("--temperature", "20"), 1), (("--alpha", "2"), 2)):
        result = fit(folder, *arguments, "--json")
        assert result.exit_code == code
        assert arguments[0] in json.loads(result.stdout)["error"]


def test_an_interrupted_fit_says_how_to_go_on(folder, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.cli.commands._reporting", lambda *_: interrupt)
    result = fit(folder)
    assert result.exit_code == 130
    assert result.stderr == (
        "error: interrupted; no checkpoint was written yet. "
        "Run the same command with --resume to go on\n"
    )
    monkeypatch.undo()


@pytest.mark.parametrize("arguments", [(), ("fit",), ("fit", "--alpha", "much"), ("dance",)])
def test_wrong_usage_is_exit_code_2(arguments):
    assert call(*arguments).exit_code == 2


FIT = ("fit", "--logits", "S", "--student", "T", "--out", "R")
WRONG = [
    (*FIT, "--alpha", "2"),
    (*FIT, "--loss", "nope"),
    (*FIT, "--loss", "jensen_shannon", "--beta", "2"),
    (*FIT, "--loss", "reverse_kl", "--beta", "0.5"),
    (*FIT, "--loss", "alm", "--beta", "0.5"),
    (*FIT, "--epochs", "0"),
    (*FIT, "--epochs", "1", "--steps", "1"),
    (*FIT, "--temperature", "0"),
    (*FIT, "--lr", "nan"),
    (*FIT, "--seed", "-1"),
    (*FIT, "--dtype", "float16"),
    (*FIT, "--device", "abacus"),
    ("eval", "M"),
    ("eval", "M", "--logits", "S", "--data", "D"),
    ("eval", "M", "--data", "D", "--max-length", "1"),
    ("eval", "M", "--data", "D", "--device", "abacus"),
]


@pytest.mark.parametrize("arguments", WRONG)
def test_a_value_that_cannot_be_is_one_line_and_exit_code_2(arguments):
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_wrong_values_cost_no_torch():
    """All of them in one process, which then has not loaded what takes seconds."""
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom trainer.cli import app\n"
        f"codes = {{CliRunner().invoke(app, list(one)).exit_code for one in {WRONG!r}}}\n"
        "loaded = {'torch', 'transformers'} & set(sys.modules)\n"
        "assert codes == {2} and not loaded, (codes, loaded)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("command", ["fit", "eval"])
def test_python_refuses_what_the_command_line_refuses(command):
    """With the same words, as a SettingError that names arguments and not flags."""
    run = {"fit": trainer.fit, "eval": trainer.evaluate}[command]
    options = {"fit": FIT_OPTIONS, "eval": options_of(EvalOptions)}[command]
    for name, *arguments in WRONG:
        if name != command:
            continue
        flags = {option.flag: option for option in options}
        values = {"model": "M"} if command == "eval" else {}
        arguments = arguments[len(values) :]
        for flag, text in zip(arguments[::2], arguments[1::2], strict=True):
            of_kind = {int: int, float: float}.get(flags[flag].kind, str)
            values[flags[flag].name] = of_kind(text)
        with pytest.raises(SettingError) as caught:
            run(**values)
        told = caught.value.command_line_message.rstrip(".")
        assert told in call(name, *arguments_of(name, arguments)).stderr
        assert "--" not in str(caught.value)


def arguments_of(name, arguments):
    return ("M", *arguments) if name == "eval" else tuple(arguments)


def test_python_shows_the_options_of_the_command_line():
    for run, options in (
        (trainer.fit, FIT_OPTIONS),
        (trainer.evaluate, options_of(EvalOptions)),
    ):
        parameters = inspect.signature(run).parameters
        assert list(parameters) == [option.name for option in options]
        for option in options:
            assert parameters[option.name].default == option.default
            assert f"    {option.name}: " in run.__doc__
            assert option.help.endswith(".")


def test_the_version_is_that_of_the_package():
    shown = call("--version").stdout
    assert shown == f"trainer {importlib.metadata.version('logitstore')}\n"
    module = [sys.executable, "-m", "trainer", "--version"]
    assert subprocess.run(module, check=True, capture_output=True, text=True).stdout == shown


def test_options_are_the_published_ones():
    published = (
        "--logits --student --out --alpha --temperature --loss --epochs --steps --batch-tokens "
        "--lr --seed --save-steps --resume"
    )
    shown = call("fit", "--help").stdout
    assert [option for option in published.split() if option not in shown] == []


@pytest.mark.parametrize("command", ["fit", "eval"])
def test_an_out_that_cannot_be_written_is_told_before_a_model_is_loaded(folder, command):
    (folder / "file").write_text("mine")
    (folder / "link").symlink_to(folder / "nowhere" / "run")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    given = {
        "fit": ("fit", "--student", folder / "no_student", *QUICK),
        "eval": ("eval", folder / "model", "--device", "cpu"),
    }
    for out in (folder / "file", folder / "link", folder / "file" / "run", "/proc/nope"):
        result = call(*given[command], "--logits", "S", "--out", out)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.startswith(f"error: {out if out != folder / 'file' / 'run' else ''}")
        assert "the folder cannot be used" in result.stderr
        assert result.stderr.endswith("Name another folder (--out)\n")
        assert len(result.stderr.splitlines()) == 1
