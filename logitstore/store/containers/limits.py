"""What a shard may hold by its store's spec, and how much memory its blocks may ask for.

A store may come from anywhere. Each size that it declares is compared with what else it says and
with what the machine may give, before memory is set aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from logitstore.errors import CorruptionError, StoreError
from logitstore.format.states import STATE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.codec.base import Codec
    from logitstore.format.blocks import BlockCounts
    from logitstore.format.manifest import StoredObject
    from logitstore.format.states import StatesSpec

__all__ = ["ShardLimits", "check_sizes", "shard_limits"]

_LEAST_TABLE = 1 << 16  # rows that any table may have: a codec may bring others than of ids
# Bytes while a block is read and decoded: byte planes, their sums and what they are decoded to;
# documents are Python objects.
_ENTRY_BYTES, _SCALAR_BYTES, _TOKEN_BYTES, _DOCUMENT_BYTES, _TABLE_BYTES = 40, 16, 24, 400, 16
_STATE_GROWS = 6  # of a number of a hidden state: the same, in place of bytes
# What is stored is integers that zstd made 10 to 30 times smaller; 32 KB of zeros are a gigabyte.
_MOST_RATIO, _LEAST_BYTES = 1024, 64 << 20
# An object is no larger than what lies in it: incompressible bytes, indexes, metadata.
_OBJECT_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardLimits:
    """What a shard holds, as its store's spec says, and what reading it may cost."""

    entries: int  # of a target, over all its draws
    draws: int
    scalars: frozenset[str]  # the names of its columns of scalars
    tables: frozenset[str]  # the names of its tables
    table: int  # rows of a table, at most
    memory: int | None = None  # bytes that reading a block may set aside; None: any number
    states: tuple[str, ...] = ()  # the names of its hidden states
    width: int = 0  # numbers of each of them
    state_bytes: int = 2  # bytes of such a number

    def block_bytes(self, counts: BlockCounts, *, columns: int) -> int:
        """About how much memory a block takes while it is read with all its draws, in bytes.

        counts: of the block.
        columns: how many columns of entries it has.
        """
        entry = _ENTRY_BYTES * self.entries * max(1, columns) // 2
        states = _STATE_GROWS * self.state_bytes * self.width * len(self.states)
        return (
            counts.targets * (entry + _SCALAR_BYTES * len(self.scalars) + states)
            + counts.tokens * _TOKEN_BYTES
            + counts.documents * _DOCUMENT_BYTES
        )

    def refuse_room(self, needed: int, *, place: str, what: str) -> None:
        """Raise StoreError where `needed` bytes are more than may be set aside.

        needed: bytes.
        place: what the error names as the place.
        what: needs them, in a few words.
        """
        if self.memory is not None and needed > self.memory:
            raise StoreError(
                f"{what} takes more memory than reading may",
                place=place,
                found=f"{needed:,} bytes",
                allowed=f"{self.memory:,} bytes",
                remedy="Give --max-memory another size, on a machine that has so much",
            )


def shard_limits(
    codec: Codec,
    *,
    sampler_logprobs: bool,
    memory: int | None = None,
    states: StatesSpec | None = None,
) -> ShardLimits:
    """The limits of a shard whose targets `codec` has encoded.

    codec: of the store.
    sampler_logprobs: whether its documents say how they were drawn.
    memory: bytes that reading a block may set aside; None for any number.
    states: which hidden states the store keeps.
    """
    draws = codec.sparsifier.draw_count
    return ShardLimits(
        entries=codec.sparsifier.k * draws,
        draws=draws,
        scalars=frozenset(codec.scalar_names(sampler_logprobs=sampler_logprobs)),
        tables=frozenset(codec.table_names),
        table=max(codec.vocab_size, _LEAST_TABLE),
        memory=memory,
        states=() if states is None else states.names,
        width=0 if states is None else states.width,
        state_bytes=2 if states is None else STATE_BYTES[states.dtype],
    )


def check_sizes(
    limits: ShardLimits,
    blocks: Sequence[BlockCounts],
    objects: Sequence[StoredObject],
    *,
    columns: int,
    place: str,
) -> None:
    """Refuse a shard whose counts and sizes cannot both be true, or that the machine cannot hold.

    limits: of the shard.
    blocks: the counts of each, as the commit says.
    objects: name and size of each, as the commit says.
    columns: how many columns of entries it has.
    place: what an error names.

    Raises CorruptionError for counts that no such objects can hold, and for an object larger than
    what lies in it; StoreError for a block that takes more memory than reading may.
    """
    stored = sum(one.size for one in objects)
    needed = [limits.block_bytes(one, columns=columns) for one in blocks]
    table = _TABLE_BYTES * limits.table
    limits.refuse_room(table, place=place, what="the vocabulary")
    largest = max(needed, default=0)
    if largest > max(_LEAST_BYTES, _MOST_RATIO * stored):
        raise CorruptionError(
            "a block says to hold more than its files can",
            place=f"{place}, block {needed.index(largest)}",
            found=f"{largest:,} bytes in {stored:,} that are stored",
            allowed=f"{_MOST_RATIO} times as many",
        )
    if needed:
        where = f"{place}, block {needed.index(largest)}"
        limits.refuse_room(largest, place=where, what="the block")
    most = sum(needed) + table + _OBJECT_BYTES
    for one in objects:
        if one.size > most:
            raise CorruptionError(
                "file is larger than what lies in it can be",
                place=f"{place}/{one.path}",
                found=f"{one.size:,} bytes",
                allowed=f"up to {most:,}",
            )
