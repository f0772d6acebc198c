"""SparseTargets: up to K weighted entries for each of R next-token distributions.

The distributions are those at T = 1, or at the temperature of the draw where the spec names one.
`label_logprob_R` is always that at T = 1.

Shapes: R targets (rows), K entries, B stored temperatures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.errors import CorruptionError
from logitstore.targets.states import States

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.targets.kinds import TargetKind

__all__ = ["EMPTY_TAIL", "SparseTargets", "none_sampled"]

# The log-mass of an empty tail. It is finite, so that no arithmetic yields NaN from -inf; e^-1e4 is
# 0 in every floating-point format, so a mass that is computed from it is exactly 0.
EMPTY_TAIL = -1.0e4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseTargets:
    """Up to K weighted entries for each of R next-token distributions, and what they leave out.

    Row r is the distribution of one counted token given the tokens before it. In each row the first
    `count_R[r]` entries are in use; the rest is padding (id 0, log-probability `EMPTY_TAIL`). No id
    occurs twice in a row. The order of the entries has no meaning.

    The weight of an entry is its contribution to the target: its probability where it was kept
    exactly, the weight of its draw where it was sampled. The teacher's probability of a sampled
    entry is not stored; `logprobs_RK` holds the logarithm of its weight instead. The weight of a
    share is the entry's probability, given that the token is one of the entries.

    Raises CorruptionError where the columns have different numbers of rows or entries, or where
    there is a tail although the kind keeps none.
    """

    kind: TargetKind  # what its entries are, and whether it has a tail
    ids_RK: np.ndarray  # uint32, < vocabulary size
    logprobs_RK: np.ndarray  # float32, nats, of the full-vocabulary softmax; the log of the weight
    sampled_RK: np.ndarray  # bool, which entries were sampled; see `none_sampled`
    count_R: np.ndarray  # int32, entries in use, 1..K
    tail_logmass_RB: np.ndarray  # float32, log of the sum over the tail of p^b; EMPTY_TAIL if none
    # NaN where the kind does not know the whole distribution:
    label_logprob_R: np.ndarray  # float32, nats, of the token that really follows
    entropy_R: np.ndarray  # float32, nats, of the full distribution
    # Hidden states of the teacher by the name of their layer, where they are kept.
    states: Mapping[str, States] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows, entries = self.ids_RK.shape
        expected = {
            "logprobs_RK": (rows, entries),
            "sampled_RK": (rows, entries),
            "count_R": (rows,),
            "tail_logmass_RB": (rows, self.tail_logmass_RB.shape[-1]),
            "label_logprob_R": (rows,),
            "entropy_R": (rows,),
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise CorruptionError(
                    "columns of one target disagree", place=name, found=found, allowed=shape
                )
        for name, states in self.states.items():
            if len(states) != rows:
                raise CorruptionError(
                    "columns of one target disagree",
                    place=f"states {name}",
                    found=len(states),
                    allowed=rows,
                )
        if self.kind.keeps_tail != bool(self.tail_logmass_RB.shape[-1]):
            raise CorruptionError(
                "targets have a tail's log-mass where their kind keeps none, or lack it",
                place="tail_logmass_RB",
                found=f"{self.tail_logmass_RB.shape[-1]} columns",
                allowed="1 or more" if self.kind.keeps_tail else "0",
            )

    def __len__(self) -> int:
        return len(self.ids_RK)

    @property
    def k(self) -> int:
        """Entries a row has room for."""
        return self.ids_RK.shape[1]

    @property
    def weights_RK(self) -> np.ndarray:
        """float32 [R, K]: what each entry contributes to its target; 0 where it is padding."""
        return np.exp(self.logprobs_RK)

    def exact_RK(self) -> np.ndarray:
        """bool [R, K]: which entries are in use and hold the teacher's own probability."""
        used_RK = self.used_RK()
        return used_RK & ~self.sampled_RK if self.kind.drawn else used_RK

    def rows(self, index: slice | np.ndarray) -> SparseTargets:
        """The targets of the rows `index`: a slice, or an array of row numbers.

        A slice gives views of the arrays.
        """
        states = {name: one.rows(index) for name, one in self.states.items()}
        own = {name: getattr(self, name)[index] for name in _COLUMNS}
        return replace(self, states=states, **own)

    def used_RK(self) -> np.ndarray:
        """bool [R, K]: which entries are in use."""
        return np.arange(self.k)[None, :] < self.count_R[:, None]

    def tail_share_R(self, *, vocab_size: int) -> np.ndarray:
        """float64 [R]: the probability of a token that is not an entry, at T = 1.

        The tail's mass is divided equally among these tokens. It is 0 where entries were drawn,
        because their weights already represent the tail, and for shares, which know no others.

        Args:
            vocab_size: The number of tokens, V.
        """
        if not self.kind.keeps_tail or self.kind.drawn:
            return np.zeros(len(self))
        mass_R = np.exp(self.tail_logmass_RB[:, 0].astype(np.float64))
        return mass_R / np.maximum(vocab_size - self.count_R, 1)

    def widened(self, k: int) -> SparseTargets:
        """The same targets with room for `k` entries a row, which are no fewer than before.

        Args:
            k: Entries a row has room for.
        """
        if k == self.k:
            return self
        more = ((0, 0), (0, k - self.k))
        return replace(
            self,
            ids_RK=np.pad(self.ids_RK, more),
            logprobs_RK=np.pad(self.logprobs_RK, more, constant_values=EMPTY_TAIL),
            sampled_RK=np.pad(self.sampled_RK, more)
            if self.kind.drawn
            else none_sampled(len(self), k),
        )

    @staticmethod
    def concatenate(parts: Sequence[SparseTargets]) -> SparseTargets:
        """The rows of all `parts`, one after another; the parts have the same kind, K and B.

        Their hidden states are of the same layers.
        """
        if len({frozenset(part.states) for part in parts}) > 1:
            raise CorruptionError(
                "hidden states are kept of other layers",
                place="states",
                found=", ".join(sorted({name for part in parts for name in part.states})),
            )
        states = {
            name: States.concatenate([part.states[name] for part in parts])
            for name in parts[0].states
        }
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in _COLUMNS
            if name != "sampled_RK"
        }
        kind, shape = parts[0].kind, columns["ids_RK"].shape
        if kind.drawn:
            sampled_RK = np.concatenate([part.sampled_RK for part in parts])
        else:
            sampled_RK = none_sampled(*shape)
        return SparseTargets(kind=kind, sampled_RK=sampled_RK, states=states, **columns)


_COLUMNS = tuple(one.name for one in fields(SparseTargets) if one.name not in ("kind", "states"))


def none_sampled(rows: int, entries: int) -> np.ndarray:
    """bool [rows, entries], all False: `sampled_RK` of targets whose entries are all exact.

    The array is read-only and takes one byte of memory, whatever its shape.
    """
    return np.broadcast_to(np.False_, (rows, entries))
