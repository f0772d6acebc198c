"""The rules by which findings are made of facts, the most serious first.

A rule speaks only where its numbers leave little doubt: a run that is sound has no finding. Where a
limit stands, the reason stands beside it. No angle between the two gradients is a rule: at a
minimum of the loss they point against each other, whatever the run.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trainer.advice.finding import Finding, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trainer.advice.facts import Facts

__all__ = ["RULES", "findings"]

# A difference of two losses is believed beyond three standard errors, and is worth a word from
# there: seeds differ by more.
_ERRORS, _LEAST_NATS = 3.0, 0.01
# From this share of the loss of counting tokens on nothing was learnt of what stands before them.
_BLIND = 0.97
# Of the student's mass: 1 % costs 0.01 nats of every target.
_NO_TOKEN = 0.01
# Less than half of the teacher in the entries: most of what is taught has no name.
_MOSTLY = 0.5
# Where the entries hold less than that at T = 1 already, T is to blame that takes most of it away.
_LEFT = 0.25
# Entropy over that of equal entries: beyond the second the entries are told apart by rounding.
_UNEVEN, _EVEN = 0.85, 0.95
_EVEN_DRAWN = 0.9
# The mass whose place a biased target gets wrong. A dropped tail is taught to be nothing; one that
# goes to the true token, or stays in a bucket, is not taught, which hurts less (arXiv 2503.16870).
_BIASED = {"dropped": 0.02, "label": 0.1, "bucket": 0.2, "apart": 0.2}
_SOFT_ALONE = 0.99  # alpha: the true tokens have no say
_EPOCHS_A_DRAW = 1.5
_NO_SAY, _FAR = 0.05, 0.1  # a share of the gradient; nats between student and teacher
_RISEN, _RISEN_FROM_LEAST = 0.1, 0.5  # nats; means of a report vary by less
_PAST = 0.02  # nats
_REPORTS = 3


def findings(facts: Facts, *, rules: Iterable[Rule] | None = None) -> list[Finding]:
    """What the rules find, the most serious first.

    Args:
        facts: What is known.
        rules: The rules to ask. Default: all.
    """
    asked = RULES if rules is None else rules
    return [one for one in (rule.ask(facts) for rule in asked) if one is not None]


def _foreign_ids(facts: Facts) -> Finding | None:
    if facts.foreign is None:
        return None
    return Finding(
        name="foreign_ids",
        says=f"ids mean other tokens to the student than to the store: {facts.foreign}"
        + ("" if facts.student_loss is None else f"; its loss is {facts.student_loss:.3f} nats"),
        remedy="Take a student with the teacher's tokenizer, or its config.json to start from "
        "nothing; or learn over spans of text (--loss alm)",
        evidence={} if facts.student_loss is None else {"student_loss": facts.student_loss},
    )


def _diverged(facts: Facts) -> Finding | None:
    course = facts.training
    if course is None or course.reports < _REPORTS:
        return None
    if course.last <= course.first + _RISEN and course.last <= course.least + _RISEN_FROM_LEAST:
        return None
    return Finding(
        name="diverged",
        says=f"training has diverged: its loss was {course.first:.3f} at first, "
        f"{course.least:.3f} after step {course.least_step}, and is {course.last:.3f} at the last",
        remedy="Begin again with a lower --lr (a tenth), or a longer --warmup",
        evidence={"first": course.first, "least": course.least, "last": course.last},
    )


def _no_better_than_counting(facts: Facts) -> Finding | None:
    counting, loss, teacher = facts.counting_loss, facts.student_loss, facts.teacher_loss
    if counting is None or loss is None or (teacher is not None and teacher >= _BLIND * counting):
        return None
    known = loss + math.log1p(-min(facts.no_token_mass or 0.0, 1 - 1e-9))  # that has its own rule
    if known < _BLIND * counting:
        return None
    knows = "" if teacher is None else f", the teacher's {teacher:.3f}"
    guess = math.log(facts.vocab_size)
    return Finding(
        name="no_better_than_counting",
        says=f"the student knows no more than how frequent tokens are: its loss is {loss:.3f} "
        f"nats, that of counting them {counting:.3f}, of a blind guess {guess:.3f}{knows}",
        remedy="Look whether its weights were loaded and ids mean the same tokens to it, then at "
        "--lr"
        if known > guess + _RISEN
        else "Train it for more --steps; if its loss stopped falling early, with a lower --lr",
        evidence={"student_loss": loss, "counting_loss": counting, "guess": guess},
    )


def _padded_head(facts: Facts) -> Finding | None:
    mass = facts.no_token_mass
    if mass is None or mass < _NO_TOKEN or facts.columns is None:
        return None
    cost = -math.log1p(-min(mass, 1 - 1e-9))
    return Finding(
        name="padded_head",
        says=f"{mass:.1%} of the student's mass is in the {facts.columns - facts.vocab_size} "
        f"columns of its head that are no token of the store, which costs {cost:.3f} nats of "
        "every target",
        remedy="Leave vocab_size out of the student's configuration, or cut a student that has "
        f"them: model.resize_token_embeddings({facts.vocab_size})",
        evidence={"no_token_mass": mass, "columns": facts.columns, "vocab_size": facts.vocab_size},
    )


def _teacher_no_better_than_counting(facts: Facts) -> Finding | None:
    counting, teacher = facts.counting_loss, facts.teacher_loss
    if not _judges_teacher(facts) or counting is None or teacher is None:
        return None
    if teacher < _BLIND * counting:
        return None
    guess = math.log(facts.vocab_size)
    return Finding(
        name="teacher_no_better_than_counting",
        says=f"the teacher knows no more of this text than how frequent tokens are: its loss is "
        f"{teacher:.3f} nats, that of counting them {counting:.3f}, of a blind guess {guess:.3f}",
        remedy="Look whether the teacher's weights and tokenizer belong together and whether this "
        "is text that it knows (`logitstore audit`); else take another teacher, or --alpha 0",
        evidence={"teacher_loss": teacher, "counting_loss": counting, "guess": guess},
    )


def _judges_teacher(facts: Facts) -> bool:
    """Whether the teacher's loss on these targets says how much it knows.

    Of a student's own answers it does not, which are likelier to it than to any teacher, nor of
    targets that were chosen because the teacher guesses them badly.
    """
    recipe = facts.recipe
    return recipe.alpha > 0 and recipe.view != "samples" and not facts.chosen_by_loss


def _teacher_worse(facts: Facts) -> Finding | None:
    student, teacher, error = facts.student_loss, facts.teacher_loss, facts.loss_error
    if not _judges_teacher(facts) or student is None or teacher is None or error is None:
        return None
    if _teacher_no_better_than_counting(facts) is not None:  # which says more
        return None
    worse = teacher - student
    if worse <= max(_LEAST_NATS, _ERRORS * error):
        return None
    learnt = " It has learnt from this text: measure on held-out text too" * facts.trained_on
    return Finding(
        name="teacher_worse",
        says=f"the teacher is worse than the student here: a loss of {teacher:.3f} nats against "
        f"{student:.3f}, {worse:.3f} more with a standard error of {error:.3f}",
        remedy=f"Lower --alpha, so that the true tokens lead (0 is without teacher), or take a "
        f"teacher that knows this text.{learnt}".removesuffix("."),
        evidence={"teacher_loss": teacher, "student_loss": student, "loss_error": error},
    )


def _weak_divergence(facts: Facts) -> Finding | None:
    recipe, ratio = facts.recipe, facts.gradient_ratio
    student, teacher = facts.student_loss, facts.teacher_loss
    weighed = recipe.times_temperature_squared or recipe.temperature <= 1
    if recipe.alpha == 0 or weighed or ratio is None or student is None or teacher is None:
        return None
    if ratio >= _NO_SAY or student - teacher < _FAR:
        return None
    return Finding(
        name="weak_divergence",
        says=f"the teacher has hardly a say: --loss {recipe.loss} is not weighed by T^2, and at "
        f"T = {recipe.temperature:g} its gradient is {ratio:.1%} of that of cross-entropy, though "
        f"the student's loss is {student:.3f} nats and the teacher's {teacher:.3f}",
        remedy="Take --temperature 1, or --loss forward_kl",
        evidence={
            "gradient_ratio": ratio,
            "temperature": recipe.temperature,
            "student_loss": student,
            "teacher_loss": teacher,
        },
    )


def _temperature_too_high(facts: Facts) -> Finding | None:
    recipe = facts.recipe
    if recipe.alpha == 0 or recipe.temperature <= 1:
        return None
    evidence = {"temperature": recipe.temperature}
    mass, tempered = facts.retained_mass, facts.tempered_mass
    even, tempered_even = facts.evenness, facts.tempered_evenness
    drawn = facts.drawn_evenness
    if (
        mass is not None
        and tempered is not None
        and (tempered < _MOSTLY <= mass or tempered < _LEFT * mass)
    ):
        says = f"the kept entries hold {tempered:.1%} of the teacher's mass, at T = 1 {mass:.1%}"
        evidence |= {"tempered_mass": tempered, "retained_mass": mass}
    elif (
        even is not None and tempered_even is not None and even < _UNEVEN and tempered_even > _EVEN
    ):
        says = (
            f"the kept entries are nearly alike: their entropy is {tempered_even:.1%} of that of "
            f"equal ones, at T = 1 {even:.1%}"
        )
        evidence |= {"tempered_evenness": tempered_even, "evenness": even}
    elif drawn is not None and drawn > _EVEN_DRAWN:
        says = f"the teacher's entropy is {drawn:.1%} of log V, so draws are of nearly any token"
        evidence |= {"drawn_evenness": drawn}
    else:
        return None
    return Finding(
        name="temperature_too_high",
        says="the temperature is too high for what is stored: "
        f"at T = {recipe.temperature:g} {says}",
        remedy="Take a lower --temperature (1 is a good start), or dump with more entries (--k)",
        evidence=evidence,
    )


def _biased_targets(facts: Facts) -> Finding | None:
    recipe = facts.recipe
    mass = facts.retained_mass if facts.tempered_mass is None else facts.tempered_mass
    if recipe.alpha < _SOFT_ALONE or recipe.view not in ("bucket", "shares"):
        return None
    evidence = {"alpha": recipe.alpha}
    outside, support = "the mass outside of the kept tokens, which the store does not know,", ""
    if recipe.view == "bucket":
        if mass is None or 1 - mass < _BIASED[recipe.tail]:
            return None
        outside = f"{1 - mass:.1%} of the teacher's mass"
        evidence["retained_mass"] = mass
    if facts.support_mass is not None and mass is not None:
        support = (
            f" (in the kept tokens the student has {facts.support_mass:.1%}, the teacher "
            f"{mass:.1%})"
        )
        evidence["support_mass"] = facts.support_mass
    what = {
        "dropped": f"teaches that {outside} is nothing",
        "label": f"gives {outside} to the true token",
    }.get(recipe.tail, f"tells of {outside} only how much it is, not which tokens have it")
    return Finding(
        name="biased_targets",
        says=f"soft labels alone (alpha {recipe.alpha:g}) on biased targets: --loss "
        f"{recipe.loss} {what}{support}",
        remedy="Give the true tokens a share (--alpha 0.9 or less), "
        + (
            "take --loss forward_kl, "
            if recipe.view == "bucket" and recipe.loss != "forward_kl"
            else ""
        )
        + "or dump with --sparsify unbiased",
        evidence=evidence,
    )


def _small_head(facts: Facts) -> Finding | None:
    recipe, mass = facts.recipe, facts.retained_mass
    if recipe.alpha == 0 or recipe.view != "bucket" or mass is None or mass >= _MOSTLY:
        return None
    return Finding(
        name="small_head",
        says=f"the store keeps too little of its teacher: {mass:.1%} of the mass is in the kept "
        "entries, and of the rest the loss knows only how much it is",
        remedy="Dump with more entries (--k), or with --sparsify unbiased, whose draws tell of "
        "all tokens",
        evidence={"retained_mass": mass},
    )


def _one_draw(facts: Facts) -> Finding | None:
    recipe = facts.recipe
    epochs, repeats = recipe.epochs, recipe.repeats
    if recipe.alpha == 0 or recipe.view != "weights" or epochs is None:
        return None
    if epochs < _EPOCHS_A_DRAW * repeats:
        return None
    # Where most of the teacher is in exact entries, the noise is of the little that is drawn.
    mass = facts.retained_mass
    if not recipe.redrawn and (mass is None or mass >= _MOSTLY):
        return None
    draws = "one draw" if repeats == 1 else f"{repeats} draws"
    return Finding(
        name="one_draw",
        says=f"{epochs:.3g} epochs over {draws} of each target: the same drawn tokens come back, "
        "and their noise is learnt as if the teacher had said it",
        remedy=f"Dump with {'' if recipe.redrawn else '--sparsify unbiased '}"
        f"--repeats {math.ceil(epochs)}, or take fewer --epochs",
        evidence={"epochs": epochs, "repeats": repeats},
    )


def _past_best(facts: Facts) -> Finding | None:
    course = facts.held_out
    if course is None or facts.kept_best or course.last <= course.least + _PAST:
        return None
    return Finding(
        name="past_best",
        says=f"the run went on past its best: the held-out loss was {course.least:.3f} after step "
        f"{course.least_step}, and is {course.last:.3f} after step {course.last_step}",
        remedy="Give --keep-best, --patience, or fewer --steps",
        evidence={"least": course.least, "step": course.least_step, "last": course.last},
    )


RULES = (
    Rule(name="foreign_ids", ask=_foreign_ids),
    Rule(name="diverged", ask=_diverged),
    Rule(name="no_better_than_counting", ask=_no_better_than_counting),
    Rule(name="padded_head", ask=_padded_head, early=True),
    Rule(name="teacher_no_better_than_counting", ask=_teacher_no_better_than_counting, early=True),
    Rule(name="teacher_worse", ask=_teacher_worse, early=True),
    Rule(name="weak_divergence", ask=_weak_divergence),
    Rule(name="temperature_too_high", ask=_temperature_too_high, early=True),
    Rule(name="biased_targets", ask=_biased_targets, early=True),
    Rule(name="small_head", ask=_small_head, early=True),
    Rule(name="one_draw", ask=_one_draw, early=True),
    Rule(name="past_best", ask=_past_best),
)
