"""Messages: one line, values in 200 characters; what cannot be a path or a folder is told."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import logitstore
from logitstore.corpus.corpus import Corpus, open_corpus
from logitstore.corpus.fields import Fields
from logitstore.corpus.tokenizer import tokenizer_files, vocab_size
from logitstore.errors import LogitStoreError, ModelError, StorageError, shown

LONG = "x" * 10_000_000


def _records(*records: Any, text: Any = None) -> None:
    _read(open_corpus(list(records), fields=Fields(text=text)))


def _read(corpus: Corpus) -> None:
    for reader in corpus.first_records(limit=None, skip_bad=False):
        list(reader)


USES: dict[str, Callable[[Any], object]] = {
    "text": lambda value: _records({"text": [value]}),
    "field": lambda value: _records({value: "text"}),
    "text_field": lambda value: _records({"text": "a"}, text=value),
    "data": open_corpus,
    "open": logitstore.open,
    "uri": lambda value: logitstore.open(f"s3://{value}"),
    "out": lambda value: logitstore.dump(teacher="t", data=["a"], out=value),
    "teacher": lambda value: logitstore.dump(teacher=value, data=["a"], out="store"),
    "sparsify": lambda value: logitstore.dump(teacher="t", data=["a"], out="s", sparsify=value),
    "k": lambda value: logitstore.dump(teacher="t", data=["a"], out="s", k=value),
}
ODD = ["a\0b", "half \ud800", "a" * 5000, "a/" * 3000, "two\nlines \x1b[31m"]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("value", [LONG, *ODD], ids=lambda value: ascii(value[:12]))
def test_any_value_gives_a_message_of_one_short_line(
    use: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LogitStoreError) as caught:
        USES[use](value)
    message = str(caught.value)
    assert len(message) < 4500
    assert message.isprintable()


def test_a_value_is_shown_with_its_length() -> None:
    assert shown("a" * 200) == "a" * 200
    assert shown(LONG) == "x" * 160 + "... (10,000,000 characters)"
    assert shown("a\tb\ud800") == "a\\tb\\ud800"
    assert shown(None) == "None"


def test_a_long_line_of_a_file_is_not_quoted_whole(tmp_path: Path) -> None:
    for number, line in enumerate([LONG, f'{{"text": "{LONG}', json.dumps({LONG: 1})]):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(line + "\n")
        with pytest.raises(LogitStoreError) as caught:
            _read(open_corpus(str(path)))
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("key", [1, None, (1, 2), 0.5])
def test_a_record_with_other_keys_than_names_is_told(key: Any) -> None:
    with pytest.raises(LogitStoreError, match="memory:1: no field of a known shape"):
        _records({key: "a"})


def test_a_temporary_folder_that_cannot_be_made_is_told(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(StorageError, match=r"no temporary folder.*TMPDIR"):
        tokenizer_files(tokenizer)


class _Odd(PreTrainedTokenizerFast):
    def get_vocab(self) -> dict[str, int]:
        return {}

    def save_pretrained(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("cannot be saved")


def test_a_tokenizer_that_cannot_be_used_is_told(tokenizer: PreTrainedTokenizerFast) -> None:
    odd = _Odd(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ModelError, match="has no ids"):
        vocab_size(odd)
    with pytest.raises(ModelError, match="cannot be saved"):
        tokenizer_files(odd)
