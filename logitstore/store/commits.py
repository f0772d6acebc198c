"""The commits of a sealed store, each read when it is asked for and compared with the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from logitstore.errors import CorruptionError, ObjectMissing
from logitstore.format.manifest import Commit, Manifest, SealedUnits
from logitstore.store.containers.base import check_objects
from logitstore.store.layout import MANIFEST, StoreLayout
from logitstore.store.way_out import DAMAGED

if TYPE_CHECKING:
    from logitstore.format.plan import Plan

__all__ = ["SealedCommits", "refuse_lost_files"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SealedCommits(Sequence[Commit]):
    """The commits that a manifest names, in the order of its units; none is kept.

    An index raises CorruptionError for a commit that is missing, or another than was sealed.
    """

    layout: StoreLayout
    manifest: Manifest

    @property
    def units(self) -> SealedUnits:
        """What the manifest says of the units."""
        if self.manifest.units is None:
            raise ValueError("a manifest of this format does not name its commits")
        return self.manifest.units

    def __len__(self) -> int:
        return len(self.units.names)

    @overload
    def __getitem__(self, index: int) -> Commit: ...
    @overload
    def __getitem__(self, index: slice) -> list[Commit]: ...

    def __getitem__(self, index: int | slice) -> Commit | list[Commit]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        name = self.layout.commit_name(self.units.names[number])
        place = self.layout.place(name)
        try:
            data = self.layout.read_small(name)
        except ObjectMissing as error:
            raise CorruptionError(
                "a commit of a sealed store is missing", place=place, remedy=DAMAGED
            ) from error
        found, sealed = hashlib.sha256(data).hexdigest(), self.units.commit_sha256[number]
        if found != sealed:
            raise CorruptionError(
                "file has changed since the store was sealed",
                place=place,
                found=f"sha256 {found}",
                allowed=sealed,
                remedy=DAMAGED,
            )
        commit = self.layout.parse_commit(name, data)
        self._refuse_other_blocks(number, commit, place=place)
        return commit

    def _refuse_other_blocks(self, number: int, commit: Commit, *, place: str) -> None:
        start = int(self.units.blocks_U[:number].sum())
        stop = start + int(self.units.blocks_U[number])
        blocks = self.manifest.blocks
        if blocks is None or list(blocks[start:stop]) != list(commit.blocks):
            raise CorruptionError(
                "the manifest says other counts of blocks than the commit",
                place=place,
                found=f"{len(commit.blocks)} blocks",
                allowed=f"those of blocks {start} to {stop} of the manifest",
            )


def refuse_lost_files(layout: StoreLayout, plan: Plan) -> None:
    """Raise CorruptionError unless a sealed store has each commit, and each file in its size.

    layout: of the store.
    plan: its work units.

    What is missing is not made anew under a manifest that names it: nothing says that it would be
    the same. No file is read but the commits.
    """
    manifest = layout.read_manifest()
    sealed = None if manifest.units is None else SealedCommits(layout=layout, manifest=manifest)
    for number, unit in enumerate(plan.units):
        place = layout.place(layout.commit_name(unit.name))
        try:
            commit = layout.read_commit(unit) if sealed is None else sealed[number]
            if commit is None:
                raise CorruptionError("a commit of a sealed store is missing", place=place)
            prefix = layout.shard_prefix(commit)
            check_objects(layout.storage, prefix, commit.objects, hashed=lambda _: False)
        except CorruptionError as error:
            error.remedy = (
                f"Put a copy of the file back; or delete {place}, if it is there, and "
                f"{layout.place(MANIFEST)}, and run the same command again: it dumps the unit anew"
            )
            raise
