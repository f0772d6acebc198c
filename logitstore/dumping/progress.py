"""How far a dump is: what this process did and what others committed, for who wants to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from logitstore.format.manifest import Commit
    from logitstore.format.plan import Plan, WorkUnit
    from logitstore.store.layout import StoreLayout
    from logitstore.targets.documents import Document

__all__ = ["DumpProgress", "OnProgress", "Tally"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpProgress:
    """How far a dump is, in this process."""

    fraction: float  # of the corpus, 0..1
    targets: int  # of this run
    stored_targets: int  # committed so far
    stored_bytes: int  # of the committed shards
    units: int
    units_done: int


OnProgress: TypeAlias = Callable[[DumpProgress], None]


class Tally:
    """Counts what this process does, and what others committed, for whoever wants to know.

    layout: of the store, whose commits are counted.
    plan: its work units.
    on_progress: called with a `DumpProgress`, or None.
    """

    def __init__(self, *, layout: StoreLayout, plan: Plan, on_progress: OnProgress | None) -> None:
        self.layout = layout
        self.plan = plan
        self.on_progress = on_progress
        self.targets = 0
        self._records = max(1, sum(unit.records for unit in plan.units))
        self._records_here = 0.0
        # Replaced, never changed: the writing thread renews it while the other one reads it.
        self._commits: dict[str, Commit] = {}
        self.unit_done()

    def batch(
        self, unit: WorkUnit, batch: Sequence[Document], documents: Sequence[Document]
    ) -> None:
        """One batch of `unit` went through the teacher.

        unit: the one at work.
        batch: the documents that are done now.
        documents: all documents of the unit.
        """
        self.targets += sum(document.targets for document in batch)
        self._records_here += unit.records * len(batch) / len(documents)
        self._tell()

    def unit_done(self) -> None:
        """A unit was committed: look what else is there by now."""
        missing = [unit for unit in self.plan.units if unit.name not in self._commits]
        found = {unit.name: self.layout.read_commit(unit) for unit in missing}
        there = {name: commit for name, commit in found.items() if commit is not None}
        self._commits = self._commits | there
        self._tell()

    def _tell(self) -> None:
        if self.on_progress is None:
            return
        commits = self._commits
        done = sum(unit.records for unit in self.plan.units if unit.name in commits)
        blocks = [block for commit in commits.values() for block in commit.blocks]
        self.on_progress(
            DumpProgress(
                fraction=min(1.0, max(done, self._records_here) / self._records),
                targets=self.targets,
                stored_targets=sum(block.targets for block in blocks),
                stored_bytes=sum(one.size for commit in commits.values() for one in commit.objects),
                units=len(self.plan.units),
                units_done=len(commits),
            )
        )
