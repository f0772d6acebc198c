"""A held-out store during a run: its figures, the best step, and a run that ends early."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import trainer
from logitstore.errors import SettingError, SpecError, StoreError
from tests.memory_store import MemoryStore
from tests.tiny_models import CONFIGS

SETTINGS = {"batch_tokens": 64, "micro_tokens": 16, "lr": 1e-3, "log_steps": 1, "device": "cpu"}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "student.json"
    path.write_text(CONFIGS["llama"].to_json_string())
    return path


def held_out(**changes):
    return MemoryStore(**{"blocks": 2, "seed": 1} | changes)


def fit(out, config, **settings):
    store = MemoryStore()
    return trainer.fit(**SETTINGS | {"logits": store, "student": config, "out": out} | settings)


def measured(out):
    return json.loads((out / "held_out.json").read_text())


def weights(out):
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_the_figures_are_those_of_an_evaluation_of_the_result(tmp_path, config, alpha):
    out, held, reports = tmp_path / "run", held_out(), []
    fit(
        out,
        config,
        steps=7,
        alpha=alpha,
        eval_logits=held,
        eval_steps=3,
        report=reports.append,
    )
    found = measured(out)
    assert [one["step"] for one in found] == [3, 6, 7]
    assert [one["step"] for one in reports if "eval_loss" in one] == [3, 6, 7]
    result = trainer.evaluate(out, logits=held)
    last = found[-1]
    assert last["eval_ce"] == pytest.approx(result["loss"], rel=1e-5)
    assert last["eval_kl"] == pytest.approx(result["kl"], rel=1e-4)
    assert last["eval_agreement"] == pytest.approx(result["top1_agreement"])
    assert last["eval_targets"] == result["targets"]
    expected = (1 - alpha) * last["eval_ce"] + alpha * last["eval_kl"]
    assert last["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_measuring_changes_nothing_of_what_is_learnt(tmp_path):
    """With dropout: the measurement has it off, and takes no random number."""
    config = tmp_path / "gpt2.json"
    config.write_text(CONFIGS["gpt2"].to_json_string())
    fit(tmp_path / "plain", config, steps=5)
    fit(tmp_path / "measured", config, steps=5, eval_logits=held_out(), eval_steps=1)
    one, other = weights(tmp_path / "plain"), weights(tmp_path / "measured")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_best_step_is_the_result_where_that_is_wanted(tmp_path, config):
    """A rate so high that the loss falls, and then flies off."""
    settings = {"steps": 12, "lr": 3.0, "eval_logits": held_out(), "eval_steps": 1, "warmup": 1.0}
    last = fit(tmp_path / "last", config, **settings)
    best = fit(tmp_path / "best", config, **settings, keep_best=True)
    values = {one["step"]: one["eval_loss"] for one in measured(tmp_path / "best")}
    step = min(values, key=values.get)
    assert step < 12
    assert best["best"] == {"step": step, "value": values[step], "since": 12 - step, "by": "loss"}
    assert last["best"] == best["best"]
    for name, expected in (("best", values[step]), ("last", values[12])):
        result = trainer.evaluate(tmp_path / name, logits=held_out())
        loss = 0.1 * result["loss"] + 0.9 * result["kl"]
        assert loss == pytest.approx(expected, rel=1e-4)
    assert not list((tmp_path / "best").glob("best-*"))


def test_a_run_ends_when_it_gets_no_better(tmp_path, config):
    settings = {"steps": 40, "lr": 3.0, "eval_logits": held_out(), "eval_steps": 1, "warmup": 1.0}
    result = fit(tmp_path / "run", config, **settings, patience=2, best_by="ce")
    found = measured(tmp_path / "run")
    steps = [one["step"] for one in found]
    assert steps[-1] < 40
    assert steps[-1] == result["best"]["step"] + 2
    assert result["metrics"]["step"] == steps[-1]
    assert min(found, key=lambda one: one["eval_ce"])["step"] == result["best"]["step"]
    assert fit(tmp_path / "run", config, **settings, patience=2, best_by="ce") == result


class Stop(Exception):
    pass


def stop_at(step):
    def report(one):
        if one["step"] == step and "eval_loss" in one:
            raise Stop

    return report


@pytest.mark.parametrize("at", [2, 5, 9])
def test_a_stopped_run_knows_its_best_step_when_it_goes_on(tmp_path, config, at):
    settings = {
        "steps": 12,
        "lr": 3e-2,
        "eval_logits": held_out(),
        "eval_steps": 1,
        "warmup": 1.0,
        "keep_best": True,
        "save_steps": 2,
        "patience": 8,
    }
    whole = fit(tmp_path / "whole", config, **settings)
    out = tmp_path / "run"
    with pytest.raises(Stop):
        fit(out, config, **settings, report=stop_at(at))
    result = fit(out, config, **settings, resume=True)
    assert result["best"] == whole["best"]
    one, other = weights(out), weights(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in one)
    without_time = [
        [{key: value for key, value in one.items() if key != "seconds"} for one in measured(run)]
        for run in (out, tmp_path / "whole")
    ]
    assert without_time[0] == without_time[1]


def test_best_weights_that_have_changed_are_refused(tmp_path, config):
    out = tmp_path / "run"
    settings = {"steps": 6, "eval_logits": held_out(), "eval_steps": 2, "keep_best": True}

    def damage(one):
        if one["step"] == 6 and "eval_loss" in one:
            for folder in out.glob("best-*"):
                (folder / "model.safetensors").write_bytes(b"other")

    with pytest.raises(StoreError, match=r"best-\d/model\.safetensors"):
        fit(out, config, **settings, report=damage)


def test_stores_that_cannot_be_held_out_are_refused(tmp_path, config):
    with pytest.raises(SpecError, match="is the one that is learnt from"):
        fit(tmp_path / "run", config, steps=1, eval_logits=MemoryStore())
    other = held_out()
    other.spec.tokenizer.fingerprint = "w" * 64
    with pytest.raises(SpecError, match="another tokenizer"):
        fit(tmp_path / "run", config, steps=1, eval_logits=other)
    with pytest.raises(SettingError, match="no effect without eval_logits"):
        fit(tmp_path / "run", config, steps=1, keep_best=True)
    assert not (tmp_path / "run").exists()
