"""Pieces of long texts: a model that has learnt to speak behind BOS gets it in front of each."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
from tokenizers import processors

from logitstore.corpus.content import Content, Record, TokenRecord
from logitstore.corpus.encoder import beginning
from logitstore.corpus.text import tokenize
from logitstore.corpus.text_rules import TextRules

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from logitstore.targets.documents import Document

BOS = "<s>"


@pytest.fixture
def with_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    twin = copy.deepcopy(tokenizer)
    twin.add_special_tokens({"bos_token": BOS})
    twin.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, twin.bos_token_id)]
    )
    return twin


def documents(
    content: Content, tokenizer: PreTrainedTokenizerFast, *, max_length: int, ends: bool = True
) -> list[Document]:
    record = Record(source="a", record=0, line=1, content=content, ends=ends)
    rules = TextRules(max_length=max_length)
    return list(tokenize([record], tokenizer, rules=rules, skip_bad=False))


TEXT = "The teacher reads the text once, and the student reads what it wrote. " * 8


@pytest.mark.parametrize("max_length", [3, 4, 7, 64, 10_000])
def test_every_piece_begins_with_bos(with_bos: PreTrainedTokenizerFast, max_length: int) -> None:
    bos = with_bos.bos_token_id
    assert beginning(with_bos) == [bos]
    plain = with_bos(TEXT, add_special_tokens=False)["input_ids"]
    found = documents(Content(text=TEXT), with_bos, max_length=max_length)
    predicted: list[int] = []
    for number, document in enumerate(found):
        ids = document.input_ids_L.tolist()
        assert len(ids) <= max_length
        assert ids.count(bos) == 1
        assert ids[0] == bos
        assert not document.counted_L[0]
        if number:  # the token that it shares stands behind BOS
            assert ids[1] == predicted[-1]
            assert not document.counted_L[1]
        predicted += document.input_ids_L[document.counted_L].tolist()
    # Every token once, and the end of the text.
    assert predicted == [*plain, with_bos.eos_token_id]


def test_a_text_that_begins_with_bos_has_it_once(with_bos: PreTrainedTokenizerFast) -> None:
    (one,) = documents(Content(text=BOS + "The teacher."), with_bos, max_length=99)
    (other,) = documents(Content(text="The teacher."), with_bos, max_length=99)
    assert one.input_ids_L.tolist() == other.input_ids_L.tolist()


def test_a_section_of_a_text_begins_with_bos_and_does_not_end(
    with_bos: PreTrainedTokenizerFast,
) -> None:
    for document in documents(Content(text=TEXT), with_bos, max_length=50, ends=False):
        assert document.input_ids_L[0] == with_bos.bos_token_id
        assert with_bos.eos_token_id not in document.input_ids_L.tolist()


def test_tokens_that_begin_with_bos_do_so_in_every_piece(
    with_bos: PreTrainedTokenizerFast,
) -> None:
    bos = with_bos.bos_token_id
    ids = [bos, *range(3, 23)]
    tokens = TokenRecord(ids=ids, counted=[True] * len(ids))
    found = documents(Content(tokens=tokens), with_bos, max_length=8)
    assert all(document.input_ids_L[0] == bos for document in found)
    said = [one for found in found for one in found.input_ids_L[found.counted_L].tolist()]
    assert said == ids[1:]
    plain = documents(
        Content(tokens=TokenRecord(ids=ids[1:], counted=[True] * 20)), with_bos, max_length=8
    )
    assert not any(bos in document.input_ids_L for document in plain)


def test_a_document_of_two_tokens_has_no_room_for_both(with_bos: PreTrainedTokenizerFast) -> None:
    found = documents(Content(text=TEXT), with_bos, max_length=2)
    said = [int(document.input_ids_L[1]) for document in found]
    plain = with_bos(TEXT, add_special_tokens=False)["input_ids"]
    assert said == [*plain, with_bos.eos_token_id]


def test_without_bos_pieces_share_a_token_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert beginning(tokenizer) == []
    found = documents(Content(text=TEXT), tokenizer, max_length=8)
    ids = tokenizer(TEXT)["input_ids"]
    assert found[1].input_ids_L[:3].tolist() == ids[7:10]
