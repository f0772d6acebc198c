"""A store as a yardstick: what a change to its teacher, such as quantising it, has changed.

The figures by which quantised models are compared: perplexity of both and its ratio, quantiles of
KL, the change of the true token's probability. The store is in the place of the original model.

A store keeps the teacher's log-probability of the true token, so perplexities and changes of p are
those of the whole vocabulary; `coding_errors` bounds what the rounding of that one number may have
moved them by: with |log p - log s| <= e,

    |p - s| <= s (exp(e) - 1)    for one target, so also for the mean, with the mean of s, for any
                                 quantile, with 1, and for the root of the mean square, with that
                                 of s (Minkowski's inequality)

The KL of one target is taken over its exact entries and one bucket: at most the KL over the
vocabulary, target by target, so each quantile is at most that of the KL over the vocabulary. From
drawn entries the *mean* KL is estimated without bias, but no quantile is: the draws scatter.

Shapes: R rows, D documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.evaluation.quantiles import Quantiles
from trainer.evaluation.spread import Spread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from trainer.evaluation.comparison import Comparison

__all__ = ["MOST_NATS", "Yardstick"]

MOST_NATS = 700.0  # e^710 is more than a float holds
_MEANS = {
    "teacher_loss": ("teacher_loss", "targets"),
    "log_perplexity_ratio": ("excess", "targets"),
    "p_change": ("p_change", "targets"),
    "p_change_squared": ("p_change_squared", "targets"),
    "teacher_p": ("teacher_p", "targets"),
    "teacher_p_squared": ("teacher_p_squared", "targets"),
}


@dataclass(kw_only=True, slots=True)
class Yardstick:
    """What was counted so far of a model beside the teacher of a store."""

    spread: Spread = field(default_factory=lambda: Spread(figures=_MEANS))
    kl: Quantiles = field(default_factory=Quantiles)
    change: Quantiles = field(default_factory=Quantiles)

    def rows(self, loss_R: Tensor, teacher_R: Tensor) -> dict[str, Tensor]:
        """What each row adds to the sums over documents that `add` takes, each float64 [R].

        Args:
            loss_R: Nats: the model's loss of the true token at T = 1.
            teacher_R: Nats: the teacher's log-probability of it.
        """
        loss_R, teacher_R = loss_R.double(), teacher_R.double().to(loss_R.device)
        p_R = teacher_R.exp()
        change_R = (-loss_R).exp() - p_R
        return {
            "teacher_loss": -teacher_R,
            "excess": loss_R + teacher_R,
            "p_change": change_R,
            "p_change_squared": change_R.square(),
            "teacher_p": p_R,
            "teacher_p_squared": p_R.square(),
        }

    def add(
        self, sums: Mapping[str, Tensor], *, kl_R: Tensor, change_R: Tensor, lengths_D: Tensor
    ) -> None:
        """Count the rows of whole documents.

        Args:
            sums: Sums over each document, float64 [D], by name: "targets" and those of `rows`.
            kl_R: Nats: KL over head and bucket of each row.
            change_R: What `rows` calls "p_change".
            lengths_D: How many of the rows are of each document.
        """
        self.spread.add(sums)
        lengths = lengths_D.numpy()
        self.kl.add(kl_R.clamp(min=0).float().cpu().numpy(), lengths)
        self.change.add(change_R.float().cpu().numpy(), lengths)

    def result(self, comparison: Comparison, sums: Mapping[str, float]) -> dict[str, Any]:
        """All figures, with their bounds, coding errors and standard errors.

        Args:
            comparison: The one whose rows were counted.
            sums: The sums over all rows of what its `rows` gives.
        """
        mean = {name: one.mean() for name, one in self.spread.ratios.items()}
        ratio = mean["log_perplexity_ratio"]
        rms = math.sqrt(mean["p_change_squared"])
        figures: dict[str, Any] = {
            "teacher_perplexity": _exp(mean["teacher_loss"]),
            "log_perplexity_ratio": ratio,
            "perplexity_ratio": _exp(ratio),
            "p_change": mean["p_change"],
            "p_change_rms": rms,
            "p_change_quantiles": self.change.values(),
            "kl_quantiles": self.kl.values() if sums["judged"] else None,
            "bucketed_kl": sums["least_kl"] / sums["targets"] if sums["judged"] else None,
        }
        bound = comparison.row_bound(sums)
        return figures | {
            "bounds": {}
            if bound is None or not sums["judged"]
            else dict.fromkeys(("kl_quantiles", "bucketed_kl"), bound),
            "coding_errors": self._coding_errors(figures, mean, most=comparison.stated_drawn_kl),
            "standard_errors": self._standard_errors(figures, judged=bool(sums["judged"])),
            "quantiles_exact": self.change.exact,
        }

    def _coding_errors(
        self, figures: Mapping[str, Any], mean: Mapping[str, float], *, most: float
    ) -> dict[str, float]:
        """`most` is that of a stored log-probability, nats."""
        factor = math.expm1(most)
        return {
            "teacher_perplexity": (figures["teacher_perplexity"] or 0.0) * factor,
            "log_perplexity_ratio": most,
            "perplexity_ratio": (figures["perplexity_ratio"] or 0.0) * factor,
            "p_change": mean["teacher_p"] * factor,
            "p_change_rms": math.sqrt(mean["teacher_p_squared"]) * factor,
            "p_change_quantiles": factor,
        }

    def _standard_errors(self, figures: Mapping[str, Any], *, judged: bool) -> dict[str, Any]:
        """By the first derivative where a figure is a function of a mean."""
        known = self.spread.standard_errors()
        if not known:
            return {}
        ratio, rms = known["log_perplexity_ratio"], figures["p_change_rms"]
        return {
            "teacher_perplexity": (figures["teacher_perplexity"] or 0.0) * known["teacher_loss"],
            "log_perplexity_ratio": ratio,
            "perplexity_ratio": (figures["perplexity_ratio"] or 0.0) * ratio,
            "p_change": known["p_change"],
            "p_change_rms": known["p_change_squared"] / (2 * rms) if rms else 0.0,
            "p_change_quantiles": self.change.standard_errors(),
            "kl_quantiles": self.kl.standard_errors() if judged else None,
        }


def _exp(nats: float) -> float | None:
    return math.exp(nats) if nats < MOST_NATS else None
