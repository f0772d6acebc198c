"""Documents in, committed work units out.

A unit's documents are cut into blocks, encoded, laid out in a fresh attempt, synced, hashed, read
back and compared, and only then committed.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from logitstore.codec import codec_for
from logitstore.errors import CorruptionError
from logitstore.format.columns import Columns
from logitstore.format.manifest import BlockCounts, Commit, StoredObject
from logitstore.store.containers import CONTAINERS
from logitstore.store.files import explain_io, fsync_tree, sha256_of
from logitstore.targets.documents import DocumentBlock, StoredDocument

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from logitstore.codec import Codec
    from logitstore.format.plan import WorkUnit
    from logitstore.format.spec import StoreSpec
    from logitstore.store.commit import StoreWriter
    from logitstore.store.containers import Container

__all__ = ["UnitWriter"]

_Written: TypeAlias = tuple[tuple[StoredObject, ...], dict[str, int]]  # and bytes of each column

# Where few tokens count, a block is bounded by its tokens: a long prompt with a short answer has
# dozens of tokens a target.
_TOKENS_PER_TARGET = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitWriter:
    """Writes the units of one store."""

    store: StoreWriter
    codec: Codec
    container: Container
    block_targets: int

    @staticmethod
    def of(store: StoreWriter, spec: StoreSpec) -> UnitWriter:
        """The writer that `spec` asks for."""
        return UnitWriter(
            store=store,
            codec=codec_for(spec),
            container=CONTAINERS[spec.container],
            block_targets=spec.block_targets,
        )

    def write(self, unit: WorkUnit, documents: Sequence[StoredDocument], *, skipped: int) -> bool:
        """Store and commit a unit; False if another attempt was first. `skipped` records are noted.

        Raises StorageError when the disk is full; nothing of the attempt is left then.
        """
        if not documents:
            return self.store.commit(_empty(unit, skipped))
        blocks = [DocumentBlock.join(part) for part in self._cut(documents)]
        attempt, folder = self.store.new_attempt(unit)
        try:
            with explain_io(folder):
                objects, column_bytes = self._lay_out(folder, blocks)
                commit = Commit(
                    unit=unit.name,
                    attempt=attempt,
                    objects=objects,
                    blocks=tuple(_counts(block) for block in blocks),
                    skipped=skipped,
                    column_bytes=column_bytes,
                    sums=_sums(blocks),
                )
                return self.store.commit(commit)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            if self.store.layout.read_commit(unit) is not None:
                return False  # another worker committed this unit and swept our attempt away
            raise

    def _lay_out(self, folder: Path, blocks: list[DocumentBlock]) -> _Written:
        tables = self.codec.tables(blocks)
        columns = [self.codec.encode(block, tables) for block in blocks]
        folder.mkdir(parents=True)
        self.container.write(
            folder,
            columns,
            tables,
            draws=self.codec.sparsifier.draws,
            by_entry=self.codec.by_entry,
        )
        fsync_tree(folder)
        objects = tuple(_objects(folder))
        counts = [_counts(block) for block in blocks]
        shard = self.container.open(
            folder, blocks=counts, objects=objects, entries=self.codec.entries
        )
        same = [_equal(shard.block(number), one) for number, one in enumerate(columns)]
        if not all(same) or not _equal_arrays(shard.tables, tables):
            raise CorruptionError(
                "what was read back is not what was written",
                place=folder,
                remedy="Suspect the disk or the memory of this machine",
            )
        return objects, shard.column_bytes()

    def _cut(self, documents: Sequence[StoredDocument]) -> Iterator[list[StoredDocument]]:
        """Runs of whole documents of about `block_targets` targets, at least one document each."""
        run: list[StoredDocument] = []
        targets = tokens = 0
        for stored in documents:
            targets += len(stored.targets)
            tokens += len(stored.document)
            full = targets > self.block_targets or tokens > _TOKENS_PER_TARGET * self.block_targets
            if run and full:
                yield run
                run, targets, tokens = [], len(stored.targets), len(stored.document)
            run.append(stored)
        yield run


def _objects(folder: Path) -> Iterator[StoredObject]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield StoredObject(
            path=path.relative_to(folder).as_posix(),
            size=path.stat().st_size,
            sha256=sha256_of(path),
        )


def _counts(block: DocumentBlock) -> BlockCounts:
    return BlockCounts(
        documents=len(block), tokens=len(block.input_ids_N), targets=len(block.targets)
    )


def _sums(blocks: list[DocumentBlock]) -> dict[str, float]:
    """What `inspect` divides by the number of targets."""
    parts = [block.targets for block in blocks]
    head = [np.exp(part.logprobs_RK).sum(where=part.exact_RK(), dtype=np.float64) for part in parts]
    return {
        "entropy": float(sum(part.entropy_R.sum(dtype=np.float64) for part in parts)),
        "head_mass": float(sum(head)),
        "label_logprob": float(sum(part.label_logprob_R.sum(dtype=np.float64) for part in parts)),
    }


def _empty(unit: WorkUnit, skipped: int) -> Commit:
    return Commit(
        unit=unit.name,
        attempt=None,
        objects=(),
        blocks=(),
        skipped=skipped,
        column_bytes={},
        sums={},
    )


def _equal(found: Columns, written: Columns) -> bool:
    pairs = [(getattr(found, one.name), getattr(written, one.name)) for one in fields(Columns)]
    return all(
        _equal_arrays(one, two) if isinstance(two, Mapping) else np.array_equal(one, two)
        for one, two in pairs
    )


def _equal_arrays(found: Mapping[str, np.ndarray], written: Mapping[str, np.ndarray]) -> bool:
    return set(found) == set(written) and all(
        np.array_equal(found[name], values) for name, values in written.items()
    )
