"""Students: from a folder or a configuration, and refused where they do not fit the store."""

import json

import pytest
import torch
from safetensors.torch import load_file

import trainer
from logitstore.corpus.tokenizer import tokenizer_fingerprint
from logitstore.errors import ModelError, TokenizerError
from tests.memory_store import VOCAB, MemoryStore
from tests.tiny_models import CONFIGS, tiny
from trainer.training.student import load_student


@pytest.fixture
def spec():
    return MemoryStore(blocks=1).spec


def config(tmp_path, **changes):
    content = CONFIGS["llama"].to_dict() | changes
    path = tmp_path / "config-of-mine.json"
    path.write_text(json.dumps({k: v for k, v in content.items() if v != "absent"}))
    return path


def test_a_configuration_gives_fresh_weights_that_follow_the_seed(tmp_path, spec):
    path = config(tmp_path)
    state = torch.random.get_rng_state()
    first, again, other = (load_student(path, spec=spec, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    name = "model.layers.0.mlp.up_proj.weight"
    weights = [student.state_dict()[name] for student in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[0].dtype == torch.float32
    assert first.training


def test_a_configuration_without_a_vocabulary_takes_the_stores(tmp_path, spec):
    student = load_student(config(tmp_path, vocab_size="absent"), spec=spec, seed=0)
    assert student.config.vocab_size == VOCAB


def test_a_padded_vocabulary_is_no_mismatch(tmp_path, spec):
    student = load_student(config(tmp_path, vocab_size=VOCAB + 8), spec=spec, seed=0)
    assert student.get_output_embeddings().weight.shape[0] == VOCAB + 8


def test_a_folder_without_a_tokenizer_is_taken_as_it_is(tmp_path, spec):
    model = tiny(seed=5)
    model.save_pretrained(tmp_path / "student")
    loaded = load_student(tmp_path / "student", spec=spec, seed=0)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_the_tokenizer_decides_by_its_fingerprint(tmp_path, spec, tokenizer):
    folder = tmp_path / "student"
    tiny(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with pytest.raises(TokenizerError) as caught:
        load_student(folder, spec=spec, seed=0)
    assert tokenizer_fingerprint(tokenizer)[:12] in str(caught.value)
    assert spec.tokenizer.fingerprint[:12] in str(caught.value)
    spec.tokenizer.fingerprint = tokenizer_fingerprint(tokenizer)
    assert load_student(folder, spec=spec, seed=0).config.vocab_size == len(tokenizer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": VOCAB - 1}, f"found {VOCAB - 1}; allowed: {VOCAB} or more"),
        ({"max_position_embeddings": 8}, "found max_position_embeddings 8; allowed: 12 or more"),
        ({"model_type": "absent"}, "model_type is missing"),
        ({"model_type": "abacus"}, "abacus"),
        ({"hidden_size": 15}, "no causal language model can be built"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path, spec, changes, message):
    with pytest.raises(ModelError, match=message):
        load_student(config(tmp_path, **changes), spec=spec, seed=0)


def test_a_folder_with_too_few_embeddings_is_refused(tmp_path, spec):
    tiny(vocab_size=VOCAB - 4).save_pretrained(tmp_path / "student")
    with pytest.raises(ModelError, match=f"found {VOCAB - 4}; allowed: {VOCAB} or more"):
        load_student(tmp_path / "student", spec=spec, seed=0)


def test_what_is_no_model_is_refused(tmp_path, spec):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "empty").mkdir()
    for name in ("list.json", "torn.json", "missing.json", "empty", "./nowhere"):
        with pytest.raises(ModelError, match=name.strip("./")):
            load_student(tmp_path / name, spec=spec, seed=0)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path, spec):
    model = tiny()
    kept = {name: value for name, value in model.state_dict().items() if "up_proj" not in name}
    model.save_pretrained(tmp_path / "student", state_dict=kept)
    with pytest.raises(ModelError, match=r"lacks weights.*up_proj"):
        load_student(tmp_path / "student", spec=spec, seed=0)


def test_a_loaded_student_is_saved_in_its_type_and_is_float32_afterwards(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    store, model = MemoryStore(tokenizer=tmp_path / "tokenizer"), tiny().bfloat16()

    def saved(name, **more):
        settings = {"steps": 1, "batch_tokens": 64, "device": "cpu", "out": tmp_path / name}
        trainer.fit(logits=store, student=model, **settings, **more)
        assert model.dtype == torch.float32
        return {one.dtype for one in load_file(tmp_path / name / "model.safetensors").values()}

    assert saved("first") == {torch.bfloat16}
    assert saved("second") == {torch.float32}
    assert saved("third", save_dtype="bfloat16") == {torch.bfloat16}
