"""Which targets of a store are a teacher for a loss at a temperature, and which are not.

What a target is, its kind says; no sparsifier is asked for by name.

    keeps a tail, no draws    exact entries and a bucket: any loss at any temperature of its tail
    keeps a tail, and draws   the same; at T = 1 its weights, where the loss is unbiased from them
    no tail                   weights alone: such losses, at the temperatures that were drawn
    shares                    the entries alone: losses that renormalise them, at any temperature
    a hidden state            the whole distribution: any loss at any temperature, exactly

A loss of sampled tokens looks at no entries. It is served, at T = 1, by all targets that know the
true token's probability; entries are then seen as forward KL sees them, for what is reported.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import torch

from logitstore import SettingError
from logitstore.plumbing import (
    SPARSIFIERS,
    TAIL_TEMPERATURES,
    Entries,
    sparsifier_of,
    tail_logmass_at,
)
from trainer.losses.forward_kl import forward_kl
from trainer.losses.renormalised import renormalised

if TYPE_CHECKING:
    from logitstore import SparsifierSpec
    from logitstore.plumbing import TargetKind
    from trainer.losses.base import Loss

__all__ = ["View", "choose_view", "draw_for", "serves"]


class View(Enum):
    """How a target is seen."""

    BUCKET = "bucket"  # its exact entries, and one bucket of everything else
    WEIGHTS = "weights"  # all its entries by their weights, in the mean the teacher's probabilities
    SHARES = "shares"  # its entries as if there were no other token
    WHOLE = "whole"  # all tokens, from the teacher's hidden state


def choose_view(sparsifier: SparsifierSpec, *, loss: Loss, temperature: float) -> View:
    """How a loss sees the targets of a store.

    Args:
        sparsifier: The spec of what made the targets.
        loss: The loss.
        temperature: T, of both distributions.

    Raises SettingError, with the reason and what to do instead, where they cannot serve it.
    """
    kind = sparsifier_of(sparsifier).targets
    if loss.of_samples:
        _check_samples(kind, loss=loss, temperature=temperature)
        return choose_view(sparsifier, loss=forward_kl, temperature=temperature)
    if kind.keeps_state:
        return View.WHOLE
    if kind.entries is Entries.SHARES:
        _check_renormalises(loss)
        return View.SHARES
    if not kind.keeps_tail:
        _check_drawn(sparsifier.temperatures, loss=loss, temperature=temperature)
        return View.WEIGHTS
    if kind.drawn and temperature == 1.0 and loss.serves_drawn:
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
    _check_entries(sparsifier, loss=loss)
    return View.BUCKET


def draw_for(sparsifier: SparsifierSpec, *, temperature: float, epoch: int) -> int:
    """Which draw of a store to read: the repeats of a temperature take turns from epoch to epoch.

    Args:
        sparsifier: The spec of what made the targets.
        temperature: T; one that `choose_view` lets pass.
        epoch: The number of the epoch, from 0.
    """
    return sparsifier.draw_number(temperature=temperature, repeat=epoch)


def serves(sparsifier: SparsifierSpec, *, loss: Loss) -> bool:
    """Whether targets that serve some loss serve this one too, at the same temperature.

    Args:
        sparsifier: The spec of what made the targets.
        loss: The other loss; none of sampled tokens.
    """
    shares = sparsifier_of(sparsifier).targets.entries is Entries.SHARES
    return loss.tail == "dropped" or not shares


def _check_samples(kind: TargetKind, *, loss: Loss, temperature: float) -> None:
    if not kind.knows_whole:
        raise SettingError(
            f"--loss {loss.name} needs the teacher's probability of the true token, which was not "
            "kept where the store was imported from",
            place="--loss",
            found=loss.name,
            remedy="Dump with the teacher itself, or take another loss",
        )
    if temperature != 1.0:
        raise SettingError(
            f"--loss {loss.name} needs the teacher's probability of the sampled token, which is "
            "stored at T = 1",
            place="--temperature",
            found=f"{temperature:g}",
            allowed="1",
            remedy="Leave --temperature out, or take --loss reverse_kl",
        )


def _check_renormalises(loss: Loss) -> None:
    if loss.tail != "dropped":
        raise SettingError(
            f"--loss {loss.name} needs the mass of the kept tokens, which was not kept where the "
            "store was imported from",
            place="--loss",
            found=loss.name,
            allowed=renormalised.name,
            remedy=f"Take --loss {renormalised.name}",
        )


def _check_drawn(drawn: tuple[float, ...], *, loss: Loss, temperature: float) -> None:
    keeping = _either([one.name for one in SPARSIFIERS.values() if one.targets.keeps_tail])
    if temperature not in drawn:
        wanted = ",".join(f"{one:g}" for one in sorted({*drawn, temperature}))
        lowest, highest = TAIL_TEMPERATURES
        whole = _either([one.name for one in SPARSIFIERS.values() if one.targets.keeps_state])
        offered = keeping if lowest <= temperature <= highest else whole
        others = f", or with --sparsify {offered}" if offered else ""
        raise SettingError(
            "the store's targets were not drawn at this temperature",
            place="--temperature",
            found=f"{temperature:g}",
            allowed=", ".join(f"{one:g}" for one in drawn),
            remedy=f"Dump again with --temperature {wanted}{others}",
        )
    if not loss.serves_drawn:
        raise SettingError(
            "drawn targets serve only losses that are linear in the teacher"
            if loss.tail == "bucket"
            else "the loss needs a head of exact entries, and drawn targets have none for sure",
            place="--loss",
            remedy=f"Take --loss {forward_kl.name}, or dump with --sparsify {keeping}",
        )


def _check_entries(sparsifier: SparsifierSpec, *, loss: Loss) -> None:
    """Raise SettingError where the loss sets all entries apart that are exact for sure."""
    if loss.sets_apart is None:
        return
    kind = sparsifier_of(sparsifier)
    entries = kind.asked(sparsifier)[kind.room[0]]
    if loss.values[loss.sets_apart] >= entries:
        raise SettingError(
            f"--loss {loss.name} needs more kept tokens than it sets apart",
            place=f"--{loss.sets_apart}",
            found=loss.values[loss.sets_apart],
            allowed=f"less than the store's {kind.room[0]} of {entries}",
            remedy="Give a smaller number, or dump with more entries",
        )


def _either(names: list[str]) -> str:
    """The names as in "a, b or c"."""
    return " or ".join(", ".join(part) for part in (names[:-1], names[-1:]) if part)
