"""Turns: what counts of a chat is what the model would have had to say, and nothing is left out."""

from __future__ import annotations

import copy
import datetime
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.corpus.chats import chat_of
from logitstore.corpus.records import BadRecord
from logitstore.corpus.template import ChatTemplate
from logitstore.corpus.turns import renderings
from tests.chat_templates import TEMPLATES

ENDS = ("<|im_end|>", "<|return|>", "<|end|>")
TODAY = datetime.date(2026, 1, 2)
TOOLS = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}]


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def says(content: str | None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def call(arguments: object, **fields: Any) -> dict[str, Any]:
    function = {"name": "tide", "arguments": arguments}
    return says(None, tool_calls=[{"type": "function", "function": function}], **fields)


def told(name: str, messages: object, *, last: bool = False, variables: Any = (), **record: Any):
    """Each text of the chat, with what counts in brackets."""
    chat = chat_of(messages, name="messages", **record)
    template = ChatTemplate(
        source=TEMPLATES[name], variables={"bos_token": "<s>", **dict(variables)}, today=TODAY
    )
    texts = []
    for one in renderings(chat, template, ends=ENDS, last_turn_only=last):
        text = one.text
        for start, stop in reversed(one.spans):
            text = f"{text[:start]}[{text[start:stop]}]{text[stop:]}"
        texts.append(text)
    return texts


TWO_TURNS = [user("2+2?"), says("4."), user("3+3?"), says("6.")]


def test_a_chat_whose_renderings_begin_one_another_is_one_text() -> None:
    assert told("chatml", TWO_TURNS) == [
        (
            "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n[4.<|im_end|>]\n"
            "<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n[6.<|im_end|>]\n"
        )
    ]


def test_a_template_that_rewrites_the_past_gives_a_text_for_each_turn() -> None:
    """An empty block of thoughts is what the prompt supplies, and no target."""
    assert told("thinking", TWO_TURNS) == [
        (
            "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
            "[4.<|im_end|>]\n"
        ),
        (
            "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4.<|im_end|>\n"
            "<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
            "[6.<|im_end|>]\n"
        ),
    ]


def test_thoughts_that_the_model_had_are_what_it_says() -> None:
    thought = [user("2+2?"), says("4.", reasoning_content="add")]
    assert told("thinking", thought) == [
        (
            "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
            "[<think>\nadd\n</think>\n\n4.<|im_end|>]\n"
        )
    ]


def test_the_prompt_of_a_variable_is_the_prompt() -> None:
    """With thinking switched off the prompt holds the block itself; with it on, only the header."""
    chat = [user("2+2?"), says("4.")]
    for kwargs in ({}, {"enable_thinking": False}):
        assert told("thinking", chat, variables=kwargs)[0].endswith("</think>\n\n[4.<|im_end|>]\n")
    assert told("thinking", chat, variables={"enable_thinking": True}) == [
        (
            "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
            "[<think>\n\n</think>\n\n4.<|im_end|>]\n"
        )
    ]


def test_thoughts_that_the_template_drops_are_put_back_behind_their_prompt() -> None:
    chat = [user("2+2?"), says("<think>\nadd\n</think>\n\n4."), user("3+3?"), says("6.")]
    assert told("reasoned", chat) == [
        "<s><|user|>2+2?<|assistant|><think>\n[add\n</think>\n\n4.<|im_end|>]",
        "<s><|user|>2+2?<|assistant|>\n\n4.<|im_end|><|user|>3+3?<|assistant|>[6.<|im_end|>]",
    ]


def test_thoughts_that_the_user_has_quoted_are_put_back_all_the_same() -> None:
    """The template drops them, though their text stands in the rendering: the user's."""
    thought = "<think>add</think>4."
    assert told("forgetful", [user(thought), says(thought)]) == [
        f"<s><|user|>{thought}<|assistant|>[{thought}<|im_end|>]"
    ]


def test_another_end_of_the_last_turn() -> None:
    system = "<|start|>system<|message|>Today: 2026-01-02<|end|>"
    first = "<|start|>user<|message|>2+2?<|end|><|start|>assistant"
    assert told("channels", TWO_TURNS) == [
        f"{system}{first}[<|channel|>final<|message|>4.<|return|>]",
        (
            f"{system}{first}<|channel|>final<|message|>4.<|end|><|start|>user<|message|>3+3?<|end|>"
            "<|start|>assistant[<|channel|>final<|message|>6.<|return|>]"
        ),
    ]


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_several_names(field: str) -> None:
    (text,) = told("channels", [user("a"), says("b", **{field: "why"})])
    assert text.endswith(
        "assistant[<|channel|>analysis<|message|>why<|end|><|start|>assistant"
        "<|channel|>final<|message|>b<|return|>]"
    )


@pytest.mark.parametrize("arguments", [{"port": "Ostend"}, '{"port": "Ostend"}'])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("null_calls", '<|call|>tide {"port": "Ostend"}<|im_end|>'),
        ("object_calls", '{"name": "tide", "parameters": {"port": "Ostend"}}<|im_end|>'),
        (
            "thinking",
            (
                '<tool_call>\n{"name": "tide", "arguments": {"port": "Ostend"}}\n</tool_call>'
                "<|im_end|>"
            ),
        ),
    ],
)
def test_calls_take_the_form_that_the_template_reads(
    name: str, said: str, arguments: object
) -> None:
    (text,) = told(name, [user("a"), call(arguments)])
    assert f"[{said}]" in text


@pytest.mark.parametrize("content", [None, "", []])
def test_a_content_beside_a_call_may_be_null_empty_or_missing(content: object) -> None:
    whole = told("null_calls", [user("a"), call({})])
    message = call({}) | {"content": content}
    assert told("null_calls", [user("a"), message]) == whole
    del message["content"]
    assert told("null_calls", [user("a"), message]) == whole


def test_a_turn_of_weight_0_is_rendered_and_not_counted() -> None:
    chat = [user("a"), says("bad", weight=0), user("b"), says("good", weight=1)]
    (text,) = told("chatml", chat)
    assert "bad<|im_end|>" in text
    assert "[bad" not in text
    assert "[good<|im_end|>]" in text


def test_the_last_turn_alone() -> None:
    (text,) = told("chatml", TWO_TURNS, last=True)
    assert "[4." not in text
    assert "[6.<|im_end|>]" in text
    assert told("thinking", TWO_TURNS, last=True) == told("thinking", TWO_TURNS)[-1:]


def test_an_assistant_who_speaks_first() -> None:
    (text,) = told("chatml", [says("Welcome"), user("Hi"), says("Hello")])
    assert text.startswith("<|im_start|>assistant\n[Welcome<|im_end|>]\n<|im_start|>user")


def test_marks_tell_what_counts() -> None:
    """Also of a turn at the front of the text, and of one that is empty or ends in a space."""
    assert told("marked", TWO_TURNS) == told("chatml", TWO_TURNS)
    chat = [says("Welcome"), user("Hi"), says("")]
    (text,) = told("marked_trimmed", chat)
    assert text == "[Welcome<|im_end|>]Hi<|im_end|>[<|im_end|>]"
    (text,) = told("marked_trimmed", [user("Hi"), says("Hello\n"), user("x"), says("fine. 🙂 ")])
    assert text == "Hi<|im_end|>[Hello<|im_end|>]x<|im_end|>[fine. 🙂<|im_end|>]"


@pytest.mark.parametrize("name", TEMPLATES)
def test_texts_are_those_of_transformers(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """The whole chat, and the chat up to each turn, rendered by the library itself."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATES[name].replace("strftime_now('%Y-%m-%d')", "'now'")
    template = ChatTemplate(
        source=tokenizer.chat_template,
        variables=tokenizer.special_tokens_map,
        today=TODAY,
    )
    chat = [user("  a\n"), says("b"), user("c\n\nd"), says(" e "), user("f")]
    for count in range(1, len(chat) + 1):
        for prompt in (False, True):
            assert template.render(chat[:count], prompt=prompt) == (
                tokenizer.apply_chat_template(
                    chat[:count], tokenize=False, add_generation_prompt=prompt
                )
            )


# --- What is refused, and how -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "messages", "record", "problem"),
    [
        ("chatml", [user("a"), says("b", name="Ann")], {}, "leaves out name of message 1"),
        (
            "chatml",
            [user("a"), says("b", reasoning_content="c")],
            {},
            "leaves out reasoning_conten",
        ),
        ("chatml", [user("a"), says("b")], {"tools": TOOLS}, "leaves out tools of the record"),
        ("reasoned", [user("a"), call({"b": 1})], {}, "tool"),
        ("chatml", [user("a"), call({"b": 1})], {}, "leaves out tool_calls of message 1"),
        (
            "thinking",
            [{"role": "developer", "content": "x"}, user("a"), says("b")],
            {},
            "leaves out content of message 0, whose role is developer",
        ),
        ("reasoned", [user("a"), says("secret</think>b")], {}, "leaves out content of message 1"),
        ("alternating", [user("a"), user("b"), says("c")], {}, "roles must alternate"),
        ("chatml", [user("a"), says("b", weight=0.5)], {}, "weight"),
        ("chatml", [user("a"), says(None)], {}, "message 1 of messages has no content"),
        (
            "chatml",
            [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, says("b")],
            {},
            "holds a part that is no text",
        ),
        ("chatml", "[1", {}, "a string that is no JSON"),
        ("chatml", [user("a\0"), says("b")], {}, "zero byte"),
        ("chatml", [user("a"), says("b", x={1: 2})], {}, "a key that is no string"),
        ("chatml", [user("a"), says("b", x=object())], {}, "no form for"),
        ("chatml", [user("\ufdd2"), says("b")], {}, r"a noncharacter .*marks contents"),
        ("marked", [user("a"), says("b\ufdd0")], {}, r"a noncharacter .*marks contents"),
        ("chatml", [user("a"), says("b")], {"tools": [{"\ufdd3": 1}]}, "a noncharacter"),
    ],
)
def test_what_a_template_leaves_out_is_refused(
    name: str, messages: object, record: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BadRecord, match=problem):
        told(name, messages, **record)


def test_what_is_ignored_by_name_is_left_out() -> None:
    chat = [user("a"), says("b", name="Ann", reasoning_content="c")]
    ignored = frozenset({"name", "reasoning_content", "tools"})
    assert told("chatml", chat, tools=TOOLS, ignored=ignored) == told(
        "chatml", [user("a"), says("b")]
    )


def test_what_links_an_answer_to_its_call_is_no_content() -> None:
    answer = {"role": "tool", "tool_call_id": "c1", "content": "3.9"}
    chat = [user("a"), call({}), answer, says("b")]
    assert told("null_calls", chat)


def test_parts_of_text_are_joined_and_strings_of_json_are_read() -> None:
    parts = [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]
    chat = [{"role": "user", "content": parts}, says("4.")]
    plain = told("chatml", [user("2+2?"), says("4.")])
    assert told("chatml", chat) == plain
    text = '[{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4."}]'
    assert told("chatml", text) == plain
