"""Folders of the trainer that hold no model: each is told what lies there and what to name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import trainer
from logitstore.errors import CorruptionError, ModelError, StoreError
from tests.memory_store import MemoryStore
from tests.test_distil import interrupt_at
from tests.test_trainer_cli import call, folder  # noqa: F401
from tests.tiny_models import CONFIGS
from trainer.training.model_folders import refuse_no_model_yet, runs_in


def run(tmp_path: Path, name: str, *, stop: int | None = None, save_steps: int = 2) -> Path:
    """The folder of a run of 6 steps, stopped after `stop` of them."""
    student = tmp_path / "student.json"
    student.write_text(CONFIGS["llama"].to_json_string())
    (tmp_path / "tokenizer").mkdir(exist_ok=True)
    settings = {"batch_tokens": 64, "micro_tokens": 16, "log_steps": 1, "device": "cpu"}
    settings |= {"steps": 6, "save_steps": save_steps, "student": student, "out": tmp_path / name}
    store = MemoryStore(tokenizer=tmp_path / "tokenizer")
    if stop is None:
        trainer.fit(logits=store, **settings)
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(logits=store, **settings, report=interrupt_at(stop))
    return tmp_path / name


@pytest.fixture
def half(tmp_path: Path) -> Path:
    return run(tmp_path, "half", stop=5)


def test_an_unfinished_run_is_no_model_and_its_checkpoint_is_named(half: Path) -> None:
    store = MemoryStore()
    newest = max(half.glob("checkpoint-*"), key=lambda one: int(one.name.rpartition("-")[2]))
    said = rf"half: the run has not finished.*{newest.name}, of 6 steps.*resume.*{newest}"
    for measure in (trainer.evaluate, trainer.diagnose):
        with pytest.raises(ModelError, match=said):
            measure(str(half), logits=store)
    with pytest.raises(ModelError, match=said):
        trainer.fit(logits=store, student=half, out=half.parent / "other", steps=1)
    # What is named instead is one that can be measured.
    assert trainer.evaluate(str(newest), logits=store, device="cpu")["targets"] > 0


@pytest.mark.parametrize("command", ["eval", "diagnose", "fit", "student"])
def test_the_command_line_says_so_in_one_line(folder, half: Path, command: str) -> None:  # noqa: F811
    given = {
        "eval": ("eval", half, "--logits", "S"),
        "diagnose": ("diagnose", half, "--logits", "S"),
        "fit": ("fit", "--student", half, "--logits", "S", "--out", folder / "new"),
        "student": ("student", "--from", half, "--layers", "1", "--out", folder / "new"),
    }[command]
    done = call(*given)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "the run has not finished" in done.stderr
    assert not (folder / "new").exists()


def test_a_run_without_a_checkpoint_says_that_there_is_none(tmp_path: Path) -> None:
    half = run(tmp_path, "half", stop=1, save_steps=5)
    for one in half.glob("checkpoint-*"):
        shutil.rmtree(one)
    with pytest.raises(ModelError, match=r"found no checkpoint.*resume[^,]*$"):
        refuse_no_model_yet(str(half))


def test_a_record_that_was_changed_is_told_and_one_of_others_is_left(half: Path) -> None:
    record = half / "run.json"
    record.write_text(record.read_text().replace('"finished": false', '"finished": true'))
    with pytest.raises(CorruptionError, match=r"run\.json"):
        refuse_no_model_yet(str(half))
    record.write_text('{"my": "own"}')
    refuse_no_model_yet(str(half))
    refuse_no_model_yet("x" * 5000)
    refuse_no_model_yet(str(half / "nowhere"))


def test_the_folder_of_a_sweep_names_its_runs(tmp_path: Path, half: Path) -> None:
    sweep = tmp_path / "sweep"
    (sweep / "runs").mkdir(parents=True)
    (sweep / "sweep.html").touch()
    (sweep / "results.json").write_text("{}")
    half.rename(sweep / "runs" / "alpha-0_seed-0")
    done = run(tmp_path, "done").rename(sweep / "runs" / "alpha-1_seed-0")
    assert [one.name for one in runs_in(sweep)] == ["alpha-0_seed-0", "alpha-1_seed-0"]
    with pytest.raises(ModelError, match=rf"a sweep of 2 runs.*sweep\.html.*as {done}$"):
        trainer.evaluate(str(sweep), logits=MemoryStore())
    said = rf"sweep: .*a sweep of 2 runs, whose page is .*trainer report {sweep / 'runs'}/\*$"
    with pytest.raises(StoreError, match=said):
        trainer.report([sweep])
    # What is to be typed, as a shell reads it.
    page = trainer.report(sorted((sweep / "runs").glob("*")), out=tmp_path / "page.html")
    assert [row["name"] for row in page.rows] == ["alpha-0_seed-0", "alpha-1_seed-0"]
    with pytest.raises(StoreError, match=r"found 2 runs.*trainer report .*runs/\*$"):
        trainer.report([sweep / "runs"])


def test_a_finished_run_is_a_model(tmp_path: Path) -> None:
    refuse_no_model_yet(str(run(tmp_path, "done")))
