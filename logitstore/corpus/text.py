"""Text rules: a record becomes token ids, and those become documents of bounded length.

A text takes the special tokens that its tokenizer adds, and an end-of-text token where it ends. A
chat is rendered by the tokenizer's template, and of its tokens only the assistant's count, end of
turn included. What is longer than a document is split into pieces that share one token, so that
every counted token is predicted in exactly one piece.

Shapes: L tokens of one record or document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import TemplateSyntaxError

from logitstore.corpus.records import BadRecord, bad_record, shortened
from logitstore.errors import ModelError, SettingError
from logitstore.targets.documents import Document, document_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from logitstore.corpus.records import Record

__all__ = ["DocumentStream", "TextRules", "tokenize"]

# Fast tokenizers spread a list over threads; past some dozens of records nothing more is gained.
_BATCH_RECORDS = 64
_BATCH_CHARACTERS = 1 << 20
_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
# verbose=False: a text longer than the model's context is no fault here, it will be split.
_IDS_ONLY = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}

Messages = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRules:
    """How records become documents; part of a store's spec."""

    max_length: int  # tokens of a document at most

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

    records: texts and chats, in corpus order.
    tokenizer: of transformers.
    rules: how records become documents.
    skip_bad: whether broken records are counted and passed over.

    A record that yields no target, or a chat that cannot be rendered or masked, is a `CorpusError`,
    or with `skip_bad` is counted and passed over.
    """
    return DocumentStream(records, tokenizer, rules=rules, skip_bad=skip_bad)


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
        self._tokenizer = tokenizer
        self._rules = rules
        self._skip_bad = skip_bad
        self._chat: _ChatEncoder | None = None

    def __iter__(self) -> Iterator[Document]:
        self.skipped = 0
        for batch in _batches(self._records):
            texts = _encode_texts(batch, self._tokenizer)
            for record in batch:
                try:
                    tokens = next(texts) if record.messages is None else self._encode_chat(record)
                    documents = _documents(record, tokens, max_length=self._rules.max_length)
                except BadRecord as fault:
                    if not self._skip_bad:
                        raise bad_record(
                            fault.problem, place=record.place, found=fault.found
                        ) from fault
                    self.skipped += 1
                else:
                    yield from documents

    def _encode_chat(self, record: Record) -> _Tokens:
        if self._chat is None:
            self._chat = _ChatEncoder(self._tokenizer)
        return self._chat.encode(record.messages or [])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Tokens:
    """A whole record, before it is split."""

    ids_L: np.ndarray  # uint32
    counted_L: np.ndarray  # bool


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += len(record.text or "")
        if len(batch) == _BATCH_RECORDS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode_texts(batch: Sequence[Record], tokenizer: PreTrainedTokenizerBase) -> Iterator[_Tokens]:
    """The tokens of those records of `batch` that are texts."""
    records = [record for record in batch if record.text is not None]
    if not records:
        return
    texts = [record.text for record in records]
    end = tokenizer.eos_token_id
    for record, ids in zip(records, tokenizer(texts, **_IDS_ONLY)["input_ids"], strict=True):
        if record.ends and end is not None and ids[-1:] != [end]:
            ids.append(end)
        ids_L = np.array(ids, dtype=np.uint32)
        yield _Tokens(ids_L=ids_L, counted_L=np.ones(len(ids_L), dtype=bool))


def _documents(record: Record, tokens: _Tokens, *, max_length: int) -> list[Document]:
    """The pieces of a record: each begins with the last token of the piece before it.

    So of L tokens every one but the first is predicted once, and pieces are ceil((L - 1) /
    (max_length - 1)). A piece's first token never counts; pieces in which none counts are left out,
    and the others keep their numbers.
    """
    documents = []
    starts = range(0, len(tokens.ids_L) - 1, max_length - 1)
    for piece, start in enumerate(starts):
        counted_L = tokens.counted_L[start : start + max_length].copy()
        counted_L[0] = False
        if counted_L.any():
            documents.append(
                Document(
                    id=document_id(source=record.source, record=record.record, piece=piece),
                    record=record.record,
                    piece=piece,
                    input_ids_L=tokens.ids_L[start : start + max_length],
                    counted_L=counted_L,
                )
            )
    if not documents:
        raise BadRecord(
            "no token of the record is a target",
            found=f"{len(tokens.ids_L)} tokens, {int(tokens.counted_L[1:].sum())} after the first "
            "that count",
        )
    return documents


class _ChatEncoder:
    """Chats to tokens, of which the assistant's count.

    Where the template marks generation, its own mask is taken. Elsewhere an assistant's turn is
    what a rendering up to and with its message has more than one up to the prompt for it; white
    space behind an end-of-turn token is the template's, for no model is asked to generate it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        try:
            template = tokenizer.get_chat_template()
        except ValueError as error:
            raise ModelError(
                "the tokenizer has no chat template, which a corpus of chats needs",
                place=tokenizer.name_or_path or None,
                remedy="Give a teacher with one, or texts with --text-field",
            ) from error
        self._tokenizer = tokenizer
        # The mask of marks needs offsets, which only fast tokenizers know.
        self._marked = tokenizer.is_fast and _GENERATION_MARK.search(template) is not None
        added = tokenizer.added_tokens_decoder.values()
        self._ends = tuple(token.content for token in added if token.content.strip())

    def encode(self, messages: Messages) -> _Tokens:
        """The chat's tokens; `BadRecord` if the template refuses it or no mask can be found."""
        try:
            if self._marked:
                return self._encode_marked(messages)
            return self._encode_spans(*self._spans(messages))
        except TemplateSyntaxError as error:
            raise ModelError(f"the chat template is broken: {error}") from error
        except BadRecord:
            raise
        except Exception as error:  # a template is a program: it may raise anything
            raise BadRecord(
                f"the chat template cannot render the chat: {error}", found=shortened(messages)
            ) from error

    def _encode_marked(self, messages: Messages) -> _Tokens:
        encoded = self._tokenizer.apply_chat_template(
            messages,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs=_IDS_ONLY,
        )
        return _Tokens(
            ids_L=np.array(encoded["input_ids"], dtype=np.uint32),
            counted_L=np.array(encoded["assistant_masks"], dtype=bool),
        )

    def _spans(self, messages: Messages) -> tuple[str, list[tuple[int, int]]]:
        """The rendered chat, and where in it the assistant speaks."""
        whole = self._render(messages)
        spans = []
        for turn, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:turn], prompt=True)
            after = self._render(messages[: turn + 1])
            if not (after.startswith(before) and whole.startswith(after)):
                raise BadRecord(
                    f"the chat template renders message {turn} otherwise when more follows, so the "
                    "assistant's tokens cannot be told apart (a template with generation marks "
                    "would tell them)",
                    found=shortened(message["content"]),
                )
            turn_text = after[len(before) :].rstrip()
            ended = self._ends and turn_text.endswith(self._ends)
            spans.append((len(before), len(before) + len(turn_text) if ended else len(after)))
        return whole, spans

    def _render(self, messages: Messages, *, prompt: bool = False) -> str:
        # As a batch of one: alone, the messages before an assistant who speaks first are refused.
        return self._tokenizer.apply_chat_template(
            [messages], tokenize=False, add_generation_prompt=prompt
        )[0]

    def _encode_spans(self, whole: str, spans: Sequence[tuple[int, int]]) -> _Tokens:
        # The template has written the special tokens: added once more, there were two BOS.
        encoded = self._tokenizer(
            whole,
            add_special_tokens=False,
            return_offsets_mapping=self._tokenizer.is_fast,
            **_IDS_ONLY,
        )
        ids_L = np.array(encoded["input_ids"], dtype=np.uint32)
        counted_L = np.zeros(len(ids_L), dtype=bool)
        if self._tokenizer.is_fast:
            begin_L, end_L = np.array(encoded["offset_mapping"]).reshape(-1, 2).T
            for start, stop in spans:
                # A token across the border holds some of the assistant's text: it counts.
                counted_L |= (begin_L < stop) & (end_L > start)
        else:
            for start, stop in spans:
                counted_L[
                    self._prefix(whole[:start], ids_L) : self._prefix(whole[:stop], ids_L)
                ] = True
        return _Tokens(ids_L=ids_L, counted_L=counted_L)

    def _prefix(self, text: str, ids_L: np.ndarray) -> int:
        """How many tokens of `ids_L` are those of `text`, by which the whole begins."""
        ids = self._tokenizer(text, add_special_tokens=False, **_IDS_ONLY)["input_ids"]
        if ids_L[: len(ids)].tolist() != ids:
            raise BadRecord(
                "a token reaches over the border of the assistant's turn", found=shortened(text)
            )
        return len(ids)
