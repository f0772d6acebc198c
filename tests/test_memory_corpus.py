"""A corpus of strings or dicts in memory: the documents of a file, read once."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import logitstore
from logitstore.corpus.corpus import Corpus, open_corpus
from logitstore.corpus.fields import Fields
from logitstore.errors import CorpusError, SpecError

TEXTS = ["The teacher reads the text once.", "the student reads what the teacher wrote"] * 6
RECORDS = [{"text": f"{number} {text}", "more": object()} for number, text in enumerate(TEXTS)]


@pytest.fixture
def settings(teacher_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """Several units of work."""
    return {
        "teacher": teacher_folder,
        "data": RECORDS,
        "out": tmp_path / "store",
        "sparsify": "topk",
        "k": 8,
        "unit_tokens": 50,
    }


def _tokens(folder: Path) -> list[list[int]]:
    return [stored.document.input_ids_L.tolist() for stored in logitstore.open(folder)]


def test_strings_dicts_and_lines_make_the_same_documents(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": one["text"]}) + "\n" for one in RECORDS))
    texts = [one["text"] for one in RECORDS]
    made = []
    for number, data in enumerate((RECORDS, texts, iter(texts), path, open_corpus(RECORDS))):
        logitstore.dump(**settings | {"data": data, "out": tmp_path / str(number)})
        made.append(_tokens(tmp_path / str(number)))
    assert made[0]
    assert all(one == made[0] for one in made)
    spec = logitstore.open(tmp_path / "0").spec
    assert spec.corpus.name == "memory"
    first, third = (logitstore.open(tmp_path / name) for name in "02")
    ids = [[stored.document.id for stored in store] for store in (first, third)]
    assert ids[0] == ids[1]
    assert len(first.commits) > 1
    for one, two in zip(first, third, strict=True):
        np.testing.assert_array_equal(one.targets.logprobs_RK, two.targets.logprobs_RK)


def test_the_same_records_again_leave_the_store_as_it_is(settings: dict[str, Any]) -> None:
    logitstore.dump(**settings)
    assert logitstore.dump(**settings).new_targets == 0
    other = [dict(one) for one in RECORDS]
    other[7]["text"] += "!"
    (settings["out"] / "manifest.json").unlink()
    for commit in settings["out"].glob("commits/00000[1-9].json"):
        commit.unlink()
    with pytest.raises((CorpusError, SpecError), match=r"corpus\.fingerprint"):
        logitstore.dump(**settings | {"data": other})
    logitstore.dump(**settings)


def test_a_generator_is_read_as_far_as_it_is_asked_for(settings: dict[str, Any]) -> None:
    given: list[int] = []

    def endless() -> Iterator[str]:
        for number in count():
            given.append(number)
            yield f"{number} The teacher reads the text once."

    summary = logitstore.dump(**settings | {"data": endless(), "limit": 5})
    assert (summary.documents, given) == (5, list(range(5)))


def test_chats_in_memory_are_chats() -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    corpus = open_corpus([chat])
    (unit,) = corpus.plan(unit_bytes=100, limit=None).units
    (record,) = corpus.read(unit, skip_bad=False)
    assert record.content.chat.messages == chat["messages"]
    named = open_corpus([{"talk": chat["messages"]}], fields=Fields(messages="talk"))
    (unit,) = named.plan(unit_bytes=100, limit=None).units
    assert next(iter(named.read(unit, skip_bad=False))).content.chat.messages == chat["messages"]


BAD = {
    "a number": (3, "neither a string nor a dict of fields.*found 3"),
    "a list": (["a"], "neither a string nor a dict"),
    "bytes": (b"text", "neither a string nor a dict"),
    "None": (None, "neither a string nor a dict"),
    "another field": ({"body": "text"}, "no field of a known shape"),
    "no text": ({"text": 3}, "text is no text"),
    "nothing": ("  ", "text is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_cannot_be_used_is_named_by_its_number(
    settings: dict[str, Any], name: str
) -> None:
    record, message = BAD[name]
    settings["data"] = ["The teacher.", record, "The student."]
    with pytest.raises(CorpusError, match=f"memory:2: .*{message}"):
        logitstore.dump(**settings)
    assert logitstore.dump(**settings, skip_bad=True).skipped == 1


@pytest.mark.parametrize("data", [3, b"text", {"text": "one"}, None])
def test_what_is_no_corpus_is_told(settings: dict[str, Any], data: object) -> None:
    with pytest.raises(CorpusError, match="this is no corpus"):
        logitstore.dump(**settings | {"data": data})


def test_an_empty_corpus_is_told(settings: dict[str, Any]) -> None:
    with pytest.raises(CorpusError, match="memory: there is nothing in it"):
        logitstore.dump(**settings | {"data": []})


def test_an_open_corpus_keeps_its_fields() -> None:
    corpus = open_corpus([{"body": "text"}], fields=Fields(text="body"))
    assert isinstance(corpus, Corpus)
    assert open_corpus(corpus) is corpus
    assert open_corpus(corpus, fields=Fields(text="body")) is corpus
    with pytest.raises(CorpusError, match="open already"):
        open_corpus(corpus, fields=Fields(text="text"))


@pytest.mark.parametrize("finished", [True, False])
def test_other_records_in_memory_are_noticed(settings: dict[str, Any], finished: bool) -> None:
    def stop(progress: Any) -> None:
        if progress.facts and not finished:  # a unit is committed
            raise KeyboardInterrupt

    if finished:
        logitstore.dump(**settings)
    else:
        with pytest.raises(KeyboardInterrupt):
            logitstore.dump(**settings, on_progress=stop)
    for other in ([*RECORDS, {"text": "one more"}], RECORDS[:-1], RECORDS[::-1]):
        with pytest.raises(SpecError, match=r"corpus\.fingerprint"):
            logitstore.dump(**settings | {"data": other})
    assert logitstore.dump(**settings).documents == len(RECORDS)
