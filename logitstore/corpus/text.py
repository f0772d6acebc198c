"""Records become documents of bounded length: encoded, cut into pieces, and numbered.

A record that cannot be used is an error with its place, or is counted and passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.corpus.encoder import Encoder, is_text
from logitstore.corpus.pieces import pieces
from logitstore.corpus.records import BadRecord, bad_record
from logitstore.targets.documents import Document, document_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from logitstore.corpus.content import Record
    from logitstore.corpus.pieces import Tokens
    from logitstore.corpus.text_rules import TextRules

__all__ = ["DocumentStream", "tokenize"]

# Fast tokenizers spread a list over threads; past some dozens of records nothing more is gained.
_BATCH_RECORDS = 64
_BATCH_CHARACTERS = 1 << 20


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
        self.first_skipped: dict[str, str] = {}  # problem -> the place of the first that has it
        self._records = records
        self._rules = rules
        self._skip_bad = skip_bad
        self._encoder = Encoder(tokenizer, rules)

    def __iter__(self) -> Iterator[Document]:
        self.skipped = 0
        for batch in _batches(self._records):
            texts = self._encoder.encode_texts(batch)
            for record in batch:
                try:
                    parts = [next(texts)] if is_text(record) else self._encoder.encode(record)
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
                    self.first_skipped.setdefault(fault.problem, record.place)
                else:
                    yield from documents

    def _documents(self, record: Record, parts: Sequence[Tokens]) -> list[Document]:
        """The documents of a record, whose pieces are numbered through; `BadRecord` without any."""
        self._check_ids(parts)
        self._check_sampler(parts)
        cut = [piece for part in parts for piece in pieces(part, self._rules.max_length)]
        documents = [
            Document(
                id=document_id(source=record.source, record=record.record, piece=number),
                record=record.record,
                piece=number,
                input_ids_L=piece.ids_L,
                counted_L=piece.counted_L,
                teacher_text=piece.teacher,
                sampler_logprobs_R=_counted(piece.sampler_L, piece.counted_L),
            )
            for number, piece in enumerate(cut)
            if piece.counted_L.any()
        ]
        self._check_context(documents)
        if not documents:
            length = sum(len(part.ids_L) for part in parts)
            counted = sum(int(part.counted_L[1:].sum()) for part in parts)
            raise BadRecord(
                "no token of the record is a target",
                found=f"{length} tokens, {counted} after the first that count",
            )
        return documents

    def _check_context(self, documents: Sequence[Document]) -> None:
        limit = self._rules.teacher_context
        longest = max((len(document.as_read) for document in documents), default=0)
        if limit is not None and longest > limit:
            raise BadRecord(
                "with what only the teacher reads, the record is longer than its context",
                found=f"{longest} tokens",
                allowed=f"up to {limit}",
            )

    def _check_sampler(self, parts: Sequence[Tokens]) -> None:
        wanted = self._rules.sampler_logprobs
        for part in parts:
            if wanted is not None and (part.sampler_L is not None) is not wanted:
                raise BadRecord(
                    "the record has no sampler_logprobs, and the first record has"
                    if wanted
                    else "the record has sampler_logprobs, and the first record has none",
                    allowed="sampler_logprobs in all records or in none",
                )

    def _check_ids(self, parts: Sequence[Tokens]) -> None:
        size = self._rules.vocab_size
        for part in parts:
            if size is not None and len(part.ids_L) and int(part.ids_L.max()) >= size:
                raise BadRecord(
                    "a token has an id of which the teacher knows nothing",
                    found=int(part.ids_L.max()),
                    allowed=f"below {size}",
                )


def _counted(values_L: np.ndarray | None, counted_L: np.ndarray) -> np.ndarray | None:
    return None if values_L is None else values_L[counted_L]


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
