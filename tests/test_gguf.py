"""GGUF files as teachers, students and models to measure, beside the model they were made from."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType, quants
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import logitstore
import trainer
from logitstore.corpus.tokenizer import load_tokenizer, tokenizer_fingerprint
from logitstore.errors import ModelError
from logitstore.store.verify import verify
from tools.tiny_teacher import texts

if TYPE_CHECKING:
    from pathlib import Path

HEADS, KV_HEADS, WIDTH, LAYERS, CONTEXT = 4, 2, 64, 2, 64
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="module")
def folder(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose widths are whole blocks of a quantised file, with its tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        rms_norm_eps=1e-5,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        model.lm_head.weight.data.mul_(20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write(
    path: Path,
    folder: Path,
    *,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    architecture: str = "llama",
    pre: str = "gpt-2",
    settings: Any = None,
) -> Path:
    """The model in `folder` as llama.cpp's converter writes it."""
    model = LlamaForCausalLM.from_pretrained(folder)
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(model.config.vocab_size)
    _add_tokenizer(writer, folder, pre=pre)
    if settings is not None:
        settings(writer)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        for part, heads in (("q_proj", HEADS), ("k_proj", KV_HEADS)):
            if part in name:  # halves of a head interleaved, as GGUF has them
                values = values.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(values.shape)
        to = name.replace("model.layers.", "blk.")
        for theirs, ours in NAMES.items():
            to = to.replace(theirs, ours)
        if kind == GGMLQuantizationType.F32 or values.ndim == 1:
            writer.add_tensor(to, values)
        else:
            writer.add_tensor(to, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: GGUFWriter, folder: Path, *, pre: str) -> None:
    core = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(core["vocab"], key=core["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<|endoftext|>" else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in core["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


@pytest.fixture(scope="module")
def file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", folder)


def dumped(teacher: Path, out: Path, **options: Any) -> logitstore.Store:
    options = {"sparsify": "topk", "k": 8, "fidelity": "exact"} | options
    logitstore.dump(teacher=teacher, data=texts(12), out=out, **options)
    assert list(verify(out)) == []
    return logitstore.open(out)


def test_states_behind_layers_are_those_of_the_model_that_it_was_made_from(
    file: Path, folder: Path, tmp_path: Path
) -> None:
    ours, theirs = (
        dumped(one, tmp_path / name, hidden_layers="1,2")
        for name, one in (("gguf", file), ("folder", folder))
    )
    for one, two in zip(ours, theirs, strict=True):
        for name in ("layer_1", "layer_2"):
            assert np.array_equal(
                one.targets.states[name].float32(), two.targets.states[name].float32()
            )


def test_a_file_teaches_as_the_model_that_it_was_made_from(
    file: Path, folder: Path, tmp_path: Path
) -> None:
    one, two = dumped(file, tmp_path / "one"), dumped(folder, tmp_path / "two")
    for mine, theirs in zip(one, two, strict=True):
        np.testing.assert_array_equal(mine.document.input_ids_L, theirs.document.input_ids_L)
        np.testing.assert_array_equal(mine.targets.ids_RK, theirs.targets.ids_RK)
        np.testing.assert_array_equal(mine.targets.logprobs_RK, theirs.targets.logprobs_RK)
    assert one.spec.teacher.fingerprint == hashlib.sha256(file.read_bytes()).hexdigest()
    assert one.spec.teacher.name == "tiny.gguf"
    found = logitstore.audit(one, teacher=file)
    assert found["ok"]
    assert found["teacher_matches"] is True
    # Its tokenizer lies in the store as a folder that transformers loads.
    stored = AutoTokenizer.from_pretrained(tmp_path / "one" / "tokenizer")
    assert tokenizer_fingerprint(stored) == one.spec.tokenizer.fingerprint
    assert (
        stored("The teacher reads.")["input_ids"]
        == load_tokenizer(str(folder))("The teacher reads.")["input_ids"]
    )


def test_a_folder_of_one_file_stands_for_it(file: Path, tmp_path: Path) -> None:
    one = dumped(file.parent, tmp_path / "one")
    assert one.spec.teacher.fingerprint == hashlib.sha256(file.read_bytes()).hexdigest()
    other = tmp_path / "several"
    other.mkdir()
    shutil.copy(file, other / "a.gguf")
    shutil.copy(file, other / "b.gguf")
    with pytest.raises(ModelError, match=r"several \.gguf files \(found a\.gguf, b\.gguf"):
        dumped(other, tmp_path / "two")


def test_a_quantised_file_teaches_what_its_blocks_say(
    folder: Path, file: Path, tmp_path: Path
) -> None:
    quantised = write(tmp_path / "q8.gguf", folder, kind=GGMLQuantizationType.Q8_0)
    one = dumped(quantised, tmp_path / "one")
    assert logitstore.audit(one, teacher=quantised)["ok"]
    found = logitstore.audit(one, teacher=file)
    assert found["teacher_matches"] is False
    assert 1e-5 < found["kl"] < 0.1


def test_a_file_is_measured_and_no_student(file: Path, folder: Path, tmp_path: Path) -> None:
    store = dumped(file, tmp_path / "store")
    found = trainer.evaluate(file, logits=store)
    wanted = trainer.evaluate(LlamaForCausalLM.from_pretrained(folder), logits=store)
    assert found["loss"] == pytest.approx(wanted["loss"], abs=1e-6)
    assert found["kl"] < 1e-3
    with pytest.raises(ModelError, match=r"tiny\.gguf: a \.gguf file .* cannot be trained"):
        trainer.fit(logits=store, student=file, out=tmp_path / "run", steps=2)


def _scaled(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)


def _frequencies(writer: GGUFWriter) -> None:
    writer.add_tensor("rope_freqs.weight", np.ones(WIDTH // HEADS // 2, dtype=np.float32))


LOST: dict[str, tuple[dict[str, Any], str]] = {
    "scaling": (
        {"settings": _scaled},
        r"llama\.rope\.scaling\.type .*found default; allowed: yarn",
    ),
    "frequencies": ({"settings": _frequencies}, "scaled rotary frequencies.*rope_freqs"),
    "softcap": (
        {"settings": lambda writer: writer.add_final_logit_softcapping(30.0)},
        r"final_logit_softcapping .*found nothing; allowed: 30",
    ),
    "parts": (
        {"settings": lambda writer: writer.add_uint16("split.count", 2)},
        "one of several parts.*found 2 parts",
    ),
    "layers": (
        {"settings": lambda writer: writer.add_block_count(1)},
        r"another number of layers than llama\.block_count .*found 2 layers; allowed: 1\)",
    ),
    "architecture": ({"architecture": "abacus"}, "abacus"),
    "splitting": ({"pre": "smollm"}, r"cannot split texts.*found tokenizer\.ggml\.pre smollm"),
}


@pytest.mark.parametrize("name", LOST)
def test_what_transformers_would_lose_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    options, message = LOST[name]
    wrong = write(tmp_path / "wrong.gguf", folder, **options)
    with pytest.raises(ModelError, match=message):
        dumped(wrong, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_file_whose_texts_would_be_split_otherwise_takes_the_models_own_tokenizer(
    folder: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "own.gguf", folder, pre="smollm")
    store = dumped(file, tmp_path / "store", tokenizer=folder)
    assert logitstore.audit(store, teacher=file)["ok"]


@pytest.mark.parametrize("content", [b"", b"no gguf", b"GGUF\x03\x00\x00\x00"])
def test_what_is_no_such_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"no\.gguf: the file cannot be read as GGUF"):
        dumped(tmp_path / "no.gguf", tmp_path / "store")


def test_a_file_without_the_package_that_reads_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logitstore.corpus.gguf.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"needs the package gguf.*logitstore\[gguf\]"):
        dumped(file, tmp_path / "store")
    assert "gguf" in sys.modules
