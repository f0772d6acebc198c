"""What must agree between a student's tokenizer and the store's is what ids mean."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import logitstore
import trainer
from logitstore.errors import TokenizerError
from tests.tiny_models import tiny
from trainer.training.state_files import RunWarning
from trainer.training.student import load_student


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "texts.jsonl"
    texts = ("the cat sat on the mat " * n for n in (2, 1, 2, 1))
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    return path


@pytest.fixture
def store(tmp_path, teacher_folder, text_file):
    logitstore.dump(
        teacher=teacher_folder,
        data=text_file,
        out=tmp_path / "store",
        sparsify="topk",
        k=64,
        limit=3,
    )
    return logitstore.open(tmp_path / "store")


def changed(teacher_folder: Path, folder: Path, change) -> Path:
    """The teacher's folder with another tokenizer."""
    shutil.copytree(teacher_folder, folder)
    files = {
        name: json.loads((folder / name).read_text())
        for name in ("tokenizer.json", "tokenizer_config.json")
    }
    change(*files.values())
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def other_end(tokenizer, config):
    """As a base model ends its texts otherwise than the instructed one: by a token of both."""
    config["eos_token"] = sorted(tokenizer["model"]["vocab"], key=len)[0]


def other_merges(tokenizer, _):
    tokenizer["model"]["merges"].pop()


def swapped(tokenizer, _):
    vocabulary = tokenizer["model"]["vocab"]
    one, other = sorted(vocabulary, key=vocabulary.get)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = merges


@pytest.mark.parametrize(
    ("change", "told"),
    [(other_end, r"eos_token .*, .* in the store"), (other_merges, "how texts are split")],
)
def test_another_end_or_other_merges_are_told_and_no_reason_to_refuse(
    store, teacher_folder, tmp_path, change, told
):
    student = changed(teacher_folder, tmp_path / "student", change)
    with pytest.warns(RunWarning, match=f"ids mean the same: {told}"):
        load_student(student, spec=store.spec, store=store)
    with pytest.warns(RunWarning, match="ids mean the same"):
        trainer.fit(logits=store, student=student, out=tmp_path / "run", steps=1)
    with pytest.warns(RunWarning, match="ids mean the same"):
        result = trainer.evaluate(student, logits=store)
    assert result["kl"] == pytest.approx(0, abs=1e-2)  # token by token: it is the teacher
    # The run keeps the store's tokenizer, whose end of text the student has learnt.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "run" / name).read_bytes() == store.tokenizer_files()[name]


def test_a_permuted_vocabulary_is_refused(store, teacher_folder, tmp_path):
    student = changed(teacher_folder, tmp_path / "student", swapped)
    with pytest.raises(TokenizerError, match=r"ids mean other tokens.*found id \d+ is .*allowed"):
        load_student(student, spec=store.spec, store=store)
    with pytest.raises(TokenizerError, match="ids mean other tokens"):
        trainer.fit(logits=store, student=student, out=tmp_path / "run", steps=1)


@pytest.mark.parametrize("swap", [False, True])
def test_a_reserved_token_may_get_a_name_but_two_may_not_change_places(
    tmp_path, text_file, teacher_folder, swap
):
    def add(*names):
        def change(tokenizer, config):
            first = max(tokenizer["model"]["vocab"].values()) + 1
            known = max([first - 1, *(one["id"] for one in tokenizer["added_tokens"])]) + 1
            tokenizer["added_tokens"] += [
                {
                    "id": known + place,
                    "content": name,
                    "special": True,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                }
                for place, name in enumerate(names)
            ]

        return change

    size = 2 + trainer_size(teacher_folder)
    teacher = changed(teacher_folder, tmp_path / "teacher", add("<|im_start|>", "<|im_end|>"))
    tiny(vocab_size=size, max_position_embeddings=128).save_pretrained(teacher)
    names = ("<|im_end|>", "<|im_start|>") if swap else ("<|reserved_0|>", "<|reserved_1|>")
    student = changed(teacher_folder, tmp_path / "student", add(*names))
    tiny(vocab_size=size, max_position_embeddings=128).save_pretrained(student)
    logitstore.dump(teacher=teacher, data=text_file, out=tmp_path / "store", k=4, limit=3)
    store = logitstore.open(tmp_path / "store")
    assert store.spec.tokenizer.vocab_size == size
    if swap:
        with pytest.raises(TokenizerError, match="ids mean other tokens"):
            load_student(student, spec=store.spec, store=store)
        return
    with pytest.warns(RunWarning, match=r"another name: \d+ '<\|reserved_0\|>', '<\|im_start\|>'"):
        load_student(student, spec=store.spec, store=store)


def trainer_size(folder):
    from transformers import AutoTokenizer

    return max(AutoTokenizer.from_pretrained(folder).get_vocab().values()) + 1


def test_a_store_without_its_tokenizer_cannot_tell(store, teacher_folder, tmp_path):
    student = changed(teacher_folder, tmp_path / "student", other_merges)
    with pytest.raises(TokenizerError, match="keeps no tokenizer"):
        load_student(student, spec=store.spec)


# --- contexts


def test_the_documents_decide_how_long_a_context_must_be(store, teacher_folder, tmp_path):
    longest = max(len(one.document) for one in store)
    assert longest < store.spec.text.max_length
    tokenizer_size = store.spec.tokenizer.vocab_size
    for context in (longest, longest - 1):
        folder = tmp_path / f"student-{context}"
        tiny(vocab_size=tokenizer_size, max_position_embeddings=context).save_pretrained(folder)
        if context == longest:
            trainer.fit(logits=store, student=folder, out=tmp_path / "run", steps=1)
            assert trainer.evaluate(folder, logits=store)["targets"] > 0
            continue
        with pytest.raises(logitstore.ModelError, match=f"longest document.*allowed: {longest}"):
            trainer.fit(logits=store, student=folder, out=tmp_path / "short", steps=1)
        with pytest.raises(logitstore.ModelError, match=f"longest document.*allowed: {longest}"):
            trainer.evaluate(folder, logits=store)


@pytest.mark.parametrize("context", [16, 5])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_text_is_measured_in_pieces_that_the_model_can_read(
    kind, context, teacher_folder, text_file, tmp_path
):
    folder = tmp_path / kind
    shutil.copytree(teacher_folder, folder)
    limit = {"gpt2": "n_positions", "llama": "max_position_embeddings"}[kind]
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)
    tiny(kind, vocab_size=trainer_size(teacher_folder), **{limit: context}).save_pretrained(folder)
    whole = trainer.evaluate(folder, data=text_file)
    cut = trainer.evaluate(folder, data=text_file, max_length=context)
    assert whole["loss"] == cut["loss"]
    assert whole["documents"] == cut["documents"]
    with pytest.raises(logitstore.SettingError, match=rf"model's context.*up to {context}"):
        trainer.evaluate(folder, data=text_file, max_length=context + 1)
