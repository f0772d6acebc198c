"""Blocks as integers: some of their documents, several as one, blocks of several shards as one's.

The integers of a store are taken over as they are, in the fewest bytes that hold them, so that no
value is rounded twice and a unit of a million targets of 64 entries takes 200 MB.

Shapes: R targets, N tokens, D documents, C columns of the table of documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from logitstore.codec.base import JoinsShards
from logitstore.errors import CorruptionError
from logitstore.format.columns import DOCUMENT_COLUMNS, Columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.codec import Codec
    from logitstore.targets.documents import DocumentBlock

__all__ = ["EncodedBlock", "Tables", "decoded", "joined_shard", "packed", "some_documents"]

Tables: TypeAlias = Mapping[str, np.ndarray]

_TOKENS, _TARGETS = DOCUMENT_COLUMNS.index("tokens"), DOCUMENT_COLUMNS.index("targets")
_TOKENS_PER_TARGET = 8  # as the blocks of a dump are cut


@dataclass(frozen=True, slots=True, eq=False)
class EncodedBlock:
    """A block as its codec made it, and the tables of its shard."""

    columns: Columns
    tables: Tables

    @property
    def targets(self) -> int:
        """How many it holds."""
        return len(next(iter(self.columns.entries.values())))

    @property
    def tokens(self) -> int:
        """How many it holds."""
        return len(self.columns.tokens_N)


def some_documents(block: EncodedBlock, chosen_D: np.ndarray | None) -> EncodedBlock:
    """The block with some of its documents, in the fewest bytes.

    block: whose columns agree with its table of documents.
    chosen_D: bool, which documents; None for all.
    """
    columns = block.columns
    _refuse_other_lengths(columns)
    if chosen_D is None:
        return _with_columns(block, _mapped(columns, rows=slice(None), tokens=slice(None)))
    lengths_DC = columns.documents_DC
    rows = np.repeat(chosen_D, lengths_DC[:, _TARGETS].astype(np.int64))
    tokens = np.repeat(chosen_D, lengths_DC[:, _TOKENS].astype(np.int64))
    some = _mapped(columns, rows=rows, tokens=tokens)
    return _with_columns(block, replace(some, documents_DC=lengths_DC[chosen_D]))


def _refuse_other_lengths(columns: Columns) -> None:
    """Raise CorruptionError where the table of documents is not of these tokens and targets."""
    tokens, targets = (
        int(columns.documents_DC[:, one].astype(np.float64).sum()) for one in (_TOKENS, _TARGETS)
    )
    held = (columns.entries, columns.scalars, columns.states)
    wrong = any(len(one) != targets for part in held for one in part.values())
    if wrong or tokens != len(columns.tokens_N) or int(columns.counted_N.sum()) != targets:
        raise CorruptionError(
            "the table of documents does not add up",
            place="documents",
            found=f"{len(columns.tokens_N)} tokens, {int(columns.counted_N.sum())} counted",
            allowed=f"{tokens} tokens, {targets} targets",
        )


def _with_columns(block: EncodedBlock, columns: Columns) -> EncodedBlock:
    """Other columns of the same shard."""
    return EncodedBlock(columns, block.tables)


def _mapped(columns: Columns, *, rows: slice | np.ndarray, tokens: slice | np.ndarray) -> Columns:
    return replace(
        columns,
        entries={name: _narrow(values[rows]) for name, values in columns.entries.items()},
        scalars={name: _narrow(values[rows]) for name, values in columns.scalars.items()},
        states={name: bits[rows] for name, bits in columns.states.items()},
        tokens_N=columns.tokens_N[tokens],
        counted_N=columns.counted_N[tokens],
    )


def _narrow(values: np.ndarray) -> np.ndarray:
    """The same numbers, in the smallest unsigned type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))), copy=False)


def packed(blocks: Sequence[EncodedBlock], *, block_targets: int) -> list[Columns]:
    """Neighbouring blocks of one shard joined, as long as they are no larger than a dump's.

    blocks: in order, all of one shard, with a target at least between them.
    block_targets: rows of a block, about.

    What has no target is joined to its neighbour, whatever its size: no block is without one.
    """
    runs: list[list[EncodedBlock]] = []
    for block in blocks:
        run = runs[-1] if runs else []
        targets = sum(one.targets for one in run)
        tokens = sum(one.tokens for one in run)
        fits = (
            targets + block.targets <= block_targets
            and tokens + block.tokens <= _TOKENS_PER_TARGET * block_targets
        )
        if run and (fits or not targets or not block.targets):
            run.append(block)
        else:
            runs.append([block])
    return [_joined([one.columns for one in run]) for run in runs]


def _joined(parts: Sequence[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    return Columns(
        entries={
            name: np.concatenate([one.entries[name] for one in parts]) for name in first.entries
        },
        scalars={
            name: np.concatenate([one.scalars[name] for one in parts]) for name in first.scalars
        },
        states={name: np.concatenate([one.states[name] for one in parts]) for name in first.states},
        tokens_N=np.concatenate([one.tokens_N for one in parts]),
        counted_N=np.concatenate([one.counted_N for one in parts]),
        documents_DC=np.concatenate([one.documents_DC for one in parts]),
    )


def joined_shard(blocks: Sequence[EncodedBlock], codec: Codec) -> list[EncodedBlock]:
    """Blocks of several shards as blocks of one: the same documents and values.

    blocks: at least one; those of one shard have the same tables object.
    codec: of all of them.

    A codec that cannot join shards decodes and encodes what it joins.
    """
    if len({id(one.tables) for one in blocks}) == 1:
        return list(blocks)
    if isinstance(codec, JoinsShards):
        columns, tables = codec.join([(one.columns, one.tables) for one in blocks])
    else:
        read = [decoded(one, codec) for one in blocks]
        tables = codec.tables(read)
        columns = [codec.encode(one, tables) for one in read]
    return [some_documents(EncodedBlock(one, tables), None) for one in columns]


def decoded(block: EncodedBlock, codec: Codec) -> DocumentBlock:
    """The block with all its draws.

    block: which `codec` encoded.
    codec: of its store.
    """
    first, *others = (
        codec.decode(block.columns, block.tables, draw=draw)
        for draw in range(codec.sparsifier.draw_count)
    )
    return replace(first, other_draws=tuple(one.targets for one in others))
