"""What is known of a run and of a sample of its targets: what the rules are asked about.

Before training the settings are known, after its first step a few means of a batch, afterwards all
that `trainer diagnose` measures. What is not known is None, and no rule speaks of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore.plumbing import TargetRule, sparsifier_of
from trainer.losses import choose_view

if TYPE_CHECKING:
    from logitstore import SparsifierSpec
    from trainer.losses import Loss

__all__ = ["Course", "Facts", "Recipe", "chosen_by_loss"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a run learns from its targets."""

    alpha: float  # the least of the run
    temperature: float
    loss: str
    tail: str  # what the loss makes of the tail: a `TailUse`
    times_temperature_squared: bool
    # How targets are seen: "bucket", "weights", "shares", "whole"; "samples": only true tokens.
    view: str
    repeats: int  # draws of each target at the temperature
    redrawn: bool  # whether such a store can hold several draws of a target
    epochs: float | None = None  # passes over the store; over the one with the largest weight

    @staticmethod
    def of(
        loss: Loss,
        sparsifier: SparsifierSpec,
        *,
        alpha: float,
        temperature: float,
        epochs: float | None = None,
    ) -> Recipe:
        """That of a loss on the targets of a store.

        Args:
            loss: The divergence.
            sparsifier: The one that made the targets.
            alpha: The least weight of the teacher's distributions in the run.
            temperature: T, of both distributions.
            epochs: Passes over the store; None where nobody knows.

        Raises SettingError where the targets cannot serve the loss or the temperature.
        """
        made_by = sparsifier_of(sparsifier)
        view = choose_view(sparsifier, loss=loss, temperature=temperature).value
        return Recipe(
            alpha=alpha,
            temperature=temperature,
            loss=loss.name,
            tail=loss.tail,
            times_temperature_squared=loss.times_temperature_squared,
            view="samples" if loss.of_samples else view,
            repeats=sparsifier.repeats if made_by.targets.drawn else 1,
            redrawn="repeats" in made_by.defaults,
            epochs=epochs,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How a figure went during a run: its first, least and last value, in nats."""

    first: float
    least: float
    last: float
    least_step: int
    last_step: int
    reports: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """A recipe, and means over some targets; losses, KL and their errors in nats per target."""

    recipe: Recipe
    vocab_size: int  # V
    columns: int | None = None  # of the student's head: V or more
    student_loss: float | None = None  # cross-entropy with the true tokens
    teacher_loss: float | None = None  # likewise
    loss_error: float | None = None  # a standard error of the difference of the two
    counting_loss: float | None = None  # of one who knows how frequent each token is
    retained_mass: float | None = None  # of the teacher, in the exact entries, at T = 1
    tempered_mass: float | None = None  # likewise at the temperature
    evenness: float | None = None  # entropy of the entries among themselves over log K, at T = 1
    tempered_evenness: float | None = None  # likewise at the temperature
    drawn_evenness: float | None = None  # the teacher's entropy at the draws' T over log V
    support_mass: float | None = None  # of the student at the temperature, in the same entries
    no_token_mass: float | None = None  # of the student at T = 1, in columns that are no token
    kl: float | None = None  # to the student, at the temperature
    gradient_ratio: float | None = None  # norm of the divergence's gradient over cross-entropy's
    training: Course | None = None  # the loss on what is learnt from, if it stays one
    held_out: Course | None = None  # the loss on the held-out store of the run
    kept_best: bool = False  # whether the result is the best measured step
    chosen_by_loss: bool = False  # whether a store keeps the targets that its teacher guesses worst
    trained_on: bool = False  # whether the targets are ones that the student has learnt from
    foreign: str | None = None  # which id means another token to the student, in words


def chosen_by_loss(spec: Any) -> bool:
    """Whether a store keeps targets of the positions alone that its teacher guesses worst.

    Args:
        spec: That of the store.
    """
    positions = getattr(spec.text, "positions", None)
    if positions is None:
        return False
    rule = TargetRule.parse(positions)
    return rule.measure == "loss" and rule.from_top
