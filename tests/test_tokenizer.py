"""The tokenizer's fingerprint changes with what decides ids, and with nothing else."""

from __future__ import annotations

import copy
import json
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from logitstore.corpus.tokenizer import (
    load_tokenizer,
    tokenizer_files,
    tokenizer_fingerprint,
    vocab_size,
)
from logitstore.errors import ModelError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

MODELS: dict[str, Any] = {
    "WordPiece": (models.WordPiece, trainers.WordPieceTrainer),
    "WordLevel": (models.WordLevel, trainers.WordLevelTrainer),
    "Unigram": (models.Unigram, trainers.UnigramTrainer),
    "BPE": (models.BPE, trainers.BpeTrainer),
}


def rebuilt(
    tokenizer: PreTrainedTokenizerFast, change: Callable[[dict[str, Any]], None] | None = None
) -> PreTrainedTokenizerFast:
    """A twin of `tokenizer`, its tokenizer.json changed."""
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    if change is not None:
        change(description)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        unk_token=tokenizer.unk_token,
    )


def test_saved_and_loaded_is_the_same(
    tokenizer: PreTrainedTokenizerFast, tokenizer_folder: Path
) -> None:
    loaded = load_tokenizer(str(tokenizer_folder))
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(tokenizer)
    assert vocab_size(loaded) == vocab_size(tokenizer) == 300


def test_a_tokenizer_for_which_there_is_no_room_is_told(tokenizer: PreTrainedTokenizerFast) -> None:
    """The library that writes it has errors of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(StorageError, match=r"file is larger than is allowed.*TMPDIR"):
            tokenizer_files(tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_survives_saving(kind: str, tmp_path: Path) -> None:
    model, trainer = MODELS[kind]
    core = Tokenizer(model() if kind == "Unigram" else model(unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("``", '"')])
    options = {"unk_token": "[UNK]"} if kind == "Unigram" else {}
    core.train_from_iterator(
        ["some words to learn some words from"],
        trainer(vocab_size=60, special_tokens=["[UNK]", "</s>"], show_progress=False, **options),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", eos_token="</s>")
    tokenizer.add_tokens(["<think>"])
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_fingerprint(load_tokenizer(str(tmp_path))) == tokenizer_fingerprint(tokenizer)
    assert vocab_size(tokenizer) == len(tokenizer)


def test_use_does_not_change_it(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    used = rebuilt(tokenizer)
    used.pad_token = used.eos_token
    used(["a", "longer one"], padding="max_length", truncation=True, max_length=5)
    used.chat_template = "{{ messages }}"
    used.padding_side = "left"
    used.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert tokenizer_fingerprint(used) == tokenizer_fingerprint(tokenizer)
    used.save_pretrained(tmp_path)
    assert tokenizer_fingerprint(load_tokenizer(str(tmp_path))) == tokenizer_fingerprint(tokenizer)


def _swap_merges(description: dict[str, Any]) -> None:
    merges = description["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def _swap_ids(description: dict[str, Any]) -> None:
    vocabulary = description["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "merges": _swap_merges,
    "vocabulary": _swap_ids,
    "normalizer": lambda description: description.update(normalizer={"type": "Lowercase"}),
    "pre-tokenizer": lambda description: description["pre_tokenizer"].update(add_prefix_space=True),
    "added tokens": lambda description: description["added_tokens"][0].update(lstrip=True),
    "model": lambda description: description["model"].update(ignore_merges=True),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_decides_ids_changes_it(tokenizer: PreTrainedTokenizerFast, what: str) -> None:
    assert tokenizer_fingerprint(rebuilt(tokenizer)) == tokenizer_fingerprint(tokenizer)
    changed = rebuilt(tokenizer, CHANGES[what])
    assert tokenizer_fingerprint(changed) != tokenizer_fingerprint(tokenizer)


def test_special_ids_and_new_tokens_change_it(tokenizer: PreTrainedTokenizerFast) -> None:
    other_end, larger = rebuilt(tokenizer), rebuilt(tokenizer)
    other_end.eos_token = "a"
    larger.add_tokens(["<new>"])
    found = {tokenizer_fingerprint(one) for one in (tokenizer, other_end, larger)}
    assert len(found) == 3
    assert vocab_size(larger) == 301


def test_both_spellings_of_merges_are_one(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tokenizer_fingerprint(tokenizer)
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    assert isinstance(description["model"]["merges"][0], list)
    description["model"]["merges"] = [" ".join(pair) for pair in description["model"]["merges"]]

    class Older:
        def to_str(self) -> str:
            return json.dumps(description)

    older = copy.deepcopy(tokenizer)
    monkeypatch.setattr(type(older), "backend_tokenizer", Older())
    assert tokenizer_fingerprint(older) == expected


def test_a_tokenizer_without_a_core(tmp_path: Path) -> None:
    tokenizer = ByT5Tokenizer()
    tokenizer.save_pretrained(tmp_path)
    assert not tokenizer.is_fast
    loaded = load_tokenizer(str(tmp_path))
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(tokenizer)
    assert tokenizer_fingerprint(ByT5Tokenizer(extra_ids=3)) != tokenizer_fingerprint(tokenizer)
    assert vocab_size(tokenizer) == 3 + 256 + 125


class WithCode(PreTrainedTokenizerFast):
    """A tokenizer that brings code, and a file that no tokenizer has."""

    def save_pretrained(self, save_directory: Any, **options: Any) -> Any:
        (Path(save_directory) / "tokenization_own.py").write_text("print('run')")
        (Path(save_directory) / "config.json").write_text("{}")
        return super().save_pretrained(save_directory, **options)


def test_no_code_of_a_tokenizer_comes_along(tokenizer: PreTrainedTokenizerFast) -> None:
    code = {"AutoTokenizer": ["tokenization_own.Own", None]}
    own = WithCode(tokenizer_object=copy.deepcopy(tokenizer.backend_tokenizer), auto_map=code)
    files = tokenizer_files(own)
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(files)
    assert not {"tokenization_own.py", "config.json"} & set(files)
    assert b"auto_map" not in files["tokenizer_config.json"]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer can be loaded"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "NoSuchModel"}}')
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    with pytest.raises(ModelError, match="no tokenizer can be loaded"):
        load_tokenizer(str(tmp_path))
