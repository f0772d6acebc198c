"""What every command shares: messages, exit codes, JSON."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import logitstore
from logitstore.cli.console import RESUMES, announce_hub, print_json, reporting_errors
from logitstore.cli.interruption import Interrupted
from logitstore.errors import SettingError


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (SettingError("too small", place="--k", found=0), "error: --k: too small (found 0)\n", 1),
        (KeyboardInterrupt(), f"error: interrupted. {RESUMES}\n", 130),
        (Interrupted(signal.SIGINT), f"error: interrupted. {RESUMES}\n", 130),
        (Interrupted(signal.SIGTERM), f"error: terminated. {RESUMES}\n", 143),
        (
            OSError(errno.ENOSPC, "full", "shard"),
            f"error: shard: no space left. Make room. {RESUMES}\n",
            1,
        ),
        (
            MemoryError(),
            f"error: out of memory. Make room, or ask for less at once. {RESUMES}\n",
            1,
        ),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_expected_errors_are_one_message_and_an_exit_code(capsys, error, message, code, as_json):
    with pytest.raises(SystemExit) as left, reporting_errors(json=as_json):
        raise error
    assert left.value.code == code
    shown = capsys.readouterr()
    assert shown.err == message
    if as_json:
        assert json.loads(shown.out) == {"error": message.removeprefix("error: ").rstrip("\n")}
    else:
        assert shown.out == ""


def test_what_is_kept_is_said_at_an_interruption(capsys):
    error = KeyboardInterrupt()
    error.add_note("3 of 12 units are stored")
    with pytest.raises(SystemExit), reporting_errors(json=False):
        raise error
    assert capsys.readouterr().err == f"error: interrupted; 3 of 12 units are stored. {RESUMES}\n"


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), reporting_errors(json=False):
        1 / 0  # noqa: B018
    with pytest.raises(OSError, match="odd"), reporting_errors(json=False):
        raise OSError(errno.EIO, "odd")


def test_what_is_asked_of_the_hub_is_said_before(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    names = ["org/model", "model", "org/data:config:split", "org/model"]
    announce_hub(*names, "gpt2", str(tmp_path), "./model", "a/b/c", "data.jsonl", None, object())
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": no such path")[0] for line in lines] == names[:3]
    assert all("Hub" in line for line in lines)


def test_json_is_valid_whatever_the_numbers(capsys):
    print_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": "é"}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": {"d": "é"}}


@pytest.mark.parametrize("words", [["inspect"], ["inspect", "--json"], ["verify", "--json"]])
def test_a_full_disk_behind_standard_output_is_told(tmp_path, teacher_folder, words):
    if not Path("/dev/full").exists():
        pytest.skip("no full device here")
    logitstore.dump(teacher=str(teacher_folder), data=["the teacher"], out=tmp_path / "store")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "logitstore", words[0], str(tmp_path / "store"), *words[1:]],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "error: standard output or a file: no space left. Make room. Run the same command again\n"
    )
