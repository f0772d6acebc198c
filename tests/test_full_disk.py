"""`trainer fit` on a disk that fills: one sentence, a whole checkpoint left, and --resume."""

import errno
import json
import os
import resource
import subprocess
from contextlib import contextmanager, suppress

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import logitstore
from tests.forked import run
from tests.memory_store import MemoryStore
from tests.tiny_models import CONFIGS
from trainer.cli import app
from trainer.training.checkpoints import find_checkpoints

QUICK = "--steps 9 --save-steps 3 --log-steps 1 --batch-tokens 64 --micro-tokens 16 --device cpu"
FULL_AT = 4  # a step behind the first checkpoint


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Runs `trainer fit` into a folder; `fill` is called when step FULL_AT is reported."""
    (tmp_path / "tokenizer").mkdir()
    store = MemoryStore(tokenizer=tmp_path / "tokenizer")
    monkeypatch.setattr(logitstore, "open", lambda _, **__: store, raising=False)
    # The command looks whether a store lies there before anything opens it.
    monkeypatch.setattr("trainer.cli.commands.refuse_bad_store", lambda _: None)
    (tmp_path / "student.json").write_text(CONFIGS["llama"].to_json_string())

    def run(out, *more, fill=lambda: None):
        def report(one):
            if one["step"] == FULL_AT:
                fill()

        monkeypatch.setattr("trainer.cli.commands._reporting", lambda *_: report)
        places = ["--logits", "S", "--student", tmp_path / "student.json", "--out", out]
        return CliRunner().invoke(app, ["fit", *map(str, places), *QUICK.split(), *more])

    return run


def weights(out):
    return load_file(out / "model.safetensors")


def check_told(result, out):
    """One sentence with the path and the way out, and the checkpoint of before is whole."""
    assert result.exit_code == 1, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"error: {out}")
    assert result.stderr.endswith(
        "Make room, then go on from the last whole checkpoint (--resume)\n"
    )
    newest = find_checkpoints(out).newest
    assert newest is not None
    assert newest.step in (3, 6)


@contextmanager
def no_larger_files(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 10_000, 30_000, 45_000])
def test_a_file_that_cannot_grow_is_told_and_the_run_goes_on(tmp_path, fit, size):
    """The weights, the optimiser at its beginning, and at its end."""
    assert fit(tmp_path / "straight").exit_code == 0
    out = tmp_path / "run"
    with no_larger_files(size) as fill:
        result = fit(out, fill=fill)
    check_told(result, out)
    assert fit(out, "--resume").exit_code == 0
    first, second = weights(tmp_path / "straight"), weights(out)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill_disk(place, *, free):
    """Leave `free` bytes."""
    with suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    size = (place / "filler").stat().st_size
    with (place / "filler").open("r+b") as file:
        file.truncate(size - free)


def test_a_disk_that_fills_at_any_file_is_told_and_the_run_goes_on(tmp_path, fit, small_disk):
    assert fit(tmp_path / "straight").exit_code == 0
    expected, out = weights(tmp_path / "straight"), small_disk / "run"
    told = set()
    for pages in (0, 9, 20, 30, 45):
        result = fit(out, fill=lambda free=4096 * pages: fill_disk(small_disk, free=free))
        check_told(result, out)
        told.add(result.stderr.split(":")[1])
        (small_disk / "filler").unlink()
        assert fit(out, "--resume").exit_code == 0
        assert all(torch.equal(expected[name], value) for name, value in weights(out).items())
        subprocess.run(["rm", "-r", out], check=True)
    assert len(told) > 1


def test_a_disk_that_is_full_at_the_very_start_blocks_no_folder(fit, small_disk):
    out = small_disk / "run"
    for pages in (0, 1, 2):
        fill_disk(small_disk, free=4096 * pages)
        result = fit(out)
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith("error: ")
        (small_disk / "filler").unlink()
        # Where two pages were left, run.json was written.
        assert fit(out, *["--resume"] * (pages > 0)).exit_code == 0
        subprocess.run(["rm", "-r", out], check=True)


@pytest.mark.parametrize("first", [1, 4, 20])
def test_a_disk_that_answers_with_an_error_is_told_and_the_run_goes_on(
    tmp_path, fit, monkeypatch, first
):
    """A disk tells of what it could not write when a file is synced."""
    assert fit(tmp_path / "straight").exit_code == 0
    out, calls = tmp_path / "run", []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) >= first:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        result = fit(out, fill=lambda: patched.setattr(os, "fsync", fsync))
    check_told(result, out)
    assert "Input/output error" in result.stderr
    assert fit(out, "--resume").exit_code == 0
    expected, found = weights(tmp_path / "straight"), weights(out)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_kill_between_any_two_file_operations_loses_nothing(tmp_path):
    """A real process, killed while it saves a checkpoint and while it writes the result."""
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    (tmp_path / "student.json").write_text(CONFIGS["llama"].to_json_string())
    settings = {"steps": 9, "save_steps": 3, "log_steps": 1, "batch_tokens": 64, "micro_tokens": 16}
    done = run(
        *("tests.kill_worker", tmp_path / "runs"),
        *(tmp_path / "student.json", json.dumps(settings), "4"),
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) >= 6
    assert [what for what, same in found if not same] == []
