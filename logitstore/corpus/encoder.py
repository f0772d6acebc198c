"""The encoder: a record becomes token ids, and which of them count.

A text begins as its tokenizer begins texts and takes an end-of-text token where it ends. A chat is
rendered by a chat template, and what the assistant says in it counts. Tokens are taken as they are.

Shapes: L tokens of one text or rendering.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from logitstore.corpus.pieces import Tokens
from logitstore.corpus.records import BadRecord, shortened
from logitstore.corpus.teacher_texts import TeacherTexts
from logitstore.corpus.template import ChatTemplate, template_source
from logitstore.corpus.turns import Rendering, prompt_text, renderings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from logitstore.corpus.chats import Chat
    from logitstore.corpus.content import Content, Record
    from logitstore.corpus.text_rules import TextRules

__all__ = ["Encoder", "beginning", "is_text"]

# verbose=False: a text longer than the model's context is no fault here, it will be split.
_IDS_ONLY = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that `tokenizer` puts before a text: BOS alone, or none."""
    bos = tokenizer.bos_token_id
    ids = tokenizer("a", **_IDS_ONLY)["input_ids"]
    plain = tokenizer("a", add_special_tokens=False, **_IDS_ONLY)["input_ids"]
    return [bos] if bos is not None and ids[:1] == [bos] and plain[:1] != [bos] else []


def is_text(record: Record) -> bool:
    """Whether a record is mere text, of which many are encoded at once."""
    content = record.content
    return content.text is not None and content.chat is None


class Encoder:
    """Records to tokens, by one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rules: TextRules) -> None:
        self._tokenizer = tokenizer
        self._rules = rules
        self._begin = beginning(tokenizer)
        self._templates: dict[bool, ChatTemplate] = {}
        added = tokenizer.added_tokens_decoder.values()
        self._ends = tuple(token.content for token in added if token.content.strip())
        self._teachers = TeacherTexts(self, rules)

    def encode_texts(self, batch: Sequence[Record]) -> Iterator[Tokens]:
        """The tokens of those records of `batch` that are texts."""
        records = [record for record in batch if is_text(record)]
        if records:
            texts = [record.content.text for record in records]
            encoded = self._tokenizer(texts, **_IDS_ONLY)["input_ids"]
            for record, ids in zip(records, encoded, strict=True):
                tokens = self._whole_text(ids, ends=record.ends)
                yield self._teachers.beside_text(tokens, record.content)

    def encode(self, record: Record) -> list[Tokens]:
        """The tokens of a record that is no mere text, or `BadRecord`."""
        content = record.content
        if content.tokens is not None:
            tokens = content.tokens
            own = self._tokens(tokens.ids, tokens.counted, begin=self._begin)
            if tokens.sampler_logprobs is not None:
                sampler_L = np.array(tokens.sampler_logprobs, dtype=np.float32)
                own = replace(own, sampler_L=sampler_L)
            return self._teachers.beside_tokens(content, own)
        if content.chat is None:
            raise BadRecord("the record holds neither text nor chat nor tokens")
        if content.text is not None and not self._has_template():
            return [self._teachers.beside_text(self._answer(content), content)]
        return self._teachers.beside_chat(content, self.rendered_chat(content.chat))

    def rendered_chat(self, chat: Chat) -> list[Tokens]:
        """The tokens of a chat, of which those count that the assistant says; or `BadRecord`."""
        template = self._template(chat)
        found = renderings(
            chat, template, ends=self._ends, last_turn_only=self._rules.last_turn_only
        )
        return [self._rendered(one) for one in found]

    def prompt(self, chat: Chat) -> list[int]:
        """The ids of a chat and of the words that ask the assistant to speak; or `BadRecord`."""
        # The template has written the special tokens.
        return self.plain(prompt_text(chat, self._template(chat)))

    def plain(self, text: str) -> list[int]:
        """The ids of a text, and of nothing around it."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, **_IDS_ONLY)["input_ids"]
        return ids

    def encode_prompt(self, content: Content) -> list[int]:
        """The ids that a model continues to answer `content`, or `BadRecord`.

        A chat is rendered with the template's own words that ask the assistant to speak; a text
        begins as the tokenizer begins texts, and does not end.
        """
        if content.tokens is not None:
            return list(content.tokens.ids)
        if content.chat is not None and self.is_rendered(content):
            return self.prompt(content.chat)
        ids = self.plain(content.text or "")
        return ids if ids[: len(self._begin)] == self._begin else [*self._begin, *ids]

    def is_rendered(self, content: Content) -> bool:
        """Whether `content` becomes tokens by the chat template."""
        return content.chat is not None and (content.text is None or self._has_template())

    def _whole_text(self, ids: list[int], *, ends: bool) -> Tokens:
        end = self._tokenizer.eos_token_id
        begin = self._begin
        while begin and ids[: len(begin) + 1] == [*begin, *begin]:  # the text has its own
            ids = ids[len(begin) :]
        if ends and end is not None and ids[-1:] != [end]:
            ids = [*ids, end]
        return self._tokens(ids, [True] * len(ids), begin=begin)

    def _tokens(
        self, ids: Sequence[int], counted: Sequence[bool] | np.ndarray, *, begin: Sequence[int]
    ) -> Tokens:
        """Tokens whose pieces begin with `begin` where they do themselves."""
        begins = len(begin) if list(ids[: len(begin)]) == list(begin) else 0
        return Tokens(
            ids_L=np.array(ids, dtype=np.uint32),
            counted_L=np.array(counted, dtype=bool),
            begins=begins,
        )

    @property
    def begin(self) -> list[int]:
        """The ids before a text."""
        return self._begin

    def _has_template(self) -> bool:
        return getattr(self._tokenizer, "chat_template", None) is not None

    def _answer(self, content: Content) -> Tokens:
        """A prompt and its answer as plain text, of which the answer and the end count."""
        text = content.text or ""
        tokens = self._rendered(Rendering(text=text, spans=((content.answer, len(text)),)))
        end = self._tokenizer.eos_token_id
        ids, counted = tokens.ids_L.tolist(), tokens.counted_L.tolist()
        if self._begin and ids[:1] != self._begin:
            ids, counted = [*self._begin, *ids], [False, *counted]
        if end is not None and ids[-1:] != [end]:
            ids, counted = [*ids, end], [*counted, True]
        return self._tokens(ids, counted, begin=self._begin)

    def _template(self, chat: Chat) -> ChatTemplate:
        """The tokenizer's template for chats like this one."""
        with_tools = bool(chat.tools)
        if with_tools not in self._templates:
            self._templates[with_tools] = ChatTemplate(
                source=template_source(self._tokenizer, tools=with_tools),
                variables={
                    **self._tokenizer.special_tokens_map,
                    **self._rules.template_variables,
                },
                today=self._rules.today,
            )
        return self._templates[with_tools]

    def _rendered(self, rendering: Rendering) -> Tokens:
        """The tokens of a text, of which those count that hold a character of a span."""
        # The template has written the special tokens: added once more, there were two BOS.
        encoded = self._tokenizer(
            rendering.text,
            add_special_tokens=False,
            return_offsets_mapping=self._tokenizer.is_fast,
            **_IDS_ONLY,
        )
        ids = encoded["input_ids"]
        counted_L = np.zeros(len(ids), dtype=bool)
        if self._tokenizer.is_fast:
            begin_L, end_L = np.array(encoded["offset_mapping"]).reshape(-1, 2).T
            for start, stop in rendering.spans:
                # A token across the border holds some of the assistant's text: it counts.
                counted_L |= (begin_L < stop) & (end_L > start)
        else:
            for start, stop in rendering.spans:
                first, last = (self._prefix(rendering.text[:end], ids) for end in (start, stop))
                counted_L[first:last] = True
        bos = self._tokenizer.bos_token_id
        return self._tokens(ids, counted_L, begin=[] if bos is None else [bos])

    def _prefix(self, text: str, ids: list[int]) -> int:
        """How many tokens of `ids` are those of `text`, by which the whole begins."""
        prefix = self.plain(text)
        if ids[: len(prefix)] != prefix:
            raise BadRecord(
                "a token reaches over the border of the assistant's turn", found=shortened(text)
            )
        return len(prefix)
