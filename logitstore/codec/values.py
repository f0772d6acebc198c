"""Log-probabilities <-> codes of 16 bits and a few scalars: one class for each kind of target.

Shapes: R targets, K entries, B stored temperatures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from logitstore.codec.integers import from_steps, logsumexp, scalar, whole_steps
from logitstore.errors import SettingError
from logitstore.targets.targets import EMPTY_TAIL, none_sampled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.targets import SparseTargets

__all__ = ["CountedValues", "Decoded", "ExactValues", "Values", "WeightedValues"]

_MAX_CODE = (1 << 16) - 1
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

    @property
    def stated_kl(self) -> float:
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
    """Exact entries as code - 1 steps above a floor, and the tail's log-mass at each node.

    Where a row spans more than 65,534 steps, its smallest entries, whose weight is 0, get the
    lowest code. The floor is chosen such that the coded row has the mass of the original row.
    """

    parameters: Mapping[str, int]
    tails: _TailSteps
    shared: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """See `Values`."""
        return ("floor", *self.tails.names)

    @property
    def stated_kl(self) -> float:
        """See `Values` and `_rounding_kl`."""
        return _rounding_kl(self.parameters["value_steps"])

    @staticmethod
    def of(spec: SparsifierSpec, vocab_size: int, parameters: Mapping[str, int]) -> ExactValues:
        """For targets of a sparsifier.

        Args:
            spec: Its spec.
            vocab_size: The number of tokens, V.
            parameters: The steps per nat of each value.
        """
        tails = _TailSteps(
            nodes=spec.tail_nodes, vocab_size=vocab_size, steps=parameters["tail_steps"]
        )
        return ExactValues(parameters=parameters, tails=tails)

    def encode(self, targets: SparseTargets) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See `Values`."""
        used_RK, logprobs_RK = targets.used_RK(), targets.logprobs_RK
        codes_RK = _codes(logprobs_RK, used_RK, self.parameters["value_steps"])
        coded_R = logsumexp((codes_RK - 1) / np.float32(self.parameters["value_steps"]), used_RK)
        floor_R = logsumexp(logprobs_RK, used_RK) - coded_R
        scalars = {
            "floor": whole_steps(-floor_R, self.parameters["floor_steps"], what="floor"),
            **self.tails.encode(targets.tail_logmass_RB),
        }
        return (codes_RK * used_RK).astype(np.uint16), scalars

    def decode(self, codes_RK: np.ndarray, scalars: Mapping[str, np.ndarray]) -> Decoded:
        """See `Values`."""
        step = np.float32(1 / self.parameters["value_steps"])
        base_R = -from_steps(scalar(scalars, "floor"), self.parameters["floor_steps"]) - step
        logprobs_RK = codes_RK * step
        logprobs_RK += base_R[:, None]
        tails_RB = self.tails.decode(scalars)
        return Decoded(
            logprobs_RK=logprobs_RK,
            sampled_RK=none_sampled(*codes_RK.shape),
            tail_logmass_RB=tails_RB,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedValues:
    """Exact entries as in `ExactValues`; code 0 for an entry drawn at its row's common weight.

    The weights of a row sum to 1, so one number says how the mass is divided between exact and
    drawn entries: the log-odds of the drawn ones, which are precise where either part is small. It
    is stored plus 1; 0 is a row of exact entries only or of drawn entries only. It also gives the
    tail's log-mass at b = 1.
    """

    parameters: Mapping[str, int]
    tails: _TailSteps  # at the nodes below 1
    has_tail: bool
    top: int  # of the log-odds
    shared: tuple[str, ...] = ("odds",)  # it is a sum over the whole vocabulary

    @property
    def names(self) -> tuple[str, ...]:
        """See `Values`."""
        return ("odds", *self.tails.names)

    @property
    def stated_kl(self) -> float:
        """See `Values` and `_rounding_kl`."""
        return _rounding_kl(self.parameters["value_steps"])

    @staticmethod
    def of(spec: SparsifierSpec, vocab_size: int, parameters: Mapping[str, int]) -> WeightedValues:
        """For targets of a sparsifier.

        Args:
            spec: Its spec.
            vocab_size: The number of tokens, V.
            parameters: The steps per nat of each value.
        """
        return WeightedValues(
            parameters=parameters,
            tails=_TailSteps(
                nodes=spec.tail_nodes[1:], vocab_size=vocab_size, steps=parameters["tail_steps"]
            ),
            has_tail=bool(spec.tail_nodes),
            # Every exact entry is at least as probable as each of the fewer than V drawn ones.
            top=math.ceil(math.log(vocab_size)),
        )

    def encode(self, targets: SparseTargets) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See `Values`."""
        exact_RK, used_RK = targets.exact_RK(), targets.used_RK()
        drawn_RK = used_RK & ~exact_RK
        _check_common(targets.logprobs_RK, drawn_RK)
        codes_RK = _codes(targets.logprobs_RK, exact_RK, self.parameters["value_steps"])
        log_rest_R = logsumexp(targets.logprobs_RK, drawn_RK)
        shared_R = drawn_RK.any(axis=1)
        if self.has_tail:  # a tail too light to draw from has some mass at a high temperature
            log_rest_R = np.where(shared_R, log_rest_R, targets.tail_logmass_RB[:, 0])
            shared_R |= log_rest_R > EMPTY_TAIL
        shared_R &= exact_RK.any(axis=1)
        log_exact_R = logsumexp(targets.logprobs_RK, exact_RK)
        has_exact_R, has_rest_R = exact_RK.any(axis=1), drawn_RK.any(axis=1) | self.has_tail
        _check_sum(np.exp(log_exact_R) * has_exact_R + np.exp(log_rest_R) * has_rest_R)
        odds_R = log_rest_R - log_exact_R
        below_R = np.where(shared_R, self.top - odds_R, 0)
        odds_code_R = whole_steps(below_R, self.parameters["odds_steps"], what="odds") + 1
        scalars = {
            "odds": np.where(shared_R, odds_code_R, 0).astype(np.uint32),
            **self.tails.encode(targets.tail_logmass_RB[:, 1:]),
        }
        return (codes_RK * exact_RK).astype(np.uint16), scalars

    def decode(self, codes_RK: np.ndarray, scalars: Mapping[str, np.ndarray]) -> Decoded:
        """See `Values`."""
        exact_RK = codes_RK > 0
        used_RK = np.arange(codes_RK.shape[1]) < scalar(scalars, "count")[:, None]
        drawn_R = (used_RK & ~exact_RK).sum(axis=1)
        code_R = scalar(scalars, "odds").astype(np.float32)
        odds_R = self.top - (code_R - 1) / np.float32(self.parameters["odds_steps"])
        odds_R[code_R == 0] = EMPTY_TAIL
        odds_R[~exact_RK.any(axis=1)] = -EMPTY_TAIL
        log_tail_R = -np.logaddexp(0, -odds_R)
        nats_RK = (codes_RK.astype(np.float32) - 1) / np.float32(self.parameters["value_steps"])
        floor_R = -np.logaddexp(0, odds_R) - logsumexp(nats_RK, exact_RK)
        common_R = log_tail_R - np.log(np.maximum(drawn_R, 1))
        logprobs_RK = np.where(exact_RK, nats_RK + floor_R[:, None], common_R[:, None])
        tails_RB = self.tails.decode(scalars)
        if self.has_tail:
            tail_R = np.where(code_R > 0, log_tail_R, EMPTY_TAIL)
            tails_RB = np.column_stack([tail_R.astype(np.float32), tails_RB])
        return Decoded(
            logprobs_RK=logprobs_RK.astype(np.float32),
            sampled_RK=used_RK & ~exact_RK,
            tail_logmass_RB=tails_RB,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CountedValues:
    """Entries drawn with replacement: the code is how often each was drawn."""

    draws: int
    names: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    stated_kl: float = 0.0  # counts are exact

    @staticmethod
    def of(spec: SparsifierSpec, vocab_size: int, parameters: Mapping[str, int]) -> CountedValues:
        """For targets of a sparsifier's `spec`; `vocab_size` and `parameters` are not used."""
        return CountedValues(draws=spec.k)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _TailSteps:
    """Log-masses in steps below the largest that any tail can have; code 0 is an empty tail."""

    nodes: tuple[float, ...]
    vocab_size: int
    steps: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"tail_{column}" for column in range(len(self.nodes)))

    def _tops(self) -> list[int]:
        # sum over the tail of p^b is at most V^(1 - b).
        return [math.ceil((1 - node) * math.log(self.vocab_size)) for node in self.nodes]

    def encode(self, tail_logmass_RB: np.ndarray) -> dict[str, np.ndarray]:
        scalars = {}
        for column, top in enumerate(self._tops()):
            tail_R = tail_logmass_RB[:, column].astype(np.float64)
            below_R = whole_steps(top - tail_R, self.steps, what="tail") + 1
            scalars[f"tail_{column}"] = np.where(tail_R <= EMPTY_TAIL, 0, below_R)
        return scalars

    def decode(self, scalars: Mapping[str, np.ndarray]) -> np.ndarray:
        tails = [np.zeros((len(scalar(scalars, "count")), 0), dtype=np.float32)]
        for column, top in enumerate(self._tops()):
            code_R = scalar(scalars, f"tail_{column}")
            tail_R = np.float32(top) - (code_R.astype(np.float32) - 1) / np.float32(self.steps)
            tails.append(np.where(code_R == 0, np.float32(EMPTY_TAIL), tail_R)[:, None])
        return np.concatenate(tails, axis=1)


def _rounding_kl(value_steps: int) -> float:
    """nats: the KL that rounding adds to a row of exact entries, at most: (1 / steps)^2 / 8.

    The error of a value lies within half a step on either side, and the mass of the row is kept, so
    the KL is log E[exp(e)] - E[e] of an error e whose range is a step: at most an eighth of the
    range squared, by Hoeffding's lemma (1963). Where errors are uniform it is a third of that.
    """
    return (1 / value_steps) ** 2 / 8


def _codes(logprobs_RK: np.ndarray, exact_RK: np.ndarray, value_steps: int) -> np.ndarray:
    """float [R, K], whole numbers from 1: steps above the smallest exact entry of the row."""
    steps = np.float32(value_steps)
    least_R = logprobs_RK.min(axis=1, where=exact_RK, initial=np.inf)
    least_R[np.isinf(least_R)] = 0.0
    top_R = logprobs_RK.max(axis=1, where=exact_RK, initial=-np.inf)
    least_R = np.maximum(least_R, np.where(np.isinf(top_R), 0.0, top_R - (_MAX_CODE - 1) / steps))
    codes_RK = np.rint((logprobs_RK - least_R[:, None]) * steps)
    return np.clip(codes_RK + 1, 1, _MAX_CODE, out=codes_RK)


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
