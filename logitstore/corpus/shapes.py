"""Shapes: the ways in which people write down a record, and how each becomes text, chat or tokens.

    text         a field of text
    messages     a chat as a list of {role, content}
    sharegpt     a chat as `conversations`, a list of {from, value}
    alpaca       `instruction` and `output`, with `input`, `system` and `history`
    completion   `prompt` and `completion`, each a text or a list of messages
    preference   `chosen` beside `rejected`, of which the chosen answer is taken
    tokens       token ids, and a mask or labels that say which of them count

`shape_of` finds the shape by the fields of a record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from logitstore.corpus.chats import Chat, chat_of, checked_text, parsed_json
from logitstore.corpus.content import Content
from logitstore.corpus.records import BadRecord, shortened
from logitstore.corpus.token_records import MASKS, token_record
from logitstore.errors import CorpusError

__all__ = ["SHAPES", "Fields", "Shape", "columns_of", "shape_of", "teacher_chat"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """Which fields of a record are read, where they have names of their own."""

    text: str | None = None
    messages: str | None = None
    tokens: str | None = None
    mask: str | None = None
    shape: str | None = None  # that of every record; None for the one that each has
    ignored: frozenset[str] = frozenset()  # fields of messages, and "tools"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One way to write a record down."""

    name: str
    help: str
    needs: tuple[frozenset[str], ...]  # a record with all the fields of one of these has it
    content: Callable[[Mapping[str, Any], Fields], Content]
    columns: tuple[str, ...] = field(default=())  # that it reads beside those that it needs


def shape_of(names: Sequence[str], fields: Fields, *, place: str | None = None) -> Shape:
    """The shape of records with the fields `names`; `BadRecord` where they have none.

    Where a field is named, that decides. Where several shapes fit, the first of `SHAPES` does, but
    a text beside a chat is a CorpusError at `place`: either may be meant.
    """
    named = _named_shape(names, fields)
    if named is not None:
        return named
    if fields.shape is not None:
        shape = SHAPES[fields.shape]
        if not _fits(shape, names):
            raise BadRecord(
                "the record has another shape", found=_listed(names), allowed=_needs(shape)
            )
        return shape
    found = {name for name, shape in SHAPES.items() if _fits(shape, names)}
    if {"text", "messages"} <= found:
        raise CorpusError(
            "records have both a text and a messages field",
            place=place,
            remedy="Name the one to use with --text-field or --messages-field",
        )
    for name in SHAPES:
        if name in found:
            return SHAPES[name]
    if {"prompt", "question", "turns"} & set(names):
        raise _no_answer(_listed(names))
    raise BadRecord(
        "no field of a known shape; --text-field or --messages-field names one",
        found=_listed(names),
        allowed="; ".join(_needs(shape) for shape in SHAPES.values()),
    )


def columns_of(shape: Shape, fields: Fields, names: Sequence[str]) -> tuple[str, ...]:
    """The fields, of those called `names`, that a record of `shape` is read from."""
    own = {"text": fields.text, "messages": fields.messages, "tokens": fields.tokens}
    main = own.get(shape.name)
    needed = [main] if main else [name for wanted in shape.needs for name in wanted]
    mask = [fields.mask] if fields.mask else []
    used = {*needed, *shape.columns, *mask, *_TEACHER_SIDE} - fields.ignored
    return tuple(name for name in names if name in used)


def teacher_chat(row: Mapping[str, Any], fields: Fields) -> Chat | None:
    """The chat that only the teacher reads, of records that have one; `BadRecord` if it is none."""
    name = _TEACHER_SIDE[0]
    if row.get(name) is None or name in fields.ignored:
        return None
    tools = row.get(_TEACHER_SIDE[1])
    return _chat(row[name], {**row, "tools": tools or row.get("tools")}, fields, name=name)


def _named_shape(names: Sequence[str], fields: Fields) -> Shape | None:
    for name, wanted in (
        ("text", fields.text),
        ("messages", fields.messages),
        ("tokens", fields.tokens),
    ):
        if wanted is not None:
            if wanted not in names:
                raise BadRecord("the field is missing", found=_listed(names), allowed=wanted)
            return SHAPES[name]
    return None


def _fits(shape: Shape, names: Sequence[str]) -> bool:
    return any(needed <= set(names) for needed in shape.needs)


def _needs(shape: Shape) -> str:
    return " or ".join(" and ".join(sorted(needed)) for needed in shape.needs)


def _listed(names: Sequence[str]) -> str:
    return shortened(", ".join(map(str, names)) or "no field")


def _no_answer(found: object) -> BadRecord:
    return BadRecord(
        "the record has a prompt and no answer, so there is nothing to learn; let a model answer "
        "first, with logitstore generate",
        found=found,
    )


# --- Each shape's way to become content ---------------------------------------------------------


def _text(row: Mapping[str, Any], fields: Fields) -> Content:
    return Content(text=_own_text(row, fields.text or "text"))


def _own_text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise BadRecord(f"{name} is no text", found=shortened(value), allowed="a string")
    if not value.strip():
        raise BadRecord(f"{name} is empty", found=shortened(value))
    return checked_text(value, name)


def _messages(row: Mapping[str, Any], fields: Fields) -> Content:
    name = fields.messages or "messages"
    return Content(chat=_answered(_chat(row.get(name), row, fields, name=name), row.get(name)))


def _chat(value: object, row: Mapping[str, Any], fields: Fields, *, name: str) -> Chat:
    return chat_of(
        value,
        name=name,
        tools=row.get("tools"),
        variables=row.get("chat_template_kwargs"),
        ignored=fields.ignored,
    )


def _answered(chat: Chat, found: object) -> Chat:
    if not any(message["role"] == "assistant" for message in chat.messages):
        raise _no_answer(shortened(found))
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


def _sharegpt(row: Mapping[str, Any], fields: Fields) -> Content:
    turns = parsed_json(row["conversations"], "conversations")
    messages = _system(row) + _sharegpt_messages(turns, "conversations")
    return Content(
        chat=_answered(_chat(messages, row, fields, name="conversations"), row["conversations"])
    )


def _sharegpt_messages(turns: object, name: str) -> list[dict[str, Any]]:
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


def _system(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    system = row.get("system") or row.get("system_prompt")
    return [{"role": "system", "content": system}] if system else []


def _alpaca(row: Mapping[str, Any], fields: Fields) -> Content:
    """As LLaMA-Factory reads it: the input stands below the instruction, the history before."""
    asked = [part for part in (row["instruction"], row.get("input")) if part]
    if not asked or not all(isinstance(part, str) for part in asked):
        raise BadRecord("instruction is no text", found=shortened(row["instruction"]))
    messages = _system(row)
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
        raise _no_answer(shortened(answer))
    chat = _chat(messages, row, fields, name=name)
    before = "".join(f"{message['content']}\n" for message in chat.messages[:-1])
    return Content(chat=chat, text=before + chat.messages[-1]["content"], answer=len(before))


def _completion(row: Mapping[str, Any], fields: Fields) -> Content:
    prompt, answer = row["prompt"], row.get("completion", row.get("response"))
    return _prompt_and_answer(prompt, answer, row, fields, name="completion")


def _prompt_and_answer(
    prompt: object, answer: object, row: Mapping[str, Any], fields: Fields, *, name: str
) -> Content:
    """A prompt and an answer, each a text or a list of messages."""
    asked = _as_messages(prompt, "user", "prompt")
    said = _as_messages(answer, "assistant", name)
    both_texts = isinstance(prompt, str) and isinstance(answer, str)
    content = _prompted([*_system(row), *asked, *said], row, fields, name=name)
    if not both_texts or _system(row):
        return Content(chat=content.chat)
    # Two texts that belong together are one text, with nothing between them.
    return Content(chat=content.chat, text=f"{prompt}{answer}", answer=len(str(prompt)))


def _as_messages(value: object, role: str, name: str) -> list[dict[str, Any]]:
    if isinstance(value, Mapping):
        return [_sharegpt_message(value, name)]
    if isinstance(value, list) and value:
        return _sharegpt_messages(value, name)
    if isinstance(value, str) and value.strip():
        return [{"role": role, "content": value}]
    if role == "assistant" and value in (None, "", []):
        raise _no_answer(shortened(value))
    raise BadRecord(
        f"{name} is neither a text nor messages",
        found=shortened(value),
        allowed="a string, or a list of messages",
    )


def _preference(row: Mapping[str, Any], fields: Fields) -> Content:
    chosen = row["chosen"]
    if "conversations" in row:
        asked = _sharegpt_messages(
            parsed_json(row["conversations"], "conversations"), "conversations"
        )
        messages = [*_system(row), *asked, *_as_messages(chosen, "assistant", "chosen")]
        return Content(chat=_answered(_chat(messages, row, fields, name="chosen"), chosen))
    if row.get("prompt") is not None and not _is_whole_chat(chosen):
        return _prompt_and_answer(row["prompt"], chosen, row, fields, name="chosen")
    messages = _as_messages(chosen, "assistant", "chosen")
    if not _is_whole_chat(chosen):
        raise BadRecord(
            "chosen has no prompt before it",
            found=shortened(chosen),
            allowed="a prompt field, or a chosen chat that begins with the prompt",
        )
    return Content(chat=_answered(_chat(messages, row, fields, name="chosen"), chosen))


def _is_whole_chat(chosen: object) -> bool:
    """Whether the chosen side repeats the prompt, as chats of preference data do."""
    if not isinstance(chosen, list) or len(chosen) < 2 or not isinstance(chosen[0], Mapping):
        return False
    said_by = chosen[0].get("role", chosen[0].get("from"))
    return isinstance(said_by, str) and _ROLES.get(said_by, said_by) != "assistant"


def _tokens(row: Mapping[str, Any], fields: Fields) -> Content:
    tokens = token_record(row, name=fields.tokens or "input_ids", mask=fields.mask)
    return Content(tokens=tokens, prompt=row.get("prompt"))


_TEACHER_SIDE = ("teacher_messages", "teacher_tools")
_SIDE = ("tools", "chat_template_kwargs", "system", "system_prompt")
SHAPES: dict[str, Shape] = {
    "text": Shape(
        name="text", help="A field of text.", needs=(frozenset({"text"}),), content=_text
    ),
    "messages": Shape(
        name="messages",
        help="A chat as a list of messages with role and content.",
        needs=(frozenset({"messages"}),),
        content=_messages,
        columns=("tools", "chat_template_kwargs"),
    ),
    "preference": Shape(
        name="preference",
        help="A pair of answers, of which the chosen one is taken.",
        needs=(frozenset({"chosen", "rejected"}),),
        content=_preference,
        columns=("prompt", "conversations", *_SIDE),
    ),
    "sharegpt": Shape(
        name="sharegpt",
        help="A chat as a list of turns with from and value.",
        needs=(frozenset({"conversations"}),),
        content=_sharegpt,
        columns=_SIDE,
    ),
    "alpaca": Shape(
        name="alpaca",
        help="An instruction and its output.",
        needs=(frozenset({"instruction", "output"}),),
        content=_alpaca,
        columns=("input", "history", *_SIDE),
    ),
    "completion": Shape(
        name="completion",
        help="A prompt and its completion.",
        needs=(frozenset({"prompt", "completion"}), frozenset({"prompt", "response"})),
        content=_completion,
        columns=("completion", "response", *_SIDE),
    ),
    "tokens": Shape(
        name="tokens",
        help="Token ids, with a mask or labels where not all of them count.",
        needs=(frozenset({"input_ids"}),),
        content=_tokens,
        columns=(*MASKS, "prompt", *_SIDE[:2]),
    ),
}
