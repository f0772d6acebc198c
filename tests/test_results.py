"""What a run leaves: weights in the student's own type, ends where its teacher's texts end."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig

import logitstore
import trainer
from logitstore.errors import CorruptionError, ModelError
from logitstore.format.generation import GENERATION
from tests.memory_store import VOCAB, MemoryStore
from tests.tiny_models import CONFIGS, tiny
from trainer.training.state_files import RunWarning

QUICK = {"steps": 1, "batch_tokens": 64, "device": "cpu"}


def fit(tmp_path, student, *, store=None, out="run", **settings):
    out = tmp_path / out
    trainer.fit(logits=store or MemoryStore(), student=student, out=out, **QUICK | settings)
    return out


def config(tmp_path, **changes):
    path = tmp_path / "student.json"
    path.write_text(json.dumps(CONFIGS["llama"].to_dict() | changes))
    return path


def types(out):
    return {weight.dtype for weight in load_file(out / "model.safetensors").values()}


# --- the number type of the weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_saved_in_the_students_own_type(tmp_path, dtype, tied):
    student = tmp_path / "student"
    tiny(tie_word_embeddings=tied).to(dtype).save_pretrained(student)
    out = fit(tmp_path, student)
    assert types(out) == types(student) == {dtype}
    assert load_file(out / "model.safetensors").keys() == (
        load_file(student / "model.safetensors").keys()
    )
    assert json.loads((out / "config.json").read_text())["dtype"] == str(dtype).split(".")[1]
    assert AutoModelForCausalLM.from_pretrained(out).dtype == dtype


def test_training_rounds_nothing_before_the_end(tmp_path):
    """Ten steps of a bfloat16 student are those of float32, rounded once."""
    student = tmp_path / "student"
    tiny().to(torch.bfloat16).save_pretrained(student)
    settings = {"steps": 10, "lr": 1e-5}
    out = fit(tmp_path, student, **settings)
    fine = fit(tmp_path, student, out="fine", save_dtype="float32", **settings)
    assert types(fine) == {torch.float32}
    coarse, exact = (load_file(one / "model.safetensors") for one in (out, fine))
    for name, weight in exact.items():
        assert torch.equal(weight.to(torch.bfloat16), coarse[name])


@pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
def test_a_configuration_names_the_type_of_a_fresh_student(tmp_path, field):
    content = CONFIGS["llama"].to_dict()
    content.pop("dtype", None)
    path = tmp_path / "student.json"
    path.write_text(json.dumps(content | {field: "bfloat16"}))
    assert types(fit(tmp_path, path)) == {torch.bfloat16}


def test_the_type_of_a_folder_that_does_not_name_it_is_that_of_its_weights(tmp_path):
    student = tmp_path / "student"
    tiny().to(torch.bfloat16).save_pretrained(student)
    content = json.loads((student / "config.json").read_text())
    del content["dtype"]
    (student / "config.json").write_text(json.dumps(content))
    assert types(fit(tmp_path, student)) == {torch.bfloat16}


def test_a_weight_that_the_type_has_no_number_for_is_refused_and_the_run_kept(tmp_path):
    student = tmp_path / "student"
    model = tiny()
    model.model.norm.weight.data.mul_(1e5)
    model.save_pretrained(student)
    with pytest.raises(ModelError, match=r"norm.*too large for float16.*resume save_dtype float32"):
        fit(tmp_path, student, save_dtype="float16")
    out = fit(tmp_path, student, save_dtype="float32", resume=True)
    assert types(out) == {torch.float32}


# --- where it ends


@pytest.fixture
def teacher(tmp_path, teacher_folder):
    """A chat model: three tokens end its texts, two of which its tokenizer does not name."""
    folder = tmp_path / "teacher"
    shutil.copytree(teacher_folder, folder)
    GenerationConfig(
        bos_token_id=0, eos_token_id=[0, 7, 9], do_sample=True, temperature=0.6, top_p=0.9
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def store(tmp_path, teacher):
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "the cat sat on the mat"}) + "\n")
    logitstore.dump(teacher=teacher, data=texts, out=tmp_path / "store", k=4)
    return logitstore.open(tmp_path / "store")


def ends(folder):
    read = (json.loads((folder / name).read_text()) for name in _CONFIGS)
    return [one["eos_token_id"] for one in read]


_CONFIGS = ("config.json", "generation_config.json")


def test_a_student_from_a_configuration_stops_and_samples_as_its_teacher(tmp_path, store):
    out = fit(tmp_path, config(tmp_path, vocab_size=304), store=store)
    assert ends(out) == [[0, 7, 9], [0, 7, 9]]
    found = GenerationConfig.from_pretrained(out)
    assert (found.do_sample, found.temperature, found.top_p) == (True, 0.6, 0.9)


def test_a_student_that_stops_elsewhere_stops_with_its_teacher_then_and_it_is_told(tmp_path, store):
    student = tmp_path / "student"
    model = tiny(vocab_size=304, eos_token_id=5)
    model.generation_config = GenerationConfig(eos_token_id=5, do_sample=True, temperature=0.3)
    model.save_pretrained(student)
    with pytest.warns(RunWarning, match="stops at 5, its teacher at 0, 7, 9"):
        out = fit(tmp_path, student, store=store)
    assert ends(out) == [[0, 7, 9], [0, 7, 9]]
    assert GenerationConfig.from_pretrained(out).temperature == 0.3  # it samples as before


def test_a_store_of_edits_still_knows_where_texts_end(tmp_path, store):
    logitstore.convert(tmp_path / "store", tmp_path / "other", format="parquet")
    found = logitstore.open(tmp_path / "other").spec.provenance[GENERATION]
    assert found == store.spec.provenance[GENERATION]
    assert found["eos_token_id"] == [0, 7, 9]


@pytest.mark.parametrize("content", [{"eos_token_id": [0, 300]}, {"x": 1}, 3, {"top_p": 2}])
def test_a_store_that_tells_nonsense_of_its_teacher_is_refused(tmp_path, store, content):
    store.spec.provenance[GENERATION] = content
    with pytest.raises(CorruptionError, match=r"provenance\.generation"):
        fit(tmp_path, config(tmp_path, vocab_size=304), store=store)


def test_ids_that_the_tokenizer_has_not_end_no_text(tmp_path, teacher):
    GenerationConfig(eos_token_id=[0, 302]).save_pretrained(teacher)
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "the cat sat"}) + "\n")
    logitstore.dump(teacher=teacher, data=texts, out=tmp_path / "few", k=4)
    found = logitstore.open(tmp_path / "few").spec.provenance[GENERATION]
    assert found["eos_token_id"] == [0]


def test_the_ends_of_a_store_that_tells_none_are_its_tokenizers(tmp_path):
    assert ends(fit(tmp_path, config(tmp_path, vocab_size=VOCAB, eos_token_id=3)))[0] == 0
