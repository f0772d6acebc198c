"""`--skip-damaged`: a store is read without its damaged blocks, which are named and counted."""

import json
import pickle
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import logitstore
import trainer
from logitstore.errors import CorruptionError, SettingError, SpecError, StorageError, StoreError
from logitstore.store.local import LocalStorage
from logitstore.store.reader import Store
from tests.forked import start
from tools.torture_store import CONTAINERS, make_scene
from trainer.cli import app
from trainer.training.state_files import RunWarning

QUICK: dict[str, Any] = {
    "steps": 6,
    "save_steps": 2,
    "log_steps": 1,
    "batch_tokens": 128,
    "micro_tokens": 64,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound store of each container, with several units of several blocks."""
    scene = make_scene(tmp_path_factory.mktemp("scene"), records=16)
    for container in CONTAINERS:
        scene.dump(scene.folder / container, container=container)
    return {one: scene.folder / one for one in CONTAINERS} | {"teacher": scene.teacher}


@pytest.fixture(params=CONTAINERS)
def copy(request: pytest.FixtureRequest, stores: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(stores[request.param], tmp_path / "store"))


def shard_files(store: Path) -> list[Path]:
    """The largest file of each shard, in order of the units."""
    return [
        max((one for one in shard.rglob("*") if one.is_file()), key=lambda one: one.stat().st_size)
        for shard in sorted((store / "data").iterdir())
    ]


def flip(file: Path, *, place: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 1
    file.write_bytes(data)


def remove_shard(store: Path) -> None:
    shard_files(store)[1].unlink()


def flip_block(store: Path) -> None:
    flip(shard_files(store)[1], place=0.4)


def flip_commit(store: Path) -> None:
    flip(sorted((store / "commits").iterdir())[1], place=0.5)


@pytest.mark.parametrize("damage", [remove_shard, flip_block, flip_commit])
def test_a_view_holds_the_sound_blocks_and_names_the_others(
    copy: Path, damage: Callable[[Path], None]
) -> None:
    whole = logitstore.open(copy)
    expected = [
        block.input_ids_N.tolist() for block in map(whole.read_block, range(len(whole.blocks)))
    ]
    fingerprint, counts = whole.fingerprint, list(whole.blocks)
    damage(copy)
    store = logitstore.open(copy, skip_damaged=True)
    left_out = [one.number for one in store.damaged]
    unit = [number for number in range(len(counts)) if whole.unit_of(number) == 1]
    assert left_out
    assert set(left_out) <= set(unit)
    kept = [number for number in range(len(counts)) if number not in left_out]
    assert list(store.blocks) == [counts[number] for number in kept]
    found = [store.read_block(number).input_ids_N.tolist() for number in range(len(store.blocks))]
    assert found == [expected[number] for number in kept]
    assert len(store) == sum(counts[number].documents for number in kept) == len(list(store))
    assert sum(len(store.document_lengths(one)[0]) for one in range(len(kept))) == len(store)
    assert store.fingerprint != fingerprint
    assert all(str(copy) in one.place and one.problem for one in store.damaged)
    for other in (pickle.loads(pickle.dumps(store)), logitstore.open(copy).sound()):
        assert other.fingerprint == store.fingerprint
        assert other.damaged == store.damaged
    with pytest.raises(CorruptionError):
        list(logitstore.open(copy))
    with pytest.raises(CorruptionError, match="more blocks are damaged"):
        logitstore.open(copy, skip_damaged=len(left_out) - 1)
    assert len(logitstore.open(copy, skip_damaged=len(left_out))) == len(store)


def test_a_sound_store_is_the_same_with_and_without(stores: dict[str, Path]) -> None:
    store = logitstore.open(stores["zarr"], skip_damaged=0)
    assert store.damaged == ()
    assert store.fingerprint == logitstore.open(stores["zarr"]).fingerprint


def test_a_storage_that_refuses_for_now_is_no_damage(stores: dict[str, Path]) -> None:
    class Refusing(LocalStorage):
        def read_ranges(self, name: str, ranges: Any) -> list[bytes]:
            raise StorageError("no connection", place=name)

        def read(self, name: str) -> bytes:
            if name.startswith("data/"):
                raise StorageError("no connection", place=name)
            return super().read(name)

    with pytest.raises(StorageError, match="no connection"):
        logitstore.open(Refusing(stores["zarr"]), skip_damaged=True)


def test_what_says_nothing_of_a_single_block_stays_refused(copy: Path) -> None:
    flip(copy / "manifest.json", place=0.5)
    with pytest.raises(CorruptionError):
        logitstore.open(copy, skip_damaged=True)


def test_where_nothing_is_sound_nothing_is_read(copy: Path) -> None:
    shutil.rmtree(copy / "data")
    with pytest.raises(CorruptionError, match="every block is damaged"):
        logitstore.open(copy, skip_damaged=True)


# --- runs


def fit(store: Any, out: Path, teacher: Path, **more: Any) -> dict[str, Any]:
    student = str(teacher / "config.json")
    return trainer.fit(logits=store, student=student, out=out, **QUICK | more)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def same(one: Path, two: Path) -> bool:
    first, second = weights(one), weights(two)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def damaged(stores: dict[str, Path], tmp_path: Path) -> Path:
    store = Path(shutil.copytree(stores["zarr"], tmp_path / "store"))
    flip_block(store)
    return store


def test_a_run_leaves_out_the_damaged_blocks_and_goes_on_without_a_scan(
    damaged: Path, stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, sound = stores["teacher"], logitstore.open(stores["zarr"])
    with pytest.raises(CorruptionError):
        fit(damaged, tmp_path / "refused", teacher)
    left_out = logitstore.open(damaged, skip_damaged=True).damaged
    fit(sound.without(left_out), tmp_path / "view", teacher)
    with pytest.warns(RunWarning, match=f"{len(left_out)} of {len(sound.blocks)} blocks"):
        result = fit(damaged, tmp_path / "run", teacher, skip_damaged="all")
    assert [one[0] for one in result["damaged"]] == [one.number for one in left_out]
    assert same(tmp_path / "view", tmp_path / "run")

    def stop(one: dict[str, float]) -> None:
        if one["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pytest.warns(RunWarning):
        fit(damaged, tmp_path / "stopped", teacher, skip_damaged=True, report=stop)
    with pytest.raises(SpecError, match="skip_damaged all there, not given here"):
        fit(damaged, tmp_path / "stopped", teacher, resume=True)
    monkeypatch.setattr("trainer.training.damage.find_damaged", None)
    with pytest.warns(RunWarning, match="are damaged"):
        fit(damaged, tmp_path / "stopped", teacher, skip_damaged=9, resume=True)
    assert same(tmp_path / "view", tmp_path / "stopped")


def test_what_is_damaged_after_the_run_has_begun_is_refused(
    damaged: Path, stores: dict[str, Path], tmp_path: Path
) -> None:
    def stop(one: dict[str, float]) -> None:
        if one["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pytest.warns(RunWarning):
        fit(damaged, tmp_path / "run", stores["teacher"], skip_damaged=True, report=stop)
    for file in shard_files(damaged):
        flip(file, place=0.6)
    with pytest.raises(CorruptionError), pytest.warns(RunWarning):
        fit(damaged, tmp_path / "run", stores["teacher"], skip_damaged=True, resume=True)


def test_a_run_begun_without_does_not_go_on_with(stores: dict[str, Path], tmp_path: Path) -> None:
    fit(stores["zarr"], tmp_path / "run", stores["teacher"])
    with pytest.raises(SpecError, match="skip_damaged not given there, all here"):
        fit(stores["zarr"], tmp_path / "run", stores["teacher"], skip_damaged=True, resume=True)


def test_two_ranks_leave_out_the_same(
    damaged: Path, stores: dict[str, Path], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = (
        "import sys, json, trainer\n"
        "trainer.fit(logits=sys.argv[1], student=sys.argv[2], out=sys.argv[3],"
        " skip_damaged=True, **json.loads(sys.argv[4]))"
    )
    remove_shard(damaged)  # of all its blocks, each rank finds some
    arguments = [str(damaged), str(stores["teacher"] / "config.json"), str(tmp_path / "two")]
    ranks = [
        start(
            *("-c", script, *arguments, json.dumps(QUICK)),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
        )
        for rank in range(2)
    ]
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    assert "blocks are damaged" in errors[0]
    assert "blocks are damaged" not in errors[1]
    with pytest.warns(RunWarning):
        fit(damaged, tmp_path / "one", stores["teacher"], skip_damaged=True)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_steps_before_damage_is_met_are_kept(stores: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(stores["zarr"], tmp_path / "store"))
    flip_block(copy)
    long: dict[str, Any] = {**QUICK, "batch_tokens": 256, "steps": 40, "save_steps": 1000}
    # Which step meets the damage is drawn from the seed and from what the store holds, whose last
    # bits are those of a machine.
    for seed in range(6):
        long["seed"], run = seed, tmp_path / f"run {seed}"
        with pytest.raises(CorruptionError) as caught:
            trainer.fit(logits=copy, student=stores["teacher"], out=run, **long)
        if [*run.glob("checkpoint-*")]:
            break
    kept = r"Put a copy of the file back.*checkpoint-\d+ is kept: resume goes on from it once"
    assert re.search(kept, str(caught.value))
    shutil.rmtree(copy)
    shutil.copytree(stores["zarr"], copy)
    trainer.fit(logits=copy, student=stores["teacher"], out=run, resume=True, **long)
    trainer.fit(logits=copy, student=stores["teacher"], out=tmp_path / "whole", **long)
    assert same(run, tmp_path / "whole")
    histories = [
        json.loads((one / "history.json").read_text()) for one in (run, tmp_path / "whole")
    ]
    assert [one["loss"] for one in histories[0]] == [one["loss"] for one in histories[1]]


@pytest.mark.parametrize("words", [["--skip-damaged"], ["--skip-damaged", "2"]])
def test_the_commands_take_it_with_a_number_and_without(
    damaged: Path, stores: dict[str, Path], tmp_path: Path, words: list[str]
) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    student = str(stores["teacher"] / "config.json")
    places = ["--logits", str(damaged), "--student", student, "--out", str(tmp_path / "run")]
    call = CliRunner().invoke
    done = call(app, ["fit", *words, *places, *flags])
    assert done.exit_code == 0, done.stderr
    assert re.search(r"blocks are damaged and left out, with \d+ of \d+ documents", done.stderr)
    assert re.search(r"\(without \d+ damaged blocks?\)\n$", done.stdout)
    run = str(tmp_path / "run")
    assert call(app, ["eval", run, "--logits", str(damaged), "--device", "cpu"]).exit_code == 1
    done = call(app, ["eval", run, *words, "--logits", str(damaged), "--device", "cpu"])
    assert done.exit_code == 0, done.stderr
    assert "blocks are damaged and left out, with " in done.stderr
    measured = json.loads((tmp_path / "run" / "eval.json").read_text())
    learnt = json.loads((tmp_path / "run" / "run.json").read_text())
    assert measured["damaged"] == learnt["damaged"] != []
    done = call(app, ["report", run, "--out", str(tmp_path / "page.html"), "--json"])
    for what in ("Learnt", "Measured"):
        note = f"{what} without damaged blocks of the store: run ({len(learnt['damaged'])})."
        assert note in json.loads(done.stdout)["notes"]


def test_weights_of_a_run_that_have_changed_are_not_measured(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    """Nor by any other name of their folder; what no run has written is measured as it is."""
    fit(stores["zarr"], tmp_path / "run", stores["teacher"])
    flip(tmp_path / "run" / "model.safetensors", place=0.7)
    with pytest.raises(StoreError, match=r"model\.safetensors.*changed.*to a folder without run"):
        trainer.evaluate(tmp_path / "run", logits=stores["zarr"], device="cpu", out=tmp_path)
    (tmp_path / "run" / "run.json").unlink()
    trainer.evaluate(tmp_path / "run", logits=stores["zarr"], device="cpu", out=tmp_path)


@pytest.mark.parametrize("value", ["many", -1, 1.5, "9" * 40, False])
def test_no_number_of_blocks_is_refused(stores: dict[str, Path], value: Any) -> None:
    with pytest.raises(SettingError, match="no number of blocks"):
        fit(stores["zarr"], Path("no/where"), stores["teacher"], skip_damaged=value)


@pytest.mark.parametrize("value", ["-1", "many", "-9.5"])
def test_the_commands_tell_a_value_that_is_no_number_of_blocks(value: str) -> None:
    places = ["--logits", "no", "--student", "no", "--out", "no"]
    done = CliRunner().invoke(app, ["fit", "--skip-damaged", value, *places])
    assert done.exit_code == 2
    assert f"no number of blocks (found '{value}'; allowed: all, or 0 or more)" in done.stderr


def test_other_stores_have_no_view(stores: dict[str, Path], tmp_path: Path) -> None:
    class Other:
        def __init__(self, store: Store) -> None:
            for name in ("fingerprint", "spec", "blocks", "draw"):
                setattr(self, name, getattr(store, name))
            self.with_draw, self.read_block = store.with_draw, store.read_block
            self.document_lengths = store.document_lengths

    with pytest.raises(SettingError, match=r"logitstore\.open"):
        fit(Other(logitstore.open(stores["zarr"])), tmp_path, stores["teacher"], skip_damaged=True)
