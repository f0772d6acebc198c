"""What a codec must do, and what it declares.

A codec turns blocks of documents and targets into integer columns, and back. It decides what the
integers mean; a container decides how they are stored in files. Neither depends on the other.

Shapes: R targets, K entries, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from logitstore.format.columns import Columns
    from logitstore.format.spec import CodecSpec, SparsifierSpec
    from logitstore.targets.documents import DocumentBlock
    from logitstore.targets.kinds import TargetKind

__all__ = [
    "FIDELITIES",
    "NAME",
    "RESERVED_NAMES",
    "BuildCodec",
    "Codec",
    "CodecKind",
    "JoinsShards",
]

FIDELITIES = ("compact", "balanced", "exact")  # as `--fidelity` takes them
NAME = re.compile(r"[a-z][a-z0-9_]*")  # of a column or a table
# What the containers name themselves, so that no column or table of a codec may have such a name.
RESERVED_NAMES = frozenset(
    (
        *("id", "record", "piece", "tokens", "targets", "input_ids", "counted"),
        *("documents", "entries", "scalars", "states", "container"),
    )
)


class Codec(Protocol):
    """DocumentBlock <-> Columns, for targets of one sparsifier over one vocabulary.

    `decode(encode(block, tables), tables)` gives the same documents and tokens, the same ids in
    each row, the same of them sampled, and values within the error that the codec states:
    `stated_kl` for the exact entries and the tail's mass, `stated_drawn_kl` for drawn weights, and
    `stated_drawn_kl` nats for the label's log-probability, the entropy and, at each node of the
    tail, its log-mass less that of the exact entries. Equal blocks give equal columns.

    `decode` may be given anything. It raises a CorruptionError that names the column for an id
    beyond the vocabulary, a count beyond K, and a column that is missing or of another length.
    `encode` raises SettingError for what it cannot store within the stated error, and for targets
    of another kind than the sparsifier declares.
    """

    @property
    def spec(self) -> CodecSpec:
        """What a store records so that this codec can be built again."""
        ...

    @property
    def sparsifier(self) -> SparsifierSpec:
        """Spec of the sparsifier whose targets it stores."""
        ...

    @property
    def vocab_size(self) -> int:
        """The number of tokens, V."""
        ...

    @property
    def entries(self) -> tuple[str, ...]:
        """The names of its columns of entries."""
        ...

    @property
    def table_names(self) -> tuple[str, ...]:
        """The names of the tables of a shard."""
        ...

    def scalar_names(self, *, sampler_logprobs: bool) -> tuple[str, ...]:
        """The names of all its scalars, of all draws, as `encode` orders them.

        A shard with others is refused.

        sampler_logprobs: whether the documents say how they were drawn.
        """
        ...

    @property
    def by_entry(self) -> bool:
        """Whether a container should store the n-th entries of all rows next to each other.

        That is better where neighbouring rows have few ids in common.
        """
        ...

    @property
    def stated_kl(self) -> float:
        """nats: the largest mean KL, over the exact entries and one bucket, that coding may add."""
        ...

    def stated_kl_at(self, temperature: float) -> float:
        """nats: as `stated_kl`, of the row at a temperature that the targets serve."""
        ...

    @property
    def stated_drawn_kl(self) -> float:
        """nats: by how much coding may change the mean KL that is estimated from drawn weights.

        That estimate is soft cross-entropy minus the stored entropy, so it has the errors of both.
        """
        ...

    def tables(self, blocks: Sequence[DocumentBlock]) -> dict[str, np.ndarray]:
        """The tables that the blocks of one shard share: name -> uint32 of one axis.

        There may be none.
        """
        ...

    def check_tables(self, tables: Mapping[str, np.ndarray]) -> None:
        """Raise CorruptionError where the tables of a shard cannot have been made by this codec."""
        ...

    def encode(self, block: DocumentBlock, tables: Mapping[str, np.ndarray]) -> Columns:
        """The block with all its draws as integers; `tables` are those of its shard."""
        ...

    def decode(
        self, columns: Columns, tables: Mapping[str, np.ndarray], *, draw: int = 0
    ) -> DocumentBlock:
        """The block with the targets of one draw.

        Args:
            columns: The columns of a block. Their entries may be those of that draw only.
            tables: The tables of its shard, which `check_tables` has accepted.
            draw: Number of the draw, from 0.
        """
        ...


@runtime_checkable
class JoinsShards(Protocol):
    """A codec that makes blocks of several shards blocks of one, without decoding a value."""

    def join(
        self, blocks: Sequence[tuple[Columns, Mapping[str, np.ndarray]]]
    ) -> tuple[list[Columns], dict[str, np.ndarray]]:
        """The columns of each block, and the tables that they share from now on.

        blocks: of each its columns, and the tables of its shard, which `check_tables` has accepted.

        What is decoded of them is, but for the order of a row's entries, what was decoded before.
        """
        ...


# (spec of the codec, spec of the sparsifier, kind of its targets, V) -> the codec.
BuildCodec: TypeAlias = Callable[["CodecSpec", "SparsifierSpec", "TargetKind", int], Codec]


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecKind:
    """The declaration of a codec: its id, its presets and the function that builds it.

    To add a codec, write a module that declares it, and add it to the table `CODECS`. A changed
    byte layout needs a new id, because the bytes of an id never change. Raises TypeError where a
    preset is missing or unknown.
    """

    id: str  # "name/version"
    summary: str  # which targets it stores, in a few words
    presets: Mapping[str, Mapping[str, int]]  # each of FIDELITIES -> parameters, 1..65536
    build: BuildCodec

    def __post_init__(self) -> None:
        if set(self.presets) != set(FIDELITIES):
            raise TypeError(f"codec {self.id} has presets {', '.join(self.presets)}")
