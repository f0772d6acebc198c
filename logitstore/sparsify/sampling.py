"""Drawn targets: sparse targets whose mean over draws is the distribution itself.

`Thresholded` keeps the largest probabilities exactly and draws from the rest without replacement,
each token with an inclusion probability proportional to its probability, so that all drawn entries
have one weight (VarOpt sampling, Cohen et al. 2009; "Efficient Unbiased Sparsification", arXiv
2402.14925). The draw is systematic sampling (Madow 1949): one uniform number places m equally
spaced points on the cumulative weights of the tail, in the order of ids. That gives exactly m
distinct entries with the wanted inclusion probabilities, and spreads them over the vocabulary,
which is ordered by frequency. `WithReplacement` draws independently instead.

Shapes: R targets, K entries, V vocabulary, C cells of the vocabulary, W tokens of a cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch

from logitstore.sparsify.distribution import targets_of
from logitstore.sparsify.split import Split
from logitstore.targets.draws import uniforms
from logitstore.targets.targets import EMPTY_TAIL

if TYPE_CHECKING:
    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.kinds import TargetKind
    from logitstore.targets.targets import SparseTargets

__all__ = ["Thresholded", "WithReplacement", "all_draws"]

# A cumulative sum over the whole vocabulary is slow, and imprecise in float32. So sums of cells are
# accumulated in float64, and only the cells that a draw falls into are summed token by token.
_CELL = 32
# An entry within this of the threshold is kept exactly, because rounding could draw it twice.
_GUARD = 1e-4
_LIGHTEST = 1e-30  # a weight below this counts as 0
_HIGHEST = 80.0  # nats above the rest's highest: e^80 is near the end of float32

# count -> uniform random numbers, float64 [R, count], on the CPU.
_Uniform: TypeAlias = Callable[[int], torch.Tensor]


class _DrawnEntries(NamedTuple):
    ids_RK: torch.Tensor
    logits_RK: torch.Tensor  # log of the weight, in the scale of the split
    used_RK: torch.Tensor
    exact_RK: torch.Tensor


class _Draw(Protocol):
    @property
    def split(self) -> Split: ...

    def entries(self, uniform: _Uniform) -> _DrawnEntries: ...


def all_draws(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    keys_R: np.ndarray,
    spec: SparsifierSpec,
    *,
    kind: TargetKind,
    draw_of: Callable[[torch.Tensor], _Draw],
) -> tuple[SparseTargets, ...]:
    """One SparseTargets for each draw of `spec`: all repeats of the first temperature, and so on.

    Args:
        logits_RV: float32 logits of the rows; they are overwritten.
        labels_R: int64, the tokens that really follow.
        keys_R: uint64, one key for each row. Random numbers depend on it and on the number of the
            draw only.
        spec: The spec: temperatures and repeats.
        kind: The kind of the targets, as the sparsifier declares it.
        draw_of: Prepares the draws at one temperature. It is given the logits divided by that
            temperature, which it may overwrite. What it returns has the `split` of the rows, and
            `entries(uniform)`, which gives the entries of one draw from random numbers.

    Raises ModelError where a row is not a distribution.
    """
    temperatures = spec.drawn_at
    # Relative to the highest logit of each row: large logits would lose digits by the division.
    x_RV = logits_RV.sub_(logits_RV.amax(-1, keepdim=True)) if temperatures != (1.0,) else logits_RV
    label_R = x_RV.gather(1, labels_R[:, None])[:, 0]
    # At T = 1, whether targets are drawn at that temperature or not.
    label_logprob_R = label_R if 1.0 in temperatures else label_R - x_RV.logsumexp(-1)
    drawn: list[tuple[_Draw, _DrawnEntries]] = []
    for number, temperature in enumerate(temperatures, start=1):
        own_RV = x_RV if number == len(temperatures) else x_RV.clone()
        draw = draw_of(own_RV.div_(temperature) if temperature != 1.0 else own_RV)
        if temperature == 1.0:
            label_logprob_R = label_R - draw.split.top_R - draw.split.log_z_R
        for _ in range(spec.repeats):
            drawn.append((draw, draw.entries(_numbers(keys_R, len(drawn)))))
    return tuple(
        _targets(draw, entries, label_logprob_R, spec=spec, kind=kind) for draw, entries in drawn
    )


def _targets(
    draw: _Draw,
    entries: _DrawnEntries,
    label_logprob_R: torch.Tensor,
    *,
    spec: SparsifierSpec,
    kind: TargetKind,
) -> SparseTargets:
    split = draw.split
    log_z_R = split.log_z_R
    tail = split.rest
    if kind.keeps_tail:
        drawn_from_RK = split.values_RK.masked_fill(entries.exact_RK, -torch.inf)
        tail = tail.joined(drawn_from_RK, spec.tail_nodes)
    return targets_of(
        entries.ids_RK,
        entries.logits_RK - log_z_R[:, None],
        kind=kind,
        used_RK=entries.used_RK,
        exact_RK=entries.exact_RK,
        tail_logmass_RB=tail.logmass_RB(log_z_R, spec.tail_nodes),
        label_logprob_R=label_logprob_R.clamp(min=EMPTY_TAIL),
        entropy_R=split.entropy_R(log_z_R),
    )


def _without_negligible(weights: torch.Tensor) -> torch.Tensor:
    """`weights`, in place, with 0 for those that are too small to be summed in float32."""
    return torch.threshold_(weights, _LIGHTEST, 0.0)


def _numbers(keys_R: np.ndarray, draw: int) -> _Uniform:
    return lambda count: torch.from_numpy(uniforms(keys_R, count=count, draw=draw))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cells:
    """Weights of all tokens, and their sums over cells of the vocabulary."""

    weights_RCW: torch.Tensor  # float32; the last cell is padded with zeros
    sums_RC: torch.Tensor  # float64

    @staticmethod
    def of(weights_RV: torch.Tensor) -> _Cells:
        """The cells of the weights `weights_RV`, float32, which are overwritten."""
        _without_negligible(weights_RV)
        rows, vocab_size = weights_RV.shape
        if vocab_size % _CELL:
            weights_RV = torch.nn.functional.pad(weights_RV, (0, -vocab_size % _CELL))
        weights_RCW = weights_RV.view(rows, weights_RV.shape[1] // _CELL, _CELL)
        # Apple's GPUs have no float64.
        wide = torch.float32 if weights_RV.device.type == "mps" else torch.float64
        return _Cells(weights_RCW=weights_RCW, sums_RC=weights_RCW.sum(-1).to(wide))

    @property
    def total_R1(self) -> torch.Tensor:
        """The sum of the weights of each row."""
        return self.sums_RC.sum(-1, keepdim=True)

    def put(self, ids_RK: torch.Tensor, weights_RK: torch.Tensor) -> None:
        """Set the weights of the tokens `ids_RK`, which were 0, to `weights_RK`."""
        self.weights_RCW.flatten(1).scatter_(1, ids_RK, weights_RK)
        self.sums_RC.scatter_add_(1, ids_RK // _CELL, weights_RK.to(self.sums_RC.dtype))

    def at(self, marks_RN: torch.Tensor) -> torch.Tensor:
        """The ids [R, N] at which the cumulative weight passes each of `marks_RN`, from 0 up."""
        stops_RC = self.sums_RC.cumsum(-1)
        # After rounding, no mark may be at or beyond the last token with a weight above 0.
        marks_RN = marks_RN.minimum(stops_RC[:, -1:] * (1 - 1e-12))
        cell_RN = torch.searchsorted(stops_RC, marks_RN, right=True)
        cell_RN.clamp_(max=stops_RC.shape[1] - 1)
        rest_RN = marks_RN - (stops_RC - self.sums_RC).gather(1, cell_RN)
        row_R1 = torch.arange(len(cell_RN), device=cell_RN.device)[:, None]
        inner_RNW = self.weights_RCW[row_R1, cell_RN].cumsum(-1)
        rest_RN = rest_RN.float().minimum(inner_RNW[..., -1] * (1 - 1e-6)).clamp(min=0)
        place_RN1 = torch.searchsorted(inner_RNW, rest_RN[..., None], right=True)
        return cell_RN * _CELL + place_RN1[..., 0]


@dataclass(frozen=True, kw_only=True, slots=True)
class WithReplacement:
    """Independent draws; equal ids are joined in one entry."""

    split: Split  # with k = 0: all tokens belong to the rest
    cells: _Cells
    draws: int

    @staticmethod
    def of(logits_RV: torch.Tensor, *, draws: int) -> WithReplacement:
        """Prepare draws with replacement.

        Args:
            logits_RV: float32 logits; they are overwritten.
            draws: How many tokens are drawn from each row.
        """
        split = Split.of(logits_RV, 0)
        return WithReplacement(split=split, cells=_Cells.of(split.weights_RV), draws=draws)

    def entries(self, uniform: _Uniform) -> _DrawnEntries:
        """The distinct tokens of one draw; the weight of each is its share of the draws.

        Args:
            uniform: Gives the random numbers of the draw.
        """
        total_R1 = self.cells.total_R1
        # Sorted marks give sorted ids, so that equal ids are neighbours.
        ids_RN = self.cells.at((uniform(self.draws).to(total_R1) * total_R1).sort(-1).values)
        new_RN = torch.ones_like(ids_RN, dtype=torch.bool)
        new_RN[:, 1:] = ids_RN[:, 1:] != ids_RN[:, :-1]
        place_RN = new_RN.cumsum(-1) - 1
        counts_RK = torch.zeros_like(ids_RN).scatter_add_(1, place_RN, torch.ones_like(ids_RN))
        return _DrawnEntries(
            ids_RK=torch.zeros_like(ids_RN).scatter_(1, place_RN, ids_RN),
            logits_RK=(counts_RK * (total_R1 / self.draws)).log(),
            used_RK=counts_RK > 0,
            exact_RK=torch.zeros_like(new_RN),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholded:
    """The largest tokens exactly, then systematic sampling of the others.

    Weights are relative to the highest of the row, those of `others` to the highest of the rest.
    """

    split: Split
    exact_R1: torch.Tensor  # how many are kept exactly
    drawn_R1: torch.Tensor  # how many are drawn
    step_R1: torch.Tensor  # float64, the common weight of the drawn ones
    least_exact: int
    others: _Cells  # what is not kept exactly
    unit_R1: torch.Tensor  # float64, of the weights of `others`

    @staticmethod
    def of(
        logits_RV: torch.Tensor, *, k: int, nodes: tuple[float, ...] = (), least_exact: int = 0
    ) -> Thresholded:
        """Prepare draws of `k` entries of each row.

        Args:
            logits_RV: float32 logits; they are overwritten.
            k: The entries of a row, exact and drawn.
            nodes: b = 1/T at which the tail is summed.
            least_exact: How many of the largest are exact in any case.
        """
        split = Split.of(logits_RV, k, nodes=nodes)
        others = _Cells.of(split.weights_RV)
        unit_R1 = split.rest.top_R[:, None].to(others.sums_RC).exp()
        top_RK = _without_negligible(split.values_RK.to(unit_R1).exp())
        # The mass that is left for drawing if the first j entries are exact. It is summed from the
        # smallest up, because 1 - head would be rounding noise for a sharp row.
        beyond_R1 = _without_negligible(others.total_R1 * unit_R1)
        left_RK = top_RK.flip(-1).cumsum(-1).flip(-1) + beyond_R1
        places_K = torch.arange(k, device=top_RK.device)
        # The threshold of VarOpt: the fewest exact entries such that all others are below the step.
        # The last place is always drawn where mass is left beyond the K largest.
        step_RK = left_RK / (k - places_K)
        enough_RK = top_RK < step_RK * (1 - _GUARD)
        enough_RK[:, -1:] |= beyond_R1 > 0
        enough_RK = (enough_RK & (places_K >= least_exact)) | (left_RK <= 0)
        exact_R1 = (~enough_RK).cumprod(-1).sum(-1, keepdim=True)
        last_R1 = exact_R1.clamp(max=k - 1)
        drawing_R1 = (exact_R1 < k) & (left_RK.gather(1, last_R1) > 0)
        above_RK = (split.values_RK - split.rest.top_R[:, None]).clamp(max=_HIGHEST).exp()
        others.put(split.ids_RK, torch.where(places_K < exact_R1, 0.0, above_RK))
        return Thresholded(
            split=split,
            exact_R1=exact_R1,
            drawn_R1=torch.where(drawing_R1, k - exact_R1, 0),
            step_R1=step_RK.gather(1, last_R1),
            least_exact=least_exact,
            others=others,
            unit_R1=unit_R1,
        )

    def entries(self, uniform: _Uniform) -> _DrawnEntries:
        """The exact entries, and those of one draw.

        Args:
            uniform: Gives the random numbers of the draw.
        """
        ids_RK, values_RK = self.split.ids_RK, self.split.values_RK
        places_K = torch.arange(ids_RK.shape[1], device=ids_RK.device)
        exact_RK = places_K < self.exact_R1
        step_number_RN = (places_K[self.least_exact :] - self.exact_R1).clamp(min=0)
        step_R1 = self.step_R1 / self.unit_R1
        ids_RN = self.others.at((uniform(1).to(step_R1) + step_number_RN) * step_R1)
        drawn_RK = torch.cat((ids_RK[:, : self.least_exact], ids_RN), dim=1)
        return _DrawnEntries(
            ids_RK=torch.where(exact_RK, ids_RK, drawn_RK),
            logits_RK=torch.where(exact_RK, values_RK, self.step_R1.log().float()),
            used_RK=places_K < self.exact_R1 + self.drawn_R1,
            exact_RK=exact_RK,
        )
