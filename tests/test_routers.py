"""A student with routed experts is trained with the load-balancing loss that transformers gives."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, OlmoeConfig, Qwen3MoeConfig

import trainer
from tests.memory_store import VOCAB, MemoryStore
from tests.tiny_models import tiny
from trainer.training.state_files import RunWarning

SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": None,
    "eos_token_id": 0,
    "router_aux_loss_coef": 0.5,
}
FAMILIES = {
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "olmoe": OlmoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2),
    "qwen3_moe": Qwen3MoeConfig(
        **SMALL,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
        head_dim=8,
        decoder_sparse_step=1,
    ),
}


def build(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(FAMILIES[name], dtype=torch.float32)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(one) if one.grad is None else one.grad.clone()
        for name, one in model.named_parameters()
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradient_are_those_of_the_model_with_its_own_balance_loss(name):
    """With alpha 0 the loss of a batch is transformers' of the same rows, its router loss too."""
    model = build(name)
    store = MemoryStore(blocks=1, documents=4)
    batches = trainer.training_batches(store, model=model, batch_tokens=64, micro_tokens=12)
    batch = next(iter(batches))
    result = trainer.distillation_loss(model, batch, alpha=0.0)
    found = gradients(model, result.loss / result.count)

    labels = torch.full(batch.input_ids_BW.shape, -100).flatten()
    labels[batch.at_R] = batch.labels_R  # of the token behind each position
    output = model(
        **batch.model_inputs,
        attention_mask=None if bool(batch.filled_BW.all()) else batch.filled_BW.long(),
        output_router_logits=True,
        use_cache=False,
    )
    ce = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels)
    expected = gradients(model, ce + 0.5 * output.aux_loss)
    assert float(result.loss.detach() / result.count) == pytest.approx(
        float((ce + 0.5 * output.aux_loss).detach()), rel=1e-5
    )
    assert float(result.sums["router_loss"] / result.count) == pytest.approx(
        float(output.aux_loss.detach()), rel=1e-5
    )
    assert expected.keys() == found.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-6, msg=key)
    assert not getattr(model.config, "output_router_logits", False)


def test_the_weight_is_an_option_and_the_loss_is_reported(tmp_path):
    model = build("mixtral")
    model.save_pretrained(tmp_path / "student")
    store, reports = MemoryStore(), {}
    for weight in (None, 0.0, 2.0):
        lines: list = []
        trainer.fit(
            logits=store,
            student=tmp_path / "student",
            out=tmp_path / f"run-{weight}",
            steps=1,
            router_weight=weight,
            report=lines.append,
            device="cpu",
        )
        reports[weight] = lines[-1]
    assert "router_loss" not in reports[0.0]
    assert reports[None]["router_loss"] == pytest.approx(reports[2.0]["router_loss"], rel=1e-6)
    for weight in (0.5, 2.0):
        one = reports[None if weight == 0.5 else weight]
        expected = reports[0.0]["loss"] + weight * one["router_loss"]
        assert one["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_model_without_experts_has_no_such_loss():
    model = tiny()
    store = MemoryStore(blocks=1)
    batch = next(iter(trainer.training_batches(store, model=model, batch_tokens=64)))
    assert "router_loss" not in trainer.distillation_loss(model, batch, router_weight=1.0).sums


def test_experts_without_a_known_balance_loss_are_told(tmp_path):
    from transformers import DeepseekV3Config

    config = DeepseekV3Config(
        **{key: value for key, value in SMALL.items() if key != "router_aux_loss_coef"},
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=8,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
        first_k_dense_replace=1,
    )
    path = tmp_path / "student.json"
    path.write_text(config.to_json_string())
    with pytest.warns(RunWarning, match="routed experts.*no load-balancing loss"):
        trainer.fit(logits=MemoryStore(), student=path, out=tmp_path / "run", steps=1)
