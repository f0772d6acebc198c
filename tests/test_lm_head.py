"""The head that is read from a model gives the model's own logits, for every family."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GraniteConfig,
    HyperCLOVAXConfig,
    LlamaConfig,
    MptConfig,
    OPTConfig,
    PhiConfig,
    RecurrentGemmaConfig,
)

from logitstore import ModelError
from logitstore.plumbing import LMHead, check_head, hidden_states

COLUMNS, VOCAB = 48, 40
LLAMA = {
    "vocab_size": COLUMNS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Wide weights, so that logits of 3 and more bend under a cap and a forgotten scale shows.
    "initializer_range": 0.8,
}
GPT = {"vocab_size": COLUMNS, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 80}
CONFIGS = {
    "llama": LlamaConfig(**LLAMA),
    "tied": LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "gpt2": GPT2Config(**GPT, initializer_range=0.8),
    "gptj": GPTJConfig(**GPT, rotary_dim=4, initializer_range=0.8),
    "gemma2": Gemma2Config(**LLAMA, head_dim=8, final_logit_softcapping=2.0),
    "recurrent_gemma": RecurrentGemmaConfig(
        **(LLAMA | {"num_hidden_layers": 2}),
        lru_width=16,
        logits_soft_cap=2.0,
        block_types=["recurrent", "attention"],
    ),
    "cohere": CohereConfig(**LLAMA, logit_scale=0.25),
    "granite": GraniteConfig(**LLAMA, logits_scaling=8.0),
    "hyperclovax": HyperCLOVAXConfig(**LLAMA, logits_scaling=8.0),
    "falcon_h1": FalconH1Config(
        **LLAMA,
        lm_head_multiplier=0.3,
        mamba_d_ssm=16,
        mamba_n_heads=2,
        mamba_d_head=8,
        mamba_d_state=8,
    ),
    "phi": PhiConfig(**(LLAMA | {"num_key_value_heads": 2})),
    "opt": OPTConfig(
        vocab_size=COLUMNS,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=8,
        max_position_embeddings=80,
        init_std=0.8,
        pad_token_id=0,
    ),
    "mpt": MptConfig(d_model=16, n_heads=2, n_layers=1, vocab_size=COLUMNS, max_seq_len=80),
}
IDS = torch.arange(24).view(2, 12)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    with torch.no_grad():  # biases begin at 0, where forgetting one would not show
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("lm_head.bias"):
                parameter.normal_()
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_the_models_own(name):
    model = build(name)
    head = LMHead.of(model, vocab_size=VOCAB)
    with torch.no_grad():
        expected = model(IDS).logits[..., :VOCAB].flatten(0, 1)
        hidden = hidden_states(model, IDS).flatten(0, 1)
        found = head.logits(hidden)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        out = torch.full_like(found, torch.nan)
        assert head.logits(hidden, out_NV=out) is out
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    check_head(model, head, IDS)


@pytest.mark.parametrize(
    ("name", "scale", "softcap", "bias"),
    [
        ("llama", 1.0, None, False),
        ("gemma2", 1.0, 2.0, False),
        ("recurrent_gemma", 1.0, 2.0, False),
        ("cohere", 0.25, None, False),
        ("granite", 0.125, None, False),
        ("hyperclovax", 8.0, None, False),
        ("falcon_h1", 0.3, None, False),
        ("phi", 1.0, None, True),
        ("gptj", 1.0, None, True),
    ],
)
def test_what_a_family_does_to_its_logits_is_read(name, scale, softcap, bias):
    head = LMHead.of(build(name), vocab_size=VOCAB)
    assert head.scale == pytest.approx(scale)
    assert head.softcap == softcap
    assert (head.bias_V is not None) == bias


@pytest.mark.parametrize("name", ["gemma2", "phi", "tied"])
def test_gradients_reach_the_models_parameters(name):
    model, twin = build(name), build(name)
    LMHead.of(model, vocab_size=VOCAB).logits(hidden_states(model, IDS)).square().sum().backward()
    twin(IDS).logits[..., :VOCAB].square().sum().backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)


def test_low_precision_gives_float32():
    model = build("gemma2").bfloat16()
    head = LMHead.of(model, vocab_size=VOCAB)
    hidden = hidden_states(model, IDS).flatten(0, 1)
    out = torch.empty(24, VOCAB)
    with torch.no_grad():
        assert head.logits(hidden).dtype == torch.float32
        torch.testing.assert_close(head.logits(hidden, out_NV=out), head.logits(hidden))
    check_head(model, head, IDS)


def changed(head: LMHead, **parts: object) -> LMHead:
    names = ("weight_PD", "bias_P", "scale", "softcap", "vocab_size")
    return LMHead(**({name: getattr(head, name) for name in names} | parts))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gemma2", {"softcap": None}),
        ("cohere", {"scale": 1.0}),
        ("phi", {"bias_P": None}),
        ("llama", {"softcap": 3.0}),
        ("llama", {"weight_PD": torch.randn(COLUMNS, 16)}),
        ("llama", {"weight_PD": torch.full((COLUMNS, 16), torch.nan)}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_is_not_the_models_is_refused(name, parts, dtype):
    model = build(name).to(dtype)
    parts = {key: value.to(dtype) if key == "weight_PD" else value for key, value in parts.items()}
    head = changed(LMHead.of(model, vocab_size=VOCAB), **parts)
    with pytest.raises(ModelError, match="not the model's own"):
        check_head(model, head, IDS)


def test_the_check_leaves_the_model_as_it_was():
    """In training, dropout would make two passes differ; a frozen part must stay in evaluation."""
    model = build("gpt2").train()
    model.transformer.wte.eval()
    modes = [module.training for module in model.modules()]
    check_head(model, LMHead.of(model, vocab_size=VOCAB), IDS)
    assert [module.training for module in model.modules()] == modes


def test_the_check_takes_what_belongs_to_the_tokens():
    model = build("llama")
    ids = torch.arange(40).repeat(2, 2)  # longer than the part that is compared
    positions = torch.arange(40).repeat(2, 2)
    head = LMHead.of(model, vocab_size=VOCAB)
    check_head(model, head, ids, position_ids=positions, attention_mask=None)
    with pytest.raises(ModelError):
        check_head(model, replace(head, scale=2.0), ids, position_ids=positions)


def test_an_adapted_model_is_looked_through():
    class Adapted(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.base_model = model

        def get_base_model(self) -> nn.Module:
            return self.base_model

        def forward(self, **inputs: object) -> object:
            return self.base_model(**inputs)

    model = build("llama")
    adapted = Adapted(model)
    head = LMHead.of(adapted, vocab_size=VOCAB)
    assert head.weight_PD is model.lm_head.weight
    check_head(adapted, head, IDS)
    torch.testing.assert_close(hidden_states(adapted, IDS), hidden_states(model, IDS))


def test_fewer_columns_than_ids_are_refused():
    with pytest.raises(ModelError, match="found 48; allowed: at least 49"):
        LMHead.of(build("llama"), vocab_size=COLUMNS + 1)


def test_an_output_layer_that_is_not_linear_is_refused():
    model = build("llama")
    model.lm_head = nn.Sequential(model.lm_head, nn.Identity())
    with pytest.raises(ModelError, match="found Sequential"):
        LMHead.of(model, vocab_size=VOCAB)


def test_an_encoder_decoder_is_refused():
    config = BartConfig(
        vocab_size=COLUMNS,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=16,
    )
    with pytest.raises(ModelError, match="encoder-decoder"):
        LMHead.of(BartForConditionalGeneration(config), vocab_size=VOCAB)


def test_a_body_without_hidden_states_is_refused():
    model = build("llama")
    model.model.forward = lambda **_: (torch.zeros(2, 12, 16),)
    with pytest.raises(ModelError, match="last hidden state"):
        hidden_states(model, IDS)
