"""A trial store: some documents written as a dump writes them, to measure what a store costs.

Stored bytes are of three kinds: those that grow with the targets (entries, scalars, tokens), those
of every shard (its table of ids, the container's own, its commit, its lines of plan and manifest),
and those that a store has once.

A target also costs less in a large block than in a small one, because compression starts anew in
each block: r(n) = r + e n^(-1/3) bytes for n targets. To measure e, a quarter of the documents is
written a second time. On `teacher/` top-64 takes 83.1, 80.3, 78.7, 77.5 bytes per target with
1,257, 5,014, 20,910 and 83,643 targets; from the first two the formula predicts 77.6 for the last.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from logitstore.corpus.tokenizer import tokenizer_files
from logitstore.dumping.description import store_spec
from logitstore.dumping.states import head_of
from logitstore.format.plan import Plan, WorkUnit
from logitstore.store.commit import StoreWriter
from logitstore.store.layout import PLAN, StoreLayout
from logitstore.store.writer import UnitWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from logitstore.dumping.job import Job
    from logitstore.format.manifest import Commit
    from logitstore.targets.documents import StoredDocument

__all__ = ["StoreCosts", "TrialStore"]

# Columns whose size does not depend on the number of targets of a shard.
_SHARD_COLUMNS = ("ranking_id", "container")
_PART = 4  # one of this many documents is written a second time
_LEARNING = 1 / 3  # the exponent of the formula above


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreCosts:
    """What a store of this kind costs, in bytes, and the mass that its targets keep."""

    per_target: float  # in blocks of the trial's size
    learnt: float  # the part of it that an infinitely large block would save
    per_shard: float
    once: float
    trial_targets: float  # targets of a block in the trial
    block_targets: int  # targets of a full block
    retained_mass: float  # mean mass of the exact entries of a target

    def bytes(self, *, targets: int, shards: int) -> float:
        """Bytes of a store.

        Args:
            targets: The number of its targets.
            shards: The number of its shards, which are of equal size.
        """
        in_shard = targets / shards
        in_block = in_shard / math.ceil(in_shard / self.block_targets)
        saved = self.learnt * (1 - (self.trial_targets / in_block) ** _LEARNING)
        return (self.per_target - saved) * targets + self.per_shard * shards + self.once


class TrialStore:
    """Shards in a folder.

    Args:
        folder: Where they are written; the caller deletes it.
        job: The job whose options they are written with.
    """

    def __init__(self, folder: str, job: Job) -> None:
        self.targets = 0
        self.seconds = 0.0  # spent on encoding, writing, syncing and reading back
        self._job = job
        self._spec = store_spec(job, Plan(units=()))
        self._whole, self._part = (
            StoreWriter(StoreLayout.at(f"{folder}/{name}")) for name in ("whole", "part")
        )
        self._units: list[WorkUnit] = []

    def write(self, documents: Sequence[StoredDocument], *, like: WorkUnit) -> None:
        """Write one shard.

        Args:
            documents: Its documents with their targets.
            like: A unit of the corpus, from which the plan's entry of the shard is copied.
        """
        unit = replace(like, name=f"{len(self._units):06d}")
        started = time.monotonic()
        UnitWriter.of(self._whole, self._spec).write(unit, documents, skipped=0)
        self.seconds += time.monotonic() - started
        targets = sum(stored.document.targets for stored in documents)
        part = documents[::_PART]
        if targets < self._spec.block_targets and len(part) < len(documents):
            UnitWriter.of(self._part, self._spec).write(unit, part, skipped=0)
        self.targets += targets
        self._units.append(unit)

    def costs(self) -> StoreCosts:
        """Seal the store and measure it. At least one shard must have been written."""
        plan, layout = Plan(units=tuple(self._units)), self._whole.layout
        files = tokenizer_files(self._job.tokenizer)
        self._whole.begin(self._spec, plan, files, head=head_of(self._job.teacher))
        self._whole.seal(plan)
        commits = self._whole.committed(plan)
        small = [PLAN, *(layout.commit_name(commit.unit) for commit in commits)]
        told = sum(layout.storage.size(name) or 0 for name in small)
        grown = sum(_grown_bytes(commit) for commit in commits)
        stored = sum(one.size for commit in commits for one in commit.objects)
        return StoreCosts(
            per_target=grown / self.targets,
            learnt=_learnt(commits, self._part.committed(plan)),
            per_shard=(stored - grown + told) / len(commits),
            once=layout.stored_bytes(commits) - stored - told,
            trial_targets=self.targets / sum(len(commit.blocks) for commit in commits),
            block_targets=self._spec.block_targets,
            retained_mass=sum(commit.sums["head_mass"] for commit in commits) / self.targets,
        )


def _learnt(wholes: Iterable[Commit], parts: Iterable[Commit]) -> float:
    """Bytes per target that an infinitely large block would save, from shards with a part."""
    part_of = {commit.unit: commit for commit in parts}
    pairs = [(whole, part_of[whole.unit]) for whole in wholes if whole.unit in part_of]
    whole_targets = sum(_targets(whole) for whole, _ in pairs)
    part_targets = sum(_targets(part) for _, part in pairs)
    if part_targets == whole_targets:
        return 0.0
    in_whole = sum(_grown_bytes(whole) for whole, _ in pairs) / whole_targets
    in_part = sum(_grown_bytes(part) for _, part in pairs) / part_targets
    return max(0.0, in_part - in_whole) / ((whole_targets / part_targets) ** _LEARNING - 1)


def _grown_bytes(commit: Commit) -> int:
    """Bytes of the columns that grow with the targets."""
    return sum(size for name, size in commit.column_bytes.items() if name not in _SHARD_COLUMNS)


def _targets(commit: Commit) -> int:
    return sum(block.targets for block in commit.blocks)
