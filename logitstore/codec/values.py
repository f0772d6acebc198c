"""Log-probabilities <-> codes of 16 bits and a few scalars: one class for each kind of target.

Shapes: R targets, K entries, B stored temperatures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from logitstore.codec.integers import from_steps, logsumexp, scalar, whole_steps
from logitstore.codec.tail_steps import AbsoluteTails, PredictedTails, tail_names
from logitstore.codec.value_steps import EvenSteps, FallingSteps
from logitstore.errors import SettingError
from logitstore.targets.targets import EMPTY_TAIL, none_sampled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logitstore.codec.tail_steps import TailSteps
    from logitstore.codec.value_steps import ValueSteps
    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.targets import SparseTargets

__all__ = ["CountedValues", "Decoded", "ExactValues", "Values", "WeightedValues"]

_SUM_ERROR = 1e-3  # of a row's weights; float32 sums 4,096 of them to some 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """The values of one draw; those of padding have no meaning."""

    logprobs_RK: np.ndarray  # float32
    sampled_RK: np.ndarray  # bool
    tail_logmass_RB: np.ndarray  # float32


class Values(Protocol):
    """How the values of one kind of target become integers.

    `RankDeltaCodec` stores the codes next to the ids, and the scalars as columns.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the scalars that `encode` gives, which are those that `decode` needs.

        `RankDeltaCodec` refuses a name that it or a container has a use for.
        """
        ...

    @property
    def shared(self) -> tuple[str, ...]:
        """Those of `names` that all repeats of a draw have in common: they are stored once."""
        ...

    def stated_kl(self, *, temperature: float = 1.0) -> float:
        """nats: the largest mean KL that rounding to steps may add; see `Codec`."""
        ...

    def encode(self, targets: SparseTargets) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Codes uint16 [R, K], 0 for padding, and the scalars by name, uint32 [R].

        Raises SettingError for targets that cannot be coded within the stated error.
        """
        ...

    def decode(self, codes_RK: np.ndarray, scalars: Mapping[str, np.ndarray]) -> Decoded:
        """The values that were coded.

        Args:
            codes_RK: uint16 [R, K].
            scalars: The scalars of these rows by name, and the column "count" of the entries in
                use.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactValues:
    """Exact entries as codes above a floor, and the tail's log-mass at each node.

    The floor is chosen such that the coded row has the mass of the original row.
    """

    parameters: Mapping[str, int]
    steps: ValueSteps
    tails: TailSteps
    vocab_size: int
    most: int  # entries of a row
    shared: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """See `Values`."""
        return ("floor", *tail_names(self.tails.nodes))

    def stated_kl(self, *, temperature: float = 1.0) -> float:
        """See `Values`."""
        return self.steps.stated_kl(self.most, temperature=temperature)

    @staticmethod
    def even(spec: SparsifierSpec, vocab_size: int, parameters: Mapping[str, int]) -> ExactValues:
        """Of `rank-delta/1`, for a sparsifier's `spec` over `vocab_size` tokens."""
        tails = AbsoluteTails(
            nodes=spec.tail_nodes, vocab_size=vocab_size, steps=parameters["tail_steps"]
        )
        return ExactValues(
            parameters=parameters,
            steps=EvenSteps.of(parameters),
            tails=tails,
            vocab_size=vocab_size,
            most=spec.k,
        )

    @staticmethod
    def falling(
        spec: SparsifierSpec, vocab_size: int, parameters: Mapping[str, int]
    ) -> ExactValues:
        """Of `rank-delta/2`, for a sparsifier's `spec` over `vocab_size` tokens."""
        tails = PredictedTails(known=(), nodes=spec.tail_nodes, steps=parameters["tail_steps"])
        return ExactValues(
            parameters=parameters,
            steps=FallingSteps.of(parameters),
            tails=tails,
            vocab_size=vocab_size,
            most=spec.k,
        )

    def encode(self, targets: SparseTargets) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See `Values`."""
        used_RK, logprobs_RK = targets.used_RK(), targets.logprobs_RK
        codes_RK = (self.steps.codes(logprobs_RK, used_RK) * used_RK).astype(np.uint16)
        coded_R = logsumexp(self.steps.above_floor(codes_RK), used_RK)
        floor_R = logsumexp(logprobs_RK, used_RK) - coded_R
        scalars = {"floor": whole_steps(-floor_R, self.parameters["floor_steps"], what="floor")}
        tail_RB = targets.tail_logmass_RB
        if self.tails.keeps_share:
            tail_RB = _with_share(
                tail_RB,
                self.tails.nodes,
                head_RK=logprobs_RK,
                coded_RK=self.steps.from_floor(codes_RK, self._floor_R(scalars)),
                exact_RK=used_RK,
            )
        left_R = self.vocab_size - targets.count_R
        return codes_RK, scalars | self.tails.encode(tail_RB, _none_known(left_R), left_R)

    def decode(self, codes_RK: np.ndarray, scalars: Mapping[str, np.ndarray]) -> Decoded:
        """See `Values`."""
        logprobs_RK = self.steps.from_floor(codes_RK, self._floor_R(scalars))
        left_R = self.vocab_size - scalar(scalars, "count").astype(np.int64)
        tails_RB = self.tails.decode(scalars, _none_known(left_R), left_R)
        return Decoded(
            logprobs_RK=logprobs_RK,
            sampled_RK=none_sampled(*codes_RK.shape),
            tail_logmass_RB=tails_RB,
        )

    def _floor_R(self, scalars: Mapping[str, np.ndarray]) -> np.ndarray:
        return -from_steps(scalar(scalars, "floor"), self.parameters["floor_steps"])


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedValues:
    """Exact entries as in `ExactValues`; code 0 for an entry drawn at its row's common weight.

    The weights of a row sum to 1, so one number says how the mass is divided between exact and
    drawn entries: the log-odds of the drawn ones, which are precise where either part is small. It
    is stored plus 1; 0 is a row of exact entries only or of drawn entries only. It also gives the
    tail's log-mass at b = 1.
    """

    parameters: Mapping[str, int]
    steps: ValueSteps
    tails: TailSteps  # at the nodes below 1
    has_tail: bool
    vocab_size: int
    most: int  # entries of a row
    shared: tuple[str, ...] = ("odds",)  # it is a sum over the whole vocabulary

    @property
    def names(self) -> tuple[str, ...]:
        """See `Values`."""
        return ("odds", *tail_names(self.tails.nodes))

    def stated_kl(self, *, temperature: float = 1.0) -> float:
        """See `Values`."""
        return self.steps.stated_kl(self.most, temperature=temperature)

    @property
    def _top(self) -> int:
        # Of the log-odds: every exact entry is at least as probable as each of the fewer than V
        # drawn ones.
        return math.ceil(math.log(self.vocab_size))

    @staticmethod
    def even(
        spec: SparsifierSpec, vocab_size: int, parameters: Mapping[str, int]
    ) -> WeightedValues:
        """Of `rank-delta-weighted/1`, for a sparsifier's `spec` over `vocab_size` tokens."""
        tails = AbsoluteTails(
            nodes=spec.tail_nodes[1:], vocab_size=vocab_size, steps=parameters["tail_steps"]
        )
        return WeightedValues(
            parameters=parameters,
            steps=EvenSteps.of(parameters),
            tails=tails,
            has_tail=bool(spec.tail_nodes),
            vocab_size=vocab_size,
            most=spec.k,
        )

    @staticmethod
    def falling(
        spec: SparsifierSpec, vocab_size: int, parameters: Mapping[str, int]
    ) -> WeightedValues:
        """Of `rank-delta-weighted/2`, for a sparsifier's `spec` over `vocab_size` tokens."""
        nodes = spec.tail_nodes
        tails = PredictedTails(known=nodes[:1], nodes=nodes[1:], steps=parameters["tail_steps"])
        return WeightedValues(
            parameters=parameters,
            steps=FallingSteps.of(parameters),
            tails=tails,
            has_tail=bool(nodes),
            vocab_size=vocab_size,
            most=spec.k,
        )

    def encode(self, targets: SparseTargets) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See `Values`."""
        exact_RK, used_RK = targets.exact_RK(), targets.used_RK()
        drawn_RK = used_RK & ~exact_RK
        _check_common(targets.logprobs_RK, drawn_RK)
        codes_RK = self.steps.codes(targets.logprobs_RK, exact_RK)
        codes_RK = (codes_RK * exact_RK).astype(np.uint16)
        odds_R = self._odds_R(targets, exact_RK, drawn_RK)
        scalars = {"odds": odds_R}
        tail_RB = targets.tail_logmass_RB[:, 1:]
        log_tail_R, exact_logprobs_RK = self._divided(codes_RK, odds_R)
        if self.tails.keeps_share:
            tail_RB = _with_share(
                tail_RB,
                self.tails.nodes,
                head_RK=targets.logprobs_RK,
                coded_RK=exact_logprobs_RK,
                exact_RK=exact_RK,
            )
        left_R = self.vocab_size - exact_RK.sum(axis=1)
        return codes_RK, scalars | self.tails.encode(tail_RB, log_tail_R[:, None], left_R)

    def decode(self, codes_RK: np.ndarray, scalars: Mapping[str, np.ndarray]) -> Decoded:
        """See `Values`."""
        exact_RK = codes_RK > 0
        used_RK = np.arange(codes_RK.shape[1]) < scalar(scalars, "count")[:, None]
        drawn_R = (used_RK & ~exact_RK).sum(axis=1)
        odds_R = scalar(scalars, "odds")
        log_tail_R, logprobs_RK = self._divided(codes_RK, odds_R)
        common_R = log_tail_R - np.log(np.maximum(drawn_R, 1))
        logprobs_RK = np.where(exact_RK, logprobs_RK, common_R[:, None])
        known_R = np.where(odds_R > 0, log_tail_R, EMPTY_TAIL)
        left_R = self.vocab_size - exact_RK.sum(axis=1)
        tails_RB = self.tails.decode(scalars, known_R[:, None], left_R)
        if self.has_tail:
            tails_RB = np.column_stack([known_R.astype(np.float32), tails_RB])
        return Decoded(
            logprobs_RK=logprobs_RK.astype(np.float32),
            sampled_RK=used_RK & ~exact_RK,
            tail_logmass_RB=tails_RB,
        )

    def _odds_R(
        self, targets: SparseTargets, exact_RK: np.ndarray, drawn_RK: np.ndarray
    ) -> np.ndarray:
        """uint32 [R]: the code of how a row's mass is divided."""
        log_rest_R = logsumexp(targets.logprobs_RK, drawn_RK)
        shared_R = drawn_RK.any(axis=1)
        if self.has_tail:  # a tail too light to draw from has some mass at a high temperature
            log_rest_R = np.where(shared_R, log_rest_R, targets.tail_logmass_RB[:, 0])
            shared_R |= log_rest_R > EMPTY_TAIL
        shared_R &= exact_RK.any(axis=1)
        log_exact_R = logsumexp(targets.logprobs_RK, exact_RK)
        has_exact_R, has_rest_R = exact_RK.any(axis=1), drawn_RK.any(axis=1) | self.has_tail
        _check_sum(np.exp(log_exact_R) * has_exact_R + np.exp(log_rest_R) * has_rest_R)
        below_R = np.where(shared_R, self._top - (log_rest_R - log_exact_R), 0)
        code_R = whole_steps(below_R, self.parameters["odds_steps"], what="odds") + 1
        return np.where(shared_R, code_R, 0).astype(np.uint32)

    def _divided(self, codes_RK: np.ndarray, code_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The log-mass of all that is not exact, [R], and log-probabilities of what is, [R, K]."""
        exact_RK = codes_RK > 0
        odds_R = self._top - (code_R.astype(np.float32) - 1) / np.float32(
            self.parameters["odds_steps"]
        )
        odds_R[code_R == 0] = EMPTY_TAIL
        odds_R[~exact_RK.any(axis=1)] = -EMPTY_TAIL
        nats_RK = self.steps.above_floor(codes_RK)
        floor_R = -np.logaddexp(0, odds_R) - logsumexp(nats_RK, exact_RK)
        return -np.logaddexp(0, -odds_R), nats_RK + floor_R[:, None]


@dataclass(frozen=True, kw_only=True, slots=True)
class CountedValues:
    """Entries drawn with replacement: the code is how often each was drawn."""

    draws: int
    names: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    def stated_kl(self, *, temperature: float = 1.0) -> float:
        """0: counts are exact."""
        return 0.0

    def encode(self, targets: SparseTargets) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See `Values`."""
        drawn_RK = np.exp(targets.logprobs_RK) * self.draws
        counts_RK = np.rint(drawn_RK)
        # A float32 logarithm gives a count with a relative error of some 1e-6.
        odd_RK = (np.abs(drawn_RK - counts_RK) > 1e-3 + 1e-5 * counts_RK) | (counts_RK < 1)
        if (odd_RK & targets.used_RK()).any():
            raise SettingError(
                "a drawn entry's weight is no share of the draws",
                found=float(drawn_RK[odd_RK & targets.used_RK()][0] / self.draws),
                allowed=f"1..{self.draws} of {self.draws}",
            )
        return (counts_RK * targets.used_RK()).astype(np.uint16), {}

    def decode(self, codes_RK: np.ndarray, scalars: Mapping[str, np.ndarray]) -> Decoded:
        """See `Values`."""
        logprobs_RK = np.log(np.maximum(codes_RK, 1) / np.float32(self.draws))
        return Decoded(
            logprobs_RK=logprobs_RK.astype(np.float32),
            sampled_RK=codes_RK > 0,
            tail_logmass_RB=np.zeros((len(codes_RK), 0), dtype=np.float32),
        )


def _with_share(
    tail_RB: np.ndarray,
    nodes: tuple[float, ...],
    *,
    head_RK: np.ndarray,
    coded_RK: np.ndarray,
    exact_RK: np.ndarray,
) -> np.ndarray:
    """float64 [R, B], nats: tails that have beside the coded head the share that they had before.

    Args:
        tail_RB: Nats, at each of `nodes`.
        nodes: b of each column.
        head_RK: Log-probabilities of the exact entries before coding.
        coded_RK: Those that will be decoded.
        exact_RK: bool, which entries are exact.
    """
    moved_RB = tail_RB.astype(np.float64)
    for column, node in enumerate(nodes):
        b = np.float32(node)
        move_R = logsumexp(coded_RK * b, exact_RK) - logsumexp(head_RK * b, exact_RK)
        moved_RB[:, column] += np.where(moved_RB[:, column] <= EMPTY_TAIL, 0, move_R)
    return moved_RB


def _none_known(left_R: np.ndarray) -> np.ndarray:
    return np.zeros((len(left_R), 0))


def _check_common(logprobs_RK: np.ndarray, drawn_RK: np.ndarray) -> None:
    highest_R = logprobs_RK.max(axis=1, where=drawn_RK, initial=-np.inf)
    lowest_R = logprobs_RK.min(axis=1, where=drawn_RK, initial=np.inf)
    if (highest_R > lowest_R + 1e-4).any():
        raise SettingError(
            "drawn entries of one row must share one weight",
            found=float(np.exp(highest_R[highest_R > lowest_R + 1e-4][0])),
            allowed="one common weight a row",
        )


def _check_sum(mass_R: np.ndarray) -> None:
    """Raise SettingError for another sum than 1: only the ratio of the two masses is stored."""
    wrong_R = ~(np.abs(mass_R - 1) < _SUM_ERROR)
    if wrong_R.any():
        raise SettingError(
            "the weights of a row, with its tail where one is kept, must sum to 1",
            found=float(mass_R[wrong_R][0]),
            allowed=f"1, to {_SUM_ERROR:g}",
        )
