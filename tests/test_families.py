"""Families of models that are built otherwise than most: they teach, learn and are measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertLMHeadModel

import logitstore
from logitstore.errors import ModelError
from logitstore.plumbing import LMHead
from tests.tiny_models import tiny
from tools.architectures import STAGES, make_model, measured
from tools.tiny_teacher import texts

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.filterwarnings("ignore:Casting complex values to real")  # of Llama 4's vision part
# Llama 4 does not name its body; the others are a text's part beside one for images.
# Llama 4 has experts, and transformers no balance loss of it: `fit` says so.
@pytest.mark.filterwarnings("ignore:.*routed experts:trainer.training.state_files.RunWarning")
@pytest.mark.parametrize("name", ["llama4_text", "llama4", "gemma3", "llava", "qwen2_vl"])
def test_a_family_teaches_learns_and_is_measured_as_plain_transformers_say(
    name: str, tmp_path: Path
) -> None:
    cells = measured(name, tmp_path)
    assert "fault" not in cells, cells
    assert all(cells[stage] for stage in STAGES)


def test_a_configuration_with_an_infinite_number_makes_a_student(tmp_path: Path) -> None:
    """Mamba 2's limit of time steps has no form in JSON but the one of transformers."""
    cells = measured("mamba2", tmp_path)
    assert "__float__" in (tmp_path / "student.json").read_text()
    assert "fault" not in cells, cells


def test_a_tokenizer_with_an_id_more_than_the_text_part_has_columns(tmp_path: Path) -> None:
    """As that of Gemma 3 has, whose last id stands for an image."""
    make_model("gemma3", tmp_path / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    tokenizer.add_tokens([f"<unused{number}>" for number in range(305 - len(tokenizer))])
    tokenizer.save_pretrained(tmp_path / "teacher")
    logitstore.dump(teacher=tmp_path / "teacher", data=texts(4), out=tmp_path / "store")
    store = logitstore.open(tmp_path / "store")
    assert len(tokenizer) == 305
    assert store.spec.tokenizer.vocab_size == 304
    assert logitstore.audit(store, teacher=tmp_path / "teacher")["ok"]
    with pytest.raises(logitstore.CorpusError, match="an id of which the teacher knows nothing"):
        logitstore.dump(teacher=tmp_path / "teacher", data=["a <unused4>"], out=tmp_path / "other")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_reads_what_it_has_to_predict_is_refused(dtype: torch.dtype) -> None:
    model = tiny("llama").to(dtype)
    LMHead.checked(model, vocab_size=24)
    for layer in model.model.layers:
        attend = layer.self_attn.forward

        def everywhere(*args: object, attend=attend, **values: object) -> object:
            values["attention_mask"] = torch.zeros((), dtype=dtype).expand(1, 1, 8, 8)
            return attend(*args, **values)

        layer.self_attn.forward = everywhere
    with pytest.raises(ModelError, match="not causal: it reads the token that it has to predict"):
        LMHead.checked(model, vocab_size=24)


def test_an_encoder_is_refused() -> None:
    config = BertConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.intermediate_size = 24
    with pytest.raises(ModelError):
        LMHead.checked(BertLMHeadModel(config).eval(), vocab_size=40)
