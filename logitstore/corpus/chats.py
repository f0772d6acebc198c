"""Chats as people keep them, brought into the one form that chat templates read.

A message is a dict with a role and a content. Beside these it may hold whatever its template reads:
tool calls, reasoning, a name. What is null or empty is left out; content in parts of text is
joined; what is no text is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from logitstore.corpus.records import BadRecord, shortened

__all__ = ["LINKS", "Chat", "chat_of", "checked_text", "parsed_json"]

# What says which call an answer belongs to. It repeats what stands elsewhere in the chat, so a
# template that leaves it out leaves out nothing.
LINKS = ("tool_call_id", "id", "index", "type")
_DEPTH = 32  # of lists and dicts inside a message


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """One chat, its tools, and the arguments that its template is given."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)  # of the template, for this record
    left_out: frozenset[int] = frozenset()  # assistant messages that are rendered, not learnt

    def speaks(self) -> tuple[int, ...]:
        """Which messages are the assistant's and count."""
        return tuple(
            number
            for number, message in enumerate(self.messages)
            if message["role"] == "assistant" and number not in self.left_out
        )


def chat_of(
    value: object,
    *,
    name: str,
    tools: object = None,
    variables: object = None,
    ignored: frozenset[str] = frozenset(),
) -> Chat:
    """The chat that a record holds in its field `name`; `BadRecord` where it is none.

    `value`, `tools` and `variables` may be JSON in a string. Fields of messages that are `ignored`
    are dropped, and so are tools where "tools" is.
    """
    messages = parsed_json(value, name)
    if not isinstance(messages, list) or not messages:
        raise BadRecord(
            f"{name} is no chat", found=shortened(value), allowed="a list of {role, content}"
        )
    cleaned, left_out = [], set()
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise BadRecord(
                f"{name} is no chat: message {number} has no role",
                found=shortened(message),
                allowed="a list of {role, content}",
            )
        plain = _message(message, place=f"message {number} of {name}", ignored=ignored)
        if not _learnt(plain.pop("weight", None), plain["role"], number):
            left_out.add(number)
        cleaned.append(plain)
    return Chat(
        messages=cleaned,
        tools=None if "tools" in ignored else _tools(tools),
        variables=_variables(variables),
        left_out=frozenset(left_out),
    )


def checked_text(text: str, name: str) -> str:
    """`text`; `BadRecord` where it holds what JSON can spell and no tokenizer takes."""
    if "\0" in text:
        raise BadRecord(f"{name} holds a zero byte", found=shortened(text))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(
            f"{name} holds half of a surrogate pair", found=shortened(text[error.start])
        ) from error
    return text


def parsed_json(value: object, name: str) -> object:
    """What a string of JSON holds; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadRecord(
            f"{name} is a string that is no JSON: {error}", found=shortened(value)
        ) from error


def _message(message: Mapping[Any, Any], *, place: str, ignored: frozenset[str]) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": checked_text(message["role"], place)}
    for key, value in message.items():
        if key not in ("role", "content") and key not in ignored and not _is_empty(value):
            plain[_key(key, place)] = _plain(value, place)
    if "tool_calls" in plain:
        plain["tool_calls"] = _calls(plain["tool_calls"], place)
    content = _content(message.get("content"), place, ignored=ignored)
    if content is None and "tool_calls" not in plain:
        raise BadRecord(
            f"{place} has no content",
            found=shortened(message.get("content")),
            allowed="a string, or null beside tool_calls",
        )
    plain["content"] = content
    return plain


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str | list | dict | tuple) and not value)


def _content(content: object, place: str, *, ignored: frozenset[str]) -> str | None:
    """The content as text; parts of text are joined, and any other part is refused by its type."""
    if content is None:
        return None
    if isinstance(content, str):
        return checked_text(content, place)
    if not isinstance(content, list):
        raise BadRecord(
            f"{place} has a content that is no text",
            found=shortened(content),
            allowed="a string, or a list of parts of text",
        )
    return "".join(_part(part, place, ignored) for part in content)


def _part(part: object, place: str, ignored: frozenset[str]) -> str:
    if isinstance(part, str):
        return checked_text(part, place)
    if not isinstance(part, Mapping):
        raise BadRecord(
            f"{place} holds a part that is no text", found=shortened(part), allowed="text"
        )
    kind, text = part.get("type", "text"), part.get("text")
    if kind != "text" or not isinstance(text, str):
        raise BadRecord(
            f"{place} holds a part that is no text", found=shortened(kind), allowed="text"
        )
    for key, value in part.items():
        if key not in ("type", "text") and key not in ignored and not _is_empty(value):
            raise BadRecord(
                f"{place} has a part of text with a field that no template reads, {key}; "
                f"--ignore-field {key} leaves it out",
                found=shortened(value),
            )
    return checked_text(text, place)


def _calls(calls: object, place: str) -> list[dict[str, Any]]:
    calls = parsed_json(calls, f"tool_calls of {place}")
    if not isinstance(calls, list) or not all(_is_call(call) for call in calls):
        raise BadRecord(
            f"{place} has tool_calls that are none",
            found=shortened(calls),
            allowed="a list of {function: {name, arguments}}",
        )
    return calls


def _is_call(call: object) -> bool:
    if not isinstance(call, dict):
        return False
    function = call.get("function", call)
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _tools(tools: object) -> list[Any] | None:
    if _is_empty(tools):
        return None
    parsed = parsed_json(tools, "tools")
    if _is_empty(parsed):
        return None
    if not isinstance(parsed, list):
        raise BadRecord("tools are no list", found=shortened(tools), allowed="a list of functions")
    listed = [parsed_json(tool, "a tool") for tool in parsed]
    if not all(isinstance(tool, Mapping) for tool in listed):
        raise BadRecord("a tool is no object", found=shortened(tools), allowed="a list of objects")
    plain = _plain(listed, "tools")
    return plain if isinstance(plain, list) else None


def _variables(variables: object) -> dict[str, Any]:
    if _is_empty(variables):
        return {}
    parsed = parsed_json(variables, "chat_template_kwargs")
    if not isinstance(parsed, Mapping):
        raise BadRecord(
            "chat_template_kwargs are no object", found=shortened(variables), allowed="an object"
        )
    return {
        _key(key, "chat_template_kwargs"): _plain(value, "chat_template_kwargs")
        for key, value in parsed.items()
    }


def _learnt(weight: object, role: str, number: int) -> bool:
    """Whether a message of this weight counts."""
    if weight is None or (role != "assistant" and weight == 0):
        return True
    if role == "assistant" and not isinstance(weight, str) and weight in (0, 1):
        return bool(weight)
    raise BadRecord(
        f"message {number} has a weight that cannot be kept",
        found=shortened(weight),
        allowed="0 or 1, of an assistant message",
    )


def _key(key: object, place: str) -> str:
    if not isinstance(key, str):
        raise BadRecord(f"{place} has a key that is no string", found=shortened(key))
    return checked_text(key, place)


def _plain(value: object, place: str, depth: int = 0) -> Any:
    """`value` made of JSON's own types; a template gets nothing that has methods of its own."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return checked_text(str(value), place)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if depth < _DEPTH and isinstance(value, Mapping):
        return {_key(key, place): _plain(part, place, depth + 1) for key, part in value.items()}
    if depth < _DEPTH and isinstance(value, list | tuple):
        return [_plain(part, place, depth + 1) for part in value]
    raise BadRecord(
        f"{place} holds a value that JSON has no form for",
        found=type(value).__name__,
        allowed=f"text, numbers, lists and objects, {_DEPTH} levels deep",
    )
