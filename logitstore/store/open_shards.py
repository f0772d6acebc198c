"""The shards of a store that are open, of which the least recently used are let go."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from typing import NamedTuple

from logitstore.codec import Codec, codec_for
from logitstore.errors import CorruptionError
from logitstore.format.manifest import Commit
from logitstore.format.spec import StoreSpec
from logitstore.store.containers import ShardReader, load_container
from logitstore.store.containers.base import fields_of
from logitstore.store.containers.limits import ShardLimits, check_sizes, shard_limits
from logitstore.store.layout import StoreLayout
from logitstore.store.way_out import DAMAGED, name_damage, no_memory

__all__ = ["MALFORMED", "OpenShard", "OpenShards"]

# Each holds its table of V ids and some 100 KB of indexes and metadata.
_SHARDS_BYTES, _SHARD_BYTES, _LEAST_SHARDS = 256 << 20, 100 << 10, 16
_LOCKS = 64
# What content that nobody wrote on purpose has been seen to raise below the explicit checks.
MALFORMED = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    OSError,
)


class OpenShard(NamedTuple):
    """A shard, and where it lies, for messages."""

    reader: ShardReader
    place: str


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OpenShards:
    """The shards of a store by the number of their unit; all draws of a store share them.

    It pickles, and the copy opens shards of its own.
    """

    layout: StoreLayout
    spec: StoreSpec
    commits: Sequence[Commit]
    memory: int | None = None  # bytes that reading a block may set aside; None: any number

    __getstate__ = fields_of

    @cached_property
    def codec(self) -> Codec:
        """What decodes the shards."""
        return codec_for(self.spec)

    @cached_property
    def limits(self) -> ShardLimits:
        """What a shard may hold."""
        return shard_limits(
            self.codec,
            sampler_logprobs=self.spec.text.sampler_logprobs,
            memory=self.memory,
            states=self.spec.states,
        )

    def check_sizes(self, commit: Commit) -> None:
        """Raise CorruptionError where the counts and sizes of a commit cannot all be true.

        commit: of this store.

        Raises StoreError for a block that takes more memory than reading may.
        """
        if commit.attempt is not None:
            check_sizes(
                self.limits,
                commit.blocks,
                commit.objects,
                columns=len(self.codec.entries),
                place=self._place(commit),
            )

    def _place(self, commit: Commit) -> str:
        return self.layout.place(self.layout.shard_prefix(commit).rstrip("/"))

    def of_unit(self, number: int) -> OpenShard:
        """The shard of unit `number`, opened unless it is open. Its unit must have blocks.

        number: of the unit, from 0.

        Raises CorruptionError that names the commit or the object that is not as it was written.
        """
        # Threads that ask for one shard at the same time open it once.
        own = self._locks.setdefault(os.getpid(), [Lock() for _ in range(_LOCKS)])
        with own[number % _LOCKS]:
            return self._cached(number)

    @cached_property
    def _locks(self) -> dict[int, list[Lock]]:
        """Of each process: a fork has no threads that would ever give back a lock of before."""
        return {}

    @cached_property
    def _cached(self) -> Callable[[int], OpenShard]:
        each = _SHARD_BYTES + 4 * self.spec.tokenizer.vocab_size
        return lru_cache(max(_LEAST_SHARDS, _SHARDS_BYTES // each))(self._open)

    def _open(self, number: int) -> OpenShard:
        commit = self.commits[number]
        place = self._place(commit)
        self.check_sizes(commit)
        try:
            shard = load_container(self.spec.container).open(
                self.layout.storage,
                self.layout.shard_prefix(commit),
                blocks=commit.blocks,
                objects=commit.objects,
                entries=self.codec.entries,
                limits=self.limits,
            )
            self.codec.check_tables(shard.tables)
        except MemoryError as error:
            raise no_memory(place) from error
        except MALFORMED as error:
            raise CorruptionError(
                f"shard is malformed: {error!r}", place=place, remedy=DAMAGED
            ) from error
        except CorruptionError as error:
            name_damage(error, place)
            raise
        return OpenShard(shard, place)
