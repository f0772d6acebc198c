"""What a loss declares, what it is given, and the plain formula that it is compared with.

A distribution over V tokens is represented by the K entries of a stored target and one bucket,
which has the probability of all other tokens together. Merging outcomes never increases an
f-divergence (the data processing inequality): one between two distributions in this form is a lower
bound of that between the whole ones, and equal to it where the bucket is empty. A loss is a
differentiable function of student and teacher in this form; the fused pass takes its gradient from
autograd. A new loss is one file and one line of `LOSSES`; the conformance tests run over that
table.

A loss of sampled tokens looks at no entries: what it is given of a row are three probabilities of
the token that was drawn there, by the student, by the teacher, and by the model that drew it.

Nothing here imports torch, so that a command line can name every loss without the cost of it.

Shapes: N rows, K entries, R rows of whole distributions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from logitstore.plumbing import Option

__all__ = ["Bound", "DenseRows", "HeadTail", "Loss", "LossInputs", "SampledTokens", "TailUse"]

Bound = Literal["lower", "upper", "none", "same"]
TailUse = Literal["bucket", "apart", "dropped", "label", "unseen"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeadTail:
    """Log-probabilities of K entries and of the bucket that holds everything else.

    Unused entries and empty buckets hold `EMPTY_TAIL`: finite, and exactly 0 after `exp`, so that
    `p * (log p - log q)` is 0 there and so is its gradient.
    """

    log_head_NK: Tensor  # float32, nats
    log_tail_N: Tensor  # float32, nats


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SampledTokens:
    """The probabilities of N true tokens, where those were drawn from a known distribution."""

    log_teacher_N: Tensor  # float32, nats, at T = 1
    log_sampler_N: Tensor  # float32, nats: with which each was drawn


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LossInputs:
    """Student and teacher of N targets over the same entries, both at the temperature T."""

    student: HeadTail
    teacher: HeadTail
    used_NK: Tensor  # bool: which entries are in use; all others are padding, or in the bucket
    is_label_NK: Tensor  # bool: which entry is the true token; none where that is in the bucket
    log_label_N: Tensor  # float32, nats: the student's log-probability of the true token
    sampled: SampledTokens | None = None  # of the true tokens; for losses of sampled tokens


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DenseRows:
    """Student and teacher of R targets as whole distributions, both at the temperature T."""

    log_student_RV: Tensor  # float64, nats
    log_teacher_RV: Tensor  # float64, nats
    kept_RV: Tensor  # bool: which tokens a target keeps as entries; all others are its tail
    label_ids_R: Tensor  # int64: the true token
    log_sampler_R: Tensor | None = None  # float64, nats: with which it was drawn, where it was

    def pooled(self, logprobs_RV: Tensor) -> Tensor:
        """The kept tokens, and as one more column all others together, [R, V + 1], nats.

        Args:
            logprobs_RV: Log-probabilities of all tokens: the student's or the teacher's.

        A token that is not kept holds 0, and so does an empty last column: the difference of the
        two sides is 0 there.
        """
        import torch

        mass_R1 = logprobs_RV.exp().masked_fill(self.kept_RV, 0.0).sum(dim=1, keepdim=True)
        empty_R1 = self.kept_RV.all(dim=1, keepdim=True)
        rest_R1 = mass_R1.masked_fill(empty_R1, 1.0).log()
        return torch.cat((logprobs_RV.masked_fill(~self.kept_RV, 0.0), rest_R1), dim=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """A divergence between teacher and student, and all that the rest of the program asks of it.

    `divergence` gives float32 [N] in nats, at least 0 and 0 for equal sides, and must be
    differentiable in the student. `reference` is the same in the plainest form, over whole
    distributions in float64, [R]: written from the definition, not from `divergence`.

    `tail` says what the loss makes of the teacher's bucket: it is compared with the student's, as
    an entry is ("bucket") or at a weight of its own ("apart"), it is left out and the head
    renormalised ("dropped"), its mass is given to the true token ("label"), or neither it nor any
    entry is looked at ("unseen").

    `linear` says that the gradient on the student is linear in the teacher, over given entries and
    bucket: the divergence of a mixture of two teachers is the mixture of theirs, up to a term that
    no student changes (for forward KL the teacher's entropy).

    `bound` says what its value over entries and one bucket is of its value where all tokens are
    entries: a lower bound, an upper one, neither, or the same value. Where the bucket is empty both
    are equal.

    `of_samples` says that it is a loss of sampled tokens. It is given `LossInputs.sampled`, serves
    stores that hold with which probability each token was drawn, and asks nothing of their entries.

    `options` are what a user may set: options of `fit` by their names, each with its default here.
    The two functions are given their values by keyword; those of a `Loss` have got them already.
    `sets_apart` is the one, if any, that says how many entries the loss treats unlike all others: a
    store must keep more.
    """

    name: str  # on the command line and in run.json
    summary: str  # a sentence, for help texts and docs
    divergence: Callable[..., Tensor]  # of LossInputs
    reference: Callable[..., Tensor]  # of DenseRows
    linear: bool  # in the teacher, as far as the student's gradient goes
    tail: TailUse
    bound: Bound
    times_temperature_squared: bool  # it is weighed by T^2, so that its gradient keeps its size
    options: Mapping[Option, Any] = field(default_factory=dict, hash=False)
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)  # of options, by name
    sets_apart: str | None = None
    of_samples: bool = False

    @property
    def serves_drawn(self) -> bool:
        """Whether drawn weights can stand for the teacher, without bias.

        It must be linear, and ask nothing of the tail but what it weighs: drawn entries have no
        bucket, so a loss that gives the tail's mass to the label would find none to give, and one
        that weighs the tail apart would weigh as the head what was drawn of the tail. A loss of
        sampled tokens looks at no weights.
        """
        return self.of_samples or (self.linear and self.tail == "bucket")

    @property
    def serves_mean(self) -> bool:
        """Whether the mean of its values by several teachers teaches as the teachers' mean does.

        It must be linear, over entries and bucket of each store's own; a loss that weighs the tail
        apart would weigh as the head of one what is the tail of another. For a loss of sampled
        tokens the mean's own probability of the token is taken.
        """
        return self.of_samples or (self.linear and self.tail != "apart")

    def with_options(self, **values: Any) -> Loss:
        """The same loss with other values of its options; those that are not given stay.

        Args:
            values: The values by the names of options.

        Raises SettingError for a value that is out of range, TypeError for an option that the loss
        does not have.
        """
        known = {one.name: one for one in self.options}
        for name in values:
            if name not in known:
                raise TypeError(f"loss {self.name!r} takes no option {name!r}")
        checked = {name: known[name].check(value) for name, value in values.items()}
        return replace(self, values={**self.values, **checked})

    def __post_init__(self) -> None:
        """Fill in defaults; raise TypeError for a declaration that leaves something open."""
        values = {one.name: default for one, default in self.options.items()}
        for declared, fits in (
            ("name", isinstance(self.name, str) and self.name.isidentifier()),
            ("summary", isinstance(self.summary, str) and self.summary.endswith(".")),
            ("divergence", callable(self.divergence)),
            ("reference", callable(self.reference)),
            ("linear", isinstance(self.linear, bool)),
            ("tail", self.tail in get_args(TailUse)),
            ("bound", self.bound in get_args(Bound)),
            ("times_temperature_squared", isinstance(self.times_temperature_squared, bool)),
            ("values", self.values.keys() <= values.keys()),
            ("sets_apart", self.sets_apart is None or self.sets_apart in values),
            ("of_samples", self.of_samples is (self.tail == "unseen")),
        ):
            if not fits:
                raise TypeError(
                    f"loss {self.name!r}: {declared} cannot be {getattr(self, declared)!r}"
                )
        values |= self.values
        object.__setattr__(self, "values", values)
        if values:
            object.__setattr__(self, "divergence", partial(self.divergence, **values))
            object.__setattr__(self, "reference", partial(self.reference, **values))
