"""`trainer.fit`: the right gradient, on one process or several, and exact after any stop."""

import itertools
import json
import shutil
import signal
import socket
import time

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, get_scheduler

import logitstore
import trainer
from logitstore.errors import ModelError, SettingError, SpecError, StoreError
from logitstore.sparsify.build import sparsifier_spec
from tests.forked import start
from tests.loss_settings import OF_ENTRIES
from tests.memory_store import MemoryStore
from tests.tiny_models import CONFIGS, tiny
from trainer.losses.distillation import loss_inside_forward
from trainer.training.run_record import read_record, write_record
from trainer.training.state_files import RunWarning

SETTINGS = {"batch_tokens": 64, "micro_tokens": 16, "lr": 1e-3, "save_steps": 3, "log_steps": 1}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store in memory that `logitstore.open` gives whatever it is asked for."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text('{"the": "tokenizer"}')
    made = MemoryStore(tokenizer=folder)
    monkeypatch.setattr(logitstore, "open", lambda _, **__: made, raising=False)
    return made


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "student.json"
    path.write_text(CONFIGS["llama"].to_json_string())
    return path


OF_A_RESULT = ("files", "metrics", "seconds")  # fields of run.json when the run has finished


def fit(out, config, **settings):
    return trainer.fit(
        **SETTINGS | {"logits": "memory", "student": config, "out": out, "device": "cpu"} | settings
    )


def weights(out):
    return load_file(out / "model.safetensors")


def history(out):
    return json.loads((out / "history.json").read_text())


def difference(one, other):
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_a_run_is_a_model_folder_with_its_history(tmp_path, store, config):
    out = tmp_path / "run"
    result = fit(out, config, epochs=4, lr=1e-2)
    assert read_record(out) == result
    assert result["finished"]
    assert result["store"] == store.fingerprint
    assert result["teacher"] == "table"
    assert (out / "tokenizer.json").read_text() == '{"the": "tokenizer"}'
    assert not list(out.glob("*.bin"))
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.use_cache
    assert result["parameters"] == sum(one.numel() for one in model.parameters())
    reports = history(out)
    assert [one["step"] for one in reports] == list(range(1, result["settings"]["steps"] + 1))
    assert reports[-1]["loss"] < 0.8 * reports[0]["loss"]
    assert sum(one["targets"] for one in reports) == 4 * sum(b.targets for b in store.blocks)
    assert reports[-1]["epoch"] == 4.0
    for name in ("ce", "kl", "kl_binary", "kl_head", "agreement", "lr", "seconds"):
        assert all(name in one for one in reports)


def test_uneven_micro_batches_give_the_gradient_of_one_batch(tmp_path, store, config):
    """One step over the whole store: once in one forward, once in bins of which some are empty."""
    everything = sum(one.tokens for one in store.blocks)
    whole = {"steps": 1, "warmup": 0.0, "batch_tokens": 2 * everything}
    fit(tmp_path / "one", config, **whole, micro_tokens=2 * everything)
    fit(tmp_path / "many", config, **whole, micro_tokens=13)
    assert difference(tmp_path / "one", tmp_path / "many") < 1e-6
    reports = [history(tmp_path / name)[0] for name in ("one", "many")]
    for name in ("loss", "ce", "kl", "grad_norm", "targets"):
        assert reports[0][name] == pytest.approx(reports[1][name], rel=1e-5)


def test_a_run_of_one_step_learns(tmp_path, store, config):
    fit(tmp_path / "still", config, steps=1, lr=1e-30)
    fit(tmp_path / "run", config, steps=1)
    assert history(tmp_path / "run")[0]["lr"] == SETTINGS["lr"]
    assert difference(tmp_path / "still", tmp_path / "run") > 1e-4


@pytest.mark.parametrize(
    ("settings", "rise", "name"),
    [
        ({"warmup": 0.03}, 2, "cosine"),
        ({"warmup": 0.5}, 20, "cosine"),
        ({"warmup": 0.0}, 0, "cosine"),
        ({"warmup": 1.0}, 40, "cosine"),
        ({"warmup_steps": 7}, 7, "cosine"),
        ({"warmup": 0.1, "lr_schedule": "linear"}, 4, "linear"),
        ({"warmup": 0.1, "lr_schedule": "constant"}, 4, "constant_with_warmup"),
        ({"warmup": 0.1, "lr_floor": 0.25}, 4, "cosine_with_min_lr"),
    ],
    ids=str,
)
def test_the_learning_rate_is_that_of_transformers_after_a_rise_without_a_step_of_zero(
    tmp_path, store, config, settings, rise, name
):
    fit(tmp_path / "run", config, steps=40, save_steps=40, **settings)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=SETTINGS["lr"])
    schedule = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=rise,
        num_training_steps=40,
        scheduler_specific_kwargs={"min_lr_rate": 0.25} if "lr_floor" in settings else {},
    )
    expected = []
    for _ in range(40):
        expected += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    expected[:rise] = [SETTINGS["lr"] * (step + 1) / rise for step in range(rise)]
    assert [one["lr"] for one in history(tmp_path / "run")] == pytest.approx(expected, rel=1e-12)


def test_a_schedule_that_stays_up_falls_in_its_last_fifth(tmp_path, store, config):
    fit(
        tmp_path / "run", config, steps=20, save_steps=20, warmup=0, lr_schedule="wsd", lr_floor=0.1
    )
    rates = [one["lr"] / SETTINGS["lr"] for one in history(tmp_path / "run")]
    assert rates == pytest.approx([1.0] * 17 + [0.1 + 0.9 * left for left in (0.75, 0.5, 0.25)])


def test_the_reported_loss_is_the_mean_over_targets(tmp_path, store, config):
    fit(tmp_path / "run", config, steps=1, alpha=0.25)
    first = history(tmp_path / "run")[0]
    assert first["loss"] == pytest.approx(0.75 * first["ce"] + 0.25 * first["kl"], rel=1e-5)


def start_worker(out, config, settings, *, killed_at=-1, **environment):
    arguments = (out, config, json.dumps(SETTINGS | settings), killed_at)
    return start("tests.fit_worker", *arguments, **environment)


def test_two_processes_give_the_weights_of_one(tmp_path, store, config):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    measured = {"steps": 10, "eval_steps": 4, "keep_best": True}
    ranks = [
        start_worker(
            tmp_path / "two",
            config,
            measured | {"eval_logits": "held"},
            **common,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
        )
        for rank in range(2)
    ]
    held = MemoryStore(blocks=2, seed=1)
    result = fit(tmp_path / "one", config, **measured, eval_logits=held)
    assert result["metrics"]["epoch"] > 1  # so a rank had bins with nothing in them
    for rank in ranks:
        _, errors = rank.communicate()
        assert rank.returncode == 0, errors
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-5
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    assert [r["targets"] for r in one] == [r["targets"] for r in two]
    assert [r["loss"] for r in one] == pytest.approx([r["loss"] for r in two], rel=1e-4)
    found = [json.loads((tmp_path / name / "held_out.json").read_text()) for name in ("one", "two")]
    for name in ("step", "eval_loss", "eval_kl", "eval_targets", "eval_agreement"):
        values = [[one[name] for one in each] for each in found]
        assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_a_rank_that_is_killed_is_named_by_the_other_at_once(tmp_path, store, config):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    first, second = (
        start_worker(
            tmp_path / "two",
            config,
            {"steps": 10, "log_steps": 1},
            killed_at=3,
            **common,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
        )
        for rank in range(2)
    )
    first.communicate()
    killed = time.monotonic()
    _, errors = second.communicate()
    assert time.monotonic() - killed < 10
    assert first.returncode == -signal.SIGKILL
    assert second.returncode == 1
    named = f"rank 0 (process {first.pid} on {socket.gethostname()}) of the run has ended"
    assert named in errors.splitlines()[-1]


def interrupt_at(step):
    def report(one):
        if one["step"] == step:
            raise KeyboardInterrupt

    return report


def test_a_resumed_run_equals_an_undisturbed_one_bit_by_bit(tmp_path, store):
    """With dropout, so that the random state counts too; reports straddle the checkpoint."""
    config = tmp_path / "gpt2.json"
    config.write_text(CONFIGS["gpt2"].to_json_string())
    settings = {"steps": 8, "log_steps": 2}
    fit(tmp_path / "straight", config, **settings)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", config, **settings, report=interrupt_at(6))
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    fit(tmp_path / "stopped", config, **settings, resume=True)
    assert difference(tmp_path / "straight", tmp_path / "stopped") == 0
    histories = [
        json.loads((tmp_path / name / "history.json").read_text())
        for name in ("straight", "stopped")
    ]
    for one in itertools.chain(*histories):
        del one["seconds"]
    assert histories[0] == histories[1]


def test_a_killed_run_goes_on_past_a_torn_checkpoint(tmp_path, store, config):
    fit(tmp_path / "straight", config, steps=6)
    out = tmp_path / "killed"
    killed = start_worker(out, config, {"steps": 6}, killed_at=5)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    shutil.copytree(out / "checkpoint-3", out / "checkpoint-4")
    (out / "checkpoint-4" / "optimizer.pt").write_bytes(b"half")
    shutil.copytree(out / "checkpoint-4", out / "checkpoint-5")
    (out / "checkpoint-5" / "complete.json").unlink()
    with pytest.warns(RunWarning, match=r"checkpoint-4/optimizer\.pt.*going on from checkpoint-3"):
        fit(out, config, steps=6, resume=True)
    assert difference(tmp_path / "straight", out) == 0
    assert (out / "damaged-checkpoint-4").is_dir()
    assert not (out / "checkpoint-5").exists()


def test_a_run_killed_after_its_last_step_is_finished_from_the_checkpoint(tmp_path, store, config):
    out = tmp_path / "run"
    first = fit(out, config, steps=3, keep_checkpoints=True)
    before = weights(out)
    (out / "model.safetensors").unlink()
    unfinished = {name: value for name, value in first.items() if name not in OF_A_RESULT}
    write_record(out, unfinished | {"finished": False})
    reports = []
    again = fit(out, config, steps=3, resume=True, report=reports.append)
    assert reports == []
    assert again["metrics"] == first["metrics"]
    assert all(torch.equal(before[name], value) for name, value in weights(out).items())


def test_a_finished_run_is_left_as_it_is(tmp_path, store, config):
    out = tmp_path / "run"
    first = fit(out, config, steps=2)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert fit(out, config, steps=2) == fit(out, config, steps=2, resume=True) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_the_files_of_a_finished_run_are_made_anew_from_its_checkpoint(tmp_path, store, config):
    out = tmp_path / "run"
    first = fit(out, config, steps=3, keep_checkpoints=True)
    files = {name: (out / name).read_bytes() for name in first["files"]}
    assert set(files) >= {"model.safetensors", "config.json", "tokenizer.json", "history.json"}
    for name in files:
        (out / name).unlink()
    with pytest.raises(StoreError, match=r"gone.*checkpoint-3 makes it anew.*resume"):
        fit(out, config, steps=3)
    with pytest.warns(RunWarning, match="written anew from checkpoint-3"):
        assert fit(out, config, steps=3, resume=True)["files"] == first["files"]
    assert {name: (out / name).read_bytes() for name in files} == files
    assert not list(out.glob("checkpoint-*"))


def test_a_finished_run_keeps_no_optimiser_state_unless_it_is_told_to(tmp_path, store, config):
    fit(tmp_path / "run", config, steps=4)
    fit(tmp_path / "kept", config, steps=4, keep_checkpoints=True)
    assert not [path for path in (tmp_path / "run").iterdir() if path.is_dir()]
    assert [path.name for path in (tmp_path / "kept").glob("*-*") if path.is_dir()][-1:] != []
    assert difference(tmp_path / "run", tmp_path / "kept") == 0


# --- longer runs


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_that_is_made_longer_ends_as_one_that_was_so_long(tmp_path, store, config, stopped):
    """Where the learning rate does not depend on the length, bit by bit."""
    steady = {"lr_schedule": "constant", "warmup": 0}
    fit(tmp_path / "whole", config, steps=6, **steady)
    out = tmp_path / "run"
    if stopped:
        with pytest.raises(KeyboardInterrupt):
            fit(out, config, steps=4, **steady, report=interrupt_at(4))
    else:
        fit(out, config, steps=4, **steady, keep_checkpoints=True)
    result = fit(out, config, steps=6, **steady, resume=True)
    assert result["settings"]["steps"] == 6
    assert result["extended"] == [4]
    assert difference(out, tmp_path / "whole") == 0
    assert [one["loss"] for one in history(out)] == [
        one["loss"] for one in history(tmp_path / "whole")
    ]
    assert fit(out, config, steps=6, **steady) == result  # finished, and left as it is
    with pytest.raises(SpecError, match="steps 6 there, 5 here"):
        fit(out, config, steps=5, **steady, resume=True)


def test_a_longer_run_takes_the_rate_of_its_new_length(tmp_path, store, config):
    out = tmp_path / "run"
    fit(out, config, steps=4, warmup=0, keep_checkpoints=True)
    fit(out, config, steps=8, warmup=0, resume=True)
    fit(tmp_path / "whole", config, steps=8, warmup=0)
    rates = [[one["lr"] for one in history(one)] for one in (out, tmp_path / "whole")]
    assert rates[0][4:] == rates[1][4:]
    assert rates[0][:4] != rates[1][:4]
    assert difference(out, tmp_path / "whole") > 0


def test_epochs_make_a_run_longer_too_but_never_shorter(tmp_path, store, config):
    out = tmp_path / "run"
    first = fit(out, config, epochs=1, keep_checkpoints=True)
    result = fit(out, config, epochs=2, resume=True, keep_checkpoints=True)
    assert result["settings"]["steps"] > first["settings"]["steps"]
    with pytest.raises(SpecError, match="epochs 2 there, 1 here"):
        fit(out, config, epochs=1, resume=True)
    with pytest.raises(SpecError, match="lr"):
        fit(out, config, epochs=3, resume=True, lr=2e-3)


def test_a_finished_run_without_a_checkpoint_cannot_be_made_longer(tmp_path, store, config):
    out = tmp_path / "run"
    fit(out, config, steps=3)
    with pytest.raises(StoreError, match=r"keeps no checkpoint.*student .*run.*keep_checkpoints"):
        fit(out, config, steps=4, resume=True)


def test_a_first_try_that_failed_is_no_reason_against_resume(tmp_path, store, config):
    out = tmp_path / "run"
    with pytest.raises(ModelError):
        fit(out, tmp_path / "nowhere.json", steps=3)
    with pytest.warns(RunWarning, match="no run to go on with"):
        fit(out, config, steps=3, resume=True)
    fit(tmp_path / "plain", config, steps=3)
    assert difference(out, tmp_path / "plain") == 0


def test_a_store_plants_nothing_in_a_run(tmp_path, store, config, monkeypatch):
    """Not the evaluation, not an adapter of the model, nothing outside of the folder."""
    files = {"tokenizer.json": b"{}", "vocab.json": b"3"}
    planted = {"eval.json": b"{}", "run.json": b"{}", "../x": b"", "adapter_config.json": b"{}"}
    out = tmp_path / "run"
    monkeypatch.setattr(store, "tokenizer_files", lambda: files | planted, raising=False)
    with pytest.warns(RunWarning, match=r"left out: 'eval\.json', 'run\.json', '\.\./x', 'adapter"):
        fit(out, config, steps=1)
    assert not [one for one in planted if one != "run.json" and (out / one).exists()]
    assert read_record(out)["finished"]
    assert {name: (out / name).read_bytes() for name in files} == files


def test_a_file_in_the_way_of_the_tokenizer_is_kept(tmp_path, store, config):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(out, config, steps=4, report=interrupt_at(4))
    (out / "tokenizer.json").write_text("another")
    with pytest.raises(StoreError, match=r"tokenizer\.json: another file is where"):
        fit(out, config, steps=4, resume=True)
    assert (out / "tokenizer.json").read_text() == "another"


@pytest.mark.parametrize("change", [{"num_hidden_layers": 1}, {"rms_norm_eps": 1e-3}])
def test_another_student_is_refused_when_a_run_goes_on(tmp_path, store, config, change):
    """Of another size, or one whose weights compute something else."""
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", config, steps=4, report=interrupt_at(4))
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | change))
    with pytest.raises(ModelError, match="not the one that the run was begun with"):
        fit(tmp_path / "run", config, steps=4, resume=True)
    config.write_text(json.dumps(content))  # the same, laid out otherwise
    assert fit(tmp_path / "run", config, steps=4, resume=True)["finished"]


def test_another_setting_or_store_is_refused_by_name(tmp_path, store, config):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", config, steps=6, report=interrupt_at(4))
    with pytest.raises(StoreError, match="resume"):
        fit(tmp_path / "run", config, steps=6)
    with pytest.raises(SpecError, match=r"alpha 0\.9 there, 0\.5 here"):
        fit(tmp_path / "run", config, steps=6, alpha=0.5, resume=True)
    store.fingerprint = "another"
    with pytest.raises(SpecError, match=r"store 0+ there, another here"):
        fit(tmp_path / "run", config, steps=6, resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.5}, "^alpha .*found 1.5; allowed: 0 to 1"),
        ({"alpha": float("nan")}, "^alpha"),
        ({"temperature": 0.0}, "^temperature"),
        ({"temperature": 20.0}, "^temperature"),
        ({"loss": "hope"}, "^loss .*forward_kl, reverse_kl, "),
        ({"beta": 0.1}, "^beta has no effect with loss forward_kl.*with loss jensen_shannon"),
        ({"steps": 0}, "^steps"),
        ({"epochs": 0}, "^epochs"),
        ({"epochs": 1, "steps": 1}, "exclude each other"),
        ({"lr": 0.0}, "^lr"),
        ({"batch_tokens": 0}, "^batch_tokens"),
        ({"micro_tokens": 5}, "^micro_tokens"),
        ({"save_steps": 0}, "^save_steps"),
        ({"dtype": "int4"}, "^dtype"),
        ({"device": "abacus"}, "^device"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    tmp_path, store, config, settings, message
):
    with pytest.raises(SettingError, match=message):
        fit(tmp_path / "run", config, **settings)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def use_drawn(store, monkeypatch):
    """Puts a store of drawn targets in the place of the other."""

    def use(name, **options):
        made = MemoryStore(tokenizer=store.tokenizer, sparsifier=sparsifier_spec(name, **options))
        monkeypatch.setattr(logitstore, "open", lambda _, **__: made, raising=False)
        return made

    return use


@pytest.mark.parametrize("loss", [name for name in OF_ENTRIES if name != "forward_kl"])
def test_every_loss_teaches(tmp_path, store, config, loss):
    fit(tmp_path / "run", config, epochs=3, save_steps=99, lr=1e-2, loss=loss, temperature=2.0)
    reports = history(tmp_path / "run")
    assert reports[-1]["loss"] < 0.9 * reports[0]["loss"]
    # With all entries kept, these are forward KL.
    same = reports[-1]["divergence"] == pytest.approx(reports[-1]["kl"], rel=1e-3)
    assert same == (loss in ("decoupled", "renormalised", "residual_to_label"))


@pytest.mark.parametrize(
    ("name", "options", "temperature"),
    [
        ("sample", {"draws": 12, "temperatures": (1.0, 2.0), "repeats": 2}, 2.0),
        ("unbiased", {"k": 8}, 1.0),
        ("hybrid", {"k": 4, "tail_draws": 4}, 1.0),
        ("hybrid", {"k": 4, "tail_draws": 4}, 2.0),
    ],
)
def test_drawn_targets_teach(tmp_path, use_drawn, config, name, options, temperature):
    use_drawn(name, **options)
    fit(tmp_path / "run", config, epochs=4, save_steps=99, lr=1e-2, temperature=temperature)
    reports = history(tmp_path / "run")
    assert reports[-1]["kl"] < 0.8 * reports[0]["kl"]
    assert all(("agreement" in one) == (name != "sample") for one in reports)
    assert all(("kl_head" in one) == (name == "hybrid" and temperature == 2.0) for one in reports)


def test_a_run_on_repeated_draws_resumes_bit_by_bit(tmp_path, use_drawn, config):
    """Stopped in the second epoch, which has another draw than the first."""
    use_drawn("unbiased", k=6, repeats=2)
    settings = {"steps": 14, "save_steps": 4}
    fit(tmp_path / "straight", config, **settings)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", config, **settings, report=interrupt_at(10))
    assert 1 < history(tmp_path / "straight")[8]["epoch"] < 2
    fit(tmp_path / "stopped", config, **settings, resume=True)
    assert difference(tmp_path / "straight", tmp_path / "stopped") == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 2.0}, "Dump again with temperature 1,2, or with"),
        ({"loss": "reverse_kl"}, "loss: .*linear in the teacher"),
        ({"loss": "residual_to_label"}, "loss: .*head of exact entries"),
    ],
)
def test_what_drawn_targets_cannot_serve_is_refused_before_a_model_is_loaded(
    tmp_path, use_drawn, settings, message
):
    use_drawn("unbiased")
    with pytest.raises(SettingError, match=message):
        fit(tmp_path / "run", tmp_path / "no_such_student", **settings)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, store, config):
    with pytest.raises(ModelError, match=r"step \d: the .* is no finite number.*lr"):
        fit(tmp_path / "run", config, steps=5, lr=1e30, warmup=0.0)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_where_no_loss_is_asked_for_the_forward_is_the_models_own(tmp_path):
    model = tiny()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        expected = model(ids).logits
        with loss_inside_forward(model):
            assert "forward" in vars(model)
            assert torch.equal(model(ids).logits, expected)
            model.save_pretrained(tmp_path)
    assert "forward" not in vars(model)
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, expected)


@pytest.mark.usefixtures("store")
def test_a_last_step_that_ruins_the_weights_is_told(tmp_path, config):
    with pytest.raises(ModelError, match="no finite numbers"):
        fit(tmp_path / "run", config, steps=1, lr=1e38, warmup=0.0)
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.usefixtures("store")
def test_ctrl_c_saves_the_step_it_is_at(tmp_path, config):
    def interrupt(one):
        if one["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    fit(tmp_path / "straight", config, steps=6)
    out = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        fit(out, config, steps=6, save_steps=100, report=interrupt)
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-3"]
    fit(out, config, steps=6, save_steps=100, resume=True)
    assert difference(tmp_path / "straight", out) == 0
