"""Text rules: no target lost, none counted twice, and of a chat only what the assistant says."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import ByT5Tokenizer
from transformers.utils import logging

from logitstore.corpus.chats import chat_of
from logitstore.corpus.content import Content, Record
from logitstore.corpus.text import tokenize
from logitstore.corpus.text_rules import TextRules
from logitstore.errors import CorpusError, ModelError, SettingError
from logitstore.targets.documents import Document, document_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END = "<|endoftext|>"
TURN = "<|im_start|>{{ message.role }}\n"
# One form of chat, told in two ways: the second marks what the assistant generates.
CHATML = (
    "{% for message in messages %}" + TURN + "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for message in messages %}" + TURN + "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}{{ '\\n' }}{% else %}"
    "{{ message.content }}<|im_end|>{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURNS = [
    "What is a target?",
    "A next token.\n\nWith what stands before it: café 😀",
    "And?",
    " No.",
]
CHAT = [
    {"role": "assistant" if number % 2 else "user", "content": content}
    for number, content in enumerate(TURNS)
]


def text_record(text: str, *, number: int = 0, ends: bool = True) -> Record:
    return Record(
        source="a.txt", record=number, line=number + 1, content=Content(text=text), ends=ends
    )


def chat_record(messages: list[dict[str, Any]], *, number: int = 0) -> Record:
    content = Content(chat=chat_of(messages, name="messages"))
    return Record(source="a.jsonl", record=number, line=number + 1, content=content, ends=True)


def documents(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, *, max_length: int = 10_000
) -> list[Document]:
    rules = TextRules(max_length=max_length)
    return list(tokenize(records, tokenizer, rules=rules, skip_bad=False))


def with_template(
    tokenizer: PreTrainedTokenizerFast, template: str, *, tokens: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    twin = copy.deepcopy(tokenizer)
    twin.add_tokens(list(tokens), special_tokens=True)
    twin.chat_template = template
    return twin


@pytest.fixture
def chatml(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return with_template(tokenizer, CHATML, tokens=["<|im_start|>", "<|im_end|>"])


@pytest.fixture
def marked(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return with_template(tokenizer, MARKED, tokens=["<|im_start|>", "<|im_end|>"])


# Texts.


def test_a_text_is_its_tokens_and_an_end(tokenizer: PreTrainedTokenizerFast) -> None:
    (document,) = documents([text_record("The teacher reads.")], tokenizer)
    by_hand = tokenizer.backend_tokenizer.encode("The teacher reads.").ids
    assert document.input_ids_L.tolist() == [*by_hand, tokenizer.eos_token_id]
    assert document.input_ids_L.dtype == np.uint32
    assert document.counted_L.tolist() == [False] + [True] * len(by_hand)
    assert document.id == document_id(source="a.txt", record=0, piece=0)


def test_an_end_is_written_once_and_only_where_a_text_ends(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    end = tokenizer.eos_token_id
    inside, ended = documents(
        [text_record("The text", ends=False), text_record(f"The text{END}")], tokenizer
    )
    assert end not in inside.input_ids_L
    assert ended.input_ids_L.tolist() == [*inside.input_ids_L.tolist(), end]


def test_special_tokens_are_those_the_tokenizer_adds(tokenizer: PreTrainedTokenizerFast) -> None:
    adding = copy.deepcopy(tokenizer)
    adding.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A {END}", special_tokens=[(END, tokenizer.eos_token_id)]
    )
    (document,) = documents([text_record("the text")], adding)
    words = tokenizer("the text")["input_ids"]
    end = tokenizer.eos_token_id
    assert document.input_ids_L.tolist() == [end, *words, end]


def test_no_end_where_the_tokenizer_has_none(tokenizer: PreTrainedTokenizerFast) -> None:
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    (document,) = documents([text_record("the text")], endless)
    assert document.input_ids_L.tolist() == tokenizer("the text")["input_ids"]


@given(length=st.integers(1, 60), max_length=st.integers(2, 20))
@settings(max_examples=80, deadline=None)
def test_every_token_but_the_first_is_predicted_once(
    tokenizer: PreTrainedTokenizerFast, length: int, max_length: int
) -> None:
    text = "".join(chr(ord("a") + number % 23) + "," for number in range(length))
    whole = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    pieces = documents([text_record(text, number=3)], tokenizer, max_length=max_length)
    predicted = [
        (*piece.input_ids_L[:position][-1:].tolist(), token)
        for piece in pieces
        for position, token in enumerate(piece.input_ids_L.tolist())
        if piece.counted_L[position]
    ]
    assert predicted == list(pairwise(whole))
    assert all(2 <= len(piece) <= max_length for piece in pieces)
    assert all(len(piece) == max_length for piece in pieces[:-1])
    assert [piece.piece for piece in pieces] == list(range(len(pieces)))
    assert len({piece.id for piece in pieces}) == len(pieces)
    assert all(piece.record == 3 for piece in pieces)


def test_pieces_at_the_edges(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = documents([text_record("The student reads what it wrote.")], tokenizer)[0]
    size = len(whole)
    for max_length, lengths in (
        (size, [size]),
        (size + 1, [size]),
        (size - 1, [size - 1, 2]),
        (2, [2] * (size - 1)),
    ):
        found = documents(
            [text_record("The student reads what it wrote.")], tokenizer, max_length=max_length
        )
        assert [len(piece) for piece in found] == lengths


def test_many_records_keep_their_order_and_equal_one_by_one(
    chatml: PreTrainedTokenizerFast,
) -> None:
    records = [
        chat_record(CHAT, number=number)
        if number % 5 == 2
        else text_record("the text " * (number + 1), number=number)
        for number in range(200)
    ]
    together = documents(records, chatml, max_length=50)
    alone = [piece for record in records for piece in documents([record], chatml, max_length=50)]
    assert [piece.id for piece in together] == [piece.id for piece in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.input_ids_L.tolist() == other.input_ids_L.tolist()
        assert one.counted_L.tolist() == other.counted_L.tolist()


def test_long_texts_and_unmarked_templates_are_silent(
    chatml: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    chatml.model_max_length = 8
    before = logging.get_verbosity()
    logging.set_verbosity_info()
    logging.enable_propagation()
    try:
        documents([text_record("far too long " * 50), chat_record(CHAT)], chatml)
    finally:
        logging.disable_propagation()
        logging.set_verbosity(before)
    assert caplog.messages == []


def test_a_text_of_one_token_is_bad(tokenizer: PreTrainedTokenizerFast) -> None:
    records = [
        text_record("the text", number=0),
        text_record("a", number=1, ends=False),
        text_record(END, number=2),
        text_record("a", number=3),
    ]
    with pytest.raises(CorpusError, match=r"a\.txt:2: no token .*found 1 tokens.*skip_bad"):
        documents(records, tokenizer)
    stream = tokenize(records, tokenizer, rules=TextRules(max_length=8), skip_bad=True)
    assert [document.record for document in stream] == [0, 3]
    assert stream.skipped == 2


@pytest.mark.parametrize("max_length", [1, 0, -3])
def test_a_document_holds_two_tokens(max_length: int) -> None:
    with pytest.raises(SettingError, match="max_length"):
        TextRules(max_length=max_length)


# Chats.


def expected_chat(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[bool]]:
    """The tokens of `CHAT` and its mask, written down part by part."""
    ids: list[int] = []
    counted: list[bool] = []
    for message in CHAT:
        speaks = message["role"] == "assistant"
        for part, counts in (
            (f"<|im_start|>{message['role']}\n", False),
            (message["content"], speaks),
            ("<|im_end|>", speaks),
            ("\n", False),
        ):
            tokens = tokenizer(part)["input_ids"]
            ids += tokens
            counted += [counts] * len(tokens)
    return ids, counted


@pytest.mark.parametrize("template", ["chatml", "marked"])
def test_of_a_chat_the_assistant_counts_end_of_turn_included(
    template: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(template)
    (document,) = documents([chat_record(CHAT)], tokenizer)
    ids, counted = expected_chat(tokenizer)
    assert document.input_ids_L.tolist() == ids
    assert document.counted_L.tolist() == counted
    says = tokenizer.decode(document.input_ids_L[document.counted_L])
    assert says == f"{TURNS[1]}<|im_end|>{TURNS[3]}<|im_end|>"


def test_a_marked_template_decides_its_mask_itself(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    template = (
        "{% for message in messages %}{% if loop.last %}{%- generation -%}{{ message.content }}"
        "{%- endgeneration -%}{% else %}{{ message.content }}{% endif %}{% endfor %}"
    )
    last_only = with_template(tokenizer, template)
    (document,) = documents([chat_record(CHAT)], last_only)
    assert last_only.decode(document.input_ids_L[document.counted_L]) == TURNS[-1]


@given(
    turns=st.lists(
        st.tuples(
            st.sampled_from(["user", "assistant", "system"]),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
        ),
        min_size=1,
        max_size=6,
    ),
    max_length=st.integers(2, 40),
)
@settings(max_examples=60, deadline=None)
def test_both_ways_of_masking_agree(
    tokenizer: PreTrainedTokenizerFast, turns: list[tuple[str, str]], max_length: int
) -> None:
    tokens = ["<|im_start|>", "<|im_end|>"]
    messages = [{"role": role, "content": content} for role, content in turns]
    found = []
    for template in (CHATML, MARKED):
        stream = tokenize(
            [chat_record(messages)],
            with_template(tokenizer, template, tokens=tokens),
            rules=TextRules(max_length=max_length),
            skip_bad=True,
        )
        pieces = [
            (piece.piece, piece.input_ids_L.tolist(), piece.counted_L.tolist()) for piece in stream
        ]
        found.append((pieces, stream.skipped))
    assert found[0] == found[1]
    assert found[0][1] == ("assistant" not in dict(turns))


def test_white_space_is_the_end_of_turn_where_there_is_no_token_for_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    plain = with_template(
        tokenizer,
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
    )
    (document,) = documents([chat_record(CHAT[:2])], plain)
    assert plain.decode(document.input_ids_L[document.counted_L]).strip(" ") == f"{TURNS[1]}\n\n"


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_a_template_that_writes_bos_gets_no_second_one_and_no_end(
    tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    with_bos = with_template(
        tokenizer, "{{ bos_token }}" + template, tokens=["<|im_start|>", "<|im_end|>"]
    )
    with_bos.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, tokenizer.eos_token_id)]
    )
    (document,) = documents([chat_record(CHAT)], with_bos)
    assert document.input_ids_L[0] == tokenizer.bos_token_id
    assert (document.input_ids_L == tokenizer.bos_token_id).sum() == 1


@pytest.mark.parametrize("template", ["chatml", "marked"])
def test_pieces_in_which_nothing_counts_are_left_out(
    template: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(template)
    long_prompt = [{"role": "user", "content": "Tell me of the text. " * 40}, CHAT[1]]
    whole = documents([chat_record(long_prompt)], tokenizer)[0]
    pieces = documents([chat_record(long_prompt)], tokenizer, max_length=16)
    assert sum(piece.targets for piece in pieces) == whole.targets
    assert all(piece.targets for piece in pieces)
    assert pieces[0].piece > 0
    for piece in pieces:
        start = piece.piece * 15
        assert piece.input_ids_L.tolist() == whole.input_ids_L[start : start + 16].tolist()
        assert piece.counted_L[1:].tolist() == whole.counted_L[start + 1 : start + 16].tolist()


def test_an_assistant_may_speak_first(chatml: PreTrainedTokenizerFast) -> None:
    (document,) = documents([chat_record([CHAT[1], CHAT[0]])], chatml)
    assert chatml.decode(document.input_ids_L[document.counted_L]) == f"{TURNS[1]}<|im_end|>"


def test_a_chat_without_assistant_is_bad(chatml: PreTrainedTokenizerFast) -> None:
    records = [chat_record(CHAT[:1]), chat_record(CHAT, number=1)]
    with pytest.raises(CorpusError, match=r"a\.jsonl:1: no token of the record is a target"):
        documents(records, chatml)
    stream = tokenize(records, chatml, rules=TextRules(max_length=500), skip_bad=True)
    assert [document.record for document in stream] == [1]
    assert stream.skipped == 1


def test_a_template_that_rewrites_earlier_turns_gives_a_document_for_each(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    forgetful = with_template(
        tokenizer,
        "{% for message in messages %}{% if loop.last or message.role == 'user' %}"
        "{{ message.content }}{% endif %}\n{% endfor %}",
    )
    assert len(documents([chat_record(CHAT[:2])], forgetful)) == 1
    found = documents([chat_record(CHAT)], forgetful)
    assert [document.piece for document in found] == [0, 1]
    said = [forgetful.decode(document.input_ids_L[document.counted_L]) for document in found]
    assert [text.strip() for text in said] == [TURNS[1], TURNS[3].strip()]
    assert TURNS[1] not in forgetful.decode(found[1].input_ids_L)


def test_what_the_prompt_opens_and_the_turn_lacks_is_not_counted(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    thinking = with_template(
        tokenizer, CHATML.replace("assistant\n{% endif", "assistant\n<think>{% endif")
    )
    plain = with_template(tokenizer, CHATML)
    for one, other in zip(
        documents([chat_record(CHAT)], thinking), documents([chat_record(CHAT)], plain), strict=True
    ):
        assert one.input_ids_L.tolist() == other.input_ids_L.tolist()
        assert one.counted_L.tolist() == other.counted_L.tolist()


def test_a_chat_that_the_template_refuses_is_bad(tokenizer: PreTrainedTokenizerFast) -> None:
    strict = with_template(
        tokenizer, "{% if messages|length > 2 %}{{ raise_exception('too long') }}{% endif %}"
    )
    with pytest.raises(CorpusError, match=r"a\.jsonl:1: .*cannot render the chat: too long"):
        documents([chat_record(CHAT)], strict)


def test_a_model_for_chats_needs_a_sound_template(tokenizer: PreTrainedTokenizerFast) -> None:
    for template, problem in ((None, "no chat template"), ("{% for", "template is broken")):
        broken = copy.deepcopy(tokenizer)
        broken.chat_template = template
        stream = tokenize([chat_record(CHAT)], broken, rules=TextRules(max_length=9), skip_bad=True)
        with pytest.raises(ModelError, match=problem):
            list(stream)


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_a_slow_tokenizer_masks_by_prefixes(template: str) -> None:
    slow = ByT5Tokenizer()
    slow.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    slow.chat_template = template
    (document,) = documents([chat_record(CHAT)], slow)
    ids = [
        token
        for message in CHAT
        if message["role"] == "assistant"
        for token in slow(f"{message['content']}<|im_end|>", add_special_tokens=False)["input_ids"]
    ]
    assert document.input_ids_L[document.counted_L].tolist() == ids
    (text,) = documents([text_record("abc")], slow)
    assert text.input_ids_L.tolist() == slow("abc")["input_ids"]
    assert text.input_ids_L[-1] == slow.eos_token_id
