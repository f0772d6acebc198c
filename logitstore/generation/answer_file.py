"""The file of answers: one row an answer, a row group for each part of a run.

    prompt             the messages as JSON, or a text
    prompt_id          32 hex digits, by the prompt's place in the corpus
    answer, turn       numbers, from 0
    input_ids          the prompt's tokens and the answer's, with the end token that it gave
    loss_mask          1 where the token is the answer's
    sampler_logprobs   nats, in the distribution that was drawn from; null where the prompt's
    model_logprobs     nats, in the model's own distribution; null where the prompt's
    answer_text        the answer as text, without special tokens
    finish             "stop": ended by an end token; "length": cut at the most tokens

docs/generation.md describes it. Equal answers are equal bytes: nothing tells a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from logitstore.generation.answering import Answer, Asked

__all__ = ["AnswerCounts", "answer_table", "counts_of", "write_tables"]

_LISTS = {
    "input_ids": pa.list_(pa.uint32()),
    "loss_mask": pa.list_(pa.uint8()),
    "sampler_logprobs": pa.list_(pa.float32()),
    "model_logprobs": pa.list_(pa.float32()),
}
_SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("prompt_id", pa.string()),
        ("answer", pa.int32()),
        ("turn", pa.int32()),
        *_LISTS.items(),
        ("answer_text", pa.string()),
        ("finish", pa.string()),
    ]
)
_STOP, _LENGTH = "stop", "length"


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCounts:
    """What answers add up to."""

    answers: int = 0
    tokens: int = 0  # of the answers, their ends included
    cut: int = 0  # answers that ended at the most tokens
    empty: int = 0  # answers that are an end token alone
    longest: int = 0  # tokens of the longest row, its prompt included

    def plus(self, other: AnswerCounts) -> AnswerCounts:
        """Of both together."""
        return AnswerCounts(
            answers=self.answers + other.answers,
            tokens=self.tokens + other.tokens,
            cut=self.cut + other.cut,
            empty=self.empty + other.empty,
            longest=max(self.longest, other.longest),
        )


def answer_table(pairs: Sequence[tuple[Asked, Answer]], *, tokenizer: Any) -> pa.Table:
    """The rows of answers, in their order."""
    rows: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for asked, answer in pairs:
        prompt_L = asked.prompt.input_ids_L
        nulls: list[float | None] = [None] * len(prompt_L)
        said = answer.ids_T[:-1] if answer.ended else answer.ids_T
        row = {
            "prompt": asked.prompt.shown,
            "prompt_id": asked.prompt.id.hex(),
            "answer": asked.answer,
            "turn": asked.prompt.turn,
            "input_ids": [*prompt_L.tolist(), *answer.ids_T.tolist()],
            "loss_mask": [0] * len(prompt_L) + [1] * len(answer.ids_T),
            "sampler_logprobs": nulls + answer.sampled_logprobs_T.tolist(),
            "model_logprobs": nulls + answer.model_logprobs_T.tolist(),
            "answer_text": tokenizer.decode(said.tolist(), skip_special_tokens=True),
            "finish": _STOP if answer.ended else _LENGTH,
        }
        for name, value in row.items():
            rows[name].append(value)
    return pa.table(rows, schema=_SCHEMA)


def counts_of(table: pa.Table) -> AnswerCounts:
    """What the answers of a table add up to."""
    mask_N = table["loss_mask"].combine_chunks().flatten().to_numpy().astype(np.int64)
    lengths_A = pc.list_value_length(table["input_ids"]).to_numpy()
    starts_A = np.cumsum(lengths_A) - lengths_A
    tokens_A = np.add.reduceat(mask_N, starts_A) if len(table) else mask_N
    finish = np.array(table["finish"].to_pylist())
    return AnswerCounts(
        answers=len(table),
        tokens=int(tokens_A.sum()),
        cut=int((finish == _LENGTH).sum()),
        empty=int(((tokens_A == 1) & (finish == _STOP)).sum()),
        longest=int(lengths_A.max(initial=0)),
    )


def write_tables(path: Path, tables: Iterable[pa.Table], metadata: Mapping[bytes, bytes]) -> None:
    """A Parquet file with a row group for each table that has rows, and `metadata`.

    Every page has a checksum, which `dump` checks.
    """
    schema = _SCHEMA.with_metadata(dict(metadata))
    with pq.ParquetWriter(
        path, schema, compression="zstd", write_page_checksum=True, store_schema=True
    ) as writer:
        for table in tables:
            if len(table):
                writer.write_table(
                    table.replace_schema_metadata(schema.metadata), row_group_size=len(table)
                )
