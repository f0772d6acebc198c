"""Prompts: records as what is to be answered, where a corpus reads them as what was answered.

The shapes have the names of `SHAPES`, and need no answer. One that is there is left out, if it ends
the record: it is to be made anew.

    text         a text that is to be continued
    messages     a chat that ends with words for the assistant
    preference   the prompt of a pair of answers
    sharegpt     `conversations` that end with words for the assistant
    alpaca       `instruction`, with `input`, `system` and `history`
    tokens       token ids; with a mask, those before the last run that counts
    prompt       `prompt`, a text or a list of messages
    turns        `turns`, what the user says, turn by turn
    question     `question`, a text
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from logitstore.corpus.chats import Chat, checked_text, parsed_json
from logitstore.corpus.content import Content, TokenRecord
from logitstore.corpus.contents import (
    alpaca_content,
    chat_content,
    completion_content,
    is_whole_chat,
    sharegpt_messages,
    system_message,
    text_content,
)
from logitstore.corpus.fields import Fields, Shape
from logitstore.corpus.records import BadRecord, shortened
from logitstore.corpus.shapes import SIDE
from logitstore.corpus.token_records import MASKS, PADDING, token_record

__all__ = ["PROMPT_SHAPES"]

_ANSWER = "-"  # stands for the answer where a record is read as if it had one
_SILENT = ("assistant", "system", "developer")  # roles after which the assistant is not asked


def _messages(row: Mapping[str, Any], fields: Fields) -> Content:
    name = fields.messages or "messages"
    return _asked(parsed_json(row.get(name), name), row, fields, name=name)


def _sharegpt(row: Mapping[str, Any], fields: Fields) -> Content:
    turns = parsed_json(row["conversations"], "conversations")
    messages = system_message(row) + sharegpt_messages(turns, "conversations")
    return _asked(messages, row, fields, name="conversations")


def _asked(
    messages: object, row: Mapping[str, Any], fields: Fields, *, name: str, answered: bool = False
) -> Content:
    """The chat as a prompt; the last answer is left out where there is one, as `answered` says."""
    chat = chat_content(messages, row, fields, name=name)
    replaced = chat.messages[-1]["role"] == "assistant"
    if replaced:
        chat = replace(chat, messages=chat.messages[:-1])
    _check_asks(chat, name)
    return Content(chat=chat, replaced=replaced or answered)


def _check_asks(chat: Chat, name: str) -> None:
    if not chat.messages or chat.messages[-1]["role"] in _SILENT:
        raise BadRecord(
            f"{name} does not end with words that the assistant is to answer",
            found=chat.messages[-1]["role"] if chat.messages else "an answer alone",
            allowed="a message of the user or of a tool",
        )


def _before(content: Content, name: str, *, replaced: bool) -> Content:
    """What stands before the answer of a prompt and its answer."""
    if content.chat is None:
        raise BadRecord(f"{name} is no prompt")
    chat = replace(content.chat, messages=content.chat.messages[:-1])
    _check_asks(chat, name)
    text = None if content.text is None else content.text[: content.answer]
    return Content(chat=chat, text=text, replaced=replaced)


def _alpaca(row: Mapping[str, Any], fields: Fields) -> Content:
    answered = alpaca_content({**row, "output": _ANSWER}, fields)
    return _before(answered, "instruction", replaced=bool(row.get("output")))


def _prompt(row: Mapping[str, Any], fields: Fields) -> Content:
    answered = completion_content({**row, "completion": _ANSWER}, fields)
    said = row.get("completion") or row.get("response")
    return _before(answered, "prompt", replaced=bool(said))


def _preference(row: Mapping[str, Any], fields: Fields) -> Content:
    chosen = row["chosen"]
    if "conversations" in row:
        return replace(_sharegpt(row, fields), replaced=True)
    if row.get("prompt") is not None and not is_whole_chat(chosen):
        return replace(_prompt(row, fields), replaced=True)
    if not is_whole_chat(chosen):
        raise BadRecord(
            "chosen has no prompt before it",
            found=shortened(chosen),
            allowed="a prompt field, or a chosen chat that begins with the prompt",
        )
    messages = system_message(row) + sharegpt_messages(chosen, "chosen")
    return _asked(messages, row, fields, name="chosen")


def _turns(row: Mapping[str, Any], fields: Fields) -> Content:
    turns = parsed_json(row["turns"], "turns")
    if not isinstance(turns, list) or not turns or not all(_says(one) for one in turns):
        raise BadRecord("turns are no list of texts", found=shortened(turns))
    first = _prompt({**row, "prompt": turns[0]}, fields)
    following = tuple(checked_text(one, "turns") for one in turns[1:])
    return replace(first, following=following)


def _says(turn: object) -> bool:
    return isinstance(turn, str) and bool(turn.strip())


def _question(row: Mapping[str, Any], fields: Fields) -> Content:
    return _prompt({**row, "prompt": row["question"]}, fields)


def _tokens(row: Mapping[str, Any], fields: Fields) -> Content:
    name = fields.tokens or "input_ids"
    found = token_record(row, name=name, mask=fields.mask)
    masked = any(row.get(one) is not None for one in (*MASKS, fields.mask) if one)
    stop = len(found.ids)
    if masked and any(found.counted):
        while not found.counted[stop - 1]:  # nobody's words behind the answer
            stop -= 1
        while stop and found.counted[stop - 1]:
            stop -= 1
    if not stop:
        raise BadRecord(f"no token of {name} stands before the answer", found=len(found.ids))
    tokens = TokenRecord(ids=found.ids[:stop], counted=[False] * stop)
    return Content(tokens=tokens, replaced=stop < len(found.ids))


def _shape(name: str, text: str, needs: str, content: Any, columns: tuple[str, ...]) -> Shape:
    needed = frozenset(needs.split())
    return Shape(name=name, help=text, needs=(needed,), content=content, columns=columns)


_ANSWERS = ("completion", "response")
PROMPT_SHAPES: dict[str, Shape] = {
    one.name: one
    for one in (
        _shape("text", "A text to continue.", "text", text_content, ()),
        _shape(
            "messages",
            "A chat, whose last answer is left out.",
            "messages",
            _messages,
            ("tools", "chat_template_kwargs"),
        ),
        _shape(
            "preference",
            "The prompt of a pair of answers.",
            "chosen rejected",
            _preference,
            ("prompt", "conversations", *SIDE),
        ),
        _shape("sharegpt", "A chat of {from, value}.", "conversations", _sharegpt, SIDE),
        _shape(
            "alpaca",
            "An instruction.",
            "instruction",
            _alpaca,
            ("input", "output", "history", *SIDE),
        ),
        _shape("tokens", "Token ids before the answer.", "input_ids", _tokens, (*MASKS, PADDING)),
        _shape("prompt", "A text or messages.", "prompt", _prompt, (*_ANSWERS, *SIDE)),
        _shape("turns", "What the user says, turn by turn.", "turns", _turns, SIDE),
        _shape("question", "A text.", "question", _question, SIDE),
    )
}
