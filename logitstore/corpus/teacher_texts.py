"""What only the teacher reads: a system prompt, or messages of a record's own.

The student learns from its own tokens; the teacher reads more before them. What counts must be the
same tokens in both, for a target belongs to the token that it predicts.

Shapes: L tokens of one text or rendering, M tokens that the teacher reads in its place.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from logitstore.corpus.chats import Chat, chat_of
from logitstore.corpus.records import BadRecord, shortened
from logitstore.targets.documents import TeacherText

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.corpus.content import Content
    from logitstore.corpus.pieces import Tokens
    from logitstore.corpus.text_rules import TextRules

__all__ = ["TeacherTexts"]

# As plain text, a system prompt stands in a paragraph of its own.
_PARAGRAPH = "\n\n"


class Renderer(Protocol):
    """What makes tokens of chats and texts."""

    @property
    def begin(self) -> list[int]:
        """The ids before a text."""
        ...

    def rendered_chat(self, chat: Chat) -> list[Tokens]:
        """The tokens of a chat, of which those count that the assistant says."""
        ...

    def prompt(self, chat: Chat) -> list[int]:
        """The ids of a chat and of the words that ask the assistant to speak."""
        ...

    def plain(self, text: str) -> list[int]:
        """The ids of a text, and of nothing around it."""
        ...


class TeacherTexts:
    """The tokens of records, each with what the teacher reads in their place.

    renderer: makes tokens of chats and texts.
    rules: how records become documents.
    """

    def __init__(self, renderer: Renderer, rules: TextRules) -> None:
        self._renderer = renderer
        self._rules = rules
        self._inserted_L: np.ndarray | None = None

    def beside_text(self, own: Tokens, content: Content) -> Tokens:
        """A text, before which the teacher reads the system prompt as a paragraph."""
        if content.teacher is not None:
            raise BadRecord(
                "teacher_messages stand beside a plain text; they need a chat and a chat template",
                found=shortened(content.teacher.messages),
            )
        system = self._rules.teacher_system
        if system is None:
            return own
        if self._inserted_L is None:
            ids = self._renderer.plain(system + _PARAGRAPH)
            self._inserted_L = np.array(ids, dtype=np.uint32)
        return replace(own, inserted_L=self._inserted_L)

    def beside_chat(self, content: Content, own: Sequence[Tokens]) -> list[Tokens]:
        """The documents of a chat, each with that of the chat that the teacher reads."""
        chat = self._teachers_chat(content.teacher, content.chat)
        if chat is None or content.chat is None:
            return list(own)
        if chat.messages[-1]["role"] != "assistant":
            chat = replace(chat, messages=[*chat.messages, content.chat.messages[-1]])
        teachers = self._renderer.rendered_chat(chat)
        if len(teachers) != len(own):
            raise BadRecord(
                "the chat that the teacher reads has other turns that count than the record",
                found=f"{len(teachers)} documents",
                allowed=f"{len(own)}",
            )
        return [_paired(one, teacher) for one, teacher in zip(own, teachers, strict=True)]

    def beside_tokens(self, content: Content, own: Tokens) -> list[Tokens]:
        """Tokens, with those of the prompt that the teacher reads before the same answer."""
        if content.teacher is None and self._rules.teacher_system is None:
            return [own]
        prompt = _messages(content.prompt)
        if content.teacher is None and prompt is None:
            if not isinstance(content.prompt, str):
                raise BadRecord(
                    "token ids do not tell where a system prompt belongs; a field prompt or "
                    "teacher_messages does"
                )
            self._check_prompt(own, [*self._renderer.begin, *self._renderer.plain(content.prompt)])
            return [self.beside_text(own, content)]
        if content.teacher is None and prompt is not None:
            self._check_prompt(own, self._renderer.prompt(prompt))
        chat = self._teachers_chat(content.teacher, prompt)
        if chat is None:
            return [own]
        if chat.messages[-1]["role"] == "assistant":
            return [_paired(own, one) for one in self._renderer.rendered_chat(chat)[-1:]]
        return [_paired(own, self._answered(own, self._renderer.prompt(chat)))]

    def _teachers_chat(self, teacher: Chat | None, own: Chat | None) -> Chat | None:
        """The chat that the teacher reads; None where it is the record's own."""
        system = self._rules.teacher_system
        if teacher is not None and not self._rules.teacher_messages:
            raise BadRecord(
                "the record has teacher_messages, and the first records of the corpus have none",
                found=shortened(teacher.messages),
            )
        chat = teacher or own
        if chat is None or system is None:
            return teacher
        return _with_system(chat, system)

    def _check_prompt(self, own: Tokens, ids: list[int]) -> None:
        """Refuse tokens before whose answer stands something else than their prompt."""
        start = _answer_begins(own)
        found = own.ids_L[:start].tolist()
        if found != ids:
            place = next(
                (at for at, pair in enumerate(zip(found, ids, strict=False)) if pair[0] != pair[1]),
                min(len(found), len(ids)),
            )
            raise BadRecord(
                "the tokens before the answer are not those of the field prompt",
                found=f"{start} tokens, other from place {place}",
                allowed=f"{len(ids)} tokens",
            )

    def _answered(self, own: Tokens, prompt: list[int]) -> Tokens:
        """The answer of `own` behind another prompt."""
        start = _answer_begins(own)
        return replace(
            own,
            ids_L=np.concatenate([np.array(prompt, dtype=np.uint32), own.ids_L[start:]]),
            counted_L=np.concatenate([np.zeros(len(prompt), dtype=bool), own.counted_L[start:]]),
        )


def _messages(prompt: object) -> Chat | None:
    """The chat that a prompt is, as messages or their JSON; None where it is a text."""
    if isinstance(prompt, str):
        try:
            prompt = json.loads(prompt)
        except (ValueError, RecursionError):
            return None
    is_chat = isinstance(prompt, list) and all(isinstance(one, dict) for one in prompt)
    return chat_of(prompt, name="prompt") if is_chat and prompt else None


def _with_system(chat: Chat, system: str) -> Chat:
    """The chat behind a system prompt, which stands above one that the chat has."""
    first = chat.messages[0]
    if first["role"] == "system":
        above = {**first, "content": f"{system}{_PARAGRAPH}{first['content']}"}
        return replace(chat, messages=[above, *chat.messages[1:]])
    return replace(
        chat,
        messages=[{"role": "system", "content": system}, *chat.messages],
        left_out=frozenset(number + 1 for number in chat.left_out),
    )


def _answer_begins(own: Tokens) -> int:
    counted = np.flatnonzero(own.counted_L)
    if not len(counted):
        raise BadRecord("no token of the record is a target", found=f"{len(own.ids_L)} tokens")
    return int(counted[0])


def _paired(own: Tokens, teacher: Tokens) -> Tokens:
    """`own` with the text that the teacher reads; `BadRecord` where other tokens count in it."""
    places_R = np.flatnonzero(teacher.counted_L)
    if own.counted_L[:1].any():  # nothing predicts the first token of a document
        places_R = places_R[1:]
    wanted_R = own.ids_L[1:][own.counted_L[1:]]
    found_R = teacher.ids_L[places_R]
    if not np.array_equal(found_R, wanted_R):
        raise BadRecord(
            "the answer has other tokens in the text that the teacher reads",
            found=f"{len(found_R)} tokens that count",
            allowed=f"{len(wanted_R)}, and the same",
        )
    counted_M = np.zeros(len(teacher.ids_L), dtype=bool)
    counted_M[places_R] = True
    return replace(own, teacher=TeacherText(input_ids_M=teacher.ids_L, counted_M=counted_M))
