"""Dumps of real material from end to end: chats, tokens, files, and rows that are no numbers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import logitstore
from logitstore.errors import CorpusError, ModelError, NotFinite, SettingError, SpecError
from tests.chat_templates import TEMPLATES
from tests.test_teacher import Lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerFast

    from logitstore.targets.documents import Document

CHATS = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}] * 2}
]


def templated(tokenizer: PreTrainedTokenizerFast, name: str) -> PreTrainedTokenizerFast:
    twin = copy.deepcopy(tokenizer)
    twin.add_tokens(["<|im_end|>", "<|return|>", "<|end|>"], special_tokens=True)
    twin.chat_template = TEMPLATES[name]
    return twin


class Wide(Lines):
    """The bigrams of `Lines` over more ids."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.context = 512
        self.table_VV = torch.randn(size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def settings(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> dict[str, Any]:
    chat = templated(tokenizer, "channels")
    size = max(chat.get_vocab().values()) + 1
    return {
        "teacher": Wide(size),
        "tokenizer": chat,
        "data": CHATS,
        "out": tmp_path / "store",
        "sparsify": "topk",
        "k": 4,
        "max_length": 512,
    }


def texts(settings: dict[str, Any]) -> list[str]:
    store = logitstore.open(settings["out"])
    return [settings["tokenizer"].decode(one.document.input_ids_L.tolist()) for one in store]


def test_the_date_in_a_prompt_is_that_with_which_the_store_was_begun(
    settings: dict[str, Any],
) -> None:
    settings["template_date"] = "2026-01-02"
    first = logitstore.dump(**settings)
    assert "Today: 2026-01-02" in "".join(texts(settings))
    del settings["template_date"]  # another day, and nobody says which
    assert logitstore.dump(**settings).fingerprint == first.fingerprint
    assert logitstore.inspect(settings["out"])["corpus"]["template_date"] == "2026-01-02"
    with pytest.raises(SpecError, match="template_date 2026-01-02 there, 2027-01-01 here"):
        logitstore.dump(**settings | {"template_date": "2027-01-01"})
    with pytest.raises(SettingError, match=r"this is no date.*found yesterday"):
        logitstore.dump(**settings | {"template_date": "yesterday"})


def test_a_template_that_asks_for_no_date_keeps_none(
    settings: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    settings["tokenizer"] = templated(tokenizer, "chatml")
    logitstore.dump(**settings)
    assert logitstore.open(settings["out"]).spec.text.template_date is None


def test_each_turn_is_a_document_where_the_past_is_rewritten(settings: dict[str, Any]) -> None:
    logitstore.dump(**settings)
    assert len(texts(settings)) == 2
    last = settings | {"turns": "last", "out": settings["out"].with_name("last")}
    logitstore.dump(**last)
    assert texts(last) == texts(settings)[-1:]


def test_a_template_of_ones_own_goes_into_the_store(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(TEMPLATES["thinking"])
    before = settings["tokenizer"].chat_template
    settings |= {"chat_template": path, "template_kwargs": {"enable_thinking": True}}
    logitstore.dump(**settings)
    assert settings["tokenizer"].chat_template == before
    store = logitstore.open(settings["out"])
    files = store.tokenizer_files()
    assert files["chat_template.jinja"].decode() == TEMPLATES["thinking"]
    assert json.loads(store.spec.text.template_kwargs) == {"enable_thinking": True}
    assert "<think>" in texts(settings)[0]
    for bad in ("{% for", None):
        if bad is None:
            path.unlink()
        else:
            path.write_text(bad)
        with pytest.raises(ModelError, match=r"chat template (is broken|cannot be read)"):
            logitstore.dump(**settings | {"out": tmp_path / "bad"})


@pytest.mark.parametrize("given", ["[1]", "{", 3, {"a": object()}])
def test_template_variables_are_an_object(settings: dict[str, Any], given: object) -> None:
    with pytest.raises(SettingError, match="no JSON object"):
        logitstore.dump(**settings | {"template_kwargs": given})


def test_a_field_that_the_template_leaves_out_is_ignored_by_name_alone(
    settings: dict[str, Any],
) -> None:
    chats = copy.deepcopy(CHATS)
    chats[0]["messages"][0]["name"] = "Ann"
    settings["data"] = chats
    with pytest.raises(CorpusError, match="leaves out name of message 0"):
        logitstore.dump(**settings)
    assert not settings["out"].exists()
    logitstore.dump(**settings | {"ignore_field": ["name"]})
    assert logitstore.open(settings["out"]).spec.text.ignored_fields == ("name",)


def test_tokens_are_stored_as_they_are(settings: dict[str, Any], tmp_path: Path) -> None:
    rows = {"ids": [[5, 6, 7, 8], [9, 10]], "mask": [[0, 0, 1, 1], [1, 1]]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    settings |= {"data": tmp_path / "a.parquet", "tokens_field": "ids", "mask_field": "mask"}
    logitstore.dump(**settings)
    store = logitstore.open(settings["out"])
    assert [one.document.input_ids_L.tolist() for one in store] == rows["ids"]
    assert store[0].document.counted_L.tolist() == [False, False, True, True]


def test_a_token_beyond_the_vocabulary_is_refused_by_name(settings: dict[str, Any]) -> None:
    settings["data"] = [{"input_ids": [5, 6]}, {"input_ids": [5, 10_000]}]
    with pytest.raises(CorpusError, match=r"memory:2: .*found 10000"):
        logitstore.dump(**settings)
    assert logitstore.dump(**settings, skip_bad=True).skipped == 1


class Broken(Wide):
    """Of which one token makes no distribution."""

    def logits(self, batch: Sequence[Document]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for logits_RV, labels_R in super().logits(batch):
            logits_RV[labels_R == 9] = float("nan")
            yield logits_RV, labels_R


def test_a_row_that_is_no_distribution_names_its_document(settings: dict[str, Any]) -> None:
    settings["teacher"] = Broken(len(settings["teacher"].table_VV))
    settings["data"] = [{"input_ids": [5, 6, number]} for number in (7, 8, 9, 10)]
    with pytest.raises(NotFinite, match=r"memory, record 2, piece 0: .*no distribution"):
        logitstore.dump(**settings)
    summary = logitstore.dump(**settings, skip_bad=True)
    assert (summary.documents, summary.skipped) == (3, 1)
    ends = [int(one.document.input_ids_L[-1]) for one in logitstore.open(settings["out"])]
    assert ends == [7, 8, 10]
    for one in logitstore.open(settings["out"]):
        assert np.isfinite(one.targets.logprobs_RK).all()


def test_jsonl_and_parquet_of_the_same_chats_give_the_same_ids(
    settings: dict[str, Any], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    settings["tokenizer"] = templated(tokenizer, "thinking")
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}, _call({"city": "Paris"})]},
        {"messages": [{"role": "user", "content": "Hi"}, _call({"a": 1})]},
    ]
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = []
    for name in ("a.jsonl", "a.parquet"):
        one = settings | {"data": tmp_path / name, "out": tmp_path / f"{name}.store"}
        logitstore.dump(**one)
        found.append(texts(one))
    assert found[0] == found[1]
    assert '{"city": "Paris"}' in "".join(found[0])


def _call(arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


def test_reasons_for_skipped_records_are_told_once_with_their_place(
    settings: dict[str, Any],
) -> None:
    notes: list[str] = []
    bad: list[Any] = [{"messages": "no chat"}, {"messages": [{"role": "user"}]}]
    settings["data"] = [*CHATS * 5, *bad, *bad, *CHATS]
    summary = logitstore.dump(**settings, skip_bad=True, on_note=notes.append)
    assert summary.skipped == 4
    told = [line for line in notes if "skipped" in line]
    assert [line.split(": skipped: ")[0] for line in told] == ["memory:6", "memory:7"]
    assert "no JSON" in told[0]
    assert "has no content" in told[1]
