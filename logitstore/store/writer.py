"""Documents in, committed work units out.

A unit's documents are cut into blocks, encoded, laid out in a fresh attempt, hashed, read back and
compared, and only then committed. So are blocks that are integers already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from logitstore.codec import codec_for
from logitstore.errors import CorruptionError, LogitStoreError
from logitstore.format.blocks import BlockCounts
from logitstore.format.columns import Columns
from logitstore.format.json import fingerprint
from logitstore.format.manifest import Commit, StoredObject
from logitstore.store.containers import load_container
from logitstore.store.containers.limits import shard_limits
from logitstore.store.layout import DATA
from logitstore.targets.documents import DocumentBlock, StoredDocument
from logitstore.targets.kinds import Entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from logitstore.codec import Codec
    from logitstore.format.plan import WorkUnit
    from logitstore.format.spec import StoreSpec
    from logitstore.format.states import StatesSpec
    from logitstore.store.commit import StoreWriter
    from logitstore.store.containers import Container

__all__ = ["UnitWriter", "cut_documents", "sums_of"]

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
    settings: str  # the hash of what the spec says of the rows
    states: StatesSpec | None = None  # the hidden states that the store keeps

    @staticmethod
    def of(store: StoreWriter, spec: StoreSpec) -> UnitWriter:
        """The writer that `spec` asks for.

        store: the write side of it.
        spec: what codec and container are.
        """
        return UnitWriter(
            store=store,
            codec=codec_for(spec),
            container=load_container(spec.container),
            block_targets=spec.block_targets,
            settings=fingerprint(spec.identity()),
            states=spec.states,
        )

    def write(self, unit: WorkUnit, documents: Sequence[StoredDocument], *, skipped: int) -> bool:
        """Store and commit a unit; False if another attempt was first. `skipped` records are noted.

        unit: one of the plan.
        documents: with their targets, in corpus order.
        skipped: how many records were left out.

        Raises StorageError when the disk is full; nothing of the attempt is left then.
        """
        if not documents:
            return self.write_nothing(unit, skipped=skipped)
        parts = cut_documents(documents, block_targets=self.block_targets)
        blocks = [DocumentBlock.join(part) for part in parts]
        tables = self.codec.tables(blocks)
        columns = [self.codec.encode(block, tables) for block in blocks]
        return self.write_columns(unit, columns, tables, sums=sums_of(blocks), skipped=skipped)

    def write_nothing(self, unit: WorkUnit, *, skipped: int) -> bool:
        """Commit a unit that holds no document; False if another attempt was first.

        unit: one of the plan.
        skipped: how many records were left out.
        """
        return self.store.commit(_empty(unit, skipped, settings=self.settings))

    def write_columns(
        self,
        unit: WorkUnit,
        columns: Sequence[Columns],
        tables: Mapping[str, np.ndarray],
        *,
        sums: Mapping[str, float],
        skipped: int,
    ) -> bool:
        """As `write`, for blocks that the codec of the store has encoded.

        unit: one of the plan.
        columns: of each block, each with a target at least.
        tables: of the shard.
        sums: as `sums_of` gives them.
        skipped: how many records were left out.
        """

        def lay_out(attempt: str) -> Commit:
            objects, column_bytes = self._lay_out(f"{DATA}{unit.name}-{attempt}/", columns, tables)
            return Commit(
                unit=unit.name,
                attempt=attempt,
                objects=objects,
                blocks=tuple(map(_counts, columns)),
                skipped=skipped,
                column_bytes=column_bytes,
                sums=dict(sums),
                settings=self.settings,
            )

        return self.attempt(unit, lay_out)

    def attempt(self, unit: WorkUnit, lay_out: Callable[[str], Commit]) -> bool:
        """Commit what is laid out in a fresh attempt; False if another attempt was first.

        unit: one of the plan.
        lay_out: is called with the attempt's name, puts its objects and gives their commit.

        Raises what `lay_out` raises; nothing of the attempt is left then.
        """
        attempt = self.store.new_attempt()
        try:
            return self.store.commit(lay_out(attempt))
        except LogitStoreError:
            winner = self.store.discard(unit, attempt)
            if winner is None:
                raise
            # The error came behind our own commit, or another worker has committed this unit and
            # swept our attempt away.
            return winner.attempt == attempt
        except BaseException:
            with suppress(LogitStoreError):
                self.store.discard(unit, attempt)
            raise

    def _lay_out(
        self, prefix: str, columns: Sequence[Columns], tables: Mapping[str, np.ndarray]
    ) -> _Written:
        """Put the shard's objects under `prefix` and read them back."""
        storage, entries = self.store.layout.storage, self.codec.entries
        written = self.container.write(
            columns,
            tables,
            draw_count=self.codec.sparsifier.draw_count,
            by_entry=self.codec.by_entry,
        )
        objects, sums = [], self.container.chunk_sums(written)
        for name, data in sorted(written.items()):
            storage.put(f"{prefix}{name}", data)
            digest = hashlib.sha256(data).hexdigest()
            objects.append(
                StoredObject(path=name, size=len(data), sha256=digest, chunks=sums.get(name))
            )
        sampled = self.codec.scalar_names(sampler_logprobs=True)
        shard = self.container.open(
            storage,
            prefix,
            blocks=[_counts(one) for one in columns],
            objects=objects,
            entries=entries,
            limits=shard_limits(
                self.codec,
                sampler_logprobs=set(sampled) == set(columns[0].scalars),
                states=self.states,
            ),
        )
        same = [_equal(shard.block(number), one) for number, one in enumerate(columns)]
        if not all(same) or not _equal_arrays(shard.tables, tables):
            raise CorruptionError(
                "what was read back is not what was written",
                place=self.store.layout.place(prefix),
                remedy="Suspect the disk or the memory of this machine",
            )
        return tuple(objects), shard.column_bytes()


def cut_documents(
    documents: Sequence[StoredDocument], *, block_targets: int
) -> Iterator[list[StoredDocument]]:
    """Runs of whole documents, at least one document each: what is to be a block.

    documents: of a unit, in order.
    block_targets: targets of a block, about.
    """
    run: list[StoredDocument] = []
    targets = tokens = 0
    for stored in documents:
        targets += len(stored.targets)
        tokens += len(stored.document)
        full = targets > block_targets or tokens > _TOKENS_PER_TARGET * block_targets
        if run and full:
            yield run
            run, targets, tokens = [], len(stored.targets), len(stored.document)
        run.append(stored)
    yield run


def _counts(block: Columns) -> BlockCounts:
    targets = len(next(iter(block.entries.values())))
    return BlockCounts(
        documents=len(block.documents_DC), tokens=len(block.tokens_N), targets=targets
    )


def sums_of(blocks: Sequence[DocumentBlock]) -> dict[str, float]:
    """What `inspect` divides by the number of targets: of a commit, over its blocks."""
    parts = [block.targets for block in blocks]
    head = [np.exp(part.logprobs_RK).sum(where=part.exact_RK(), dtype=np.float64) for part in parts]
    sampler = [one.sampler_logprobs_R for one in blocks if one.sampler_logprobs_R is not None]
    known = {"sampler_logprob": float(sum(one.sum(dtype=np.float64) for one in sampler))}
    kind = parts[0].kind
    sums = {"head_mass": float(sum(head))} if kind.entries is not Entries.SHARES else {}
    if kind.knows_whole:
        sums |= {
            "entropy": float(sum(part.entropy_R.sum(dtype=np.float64) for part in parts)),
            "label_logprob": float(
                sum(part.label_logprob_R.sum(dtype=np.float64) for part in parts)
            ),
        }
    return dict(sorted((sums | (known if sampler else {})).items()))


def _empty(unit: WorkUnit, skipped: int, *, settings: str) -> Commit:
    return Commit(
        unit=unit.name,
        attempt=None,
        objects=(),
        blocks=(),
        skipped=skipped,
        column_bytes={},
        sums={},
        settings=settings,
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
