"""Prompts: the records of a corpus as tokens that a model goes on from.

Shapes: L tokens of one prompt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.corpus.encoder import Encoder
from logitstore.corpus.records import BadRecord, bad_record, shortened
from logitstore.targets.documents import document_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from logitstore.corpus.content import Content, Record
    from logitstore.corpus.text_rules import TextRules

__all__ = ["Prompt", "PromptReader"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prompt:
    """What one record asks for in one turn."""

    id: bytes  # 16 bytes, by its place in the corpus: see `document_id`
    place: str  # source and line, for messages
    content: Content
    input_ids_L: np.ndarray  # uint32
    shown: str  # as people read it: messages as JSON, or a text
    turn: int = 0


class PromptReader:
    """Records to prompts, by one tokenizer.

    tokenizer: of transformers.
    rules: the vocabulary and what a chat template is given.
    room: the most tokens of a prompt; None where there is no limit.
    skip_bad: whether records that make no prompt are counted and passed over.

    `skipped` counts records passed over so far, `replaced` those whose own answer is left out.
    """

    def __init__(
        self, tokenizer: Any, *, rules: TextRules, room: int | None, skip_bad: bool
    ) -> None:
        self.skipped = 0
        self.replaced = 0
        self._tokenizer = tokenizer
        self._encoder = Encoder(tokenizer, rules)
        self._rules = rules
        self._room = room
        self._skip_bad = skip_bad

    def prompts(self, records: Iterable[Record]) -> list[Prompt]:
        """The prompts of records, in their order; CorpusError for one that makes none."""
        found = []
        for record in records:
            number = document_id(source=record.source, record=record.record, piece=0)
            prompt = self._prompt(number, record.place, record.content, turn=0)
            if prompt is not None:
                self.replaced += record.content.replaced
                found.append(prompt)
        return found

    def next_turn(self, prompt: Prompt, answer_ids: list[int]) -> Prompt | None:
        """The prompt of the next turn of `prompt`, after an answer; None where there is none.

        answer_ids: the answer's tokens, without its end.
        """
        content = prompt.content
        if not content.following:
            return None
        try:
            answered = self._answered(content, answer_ids)
        except BadRecord as fault:
            self._refuse(fault, prompt.place)
            return None
        return self._prompt(prompt.id, prompt.place, answered, turn=prompt.turn + 1)

    def _answered(self, content: Content, answer_ids: list[int]) -> Content:
        whole = self._tokenizer.decode(answer_ids, skip_special_tokens=False)
        plain = self._tokenizer.decode(answer_ids, skip_special_tokens=True)
        if whole != plain or not plain.strip():
            raise BadRecord(
                "the next turn cannot follow an answer that is empty or holds special tokens, for "
                "the chat template writes those itself",
                found=shortened(whole),
            )
        said = content.following[0]
        if content.chat is None:
            raise BadRecord("only a chat has several turns")
        messages = [
            *content.chat.messages,
            {"role": "assistant", "content": plain},
            {"role": "user", "content": said},
        ]
        text = None if content.text is None else f"{content.text}{plain}\n{said}\n"
        chat = replace(content.chat, messages=messages)
        return replace(content, chat=chat, text=text, following=content.following[1:])

    def _prompt(self, number: bytes, place: str, content: Content, *, turn: int) -> Prompt | None:
        try:
            ids_L = self._checked(self._encoder.encode_prompt(content))
        except BadRecord as fault:
            self._refuse(fault, place)
            return None
        return Prompt(
            id=number,
            place=place,
            content=content,
            input_ids_L=ids_L,
            shown=self._shown(content, ids_L),
            turn=turn,
        )

    def _shown(self, content: Content, ids_L: np.ndarray) -> str:
        if content.chat is not None and self._encoder.is_rendered(content):
            return json.dumps(content.chat.messages, ensure_ascii=False)
        return content.text or str(self._tokenizer.decode(ids_L.tolist()))

    def _checked(self, ids: list[int]) -> np.ndarray:
        size = self._rules.vocab_size
        if not ids:
            raise BadRecord("the prompt has no tokens")
        if size is not None and max(ids) >= size:
            raise BadRecord(
                "a token has an id of which the model knows nothing",
                found=max(ids),
                allowed=f"below {size}",
            )
        if self._room is not None and len(ids) > self._room:
            raise BadRecord(
                "the prompt leaves too little of the model's context for an answer of "
                "--max-new-tokens",
                found=f"{len(ids)} tokens",
                allowed=f"up to {self._room}",
            )
        return np.array(ids, dtype=np.uint32)

    def _refuse(self, fault: BadRecord, place: str) -> None:
        if not self._skip_bad:
            raise bad_record(
                fault.problem, place=place, found=fault.found, allowed=fault.allowed
            ) from fault
        self.skipped += 1
