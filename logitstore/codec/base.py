"""What a codec must do, and what a kind of codec declares of itself.

A codec turns blocks of documents and targets into integer columns, and back. It decides what the
integers mean; a container decides how they lie in files. Neither knows the other.

Shapes: R targets, K entries, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from logitstore.format.columns import Columns
    from logitstore.format.spec import CodecSpec, SparsifierSpec
    from logitstore.targets.documents import DocumentBlock
    from logitstore.targets.kinds import TargetKind

__all__ = ["FIDELITIES", "NAME", "RESERVED_NAMES", "BuildCodec", "Codec", "CodecKind"]

FIDELITIES = ("compact", "balanced", "exact")  # as `--fidelity` takes them
NAME = re.compile(r"[a-z][a-z0-9_]*")  # of a column or a table
# What the containers name themselves, so that no column or table of a codec may have such a name.
RESERVED_NAMES = frozenset(
    (
        *("id", "record", "piece", "tokens", "targets", "input_ids", "counted"),
        *("documents", "entries", "scalars", "container"),
    )
)


class Codec(Protocol):
    """DocumentBlock <-> Columns, for targets of one sparsifier over one vocabulary.

    `decode(encode(block, tables), tables)` gives the same documents and tokens, the same set of ids
    in each row, and values within the error that the codec states. Equal blocks give equal columns.
    What is decoded comes from anywhere: an id beyond the vocabulary, a count beyond K, a column
    that is missing or too short is a CorruptionError that names the column. What cannot be encoded
    within the stated error, and targets of another kind than the sparsifier declares, are a
    SettingError.
    """

    @property
    def spec(self) -> CodecSpec:
        """What a store writes down to build this codec again."""
        ...

    @property
    def sparsifier(self) -> SparsifierSpec:
        """Whose targets it stores."""
        ...

    @property
    def vocab_size(self) -> int:
        """V."""
        ...

    @property
    def entries(self) -> tuple[str, ...]:
        """The names of its entry columns."""
        ...

    @property
    def by_entry(self) -> bool:
        """Whether a container had better lay the n-th entries of all rows side by side."""
        ...

    @property
    def stated_kl(self) -> float:
        """nats: the mean KL, of head against bucket, that coding may cost a target."""
        ...

    @property
    def stated_drawn_kl(self) -> float:
        """nats: by how much coding may shift the mean KL that is estimated from drawn weights.

        That estimate is soft cross-entropy less the stored entropy, so it has the errors of both.
        """
        ...

    def tables(self, blocks: Sequence[DocumentBlock]) -> dict[str, np.ndarray]:
        """What the blocks of one shard share, by name: uint32, one axis. May be empty."""
        ...

    def check_tables(self, tables: Mapping[str, np.ndarray]) -> None:
        """Raise CorruptionError where a shard's tables cannot be this codec's."""
        ...

    def encode(self, block: DocumentBlock, tables: Mapping[str, np.ndarray]) -> Columns:
        """The block, all its draws, as integers."""
        ...

    def decode(
        self, columns: Columns, tables: Mapping[str, np.ndarray], *, draw: int = 0
    ) -> DocumentBlock:
        """The block with the targets of one draw; `columns` may hold that draw's entries alone."""
        ...


# (spec of the codec, spec of the sparsifier, kind of its targets, V) -> the codec.
BuildCodec: TypeAlias = Callable[["CodecSpec", "SparsifierSpec", "TargetKind", int], Codec]


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecKind:
    """One codec, declared once: its id, what it is built with, and its presets.

    To add one: a module that declares it, and a line in the table `CODECS`. A changed byte layout
    takes a new id; an id's bytes never change.
    """

    id: str  # "name/version"
    summary: str  # what it stores of which targets, in a few words
    presets: Mapping[str, Mapping[str, int]]  # each of FIDELITIES -> parameters, 1..65536
    build: BuildCodec

    def __post_init__(self) -> None:
        if set(self.presets) != set(FIDELITIES):
            raise TypeError(f"codec {self.id} has presets {', '.join(self.presets)}")
