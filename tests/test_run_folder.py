"""A run's folder: what may be begun in it, and which checkpoints count."""

import os
from pathlib import Path

import pytest

from logitstore.errors import SpecError, StorageError, StoreError
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


def bad_folders(tmp_path):
    """Places that cannot be the folder of a run, also not for an administrator, and why."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "run")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return {
        tmp_path / "file": "a file is in the way",
        tmp_path / "file" / "run": "a file is in the way",
        tmp_path / "dangling": "it is a link to a folder that is not there",
        tmp_path / "dangling" / "run": "it is a link to a folder that is not there",
        tmp_path / "loop": "it is a link to a folder that is not there",
        tmp_path / ("n" * 300): "File name too long",
        tmp_path / "zero\0byte": "null",
        Path("/proc/nope"): "No such file",
        Path("/proc/nope/deeper"): "No such file",
    }


def test_a_folder_that_cannot_be_written_is_told_and_nothing_is_left(tmp_path):
    for out, reason in bad_folders(tmp_path).items():
        before = sorted(tmp_path.iterdir())
        with pytest.raises(StorageError, match=f"cannot be used: .*{reason}.*another folder"):
            run_folder.begin(out, wanted=WANTED, resume=True)
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.getuid() == 0, reason="an administrator may write everywhere")
def test_a_folder_without_permission_is_told(tmp_path):
    record = begun(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    for name in ("run", "empty"):
        (tmp_path / name).chmod(0o555)
        with pytest.raises(StorageError, match="cannot be used: Permission denied"):
            run_folder.begin(tmp_path / name, wanted=WANTED, resume=True)
    (tmp_path / "run").chmod(0o755)
    run_folder.write_json(tmp_path / "run" / "run.json", record | {"finished": True})
    (tmp_path / "run").chmod(0o555)
    assert run_folder.begin(tmp_path / "run", wanted=WANTED, resume=True)["finished"]
    (tmp_path / "empty").chmod(0o000)
    with pytest.raises(StorageError, match="cannot be used: Permission denied"):
        run_folder.begin(tmp_path / "empty" / "run", wanted=WANTED, resume=True)


def test_a_new_folder_is_not_made_before_something_is_written(tmp_path):
    assert run_folder.begin(tmp_path / "a" / "b", wanted=WANTED, resume=False) is None
    assert list(tmp_path.iterdir()) == []


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
    with pytest.raises(
        SpecError, match=r"alpha 0\.9 there, 0\.5 here, seed not given there, 1 here"
    ):
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
