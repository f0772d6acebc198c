"""A run's folder: what may be begun in it, and which checkpoints count."""

import pytest

from logitstore.errors import SpecError, StoreError
from trainer.training import run_folder

WANTED = {"alpha": 0.9, "lr": 1e-3}


def state(step):
    return {"step": step, "stream": {"epoch": 0}}


def begun(out, *, finished=False):
    out.mkdir()
    rest = {"settings": WANTED, "packing": {}}
    record = {"format": run_folder.FORMAT, "wanted": WANTED, "finished": finished} | rest
    run_folder.write_json(out / "run.json", record)
    return record


def checkpoint(out, step, *, complete=True):
    folder = out / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * step)
    if complete:
        run_folder.complete_checkpoint(folder, state(step))
    return folder


def test_a_new_or_empty_folder_begins_a_run(tmp_path):
    assert run_folder.begin(tmp_path / "new", wanted=WANTED, resume=False) is None
    assert run_folder.begin(tmp_path, wanted=WANTED, resume=True) is None


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="something else than a run"):
        run_folder.begin(tmp_path, wanted=WANTED, resume=True)
    with pytest.raises(StoreError, match="something else than a run"):
        run_folder.begin(tmp_path / "thesis.txt", wanted=WANTED, resume=False)


def test_an_unfinished_run_goes_on_only_when_asked(tmp_path):
    record = begun(tmp_path / "run")
    assert run_folder.begin(tmp_path / "run", wanted=WANTED, resume=True) == record
    with pytest.raises(StoreError, match="resume"):
        run_folder.begin(tmp_path / "run", wanted=WANTED, resume=False)


def test_a_finished_run_is_given_back(tmp_path):
    record = begun(tmp_path / "run", finished=True)
    assert run_folder.begin(tmp_path / "run", wanted=WANTED, resume=False) == record


@pytest.mark.parametrize("finished", [False, True])
def test_other_settings_are_named(tmp_path, finished):
    begun(tmp_path / "run", finished=finished)
    with pytest.raises(SpecError, match=r"alpha: 0\.9 there, 0\.5 here, seed: None there, 1 here"):
        run_folder.begin(
            tmp_path / "run", wanted={"alpha": 0.5, "lr": 1e-3, "seed": 1}, resume=True
        )


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": "another"}', '{"format": "trainer-run/1"}']
)
def test_a_broken_record_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StoreError, match=r"run\.json"):
        run_folder.begin(tmp_path, wanted=WANTED, resume=True)


def test_the_newest_whole_checkpoint_counts(tmp_path):
    for step in (9, 10):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 11, complete=False)
    assert run_folder.newest_checkpoint(tmp_path) == (tmp_path / "checkpoint-10", state(10))


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone", "marker", "empty marker"])
def test_a_damaged_checkpoint_does_not_count(tmp_path, harm):
    checkpoint(tmp_path, 9)
    torn = checkpoint(tmp_path, 10)
    if harm == "cut":
        (torn / "model.safetensors").write_bytes(b"x")
    elif harm == "flipped":
        (torn / "model.safetensors").write_bytes(b"x" * 9 + b"y")
    elif harm == "empty marker":
        (torn / run_folder.MARKER).write_text("[]")
    elif harm == "gone":
        (torn / "model.safetensors").unlink()
    else:
        (torn / run_folder.MARKER).write_text("{")
    assert run_folder.newest_checkpoint(tmp_path) == (tmp_path / "checkpoint-9", state(9))
    run_folder.remove_torn_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-9"]


def test_without_checkpoints_there_is_none(tmp_path):
    assert run_folder.newest_checkpoint(tmp_path) is None
