"""A short form of `tools.torture_power`: power is lost, and what was promised is there."""

import random
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import pytest

from logitstore.store import durable, local
from logitstore.store.commit import StoreWriter
from logitstore.store.local import LocalStorage
from tests import run_files
from tools.power_loss import Disk
from tools.torture_calls import CHANGES, calling
from tools.torture_power import broken, lose, recorded
from tools.torture_store import make_scene
from trainer.training.checkpoints import MARKER, complete_checkpoint, read_checkpoint

STATE = "trainer_state.json"


@contextmanager
def folders_unsynced():
    with ExitStack() as stack:
        for module in (durable, local):
            stack.enter_context(patch.object(module, "sync_folder", lambda folder: None))
        yield


def lost(disk, folder, *, loss="none"):
    """What the storage had promised in the end, and is not there."""
    disk.after(len(disk.steps), folder, loss=loss, generator=random.Random(0))
    return broken(disk, len(disk.steps), folder / "store")


def test_a_dump_goes_on_behind_a_loss_of_power(tmp_path):
    outcomes = lose(make_scene(tmp_path), losses=6, seed=0)
    assert (outcomes.total, outcomes.wrong) == (6, 0)


def test_the_model_loses_what_is_not_synced(tmp_path):
    scene = make_scene(tmp_path)
    with folders_unsynced():
        disk = recorded(scene, "parquet", killed_at=None, links=True)
    assert "commits/000000.json" in lost(disk, tmp_path / "left")
    assert not lost(disk, tmp_path / "all is left", loss="all")


def test_a_folder_that_a_killed_process_made_is_durable_when_something_in_it_is(tmp_path):
    scene, names = make_scene(tmp_path), []

    def note(call):
        if call.name in CHANGES:
            names.append(call.name)
        return call.made()

    with calling(tmp_path / "store", note):
        scene.dump(tmp_path / "store", container="parquet")
    kills = [at + 2 for at, name in enumerate(names) if name == "mkdir"]  # right behind it
    assert len(kills) >= 4
    for at in kills[:4]:
        disk = recorded(scene, "parquet", killed_at=at, links=True)
        assert not lost(disk, tmp_path / f"killed at {at}")


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "disk").mkdir()
    return Disk(tmp_path / "disk")


def test_what_another_has_put_is_durable_once_we_were_told_of_it(tmp_path, disk):
    storage = LocalStorage(tmp_path / "disk" / "store")
    with disk.recording():
        with folders_unsynced(), patch.object(durable, "_DURABLE", {}):  # as another process does
            assert storage.put_if_absent("x", b"theirs")
        assert not storage.put_if_absent("x", b"ours")
    disk.after(len(disk.steps), tmp_path / "left", loss="none", generator=random.Random(0))
    assert (tmp_path / "left" / "store" / "x").read_bytes() == b"theirs"


def test_a_checkpoint_that_is_called_whole_outlives_a_loss_of_power(tmp_path, disk):
    folder = tmp_path / "disk" / "checkpoint-10"
    with disk.recording():  # nothing but its marker is synced by itself
        folder.mkdir()
        for name, data in (("model.safetensors", b"x" * 10), (STATE, b'{"global_step": 10}')):
            with (folder / name).open("xb", buffering=0) as file:
                file.write(data)
        complete_checkpoint(folder, run_files.state(10), run=None)
    found = []
    for count in range(len(disk.steps) + 1):
        left = tmp_path / f"left after {count}"
        disk.after(count, left, loss="none", generator=random.Random(0))
        if (left / "checkpoint-10" / MARKER).exists():
            found.append(read_checkpoint(left / "checkpoint-10").step)
    assert found
    assert {*found} == {10}


def test_a_seal_makes_the_commits_of_others_durable(tmp_path):
    scene, commit = make_scene(tmp_path), StoreWriter.commit

    def commit_without_sync(writer, one):
        with folders_unsynced():
            return commit(writer, one)

    with patch.object(StoreWriter, "commit", commit_without_sync):
        disk = recorded(scene, "parquet", killed_at=None, links=True)
    assert not lost(disk, tmp_path / "left")
