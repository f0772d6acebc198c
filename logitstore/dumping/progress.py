"""How far a dump is: what this process did and what others committed, for who wants to know."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from logitstore.progress import Clock, OnProgress, Pace, Progress

if TYPE_CHECKING:
    from logitstore.format.manifest import Commit
    from logitstore.format.plan import Plan, WorkUnit
    from logitstore.store.layout import StoreLayout
    from logitstore.targets.documents import Document

__all__ = ["Tally"]


class Tally:
    """Counts what this process does, and what others committed, for whoever wants to know.

    layout: of the store, whose commits are counted.
    plan: its work units.
    on_progress: called with a `Progress`, or None.
    clock: gives seconds.

    The time left is that of the teacher and that of tokenising, each at its own pace, shared with
    the processes that have committed units meanwhile. Units that were committed before count for
    the share that is done, and for nothing else.
    """

    def __init__(
        self,
        *,
        layout: StoreLayout,
        plan: Plan,
        on_progress: OnProgress | None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.layout = layout
        self.plan = plan
        self.on_progress = on_progress
        self.targets = 0
        self._clock = clock
        self._records = max(1, sum(unit.records for unit in plan.units))
        self._shares: dict[str, float] = {}  # of the units that this process works on, 0 to 1
        self._targets, self._taught, self._tokenised = Pace(), Pace(), Pace()  # shares of all
        self._read = 0.0  # of all, tokenised by this process
        # Replaced, never changed: the writing thread renews it while the other one reads it.
        self._commits: dict[str, Commit] = {}
        self._before = self._began = clock()
        self._number = 0  # of the unit at work
        self._look()
        self._given = self._of_others()
        self._tell("")

    def reading(self, unit: WorkUnit) -> None:
        """The records of `unit` are about to be tokenised."""
        self._before = self._clock()
        self._shares[unit.name] = 0.0
        self._number = 1 + [one.name for one in self.plan.units].index(unit.name)
        self._tell(", tokenising")

    def waiting(self, unit: WorkUnit, holder: str) -> None:
        """Another process works on `unit`, and nothing else is left.

        unit: the first of them.
        holder: who works on it.
        """
        self._number = 1 + [one.name for one in self.plan.units].index(unit.name)
        self._tell(f", waiting for {holder}")

    def read(self, unit: WorkUnit) -> None:
        """The records of `unit` are documents now."""
        self._tokenised.add(unit.records / self._records, seconds=self._lap())
        self._read += unit.records / self._records
        self._tell("")

    def batch(
        self, unit: WorkUnit, batch: Sequence[Document], documents: Sequence[Document]
    ) -> None:
        """One batch of `unit` went through the teacher.

        unit: the one at work.
        batch: the documents that are done now.
        documents: all documents of the unit.
        """
        targets = sum(document.targets for document in batch)
        share = sum(map(len, batch)) / sum(map(len, documents))
        seconds = self._lap()
        self.targets += targets
        self._targets.add(targets, seconds=seconds)
        self._taught.add(share * unit.records / self._records, seconds=seconds)
        self._shares[unit.name] += share
        self._tell("")

    def unit_done(self) -> None:
        """A unit was committed: look what else is there by now."""
        self._look()
        self._tell("")

    def _look(self) -> None:
        missing = [unit for unit in self.plan.units if unit.name not in self._commits]
        found = {unit.name: self.layout.read_commit(unit) for unit in missing}
        there = {name: commit for name, commit in found.items() if commit is not None}
        self._commits = self._commits | there
        commits = self._commits.values()
        self._stored_targets = sum(block.targets for one in commits for block in one.blocks)
        self._stored_bytes = sum(one.size for commit in commits for one in commit.objects)

    def _lap(self) -> float:
        now = self._clock()
        seconds, self._before = now - self._before, now
        return seconds

    def _of_others(self) -> float:
        """The share of the corpus that was committed and is not this process's work."""
        units = self.plan.units
        there = [one for one in units if one.name in self._commits and one.name not in self._shares]
        return sum(one.records for one in there) / self._records

    def _fraction(self) -> float:
        units = [one for one in self.plan.units if one.name in self._shares]
        mine = sum(one.records * min(1.0, self._shares[one.name]) for one in units)
        return min(1.0, self._of_others() + mine / self._records)

    def _seconds_left(self, fraction: float) -> float | None:
        rest = 1.0 - fraction
        teaching = self._taught.seconds_for(rest)
        if teaching is None:
            return None
        unread = 1.0 - max(self._read + self._of_others(), fraction)
        alone = teaching + (self._tokenised.seconds_for(unread) or 0.0)
        # What others have committed since this process began, they go on to do.
        elapsed = self._clock() - self._began
        theirs = (self._of_others() - self._given) / elapsed if elapsed > 0 else 0.0
        return rest / (rest / alone + theirs) if alone > 0 else 0.0

    def _tell(self, doing: str) -> None:
        if self.on_progress is None:
            return
        units, fraction = len(self.plan.units), self._fraction()
        facts = []
        if self._stored_targets:
            facts.append(f"{self._stored_bytes / self._stored_targets:.1f} bytes/target")
        self.on_progress(
            Progress(
                stage="dumping",
                detail=f"unit {self._number} of {units}{doing}" if self._number else "",
                fraction=fraction,
                done=self.targets,
                unit="targets",
                rate=self._targets.per_second,
                seconds_left=self._seconds_left(fraction),
                facts=tuple(facts),
            )
        )
