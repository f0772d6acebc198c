"""The gradient of a step does not depend on how many forward passes it takes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import trainer
from tests.memory_store import MemoryStore
from tests.tiny_models import tiny

RATE = 1000.0  # of one step of SGD: against that change the weights themselves are rounding


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_one_four_and_eight_micro_batches_give_one_gradient(tmp_path, name):
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if name == "gpt2" else {}
    student = tmp_path / "student"
    tiny(name, **dropout).save_pretrained(student)
    start = load_file(student / "model.safetensors")
    store = MemoryStore()
    room = 2 * sum(one.tokens for one in store.blocks)  # the whole store is one step

    def gradient(passes):
        out = tmp_path / f"{passes}"
        result = trainer.fit(
            logits=store,
            student=student,
            out=out,
            device="cpu",
            batch_tokens=room,
            micro_tokens=-(-room // passes),
            steps=1,
            lr=RATE,
            warmup_steps=0,
            weight_decay=0,
            max_grad_norm=0,
            set=["optim=sgd"],
            log_steps=1,
        )
        assert result["packing"]["bins"] == passes
        assert result["metrics"]["targets"] == sum(one.targets for one in store.blocks)
        found = load_file(out / "model.safetensors")
        changes = [(start[one].double() - found[one].double()).flatten() for one in start]
        return torch.cat(changes) / RATE

    expected = gradient(1)
    assert expected.norm() > 0.1
    for passes in (4, 8):
        assert (gradient(passes) - expected).norm() <= 1e-6 * expected.norm()
