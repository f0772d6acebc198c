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

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from logitstore.corpus.contents import (
    alpaca_content,
    chat_content,
    completion_content,
    messages_content,
    no_answer,
    preference_content,
    sharegpt_content,
    text_content,
    tokens_content,
)
from logitstore.corpus.fields import Fields, Shape
from logitstore.corpus.records import BadRecord, missing_field, shortened
from logitstore.corpus.token_records import MASKS, PADDING, SAMPLER
from logitstore.errors import CorpusError

if TYPE_CHECKING:
    from logitstore.corpus.chats import Chat

__all__ = ["SHAPES", "SIDE", "columns_of", "shape_of", "teacher_chat"]


def shape_of(names: Sequence[str], fields: Fields, *, place: str | None = None) -> Shape:
    """The shape of records with the fields `names`; `BadRecord` where they have none.

    Where a field is named, that decides. Where several shapes fit, the first of the table does, but
    a text beside a chat is a CorpusError at `place`: either may be meant. The table is `SHAPES`, or
    that of `fields`.
    """
    shapes = fields.shapes or SHAPES
    named = _named_shape(names, fields, shapes)
    if named is not None:
        return named
    if fields.shape is not None:
        shape = shapes[fields.shape]
        if not _fits(shape, names):
            raise _other_shape(shape, names, shapes)
        return shape
    found = {name for name, shape in shapes.items() if _fits(shape, names)}
    if {"text", "messages"} <= found:
        raise CorpusError(
            "records have both a text and a messages field",
            place=place,
            remedy="Name the one to use with --text-field or --messages-field",
        )
    for name in shapes:
        if name in found:
            return shapes[name]
    if {"prompt", "question", "turns"} & set(names):
        raise no_answer(_listed(names))
    raise BadRecord(
        "no field of a known shape",
        found=_listed(names),
        allowed="; ".join(_needs(shape) for shape in shapes.values()),
        remedy="Name the field with --text-field or --messages-field",
    )


def columns_of(shape: Shape, fields: Fields, names: Sequence[str]) -> tuple[str, ...]:
    """The fields, of those called `names`, that a record of `shape` is read from."""
    own = {"text": fields.text, "messages": fields.messages, "tokens": fields.tokens}
    main = own.get(shape.name)
    needed = [main] if main else [name for wanted in shape.needs for name in wanted]
    named = [one for one in (fields.mask, fields.sampler) if one]
    used = {*needed, *shape.columns, *named, *_TEACHER_SIDE} - fields.ignored
    return tuple(name for name in names if name in used)


def teacher_chat(row: Mapping[str, Any], fields: Fields) -> Chat | None:
    """The chat that only the teacher reads, of records that have one; `BadRecord` if it is none."""
    name = _TEACHER_SIDE[0]
    if row.get(name) is None or name in fields.ignored:
        return None
    tools = row.get(_TEACHER_SIDE[1])
    return chat_content(row[name], {**row, "tools": tools or row.get("tools")}, fields, name=name)


def _named_shape(names: Sequence[str], fields: Fields, shapes: Mapping[str, Shape]) -> Shape | None:
    for name, wanted in (
        ("text", fields.text),
        ("messages", fields.messages),
        ("tokens", fields.tokens),
    ):
        if wanted is not None:
            if wanted not in names:
                raise missing_field(wanted, names, flag=f"--{name}-field")
            return shapes[name]
    return None


def _other_shape(shape: Shape, names: Sequence[str], shapes: Mapping[str, Shape]) -> BadRecord:
    """The record has not the fields that `--records` asks for; another shape may fit."""
    fitting = [name for name, one in shapes.items() if _fits(one, names)]
    return BadRecord(
        f"the record has no fields of --records {shape.name}",
        found=_listed(names),
        allowed=_needs(shape),
        remedy=f"Take --records {fitting[0]}" if fitting else None,
    )


def _fits(shape: Shape, names: Sequence[str]) -> bool:
    return any(needed <= set(names) for needed in shape.needs)


def _needs(shape: Shape) -> str:
    return " or ".join(" and ".join(sorted(needed)) for needed in shape.needs)


def _listed(names: Sequence[str]) -> str:
    return shortened(", ".join(map(str, names)) or "no field")


_TEACHER_SIDE = ("teacher_messages", "teacher_tools")
# Fields that shapes of chats read beside their own.
SIDE = ("tools", "chat_template_kwargs", "system", "system_prompt")
SHAPES: dict[str, Shape] = {
    "text": Shape(
        name="text", help="A field of text.", needs=(frozenset({"text"}),), content=text_content
    ),
    "messages": Shape(
        name="messages",
        help="A chat as a list of messages with role and content.",
        needs=(frozenset({"messages"}),),
        content=messages_content,
        columns=("tools", "chat_template_kwargs"),
    ),
    "preference": Shape(
        name="preference",
        help="A pair of answers, of which the chosen one is taken.",
        needs=(frozenset({"chosen", "rejected"}),),
        content=preference_content,
        columns=("prompt", "conversations", *SIDE),
    ),
    "sharegpt": Shape(
        name="sharegpt",
        help="A chat as a list of turns with from and value.",
        needs=(frozenset({"conversations"}),),
        content=sharegpt_content,
        columns=SIDE,
    ),
    "alpaca": Shape(
        name="alpaca",
        help="An instruction and its output.",
        needs=(frozenset({"instruction", "output"}),),
        content=alpaca_content,
        columns=("input", "history", *SIDE),
    ),
    "completion": Shape(
        name="completion",
        help="A prompt and its completion.",
        needs=(frozenset({"prompt", "completion"}), frozenset({"prompt", "response"})),
        content=completion_content,
        columns=("completion", "response", *SIDE),
    ),
    "tokens": Shape(
        name="tokens",
        help="Token ids, with a mask or labels where not all of them count.",
        needs=(frozenset({"input_ids"}),),
        content=tokens_content,
        columns=(*MASKS, PADDING, SAMPLER, "prompt", *SIDE[:2]),
    ),
}
