"""Metrics of a report: sums over forward passes, gathered over micro-batches and ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trainer.losses import known_agreement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from accelerate import Accelerator

    from trainer.losses.fused import LossSums

__all__ = ["METRICS", "SUMMED", "MetricSums", "history_of", "measured_of"]

# Means over the targets of the sums that every forward gives, and of the agreement over those
# "judged", where the teacher's likeliest token is known; none where those are too few. That of
# "selected" is a share.
METRICS = (
    *("loss", "ce", "divergence", "kl", "kl_binary", "kl_head", "agreement"),
    *("router_loss", "hint", "selected"),
)
SUMMED = (*METRICS, "judged", "targets")
_CHANGING = {"alpha", "temperature"}  # where they change
_MEASURED = {*(f"eval_{name}" for name in (*METRICS, "targets")), "step", "seconds", *_CHANGING}
_REPORTED = {*METRICS, *("step", "targets", "seconds", "grad_norm", "epoch"), *_CHANGING}


class MetricSums:
    """The sums since the last report.

    Args:
        accelerator: Gathers the sums of all ranks.
        carried: Sums of all ranks that were saved with the checkpoint from which a run goes on.
    """

    def __init__(self, accelerator: Accelerator, *, carried: Mapping[str, float]) -> None:
        self._accelerator = accelerator
        self._carried = dict(carried)
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, result: LossSums) -> None:
        """Count one forward pass, of which `result` are the sums."""
        for name, value in (result.sums | {"targets": result.count}).items():
            self._sums[name] = self._sums.get(name, 0.0) + torch.as_tensor(
                value, dtype=torch.float64, device=self._accelerator.device
            )

    def gathered(self) -> dict[str, float]:
        """The sums over all ranks, without what no rank has summed. All ranks must call it."""
        zero = torch.zeros((), dtype=torch.float64, device=self._accelerator.device)
        local = torch.stack(
            [self._sums.get(name, zero) for name in SUMMED]
            + [zero + (name in self._sums) for name in SUMMED]
        )
        total = self._accelerator.reduce(local, reduction="sum").tolist()
        seen = dict(zip(SUMMED, total[len(SUMMED) :], strict=True))
        return {
            name: self._carried.get(name, 0.0) + value
            for name, value in zip(SUMMED, total[: len(SUMMED)], strict=True)
            if seen[name] or name in self._carried
        }

    def take_means(self) -> dict[str, float]:
        """The means over all targets since the last call, and the number of these targets."""
        sums = self.gathered()
        self._carried, self._sums = {}, {}
        targets, judged = sums.pop("targets", 0.0), sums.pop("judged", 0.0)
        agreement = sums.pop("agreement", 0.0)
        means = {name: total / max(1.0, targets) for name, total in sums.items()}
        known = known_agreement(agreement, judged=judged, targets=targets)
        if known is not None:
            means["agreement"] = known
        return means | {"targets": targets}


def measured_of(log: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The measurements of a held-out store in `log`, as held_out.json has them."""
    return [
        {name: value for name, value in one.items() if name in _MEASURED}
        for one in log
        if "eval_ce" in one
    ]


def history_of(log: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The reports of the loss in `log`, a `state.log_history`, as history.json has them."""
    return [
        {name: value for name, value in one.items() if name in _REPORTED}
        | {"lr": one["learning_rate"]}
        for one in log
        if "ce" in one
    ]
