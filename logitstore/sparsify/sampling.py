"""sample, unbiased, hybrid: sparse targets whose mean over draws is the distribution itself.

`unbiased` and `hybrid` keep the largest probabilities exactly and draw the rest without
replacement, each with a chance proportional to its probability, so that every drawn entry weighs
the same (priority sampling with a fixed threshold: VarOpt, Cohen et al. 2009; "Efficient Unbiased
Sparsification", arXiv 2402.14925). The draw is systematic (Madow 1949): one uniform number sets a
comb of m equal steps over the cumulated tail in the order of ids. That gives exactly m distinct
entries with the wanted chances, and spreads them over the vocabulary, which is ordered by
frequency.

Shapes: R targets, K entries, V vocabulary, C cells of the vocabulary, W tokens of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch

from logitstore.draws import uniforms
from logitstore.sparsify.distribution import NOTHING, check_finite, targets_of
from logitstore.sparsify.tail import tail_sums
from logitstore.targets import EMPTY_TAIL, SparseTargets

if TYPE_CHECKING:
    from logitstore.spec import SparsifierSpec

__all__ = ["hybrid", "sample", "unbiased"]

# A cumulated sum over the whole vocabulary is slow and, in float32, coarse: sums of cells are
# cumulated in float64, and only the cells that a draw falls into are looked at closer.
_CELL = 128
# An entry within this of the threshold is kept exactly: rounding could draw it twice.
_GUARD = 1e-4
_LIGHTEST = 1e-30

# How many uniform numbers a row needs -> them, float64 [R, count].
_Uniform: TypeAlias = Callable[[int], torch.Tensor]


def sample(
    logits_RV: torch.Tensor, labels_R: torch.Tensor, keys_R: np.ndarray, spec: SparsifierSpec
) -> tuple[SparseTargets, ...]:
    """`spec.k` independent draws with replacement; an entry weighs its share of them.

    "Sparse Logit Sampling" (arXiv 2503.16870) with the teacher as its own proposal. A row has as
    many entries as distinct ids were drawn.
    """
    return _all_draws(logits_RV, labels_R, keys_R, spec, _WithReplacement.of)


def unbiased(
    logits_RV: torch.Tensor, labels_R: torch.Tensor, keys_R: np.ndarray, spec: SparsifierSpec
) -> tuple[SparseTargets, ...]:
    """`spec.k` entries: those above a threshold exactly, the rest drawn at one common weight."""
    return _all_draws(logits_RV, labels_R, keys_R, spec, _Thresholded.of)


def hybrid(
    logits_RV: torch.Tensor, labels_R: torch.Tensor, keys_R: np.ndarray, spec: SparsifierSpec
) -> tuple[SparseTargets, ...]:
    """Like `unbiased` with all but `spec.tail_draws` entries exact for sure, and a tail's log-mass.

    The tail is everything that is not kept exactly, the drawn entries included.
    """
    (targets,) = _all_draws(logits_RV, labels_R, keys_R, spec, _Thresholded.of)
    exact_RK = torch.from_numpy(targets.exact_RK()).to(logits_RV.device)
    ids_RK = torch.from_numpy(targets.ids_RK.astype(np.int64)).to(logits_RV.device)
    # The first entry is the row's highest, which is exact and now stands at 0.
    log_z_R = -torch.from_numpy(targets.logprobs_RK[:, 0]).to(logits_RV.device)
    tail_RV = logits_RV.scatter_(1, torch.where(exact_RK, ids_RK, ids_RK[:, :1]), -torch.inf)
    top_R = tail_RV.amax(-1)
    tail = tail_sums(tail_RV, top_R.masked_fill(top_R <= NOTHING, -torch.inf), spec.tail_nodes)
    logmass_RB = tail.logmass_RB(log_z_R, spec.tail_nodes)
    return (replace(targets, tail_logmass_RB=logmass_RB.float().cpu().numpy()),)


class _Entries(NamedTuple):
    ids_RK: torch.Tensor
    weights_RK: torch.Tensor  # in the unit of the row's masses
    used_RK: torch.Tensor
    sampled_RK: torch.Tensor


class _Draw(Protocol):
    def entries(self, uniform: _Uniform) -> _Entries: ...


def _all_draws(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    keys_R: np.ndarray,
    spec: SparsifierSpec,
    draw_of: Callable[[_Masses, SparsifierSpec], _Draw],
) -> tuple[SparseTargets, ...]:
    """One SparseTargets for each draw of `spec`; shifts each row of `logits_RV` to a top of 0."""
    temperatures, repeats = spec.temperatures or (1.0,), spec.repeats or 1
    top_R1 = logits_RV.amax(-1, keepdim=True)
    check_finite(top_R1[:, 0])
    x_RV = logits_RV.sub_(top_R1).clamp_(min=NOTHING * max(1.0, *temperatures))
    label_R = x_RV.gather(1, labels_R[:, None])[:, 0]
    log_z_R: torch.Tensor | None = None
    drawn: list[tuple[_Entries, torch.Tensor, torch.Tensor]] = []
    for temperature in temperatures:
        masses = _Masses.of(x_RV, temperature)
        total_R = masses.total_R
        entropy_R = total_R.log() - masses.mean_exponent_R(x_RV) / temperature
        log_z_R = total_R.log() if temperature == 1.0 else log_z_R
        draw = draw_of(masses, spec)
        for _ in range(repeats):
            numbers = _numbers(keys_R, len(drawn), like=total_R)
            drawn.append((draw.entries(numbers), total_R, entropy_R))
    log_z_R = x_RV.logsumexp(-1) if log_z_R is None else log_z_R
    label_R = torch.where(label_R <= NOTHING, EMPTY_TAIL, label_R - log_z_R)
    return tuple(
        targets_of(
            entries.ids_RK,
            (entries.weights_RK / total_R[:, None]).log(),
            used_RK=entries.used_RK,
            sampled_RK=entries.sampled_RK,
            tail_logmass_RB=label_R.new_zeros(len(label_R), 0),
            label_logprob_R=label_R,
            entropy_R=entropy_R.clamp(min=0),
        )
        for entries, total_R, entropy_R in drawn
    )


def _numbers(keys_R: np.ndarray, draw: int, *, like: torch.Tensor) -> _Uniform:
    return lambda count: torch.from_numpy(uniforms(keys_R, count=count, draw=draw)).to(like)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Masses:
    """Probabilities up to a factor per row, and their sums over cells of the vocabulary."""

    weights_RCW: torch.Tensor  # float32; the vocabulary is filled up with zeros
    sums_RC: torch.Tensor  # float64

    @staticmethod
    def of(x_RV: torch.Tensor, temperature: float) -> _Masses:
        """e^(x / T)."""
        rows, vocab_size = x_RV.shape
        cells = math.ceil(vocab_size / _CELL)
        weights_RV = x_RV.new_empty(rows, cells * _CELL)
        weights_RV[:, vocab_size:] = 0
        torch.mul(x_RV, 1 / temperature, out=weights_RV[:, :vocab_size])
        weights_RV[:, :vocab_size].exp_()
        # Below the normal numbers of float32 sums round to nothing and to too much.
        weights_RV.masked_fill_(weights_RV < _LIGHTEST, 0.0)
        weights_RCW = weights_RV.view(rows, cells, _CELL)
        # Apple's GPUs have no float64.
        wide = torch.float32 if x_RV.device.type == "mps" else torch.float64
        return _Masses(weights_RCW=weights_RCW, sums_RC=weights_RCW.sum(-1).to(wide))

    @property
    def total_R(self) -> torch.Tensor:
        """Of the whole row."""
        return self.sums_RC.sum(-1)

    def mean_exponent_R(self, x_RV: torch.Tensor) -> torch.Tensor:
        """sum of p x."""
        weights_RV = self.weights_RCW.flatten(1)[:, : x_RV.shape[1]]
        return torch.linalg.vecdot(weights_RV, x_RV) / self.total_R

    def at(self, marks_RN: torch.Tensor) -> torch.Tensor:
        """The ids [R, N] at which the cumulated mass passes each mark, counted from 0."""
        stops_RC = self.sums_RC.cumsum(-1)
        # Rounding must leave no mark at or beyond the last token that has any mass.
        marks_RN = marks_RN.minimum(stops_RC[:, -1:] * (1 - 1e-12))
        cell_RN = torch.searchsorted(stops_RC, marks_RN, right=True)
        cell_RN.clamp_(max=stops_RC.shape[1] - 1)
        rest_RN = marks_RN - (stops_RC - self.sums_RC).gather(1, cell_RN)
        row_R1 = torch.arange(len(cell_RN), device=cell_RN.device)[:, None]
        inner_RNW = self.weights_RCW[row_R1, cell_RN].cumsum(-1)
        rest_RN = rest_RN.float().minimum(inner_RNW[..., -1] * (1 - 1e-6)).clamp(min=0)
        return cell_RN * _CELL + (inner_RNW <= rest_RN[..., None]).sum(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _WithReplacement:
    """Independent draws; equal ids are one entry."""

    masses: _Masses
    draws: int

    @staticmethod
    def of(masses: _Masses, spec: SparsifierSpec) -> _WithReplacement:
        return _WithReplacement(masses=masses, draws=spec.k)

    def entries(self, uniform: _Uniform) -> _Entries:
        total_R1 = self.masses.total_R[:, None]
        # Sorted marks give sorted ids, and equal ids side by side.
        ids_RN = self.masses.at((uniform(self.draws) * total_R1).sort(-1).values)
        new_RN = torch.ones_like(ids_RN, dtype=torch.bool)
        new_RN[:, 1:] = ids_RN[:, 1:] != ids_RN[:, :-1]
        place_RN = new_RN.cumsum(-1) - 1
        counts_RK = torch.zeros_like(ids_RN).scatter_add_(1, place_RN, torch.ones_like(ids_RN))
        return _Entries(
            ids_RK=torch.zeros_like(ids_RN).scatter_(1, place_RN, ids_RN),
            weights_RK=counts_RK * (total_R1 / self.draws),
            used_RK=counts_RK > 0,
            sampled_RK=torch.ones_like(new_RN),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Thresholded:
    """The largest exactly, then a comb of equal steps over the rest, for any number of draws."""

    top_ids_RK: torch.Tensor
    top_RK: torch.Tensor  # float32, falling
    exact_R1: torch.Tensor  # how many are kept exactly
    drawn_R1: torch.Tensor  # how many are drawn
    step_R1: torch.Tensor  # float64, the common weight of the drawn ones
    least_exact: int
    rest: _Masses  # of what is not kept exactly

    @staticmethod
    def of(masses: _Masses, spec: SparsifierSpec) -> _Thresholded:
        """Overwrites `masses`."""
        k, least_exact = spec.k, 0 if spec.tail_draws is None else spec.k - spec.tail_draws
        weights_RV = masses.weights_RCW.flatten(1)
        top = weights_RV.topk(k, dim=-1)
        top_RK, ids_RK = top.values, top.indices
        # The mass that would be left for drawing if the first j entries were exact: summed from the
        # smallest up over the tail itself, since 1 - head would be noise for a sharp row.
        weights_RV.scatter_(1, ids_RK, 0.0)
        sums_RC = masses.weights_RCW.sum(-1).to(masses.sums_RC.dtype)
        beyond_R1 = sums_RC.sum(-1, keepdim=True)
        left_RK = top_RK.to(sums_RC.dtype).flip(-1).cumsum(-1).flip(-1) + beyond_R1
        places_K = torch.arange(k, device=top_RK.device)
        # The threshold of VarOpt: the fewest exact entries with all others below the step. Where
        # only one can be drawn it always is; where nothing is left, nothing is drawn.
        step_RK = left_RK / (k - places_K)
        enough_RK = top_RK < step_RK * (1 - _GUARD)
        enough_RK[:, -1:] |= beyond_R1 > 0
        enough_RK = (enough_RK & (places_K >= least_exact)) | (left_RK <= 0)
        exact_R1 = (~enough_RK).cumprod(-1).sum(-1, keepdim=True)
        last_R1 = exact_R1.clamp(max=k - 1)
        drawing_R1 = (exact_R1 < k) & (left_RK.gather(1, last_R1) > 0)
        put_back_RK = torch.where(places_K < exact_R1, 0.0, top_RK)
        weights_RV.scatter_(1, ids_RK, put_back_RK)
        sums_RC.scatter_add_(1, ids_RK // _CELL, put_back_RK.to(sums_RC.dtype))
        return _Thresholded(
            top_ids_RK=ids_RK,
            top_RK=top_RK,
            exact_R1=exact_R1,
            drawn_R1=torch.where(drawing_R1, k - exact_R1, 0),
            step_R1=step_RK.gather(1, last_R1),
            least_exact=least_exact,
            rest=_Masses(weights_RCW=masses.weights_RCW, sums_RC=sums_RC),
        )

    def entries(self, uniform: _Uniform) -> _Entries:
        places_K = torch.arange(self.top_ids_RK.shape[1], device=self.top_ids_RK.device)
        exact_RK = places_K < self.exact_R1
        tooth_RN = (places_K[self.least_exact :] - self.exact_R1).clamp(min=0)
        ids_RN = self.rest.at((uniform(1) + tooth_RN) * self.step_R1)
        drawn_RK = torch.cat((self.top_ids_RK[:, : self.least_exact], ids_RN), dim=1)
        return _Entries(
            ids_RK=torch.where(exact_RK, self.top_ids_RK, drawn_RK),
            weights_RK=torch.where(exact_RK, self.top_RK.to(self.step_R1.dtype), self.step_R1),
            used_RK=places_K < self.exact_R1 + self.drawn_R1,
            sampled_RK=~exact_RK,
        )
