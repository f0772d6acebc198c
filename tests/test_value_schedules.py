"""Alpha and the temperature over the steps of a run."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import trainer
from logitstore.errors import SettingError
from logitstore.sparsify.build import sparsifier_spec
from tests.memory_store import MemoryStore
from tests.tiny_models import CONFIGS
from trainer.training.value_schedule import ValueSchedule

SETTINGS = {"batch_tokens": 64, "micro_tokens": 16, "log_steps": 1, "device": "cpu", "warmup": 0}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "student.json"
    path.write_text(CONFIGS["llama"].to_json_string())
    return path


def fit(out, config, **settings):
    given = {"logits": MemoryStore(), "student": config, "out": out, "steps": 5} | settings
    trainer.fit(**SETTINGS | given)
    return json.loads((out / "history.json").read_text())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, [0.8] * 5),
        ("linear:0.4", [0.8, 0.7, 0.6, 0.5, 0.4]),
        ("cosine:0.4", [0.8, 0.7414, 0.6, 0.4586, 0.4]),
        ("steps:2=0.5,4=0", [0.8, 0.8, 0.5, 0.5, 0.0]),
    ],
)
def test_a_schedule_gives_a_value_at_each_step(text, expected):
    schedule = ValueSchedule.parse(text, first=0.8, flag="--alpha-schedule")
    found = [schedule.at(step, steps=5) for step in range(5)]
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "text", ["linear", "linear:x", "line:0.1", "steps:", "steps:3=0.1,2=0.2", "steps:0=0.1", "0.1"]
)
def test_what_is_no_schedule_is_refused(text):
    with pytest.raises(SettingError, match="describes no schedule"):
        ValueSchedule.parse(text, first=0.8, flag="--alpha-schedule")


def test_the_loss_of_each_step_has_its_alpha_and_temperature(tmp_path, config):
    found = fit(
        tmp_path / "run",
        config,
        alpha=0.8,
        alpha_schedule="linear:0.4",
        temperature=2.0,
        temperature_schedule="steps:3=1",
    )
    for step, one in enumerate(found):
        alpha, temperature = 0.8 - 0.1 * step, 1.0 if step >= 3 else 2.0
        expected = (1 - alpha) * one["ce"] + alpha * temperature**2 * one["divergence"]
        assert one["loss"] == pytest.approx(expected, rel=1e-5)
        assert one["alpha"] == pytest.approx(alpha)
        assert one["temperature"] == temperature


def test_a_resumed_run_goes_on_in_its_schedule(tmp_path, config):
    settings = {"alpha_schedule": "cosine:0", "temperature_schedule": "linear:4", "save_steps": 2}
    fit(tmp_path / "whole", config, **settings)

    def stop(one):
        if one["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", config, **settings, report=stop)
    fit(tmp_path / "run", config, **settings, resume=True)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha_schedule": "linear:2"}, "alpha_schedule gives a value out of range"),
        (
            {"alpha_schedule": "linear:0.2", "eval_logits": MemoryStore(seed=1), "patience": 2},
            "alpha_schedule: best_by loss is another figure at each step.*best_by ce",
        ),
        (
            {
                "temperature_schedule": "linear:2",
                "eval_logits": MemoryStore(seed=1),
                "keep_best": True,
                "best_by": "kl",
            },
            "best_by kl is another figure",
        ),
        ({"temperature_schedule": "linear:-1"}, "temperature_schedule gives a value out of range"),
        ({"temperature_schedule": "linear:20"}, "temperature"),
    ],
)
def test_values_out_of_range_are_refused_at_once(tmp_path, config, settings, message):
    with pytest.raises(SettingError, match=message):
        fit(tmp_path / "run", config, **settings)
    assert not (tmp_path / "run").exists()


def test_drawn_targets_serve_no_temperature_between_those_that_were_drawn(tmp_path, config):
    store = MemoryStore(sparsifier=sparsifier_spec("unbiased", k=4, temperatures=(1.0, 2.0)))
    with pytest.raises(SettingError, match="not drawn at this temperature"):
        fit(tmp_path / "run", config, logits=store, temperature_schedule="linear:2")


def test_measurements_of_a_schedule_say_their_alpha_and_temperature(tmp_path, config):
    held = MemoryStore(seed=1)
    run = {"alpha_schedule": "linear:0.4", "temperature": 2.0, "temperature_schedule": "linear:1"}
    reports = fit(tmp_path / "run", config, alpha=0.8, eval_logits=held, eval_steps=2, **run)
    measured = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert len({one["temperature"] for one in measured}) == len(measured) > 1
    for one in measured:
        step = next(other for other in reports if other["step"] == one["step"])
        assert (one["alpha"], one["temperature"]) == (step["alpha"], step["temperature"])
        expected = (1 - one["alpha"]) * one["eval_ce"]
        expected += one["alpha"] * one["temperature"] ** 2 * one["eval_divergence"]
        assert one["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_what_does_not_change_is_in_no_report(tmp_path, config):
    found = fit(tmp_path / "run", config, alpha=0.8, eval_logits=MemoryStore(seed=1))
    measured = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert not [one for one in (*found, *measured) if {"alpha", "temperature"} & set(one)]
