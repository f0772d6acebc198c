"""Text rules: a record becomes token ids, and those become documents of bounded length.

A text begins as its tokenizer begins texts and takes an end-of-text token where it ends. A chat is
rendered by a chat template, and what the assistant says in it counts. Tokens are taken as they are.
What is longer than a document is split into pieces that share one token, so that every counted
token is predicted in exactly one piece; where the whole begins with the tokenizer's BOS, each piece
does, for a model has learnt to speak behind it.

Shapes: L tokens of one record or document.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from logitstore.corpus.records import BadRecord, bad_record, shortened
from logitstore.corpus.template import ChatTemplate, template_source
from logitstore.corpus.turns import Rendering, renderings
from logitstore.errors import SettingError
from logitstore.targets.documents import Document, document_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from logitstore.corpus.chats import Chat
    from logitstore.corpus.content import Content, Record

__all__ = ["DocumentStream", "TextRules", "beginning", "tokenize"]

# Fast tokenizers spread a list over threads; past some dozens of records nothing more is gained.
_BATCH_RECORDS = 64
_BATCH_CHARACTERS = 1 << 20
# verbose=False: a text longer than the model's context is no fault here, it will be split.
_IDS_ONLY = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRules:
    """How records become documents; part of a store's spec."""

    max_length: int  # tokens of a document at most
    vocab_size: int | None = None  # V: what uses an id from there on is refused; None: nothing is
    last_turn_only: bool = False  # of a chat's turns only the last counts
    template_variables: Mapping[str, object] = field(default_factory=dict)  # for every chat
    today: date = field(default_factory=date.today)  # that a chat template is told

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise SettingError(
                "a document needs a token to predict and one before it",
                place="--max-length",
                found=self.max_length,
                allowed=">= 2",
            )


def tokenize(
    records: Iterable[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    rules: TextRules,
    skip_bad: bool,
) -> DocumentStream:
    """The documents of `records`, in corpus order.

    A record that yields no target, or a chat that cannot be rendered, is a `CorpusError`, or with
    `skip_bad` is counted and passed over.
    """
    return DocumentStream(records, tokenizer, rules=rules, skip_bad=skip_bad)


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that `tokenizer` puts before a text: BOS alone, or none."""
    bos = tokenizer.bos_token_id
    ids = tokenizer("a", **_IDS_ONLY)["input_ids"]
    plain = tokenizer("a", add_special_tokens=False, **_IDS_ONLY)["input_ids"]
    return [bos] if bos is not None and ids[:1] == [bos] and plain[:1] != [bos] else []


class DocumentStream:
    """Documents, tokenised as they are asked for; `skipped` counts records passed over so far.

    records: texts and chats, in corpus order.
    tokenizer: of transformers.
    rules: how records become documents.
    skip_bad: whether broken records are counted and passed over.
    """

    def __init__(
        self,
        records: Iterable[Record],
        tokenizer: PreTrainedTokenizerBase,
        *,
        rules: TextRules,
        skip_bad: bool,
    ) -> None:
        self.skipped = 0
        self._records = records
        self._rules = rules
        self._skip_bad = skip_bad
        self._encoder = _Encoder(tokenizer, rules)

    def __iter__(self) -> Iterator[Document]:
        self.skipped = 0
        for batch in _batches(self._records):
            texts = self._encoder.encode_texts(batch)
            for record in batch:
                try:
                    parts = [next(texts)] if _is_text(record) else self._encoder.encode(record)
                    documents = self._documents(record, parts)
                except BadRecord as fault:
                    if not self._skip_bad:
                        raise bad_record(
                            fault.problem,
                            place=record.place,
                            found=fault.found,
                            allowed=fault.allowed,
                        ) from fault
                    self.skipped += 1
                else:
                    yield from documents

    def _documents(self, record: Record, parts: Sequence[_Tokens]) -> list[Document]:
        """The documents of a record, whose pieces are numbered through; `BadRecord` without any."""
        self._check_ids(parts)
        pieces = [piece for part in parts for piece in _pieces(part, self._rules.max_length)]
        documents = [
            Document(
                id=document_id(source=record.source, record=record.record, piece=number),
                record=record.record,
                piece=number,
                input_ids_L=piece.ids_L,
                counted_L=piece.counted_L,
            )
            for number, piece in enumerate(pieces)
            if piece.counted_L.any()
        ]
        if not documents:
            length = sum(len(part.ids_L) for part in parts)
            counted = sum(int(part.counted_L[1:].sum()) for part in parts)
            raise BadRecord(
                "no token of the record is a target",
                found=f"{length} tokens, {counted} after the first that count",
            )
        return documents

    def _check_ids(self, parts: Sequence[_Tokens]) -> None:
        size = self._rules.vocab_size
        for part in parts:
            if size is not None and len(part.ids_L) and int(part.ids_L.max()) >= size:
                raise BadRecord(
                    "a token has an id of which the teacher knows nothing",
                    found=int(part.ids_L.max()),
                    allowed=f"below {size}",
                )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Tokens:
    """A text or a rendering as a whole, before it is split."""

    ids_L: np.ndarray  # uint32
    counted_L: np.ndarray  # bool
    begins: int  # tokens at its front that begin every piece


def _pieces(tokens: _Tokens, max_length: int) -> Iterator[_Tokens]:
    """The pieces of a text: each begins as the whole does, then with the last token before it.

    So every token but the first is predicted once. A piece's beginning and the token that it shares
    never count.
    """
    front_L = tokens.ids_L[: tokens.begins]
    lead_L = front_L[:0]
    start = 0
    while start < len(tokens.ids_L) - 1:
        size = max_length - len(lead_L)
        counted_L = tokens.counted_L[start : start + size].copy()
        counted_L[0] = False
        yield _Tokens(
            ids_L=np.concatenate([lead_L, tokens.ids_L[start : start + size]]),
            counted_L=np.concatenate([np.zeros(len(lead_L), dtype=bool), counted_L]),
            begins=tokens.begins,
        )
        # A document of two tokens has no room for both the beginning and a shared token.
        lead_L = front_L if max_length >= len(front_L) + 2 else front_L[:0]
        start += size - 1


def _is_text(record: Record) -> bool:
    content = record.content
    return content.text is not None and content.chat is None


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += len(record.content.text or "")
        if len(batch) == _BATCH_RECORDS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class _Encoder:
    """Records to tokens, by one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rules: TextRules) -> None:
        self._tokenizer = tokenizer
        self._rules = rules
        self._begin = beginning(tokenizer)
        self._templates: dict[bool, ChatTemplate] = {}
        added = tokenizer.added_tokens_decoder.values()
        self._ends = tuple(token.content for token in added if token.content.strip())

    def encode_texts(self, batch: Sequence[Record]) -> Iterator[_Tokens]:
        """The tokens of those records of `batch` that are texts."""
        records = [record for record in batch if _is_text(record)]
        if records:
            texts = [record.content.text for record in records]
            encoded = self._tokenizer(texts, **_IDS_ONLY)["input_ids"]
            for record, ids in zip(records, encoded, strict=True):
                yield self._whole_text(ids, ends=record.ends)

    def encode(self, record: Record) -> list[_Tokens]:
        """The tokens of a record that is no mere text, or `BadRecord`."""
        content = record.content
        if content.tokens is not None:
            tokens = content.tokens
            return [self._tokens(tokens.ids, tokens.counted, begin=self._begin)]
        if content.chat is None:
            raise BadRecord("the record holds neither text nor chat nor tokens")
        if content.text is not None and not self._has_template():
            return [self._answer(content)]
        return [self._rendered(one) for one in self._renderings(content.chat)]

    def _whole_text(self, ids: list[int], *, ends: bool) -> _Tokens:
        end = self._tokenizer.eos_token_id
        begin = self._begin
        while begin and ids[: len(begin) + 1] == [*begin, *begin]:  # the text has its own
            ids = ids[len(begin) :]
        if ends and end is not None and ids[-1:] != [end]:
            ids = [*ids, end]
        return self._tokens(ids, [True] * len(ids), begin=begin)

    def _tokens(
        self, ids: Sequence[int], counted: Sequence[bool] | np.ndarray, *, begin: Sequence[int]
    ) -> _Tokens:
        """Tokens whose pieces begin with `begin` where they do themselves."""
        begins = len(begin) if list(ids[: len(begin)]) == list(begin) else 0
        return _Tokens(
            ids_L=np.array(ids, dtype=np.uint32),
            counted_L=np.array(counted, dtype=bool),
            begins=begins,
        )

    def _has_template(self) -> bool:
        return getattr(self._tokenizer, "chat_template", None) is not None

    def _answer(self, content: Content) -> _Tokens:
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

    def _renderings(self, chat: Chat) -> list[Rendering]:
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
        return renderings(
            chat,
            self._templates[with_tools],
            ends=self._ends,
            last_turn_only=self._rules.last_turn_only,
        )

    def _rendered(self, rendering: Rendering) -> _Tokens:
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
        prefix = self._tokenizer(text, add_special_tokens=False, **_IDS_ONLY)["input_ids"]
        if ids[: len(prefix)] != prefix:
            raise BadRecord(
                "a token reaches over the border of the assistant's turn", found=shortened(text)
            )
        return len(prefix)
