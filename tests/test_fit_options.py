"""What a user of transformers.Trainer reaches for: adapters, freezing, other settings, reports."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import trainer
from logitstore.errors import ModelError, SettingError
from tests.memory_store import MemoryStore
from tests.tiny_models import CONFIGS, tiny

SETTINGS = {"batch_tokens": 64, "micro_tokens": 16, "lr": 1e-2, "log_steps": 1, "device": "cpu"}
LORA = "r=4,alpha=8"


@pytest.fixture
def student(tmp_path):
    folder = tmp_path / "student"
    tiny().save_pretrained(folder)
    return folder


def fit(out, student, **settings):
    given = {"logits": MemoryStore(), "student": student, "out": out, "steps": 4} | settings
    return trainer.fit(**SETTINGS | given)


def weights(folder, name="model.safetensors"):
    return load_file(folder / name)


def logits(model):
    with torch.no_grad():
        return model(torch.arange(8)[None]).logits


# --- adapters


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of PEFT itself
def test_a_merged_adapter_is_the_adapter_upon_its_student(tmp_path, student):
    fit(tmp_path / "merged", student, lora=LORA)
    fit(tmp_path / "adapter", student, lora=LORA, lora_result="adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(student)
    upon = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(merged), logits(upon), rtol=1e-5, atol=1e-5)
    before = AutoModelForCausalLM.from_pretrained(student)
    assert (logits(merged) - logits(before)).abs().max() > 1e-3
    same = {name for name, one in weights(student).items() if name in weights(tmp_path / "merged")}
    changed = [
        name
        for name in same
        if not torch.equal(weights(student)[name], weights(tmp_path / "merged")[name])
    ]
    assert changed
    assert all("proj" in name for name in changed)  # no norm, no embedding, no output layer


def test_an_adapted_run_resumes_bit_by_bit(tmp_path, student):
    settings = {"lora": "r=2,dropout=0.1", "steps": 6, "save_steps": 2}
    fit(tmp_path / "whole", student, **settings)

    def stop(one):
        if one["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", student, **settings, report=stop)
    fit(tmp_path / "run", student, **settings, resume=True)
    one, other = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_an_adapter_is_a_student_which_is_trained_on_and_measured(tmp_path, student):
    fit(tmp_path / "adapter", student, lora=LORA, lora_result="adapter")
    fit(tmp_path / "more", tmp_path / "adapter", lora_result="adapter")
    first = weights(tmp_path / "adapter", "adapter_model.safetensors")
    second = weights(tmp_path / "more", "adapter_model.safetensors")
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    fit(tmp_path / "merged", student, lora=LORA)
    found = [
        trainer.evaluate(tmp_path / name, logits=MemoryStore())["loss"]
        for name in ("adapter", "merged")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(
    ("lora", "error", "message"),
    [
        ("r=4,targets=lm_head", SettingError, "output layer is not served"),
        ("r=4,targets=q_proj+elbow", ModelError, r"no layer of that name.*elbow.*q_proj"),
        ("r=0", SettingError, "describes no adapter"),
        ("alpha=4", SettingError, "no r"),
        ("r=4,r=5", SettingError, "given twice"),
        ("r=4,size=5", SettingError, "the key size"),
        ("rank 4", SettingError, "KEY=VALUE"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(tmp_path, student, lora, error, message):
    with pytest.raises(error, match=message):
        fit(tmp_path / "run", student, lora=lora)


def test_an_adapter_alone_of_a_fresh_student_is_refused(tmp_path):
    config = tmp_path / "student.json"
    config.write_text(CONFIGS["llama"].to_json_string())
    with pytest.raises(SettingError, match="a fresh one lies nowhere"):
        fit(tmp_path / "run", config, lora=LORA, lora_result="adapter")


def test_an_adapter_without_its_model_is_refused(tmp_path, student):
    fit(tmp_path / "adapter", student, lora=LORA, lora_result="adapter")
    shutil.rmtree(student)
    with pytest.raises(ModelError, match="student"):
        fit(tmp_path / "more", tmp_path / "adapter")


# --- what is trained, and how


def test_frozen_parameters_stay_as_they_are(tmp_path, student):
    fit(tmp_path / "run", student, freeze=["*embed_tokens*", "*.layers.0.*"])
    before, after = weights(student), weights(tmp_path / "run")
    frozen = {name for name in before if torch.equal(before[name], after[name])}
    assert frozen == {name for name in before if "embed" in name or "layers.0." in name}


@pytest.mark.parametrize(
    ("freeze", "message"), [(["*.nowhere"], "no parameter"), (["*"], "nothing to train")]
)
def test_a_pattern_that_fits_nothing_or_all_is_refused(tmp_path, student, freeze, message):
    with pytest.raises(ModelError, match=message):
        fit(tmp_path / "run", student, freeze=freeze)


@pytest.mark.parametrize(
    "settings",
    [{"gradient_checkpointing": True}, {"attn": "eager"}, {"lora": LORA}],
    ids=str,
)
def test_what_saves_memory_or_time_changes_no_weight(tmp_path, student, settings):
    lora = {name: value for name, value in settings.items() if name == "lora"}
    fit(tmp_path / "plain", student, **lora)
    fit(tmp_path / "other", student, **settings | {"gradient_checkpointing": True})
    one, other = weights(tmp_path / "plain"), weights(tmp_path / "other")
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-4, atol=1e-5)


def test_an_attention_that_is_not_there_is_refused(tmp_path, student):
    with pytest.raises(ModelError, match=r"cannot use this attention.*found abacus"):
        fit(tmp_path / "run", student, attn="abacus")


def test_any_other_setting_of_transformers_can_be_given(tmp_path, student):
    fit(tmp_path / "adamw", student)
    fit(tmp_path / "sgd", student, set=["optim=sgd"])
    fit(tmp_path / "eps", student, set=["adam_epsilon=1.0"])
    found = [weights(tmp_path / name) for name in ("adamw", "sgd", "eps")]
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(found[0][name], found[1][name])
    assert not torch.equal(found[0][name], found[2][name])
    record = json.loads((tmp_path / "sgd" / "run.json").read_text())
    assert record["settings"]["set"] == ["optim=sgd"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["optimizer=sgd"], r"names no setting.*optim"),
        (["optim=abacus"], "does not take these settings"),
        (["learning_rate=1"], r"an option of its own.*allowed: lr"),
        (["save_strategy=no"], "needs as it is"),
        (["optim"], "no pair"),
        (["optim=sgd", "optim=adamw_torch"], "given twice"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, student, given, message):
    with pytest.raises(SettingError, match=message):
        fit(tmp_path / "run", student, set=given)


def test_reports_go_to_tensorboard_too(tmp_path, student, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "boards"))
    fit(tmp_path / "run", student, report_to="tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [file] = (tmp_path / "boards").rglob("events.*")
    found = EventAccumulator(str(file.parent)).Reload()
    values = [one.value for one in found.Scalars("train/ce")]
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert values == pytest.approx([one["ce"] for one in history], rel=1e-6)
    with pytest.raises(SettingError, match="names nothing that is installed"):
        fit(tmp_path / "other", student, report_to="tensorboard,abacus")


# --- a loaded student


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_model_is_trained_in_place(tmp_path, student, dtype):
    model = AutoModelForCausalLM.from_pretrained(student, dtype=dtype)
    result = fit(tmp_path / "run", model)
    fit(tmp_path / "named", student, save_dtype=str(dtype).removeprefix("torch."))
    assert result["settings"]["student"] == str(student)
    one, other = weights(tmp_path / "run"), weights(tmp_path / "named")
    assert {weight.dtype for weight in one.values()} == {dtype}
    if dtype == torch.float32:
        assert all(torch.equal(one[name], other[name]) for name in other)
        state = model.state_dict()
        assert all(torch.equal(state[name], one[name]) for name in one)


def test_a_loaded_model_goes_on_with_its_own_run(tmp_path, student):
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.bfloat16)
    fit(tmp_path / "run", model, steps=2, keep_checkpoints=True)
    assert model.dtype == torch.float32
    result = fit(tmp_path / "run", model, steps=3, resume=True, keep_checkpoints=True)
    assert result["settings"]["steps"] == 3
    model.config.rms_norm_eps *= 2
    with pytest.raises(ModelError, match="it has another configuration"):
        fit(tmp_path / "run", model, steps=4, resume=True)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(SettingError, match="neither a name nor a loaded"):
        fit(tmp_path / "run", torch.nn.Linear(2, 2))
