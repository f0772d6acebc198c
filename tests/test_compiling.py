"""`--compile`: the layers below the output layer by torch.compile, and the run is as without it."""

from __future__ import annotations

import json
import logging
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

import trainer
from logitstore.errors import ModelError, SettingError
from tests.memory_store import MemoryStore
from tests.tiny_models import tiny
from trainer.training.compiling import compiled_layers

pytestmark = pytest.mark.filterwarnings(  # of torch, where it loads its compiler
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)

SETTINGS = {"batch_tokens": 64, "micro_tokens": 16, "lr": 1e-2, "log_steps": 1, "device": "cpu"}
# Takes the graphs that inductor takes, and runs them as they are.
TRACED = {"compile": True, "set": ["torch_compile_backend=eager"]}


@pytest.fixture(autouse=True)
def _nothing_compiled_before(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    # Thousands of records of each trace, which pytest would keep.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "propagate", False)
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def student(tmp_path):
    folder = tmp_path / "student"
    tiny(num_hidden_layers=1).save_pretrained(folder)
    return folder


def fit(out, student, **settings):
    given = {"logits": MemoryStore(), "student": student, "out": out, "steps": 6} | settings
    return trainer.fit(**SETTINGS | given)


def reports(folder):
    return json.loads((folder / "history.json").read_text())


def test_losses_and_result_of_a_resumed_run_are_those_of_a_run_without(tmp_path, student):
    settings = {"steps": 4, "save_steps": 2}
    plain, out = tmp_path / "plain", tmp_path / "run"
    fit(plain, student, **settings)
    assert not counters["frames"]

    def stop(one):
        if one["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(out, student, **settings, **TRACED, report=stop)
    assert counters["frames"]["ok"] >= 1
    assert not counters["graph_break"]
    names = list(load_file(out / "checkpoint-2" / "model.safetensors"))
    assert names
    assert not [name for name in names if "_orig_mod" in name]
    fit(out, student, **settings, **TRACED, resume=True)

    expected, found = (load_file(one / "model.safetensors") for one in (plain, out))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-5, msg=name)
    figures = ("loss", "ce", "kl", "grad_norm", "targets")
    for one, other in zip(reports(out), reports(plain), strict=True):
        assert [one[key] for key in figures] == pytest.approx(
            [other[key] for key in figures], rel=1e-4
        )


def test_a_loaded_student_is_compiled_within_the_run_alone():
    model = tiny(num_hidden_layers=1)
    ids = torch.arange(8)[None]
    expected = model(ids).logits
    with compiled_layers(model, settings={"backend": "eager"}):
        torch.testing.assert_close(model(ids).logits, expected)
        assert counters["frames"]["ok"]
    torch.compiler.reset()
    counters.clear()
    assert torch.equal(model(ids).logits, expected)
    assert not counters["frames"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler of C++")
@pytest.mark.skipif(sys.platform == "win32", reason="inductor is tried with g++")
def test_the_default_backend_gives_the_gradients_of_a_run_without(tmp_path):
    """One layer of attention, forward and backward, through code that g++ has compiled."""
    model = tiny("gpt2", n_layer=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).train()
    batches = trainer.training_batches(MemoryStore(), model=model, batch_tokens=64)
    batch = next(iter(batches))

    def gradients():
        model.zero_grad()
        trainer.distillation_loss(model, batch).loss.backward()
        return {name: one.grad for name, one in model.named_parameters()}

    expected = gradients()
    with compiled_layers(model, settings={}):
        found = gradients()
    assert counters["inductor"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4, msg=name)


def test_what_cannot_be_compiled_is_told_in_a_sentence(tmp_path, student, monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    model = tiny("gpt2", n_layer=1)
    with (
        pytest.raises(ModelError, match=r"torch\.compile fails: .*no-such-compiler"),
        torch.no_grad(),
        compiled_layers(model, settings={}),
    ):
        model(torch.arange(8)[None])
    with pytest.raises(SettingError, match=r"does not take these.*backend=hope.*inductor"):
        fit(tmp_path / "hope", student, compile=True, set=["torch_compile_backend=hope"])
    with pytest.raises(SettingError, match=r"torch\.compile, and the run does not use it"):
        fit(tmp_path / "none", student, set=["torch_compile_backend=eager"])
