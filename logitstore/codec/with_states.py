"""A codec of entries, with the hidden states that lie beside them.

What a hidden state is does not depend on how entries are coded, so each codec of the table serves a
store with states through this one. States are stored as the bits of their numbers, without another
change: the containers divide these into byte planes, of which that of sign and exponent compresses
to a half, and those of the mantissa hardly at all.

Shapes: R targets, W width of a hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from logitstore.codec.base import JoinsShards
from logitstore.errors import CorruptionError, SettingError
from logitstore.targets.states import States, bits_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from logitstore.codec.base import Codec
    from logitstore.format.columns import Columns
    from logitstore.format.spec import CodecSpec, SparsifierSpec
    from logitstore.format.states import StatesSpec
    from logitstore.targets.documents import DocumentBlock

__all__ = ["StatesCodec"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StatesCodec:
    """A `Codec` that is another one, and gives the states of targets back as they were.

    `decode` raises CorruptionError for states that are missing, of another width, or no finite
    numbers; `encode` raises SettingError for these.
    """

    inner: Codec
    states: StatesSpec

    @property
    def spec(self) -> CodecSpec:
        """See `Codec`."""
        return self.inner.spec

    @property
    def sparsifier(self) -> SparsifierSpec:
        """See `Codec`."""
        return self.inner.sparsifier

    @property
    def vocab_size(self) -> int:
        """See `Codec`."""
        return self.inner.vocab_size

    @property
    def entries(self) -> tuple[str, ...]:
        """See `Codec`."""
        return self.inner.entries

    @property
    def table_names(self) -> tuple[str, ...]:
        """See `Codec`."""
        return self.inner.table_names

    @property
    def by_entry(self) -> bool:
        """See `Codec`."""
        return self.inner.by_entry

    @property
    def stated_kl(self) -> float:
        """See `Codec`."""
        return self.inner.stated_kl

    @property
    def stated_drawn_kl(self) -> float:
        """See `Codec`."""
        return self.inner.stated_drawn_kl

    def stated_kl_at(self, temperature: float) -> float:
        """See `Codec`."""
        return self.inner.stated_kl_at(temperature)

    def scalar_names(self, *, sampler_logprobs: bool) -> tuple[str, ...]:
        """See `Codec`."""
        return self.inner.scalar_names(sampler_logprobs=sampler_logprobs)

    def tables(self, blocks: Sequence[DocumentBlock]) -> dict[str, np.ndarray]:
        """See `Codec`."""
        return self.inner.tables(blocks)

    def check_tables(self, tables: Mapping[str, np.ndarray]) -> None:
        """See `Codec`."""
        self.inner.check_tables(tables)

    def encode(self, block: DocumentBlock, tables: Mapping[str, np.ndarray]) -> Columns:
        """See `Codec`; the states are those of the first draw, which all draws share."""
        found = block.targets.states
        if set(found) != set(self.states.names):
            raise SettingError(
                "targets have hidden states of other layers than the store is to keep",
                found=", ".join(found) or "none",
                allowed=", ".join(self.states.names),
            )
        for name in self.states.names:
            _refuse_not_finite(found[name], name)
        columns = self.inner.encode(block, tables)
        return replace(columns, states={name: found[name].bits_RD for name in self.states.names})

    def decode(
        self, columns: Columns, tables: Mapping[str, np.ndarray], *, draw: int = 0
    ) -> DocumentBlock:
        """See `Codec`: every draw comes with the states."""
        block = self.inner.decode(columns, tables, draw=draw)
        states = {
            name: self._decoded(columns, name, rows=len(block.targets))
            for name in self.states.names
        }
        return _with_states(block, states)

    def join(
        self, blocks: Sequence[tuple[Columns, Mapping[str, np.ndarray]]]
    ) -> tuple[list[Columns], dict[str, np.ndarray]]:
        """See `JoinsShards`: states stay with their rows."""
        if isinstance(self.inner, JoinsShards):
            return self.inner.join(blocks)
        read = [self.decode(columns, tables) for columns, tables in blocks]
        tables = self.tables(read)
        return [self.encode(one, tables) for one in read], tables

    def _decoded(self, columns: Columns, name: str, *, rows: int) -> States:
        bits_RW = columns.states.get(name)
        shape = None if bits_RW is None else bits_RW.shape
        if bits_RW is None or shape != (rows, self.states.width):
            raise CorruptionError(
                "hidden states are missing, or of another number or width",
                place=f"states {name}",
                found=shape or "none",
                allowed=(rows, self.states.width),
            )
        states = States(
            dtype=self.states.dtype,
            bits_RD=bits_RW.astype(bits_dtype(self.states.dtype), copy=False),
        )
        finite_R = states.finite_R()
        if not finite_R.all():
            raise CorruptionError(
                "a hidden state is no finite number",
                place=f"states {name}, target {int((~finite_R).argmax())}",
            )
        return states


def _with_states(block: DocumentBlock, states: Mapping[str, States]) -> DocumentBlock:
    """The block whose targets have these states."""
    changed: Any = {"targets": replace(block.targets, states=states)}
    return replace(block, **changed)


def _refuse_not_finite(states: States, name: str) -> None:
    """Raise SettingError where a number is too large for the type in which states are stored."""
    finite_R = states.finite_R()
    if not finite_R.all():
        raise SettingError(
            f"a hidden state of the teacher is too large for {states.dtype}",
            place=f"states {name}, target {int((~finite_R).argmax())}",
            remedy="Give --fidelity exact, which keeps the teacher's own number type",
        )
