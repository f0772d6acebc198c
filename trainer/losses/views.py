"""Which targets of a store are a teacher for a loss at a temperature, and which are not.

topk, topp          exact entries and a bucket: any loss, any temperature that their tails serve
hybrid              the same; at T = 1 also all its weights, which a linear loss is unbiased from
sample, unbiased    weights alone: linear losses, at the temperatures that were drawn
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import torch

from logitstore import SettingError
from logitstore.plumbing import sparsifier_of, tail_logmass_at

if TYPE_CHECKING:
    from logitstore import SparsifierSpec
    from trainer.losses.base import Loss

__all__ = ["View", "choose_view", "draw_for"]


class View(Enum):
    """How a target is seen."""

    BUCKET = "bucket"  # its exact entries, and one bucket of everything else
    WEIGHTS = "weights"  # all its entries by their weights, in the mean the teacher's probabilities


def choose_view(sparsifier: SparsifierSpec, *, loss: Loss, temperature: float) -> View:
    """How `loss` at `temperature` sees the targets of `sparsifier`.

    Raises SettingError, with the reason and what to do instead, where they cannot serve it.
    """
    kind = sparsifier_of(sparsifier).targets
    if not kind.keeps_tail:
        _check_drawn(sparsifier.temperatures, loss=loss, temperature=temperature)
        return View.WEIGHTS
    if kind.drawn and temperature == 1.0 and loss.linear:
        return View.WEIGHTS
    # Asked for a tail of no rows, which refuses as it would for one of many.
    none_RB = torch.zeros(0, len(sparsifier.tail_nodes))
    tail_logmass_at(
        temperature,
        none_RB,
        nodes=sparsifier.tail_nodes,
        vocab_size=1,
        count_R=none_RB.new_zeros(0, dtype=torch.int64),
    )
    return View.BUCKET


def draw_for(sparsifier: SparsifierSpec, *, temperature: float, epoch: int) -> int:
    """Which draw of a store to read: the repeats of a temperature take turns from epoch to epoch.

    `temperature` is one that `choose_view` lets pass.
    """
    return sparsifier.draw_number(temperature=temperature, repeat=epoch)


def _check_drawn(drawn: tuple[float, ...], *, loss: Loss, temperature: float) -> None:
    if temperature not in drawn:
        wanted = ",".join(f"{one:g}" for one in sorted({*drawn, temperature}))
        others = ", or with --sparsify hybrid, topk or topp" if 1 <= temperature <= 10 else ""
        raise SettingError(
            "the store's targets were not drawn at this temperature",
            place="--temperature",
            found=f"{temperature:g}",
            allowed=", ".join(f"{one:g}" for one in drawn),
            remedy=f"Dump again with --temperature {wanted}{others}",
        )
    if not loss.linear:
        raise SettingError(
            "drawn targets serve only losses that are linear in the teacher"
            if loss.tail == "bucket"
            else "the loss needs a head of exact entries, and drawn targets have none for sure",
            place="--loss",
            remedy="Take --loss forward_kl, or dump with --sparsify hybrid, topk or topp",
        )
