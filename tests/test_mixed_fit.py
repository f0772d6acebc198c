"""`trainer fit` on several stores: named in run.json, exact after a stop, refused where changed."""

import json
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer
from typer.testing import CliRunner

import logitstore
import trainer
from logitstore.errors import CorruptionError, SettingError, SpecError, StoreError
from tests.memory_store import MemoryStore
from tests.test_distil import SETTINGS, difference, history, interrupt_at, start_worker
from tests.test_skip_damaged import flip, shard_files
from tests.tiny_models import CONFIGS, tiny
from tools.torture_store import CONTAINERS, make_scene
from trainer.cli import app
from trainer.training.run_record import read_record, write_record
from trainer.training.state_files import RunWarning

MIX = [[1, 2.0], [2, 0.5]]  # seeds of stores in memory, and their weights


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer").mkdir()
    path = tmp_path / "student.json"
    path.write_text(CONFIGS["llama"].to_json_string())
    return path


def fit(out: Path, config: Path, *, stores: Any = MIX, **settings: Any) -> dict[str, Any]:
    parts = [(MemoryStore(seed=seed), weight) for seed, weight in stores]
    result: dict[str, Any] = trainer.fit(
        **SETTINGS | {"logits": parts, "student": config, "out": out, "device": "cpu"} | settings
    )
    return result


def test_a_run_names_what_it_learns_from(tmp_path: Path, config: Path) -> None:
    result = fit(tmp_path / "run", config, epochs=2)
    assert read_record(tmp_path / "run") == result
    expected = [
        {"name": "memory", "store": f"{seed:064x}", "teacher": "table", "weight": weight}
        for seed, weight in MIX
    ]
    assert result["parts"] == expected
    assert result["store"] == trainer.mix([(MemoryStore(seed=s), w) for s, w in MIX]).fingerprint
    assert result["teacher"] == "table"
    one, other = (sum(b.targets for b in MemoryStore(seed=seed).blocks) for seed, _ in MIX)
    reports = history(tmp_path / "run")
    assert sum(report["targets"] for report in reports) == 4 * one + other
    assert reports[-1]["epoch"] == 2.0


def test_a_student_learns_from_both(tmp_path: Path, config: Path) -> None:
    result = fit(tmp_path / "run", config, epochs=6, lr=1e-2, log_steps=5)
    reports = history(tmp_path / "run")
    assert reports[-1]["loss"] < 0.9 * reports[0]["loss"]
    assert result["finished"]


@pytest.mark.parametrize("stop", [4, 10, 23])
def test_a_stopped_run_ends_as_one_without_a_stop(tmp_path: Path, config: Path, stop: int) -> None:
    settings: dict[str, Any] = {"steps": 26, "save_steps": 4}
    fit(tmp_path / "straight", config, **settings)
    assert history(tmp_path / "straight")[-1]["epoch"] > 1
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", config, **settings, report=interrupt_at(stop))
    fit(tmp_path / "stopped", config, **settings, resume=True)
    assert difference(tmp_path / "straight", tmp_path / "stopped") == 0


def test_a_killed_run_goes_on_bit_by_bit(tmp_path: Path, config: Path) -> None:
    settings: dict[str, Any] = {"steps": 14, "save_steps": 4}
    fit(tmp_path / "straight", config, **settings)
    out = tmp_path / "killed"
    killed = start_worker(out, config, settings | {"stores": MIX}, killed_at=11)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    # Given in another order: it is the same mix.
    fit(out, config, stores=MIX[::-1], **settings, resume=True)
    assert difference(tmp_path / "straight", out) == 0


@pytest.mark.parametrize("micro_tokens", [16, 32])
def test_two_processes_give_the_weights_of_one(
    tmp_path: Path, config: Path, micro_tokens: int
) -> None:
    """With two bins each process owns lanes of both stores, with four they share a stream."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    settings: dict[str, Any] = {"steps": 10, "micro_tokens": micro_tokens}
    ranks = [
        start_worker(
            tmp_path / "two",
            config,
            settings | {"stores": MIX},
            **common,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
        )
        for rank in range(2)
    ]
    fit(tmp_path / "one", config, **settings)
    for rank in ranks:
        _, errors = rank.communicate()
        assert rank.returncode == 0, errors
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-5
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    assert [r["targets"] for r in one] == [r["targets"] for r in two]


@pytest.mark.parametrize(
    ("stores", "message"),
    [
        ([[1, 1.0], [2, 0.5]], r"memory@2 \(0+\) and .* there, memory@1 \(0+\) and memory@0\.5"),
        ([[1, 2.0], [3, 0.5]], "other stores, or other weights: memory@2"),
        ([[1, 2.0]], r"memory@2 \(0+\) and memory@0\.5 \(0+\) there, memory@2 \(0+\) here"),
        ([[1, 1.0]], r"and memory@0\.5 \(0+\) there, one store \(0+\) here"),
    ],
)
def test_other_stores_or_weights_are_refused_by_name(
    tmp_path: Path, config: Path, stores: Any, message: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", config, steps=6, report=interrupt_at(4))
    with pytest.raises(SpecError, match=message):
        fit(tmp_path / "run", config, stores=stores, steps=6, resume=True)


def test_a_run_of_one_store_is_refused_several(tmp_path: Path, config: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", config, stores=[[1, 1]], steps=6, report=interrupt_at(4))
    with pytest.raises(SpecError, match=r"one store \(0+\) there, memory@2"):
        fit(tmp_path / "run", config, steps=6, resume=True)


def test_one_store_of_weight_1_is_that_store(tmp_path: Path, config: Path) -> None:
    mixed = fit(tmp_path / "one", config, stores=[[1, 1]], steps=3)
    alone = fit(tmp_path / "two", config, logits=MemoryStore(seed=1), steps=3)
    assert difference(tmp_path / "one", tmp_path / "two") == 0
    assert mixed["packing"] == alone["packing"]
    assert "parts" not in mixed


@pytest.mark.parametrize("field", ["weight", "store", "window", "blocks", "parts"])
def test_a_record_whose_parts_do_not_agree_is_refused(
    tmp_path: Path, config: Path, field: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(out, config, steps=6, window=2, report=interrupt_at(4))
    record = json.loads((out / "run.json").read_text())
    del record["sha256"]
    shuffled = record["packing"]["shuffle"]["parts"][0]
    if field == "window":
        shuffled["shuffle"]["window"] = 3
    elif field == "blocks":
        shuffled["blocks"] = 0
    elif field == "parts":
        del record["parts"][1]
    else:
        record["parts"][0][field] = 3.0 if field == "weight" else "1" * 64
    write_record(out, record)
    with pytest.raises(StoreError, match=r"does not agree|cannot be"):
        fit(out, config, steps=6, window=2, resume=True)


def test_what_is_learnt_from_is_not_held_out(tmp_path: Path, config: Path) -> None:
    with pytest.raises(SpecError, match="is the one that is learnt from"):
        fit(tmp_path / "run", config, steps=2, eval_logits=MemoryStore(seed=2))
    result = fit(tmp_path / "run", config, steps=2, eval_logits=MemoryStore(seed=3))
    assert result["best"]["step"] == 2


def test_losses_over_spans_take_one_store(tmp_path: Path, config: Path) -> None:
    for logits in (["a", "b"], "a@2"):
        with pytest.raises(SettingError, match="not served for losses over spans"):
            fit(tmp_path / "run", config, logits=logits, loss="alm")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two stores on the disk, of different containers and K."""
    scene = make_scene(tmp_path_factory.mktemp("scene"), records=16)
    for container, k in zip(CONTAINERS, (6, 4), strict=True):
        scene.dump(scene.folder / container, container=container, k=k)
    return scene


@pytest.fixture
def stores(scene: Any, tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(scene.folder / one, tmp_path / one)) for one in sorted(CONTAINERS)]


QUICK = ["--steps=6", "--save-steps=2", "--batch-tokens=128", "--micro-tokens=64", "--device=cpu"]


def call(command: str, *words: object) -> Any:
    return CliRunner().invoke(app, [command, *map(str, words)])


def test_the_command_takes_several_stores_with_weights(
    scene: Any, stores: list[Path], tmp_path: Path
) -> None:
    one, other = stores
    places = ["--student", scene.teacher, "--out", tmp_path / "run"]
    done = call("fit", "--logits", f"{one}@2", "--logits", other, *places, *QUICK, "--json")
    assert done.exit_code == 0, done.stderr
    parts = {one["name"]: one for one in json.loads(done.stdout)["parts"]}
    assert {name: part["weight"] for name, part in parts.items()} == {str(one): 2, str(other): 1}
    for path in stores:
        assert parts[str(path)]["store"] == logitstore.open(path).fingerprint
    done = call("report", tmp_path / "run", "--out", tmp_path / "page.html")
    assert done.exit_code == 0, done.stderr
    shown = f"{one} ({parts[str(one)]['store'][:12]}), weight 2.0"
    assert shown in (tmp_path / "page.html").read_text()


def test_a_store_that_is_not_there_is_told_at_once(stores: list[Path], tmp_path: Path) -> None:
    places = ["--student", tmp_path / "none.json", "--out", tmp_path / "run"]
    done = call("fit", "--logits", stores[0], "--logits", tmp_path / "none@2", *places)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'none'}: no store here")


@pytest.mark.parametrize("words", [["--logits", "a@0"], ["--logits", "a", "--logits", "b@5000"]])
def test_a_wrong_weight_is_wrong_usage(words: list[str]) -> None:
    done = call("fit", *words, "--student", "s.json", "--out", "run")
    assert done.exit_code == 2
    assert "--logits: weight is out of range" in done.stderr


def test_a_sweep_takes_no_weights() -> None:
    words = ["--student", "s.json", "--eval-logits", "h", "--out", "o"]
    done = call("sweep", "--logits", "a@2", *words)
    assert done.exit_code == 2
    assert "--logits of a sweep takes no weight" in done.stderr


def test_damaged_blocks_of_any_store_are_left_out_and_stay_so(
    scene: Any, stores: list[Path], tmp_path: Path
) -> None:
    for path in stores:
        flip(shard_files(path)[1], place=0.4)
    settings: dict[str, Any] = {
        "logits": [(stores[0], 2), stores[1]],
        "student": scene.teacher,
        "device": "cpu",
        "steps": 6,
        "save_steps": 2,
        "log_steps": 1,
        "batch_tokens": 128,
        "micro_tokens": 64,
    }
    with pytest.raises(CorruptionError):
        trainer.fit(**settings | {"steps": None, "epochs": 1}, out=tmp_path / "refused")
    with pytest.warns(RunWarning, match="blocks are damaged and left out"):
        whole = trainer.fit(**settings, out=tmp_path / "whole", skip_damaged=True)
    assert len(whole["damaged"]) >= 2
    assert {str(path) for path in stores} == {
        str(path) for path in stores for one in whole["damaged"] if str(path) in one[1]
    }
    with pytest.warns(RunWarning), pytest.raises(KeyboardInterrupt):
        trainer.fit(**settings, out=tmp_path / "stopped", skip_damaged=True, report=interrupt_at(4))
    with pytest.warns(RunWarning):
        trainer.fit(**settings, out=tmp_path / "stopped", skip_damaged=True, resume=True)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all((one[name] == other[name]).all() for name in one)


def test_stores_of_other_kinds_have_no_view(tmp_path: Path, config: Path) -> None:
    with pytest.raises(SettingError, match=r"for stores that `logitstore\.open` gives"):
        fit(tmp_path / "run", config, skip_damaged=True)


def test_what_is_made_of_one_store_refuses_several(teacher_folder: Path) -> None:
    mixed = trainer.mix([MemoryStore(seed=1), MemoryStore(seed=2)])
    with pytest.raises(SettingError, match="a model is measured on one store at a time"):
        trainer.evaluate(tiny("llama"), logits=mixed)
    with pytest.raises(SettingError, match="not served in other tokens"):
        trainer.retokenize(mixed, AutoTokenizer.from_pretrained(teacher_folder))


def test_two_files_of_answers_are_mixed(teacher_folder: Path, tmp_path: Path) -> None:
    rows = [[5, 6, 7, 8], [9, 10, 11]]
    files = [tmp_path / f"{number}.parquet" for number in range(2)]
    for file, ids in zip(files, rows, strict=True):
        masks = [[False] + [True] * (len(ids) - 1)] * 40
        pq.write_table(pa.table({"input_ids": [ids] * 40, "loss_mask": masks}), file)
    reports: list[dict[str, float]] = []
    result = trainer.fit(
        logits=[files[0], f"{files[1]}@2"],
        student=teacher_folder,
        out=tmp_path / "run",
        alpha=0,
        device="cpu",
        log_steps=1,
        batch_tokens=128,
        report=reports.append,
    )
    assert sum(one["targets"] for one in reports) == 40 * 3 + 2 * 40 * 2
    assert len(result["parts"]) == 2
    assert "kl" not in reports[-1]
    with pytest.raises(SettingError, match="answers, and no distributions of a teacher"):
        trainer.fit(logits=files, student=teacher_folder, out=tmp_path / "other", device="cpu")
