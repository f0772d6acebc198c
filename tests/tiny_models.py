"""Language models small enough to be made on the spot, with fresh but visible weights."""

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PreTrainedConfig,
)

from tests.memory_store import VOCAB

CONFIGS = {
    "llama": LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        bos_token_id=None,
        eos_token_id=0,
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCAB,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "mamba": MambaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    ),
}


def tiny(name: str = "llama", *, attention: str | None = None, seed: int = 0, **changes):
    """The model called `name` in CONFIGS, float32, in evaluation mode."""
    config: PreTrainedConfig = CONFIGS[name].__class__(**CONFIGS[name].to_dict() | changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = {} if attention is None else {"attn_implementation": attention}
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, **options).eval()
