"""Which targets of the stores of a run count in the soft part of its loss.

A share is of the targets of its store: the value at which it is cut off is measured once, on blocks
that are spread evenly over the store, and written into run.json. So a target is selected or not
whatever batch, rank or epoch it comes in. Each of several stores has a cut of its own, for teachers
differ in how sure they are.

Shapes: R targets (rows).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitstore import SettingError, StoreError
from logitstore.plumbing import TargetRule, sparsifier_of
from trainer.data.answer_files import labels_only
from trainer.data.mixture import MixedStore, name_of
from trainer.data.spans import has_spans
from trainer.data.store import reading_ahead

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logitstore import SparseTargets
    from trainer.data.store import StoreLike

__all__ = [
    "Cut",
    "RowWeights",
    "Selection",
    "measure_selection",
    "refuse_unselectable",
    "uneven_shares",
]

# The standard error of a share of 0.2 among a million targets is 4e-4, were they independent.
_MEASURED = 1 << 20
_UNEVEN = 0.25  # of the share that was asked for; more than that is told


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Where the targets of one store are cut off."""

    value: float  # nats
    share: float  # of the targets that it was measured on
    targets: int  # on which it was measured


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RowWeights:
    """What the two parts of a row's loss are multiplied by."""

    soft_R: torch.Tensor  # float32, of the divergence from the teacher
    label_R: torch.Tensor  # float32, of the cross-entropy with the true token

    def rows(self, index: slice) -> RowWeights:
        """Those of the rows at `index`, as views."""
        return RowWeights(soft_R=self.soft_R[index], label_R=self.label_R[index])

    def to(self, device: torch.device | str) -> RowWeights:
        """The same on `device`."""
        return RowWeights(soft_R=self.soft_R.to(device), label_R=self.label_R.to(device))


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The rule of a run, what becomes of other labels, and the cut of each store."""

    rule: TargetRule
    labels: str  # "all" or "selected": whose true tokens count
    cuts: tuple[Cut, ...]

    @staticmethod
    def of(rule: TargetRule, *, labels: str, content: Sequence[dict[str, Any]]) -> Selection:
        """The selection whose cuts stand in a run.json."""
        return Selection(rule=rule, labels=labels, cuts=tuple(Cut(**one) for one in content))

    def to_json(self) -> list[dict[str, Any]]:
        """The cuts as run.json has them, in order of the stores."""
        return [asdict(one) for one in self.cuts]

    def selected_R(self, targets: SparseTargets, *, part: int) -> np.ndarray:
        """bool [R]: which targets are selected.

        Args:
            targets: Of one store.
            part: The number of that store among several.

        Raises StoreError for a target whose value is no number: it cannot be compared.
        """
        values_R = self.rule.values_R(targets)
        _refuse_unknown(values_R, self.rule, place=f"store {part + 1} of {len(self.cuts)}")
        return self.rule.taken_R(values_R, cut=self.cuts[part].value)

    def weights(self, selected_R: torch.Tensor, *, targets: int, selected: int) -> RowWeights:
        """What the loss of each row is multiplied by before it is divided by `targets`.

        The soft part is so a mean over the selected targets of the step, and the label's a mean
        over all or over the same ones.

        Args:
            selected_R: bool.
            targets: Counted targets of the step.
            selected: Those of them that are selected.
        """
        soft_R = selected_R.float() * (targets / max(1, selected))
        return RowWeights(
            soft_R=soft_R,
            label_R=soft_R if self.labels == "selected" else torch.ones_like(soft_R),
        )


def refuse_unselectable(store: StoreLike | Any, rule: TargetRule) -> None:
    """Raise SettingError where a store does not know what its targets are to be selected by.

    Args:
        store: One store, or several as one.
        rule: The rule.
    """
    for one in _stores(store):
        if has_spans(one.spec):
            problem = "targets that are spans of text are not selected"
        elif getattr(one.spec, "averaged", ()):
            problem = "the entropy and loss of several teachers' mean are not known"
        elif labels_only(one.spec):
            problem = "these are answers, and no teacher has read them"
        elif not sparsifier_of(one.spec.sparsifier).targets.knows_whole:
            problem = (
                "the store was imported, and what it comes from does not know the teacher's entropy"
                " and loss"
            )
        else:
            continue
        raise SettingError(
            problem,
            place=name_of(one),
            found=f"--select {rule}",
            remedy="Leave out --select, or let a teacher read the text with `logitstore dump`",
        )


def measure_selection(store: StoreLike | Any, rule: TargetRule, *, labels: str) -> Selection:
    """The selection of a rule, its cuts measured on the stores: equal stores give equal cuts.

    Args:
        store: One store, or several as one, of which `refuse_unselectable` lets the rule pass, at
            the draw that is read.
        rule: The rule.
        labels: Whose true tokens count, "all" or "selected".

    Raises SettingError where nothing is selected, StoreError where a target that is looked at has
    no value to be selected by, and what reading a store raises.
    """
    return Selection(
        rule=rule, labels=labels, cuts=tuple(_measured(one, rule) for one in _stores(store))
    )


def uneven_shares(store: StoreLike | Any, selection: Selection) -> list[str]:
    """A sentence for each store of which another share is taken than the rule says.

    So it is where many targets have the value at which they are cut off: those of a teacher that
    is always sure all have an entropy of 0.

    Args:
        store: One store, or several as one.
        selection: What was measured on it.
    """
    rule = selection.rule
    return [
        f"{name_of(one)}: --select {rule} takes {cut.share:.1%} of the targets: many have "
        f"{'an' if rule.measure == 'entropy' else 'a'} {rule.measure} of {cut.value:.4g} nats, and "
        "those of one value are taken together"
        for one, cut in zip(_stores(store), selection.cuts, strict=True)
        if rule.is_share and abs(cut.share - rule.value) > _UNEVEN * rule.value
    ]


def _refuse_unknown(values_R: np.ndarray, rule: TargetRule, *, place: str) -> None:
    """Raise StoreError for values that are no numbers, which cannot be compared with a cut."""
    unknown = int(np.isnan(values_R).sum())
    if unknown:
        raise StoreError(
            f"targets have no {rule.measure} of the teacher to be selected by",
            place=place,
            found=f"{unknown} of {len(values_R)} targets",
            remedy="Leave out --select, or let a teacher read the text with `logitstore dump`",
        )


def _stores(store: Any) -> list[Any]:
    """The store, or those that it is made of."""
    return [one.store for one in store.parts] if isinstance(store, MixedStore) else [store]


def _measured(store: StoreLike, rule: TargetRule) -> Cut:
    found = []
    for number, targets in _sampled(store):
        found.append(rule.values_R(targets))
        _refuse_unknown(found[-1], rule, place=f"{name_of(store)}: block {number}")
    values_R = np.concatenate(found)
    cut = rule.cut_of(values_R) if rule.is_share else rule.value
    taken_R = rule.taken_R(values_R, cut=cut)
    if not taken_R.any():
        raise SettingError(
            f"no target of {len(values_R):,} that were looked at would be selected",
            place=f"{name_of(store)}: --select",
            found=str(rule),
            allowed=f"the {rule.measure} is {values_R.min():.4g} to {values_R.max():.4g} nats",
        )
    return Cut(value=cut, share=float(taken_R.mean()), targets=len(values_R))


def _sampled(store: StoreLike) -> Iterator[tuple[int, SparseTargets]]:
    """Number and targets of blocks spread evenly over a store; of all where it is small."""
    blocks = len(store.blocks)
    total = sum(one.targets for one in store.blocks)
    wanted = blocks if total <= _MEASURED else max(1, -(-blocks * _MEASURED // total))
    numbers = [(2 * one + 1) * blocks // (2 * wanted) for one in range(wanted)]
    reader = reading_ahead(store)
    for number in numbers:
        reader.expect(number)
    for number in numbers:
        yield number, reader.read_block(number).targets
