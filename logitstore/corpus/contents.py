"""How the fields of a record become content, a function for each shape.

text         `text_content`          messages    `messages_content`
sharegpt     `sharegpt_content`      alpaca      `alpaca_content`
completion   `completion_content`    preference  `preference_content`
tokens       `tokens_content`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from logitstore.corpus.chats import Chat, chat_of, checked_text, parsed_json
from logitstore.corpus.content import Content
from logitstore.corpus.records import BadRecord, shortened
from logitstore.corpus.token_records import token_record

if TYPE_CHECKING:
    from logitstore.corpus.fields import Fields

__all__ = [
    "alpaca_content",
    "chat_content",
    "completion_content",
    "is_whole_chat",
    "messages_content",
    "no_answer",
    "preference_content",
    "sharegpt_content",
    "sharegpt_messages",
    "system_message",
    "text_content",
    "tokens_content",
]


def no_answer(found: object) -> BadRecord:
    """What is wrong with a record that asks and does not answer."""
    return BadRecord(
        "the record has a prompt and no answer, so there is nothing to learn; let a model answer "
        "first, with logitstore generate",
        found=found,
    )


def text_content(row: Mapping[str, Any], fields: Fields) -> Content:
    """A field of text."""
    return Content(text=_own_text(row, fields.text or "text"))


def _own_text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise BadRecord(f"{name} is no text", found=shortened(value), allowed="a string")
    if not value.strip():
        raise BadRecord(f"{name} is empty", found=shortened(value))
    return checked_text(value, name)


def messages_content(row: Mapping[str, Any], fields: Fields) -> Content:
    """A chat as a list of messages, which an assistant has answered."""
    name = fields.messages or "messages"
    return Content(
        chat=_answered(chat_content(row.get(name), row, fields, name=name), row.get(name))
    )


def chat_content(value: object, row: Mapping[str, Any], fields: Fields, *, name: str) -> Chat:
    """The chat that `value` is, with the tools and variables of its record."""
    return chat_of(
        value,
        name=name,
        tools=row.get("tools"),
        variables=row.get("chat_template_kwargs"),
        ignored=fields.ignored,
    )


def _answered(chat: Chat, found: object) -> Chat:
    if not any(message["role"] == "assistant" for message in chat.messages):
        raise no_answer(shortened(found))
    return chat


_ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
_CALLS = ("function_call", "tool_call")


def sharegpt_content(row: Mapping[str, Any], fields: Fields) -> Content:
    """A chat as `conversations`, which an assistant has answered."""
    turns = parsed_json(row["conversations"], "conversations")
    messages = system_message(row) + sharegpt_messages(turns, "conversations")
    return Content(
        chat=_answered(
            chat_content(messages, row, fields, name="conversations"), row["conversations"]
        )
    )


def sharegpt_messages(turns: object, name: str) -> list[dict[str, Any]]:
    """The messages that a list of {from, value} is."""
    if not isinstance(turns, list) or not turns:
        raise BadRecord(
            f"{name} is no chat", found=shortened(turns), allowed="a list of {from, value}"
        )
    return [
        _sharegpt_message(turn, f"turn {number} of {name}") for number, turn in enumerate(turns)
    ]


def _sharegpt_message(turn: object, place: str) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise BadRecord(
            f"{place} is no message", found=shortened(turn), allowed="an object with from and value"
        )
    if "from" not in turn and "role" in turn:
        return dict(turn)  # `conversations` of messages are common too
    said_by = turn.get("from")
    if not isinstance(said_by, str) or said_by not in _ROLES:
        raise BadRecord(
            f"{place} is said by nobody known", found=shortened(said_by), allowed=", ".join(_ROLES)
        )
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    message = {"role": _ROLES[said_by], "content": turn.get("value"), **rest}
    if said_by in _CALLS:
        calls = parsed_json(turn.get("value"), place)
        listed = calls if isinstance(calls, list) else [calls]
        message |= {
            "content": None,
            "tool_calls": [{"type": "function", "function": call} for call in listed],
        }
    return message


def system_message(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The message of a `system` field; none without one."""
    system = row.get("system") or row.get("system_prompt")
    return [{"role": "system", "content": system}] if system else []


def alpaca_content(row: Mapping[str, Any], fields: Fields) -> Content:
    """As LLaMA-Factory reads it: the input stands below the instruction, the history before."""
    asked = [part for part in (row["instruction"], row.get("input")) if part]
    if not asked or not all(isinstance(part, str) for part in asked):
        raise BadRecord("instruction is no text", found=shortened(row["instruction"]))
    messages = system_message(row)
    history = row.get("history") or []
    for pair in history if isinstance(history, list | tuple) else [history]:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRecord(
                "history is no list of pairs", found=shortened(pair), allowed="[question, answer]"
            )
        messages += _exchange(*pair)
    messages += _exchange("\n".join(asked), row["output"])
    return _prompted(messages, row, fields, name="output")


def _exchange(asked: object, answer: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _prompted(
    messages: list[dict[str, Any]], row: Mapping[str, Any], fields: Fields, *, name: str
) -> Content:
    """A prompt and its answer as a chat, and as plain text, a line for each message."""
    answer, said_by = messages[-1].get("content"), messages[-1].get("role")
    if said_by != "assistant":
        raise BadRecord(
            f"{name} does not end with an answer", found=shortened(said_by), allowed="assistant"
        )
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        raise no_answer(shortened(answer))
    chat = chat_content(messages, row, fields, name=name)
    before = "".join(f"{message['content']}\n" for message in chat.messages[:-1])
    return Content(chat=chat, text=before + chat.messages[-1]["content"], answer=len(before))


def completion_content(row: Mapping[str, Any], fields: Fields) -> Content:
    """A prompt and its completion, each a text or messages."""
    prompt, answer = row["prompt"], row.get("completion", row.get("response"))
    return _prompt_and_answer(prompt, answer, row, fields, name="completion")


def _prompt_and_answer(
    prompt: object, answer: object, row: Mapping[str, Any], fields: Fields, *, name: str
) -> Content:
    """A prompt and an answer, each a text or a list of messages."""
    asked = _as_messages(prompt, "user", "prompt")
    said = _as_messages(answer, "assistant", name)
    both_texts = isinstance(prompt, str) and isinstance(answer, str)
    content = _prompted([*system_message(row), *asked, *said], row, fields, name=name)
    if not both_texts or system_message(row):
        return Content(chat=content.chat)
    # Two texts that belong together are one text, with nothing between them.
    return Content(chat=content.chat, text=f"{prompt}{answer}", answer=len(str(prompt)))


def _as_messages(value: object, role: str, name: str) -> list[dict[str, Any]]:
    if isinstance(value, Mapping):
        return [_sharegpt_message(value, name)]
    if isinstance(value, list) and value:
        return sharegpt_messages(value, name)
    if isinstance(value, str) and value.strip():
        return [{"role": role, "content": value}]
    if role == "assistant" and value in (None, "", []):
        raise no_answer(shortened(value))
    raise BadRecord(
        f"{name} is neither a text nor messages",
        found=shortened(value),
        allowed="a string, or a list of messages",
    )


def preference_content(row: Mapping[str, Any], fields: Fields) -> Content:
    """The chosen one of a pair of answers, behind its prompt."""
    chosen = row["chosen"]
    if "conversations" in row:
        asked = sharegpt_messages(
            parsed_json(row["conversations"], "conversations"), "conversations"
        )
        messages = [*system_message(row), *asked, *_as_messages(chosen, "assistant", "chosen")]
        return Content(chat=_answered(chat_content(messages, row, fields, name="chosen"), chosen))
    if row.get("prompt") is not None and not is_whole_chat(chosen):
        return _prompt_and_answer(row["prompt"], chosen, row, fields, name="chosen")
    messages = _as_messages(chosen, "assistant", "chosen")
    if not is_whole_chat(chosen):
        raise BadRecord(
            "chosen has no prompt before it",
            found=shortened(chosen),
            allowed="a prompt field, or a chosen chat that begins with the prompt",
        )
    return Content(chat=_answered(chat_content(messages, row, fields, name="chosen"), chosen))


def is_whole_chat(chosen: object) -> bool:
    """Whether the chosen side repeats the prompt, as chats of preference data do."""
    if not isinstance(chosen, list) or len(chosen) < 2 or not isinstance(chosen[0], Mapping):
        return False
    said_by = chosen[0].get("role", chosen[0].get("from"))
    return isinstance(said_by, str) and _ROLES.get(said_by, said_by) != "assistant"


def tokens_content(row: Mapping[str, Any], fields: Fields) -> Content:
    """Token ids, which of them count, and the prompt before them."""
    name = fields.tokens or "input_ids"
    tokens = token_record(row, name=name, mask=fields.mask, sampler=fields.sampler)
    return Content(tokens=tokens, prompt=row.get("prompt"))
