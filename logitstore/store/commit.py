"""How a store comes to be: begun once, units committed by whichever attempt is first, then sealed.

Any number of processes may work on one store. A unit is dumped into a fresh attempt, every object
of it durable, hashed and read back; creating `commits/<unit>.json` where there is none makes it
part of the store. What no commit names is garbage, so a process may be killed at any moment; what a
commit names is never removed.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from logitstore.errors import CorruptionError, SpecError, StorageError, StoreError
from logitstore.format.blocks import BlockTable
from logitstore.format.json import fingerprint, with_check
from logitstore.format.manifest import Commit, Manifest, SealedUnits, Totals, store_fingerprint
from logitstore.format.spec import StoreSpec
from logitstore.format.states import HEAD
from logitstore.store.begin import begin_store, lease_of
from logitstore.store.card import store_card
from logitstore.store.containers.base import check_objects
from logitstore.store.layout import (
    COMMITS,
    DATA,
    LEASES,
    MANIFEST,
    PLAN,
    README,
    SPEC,
    TOKENIZER,
    StoreLayout,
)
from logitstore.store.settings import refuse_other_spec
from logitstore.store.storage import Storage, base_name, place_of, sha256_of
from logitstore.store.way_out import LOST_SPEC

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from logitstore.format.plan import Plan, WorkUnit
    from logitstore.store.lease import StoreLease

__all__ = ["StoreWriter", "refuse_foreign_storage"]

_NAMED = 4  # strangers, in a message


def refuse_foreign_storage(storage: Storage) -> None:
    """Raise StoreError where `storage` holds something that is no store.

    storage: where a store is to be written.
    """
    if StoreLayout(storage).exists():
        return
    names = (name for name in storage.list("") if not name.startswith(LEASES))
    found = {name.split("/")[0] for name in islice(names, 100 * _NAMED)}
    # Another process may have begun the store while we looked.
    if not found or StoreLayout(storage).exists():
        return
    if {PLAN, COMMITS.rstrip("/")} <= found:
        raise CorruptionError("file is missing", place=place_of(storage, SPEC), remedy=LOST_SPEC)
    raise StoreError(
        "--out holds something that is no store",
        place=storage.uri,
        found=", ".join(sorted(found)[:_NAMED]),
        remedy="Name a new or empty folder",
    )


@runtime_checkable
class Named(Protocol):
    """A storage in which an object may be seen before it is durable."""

    def sync_names(self, prefix: str) -> None:
        """Make what is seen right below a folder durable."""
        ...


@dataclass(frozen=True, slots=True)
class StoreWriter:
    """The write side of one store."""

    layout: StoreLayout

    def begin(
        self,
        spec: StoreSpec,
        plan: Plan,
        tokenizer: Mapping[str, bytes],
        *,
        lease: StoreLease | None = None,
        head: Callable[[], bytes] | None = None,
    ) -> None:
        """Write the spec, the files of the tokenizer and the plan, each where there is none yet.

        spec, plan, tokenizer, lease, head: see `begin_store`. Without a lease one is held
            meanwhile.

        A store with rows that was begun with another spec is refused.
        """
        held = lease or lease_of(self.layout, spec)
        try:
            if lease is None:
                held.take()
            begin_store(self.layout, spec, plan, tokenizer, lease=held, head=head)
        finally:
            if lease is None:
                held.release()

    def refuse_other_settings(self, spec: StoreSpec) -> None:
        """Raise SpecError where the store was begun anew with another spec than `spec`.

        spec: the one that we work by.
        """
        refuse_other_spec(self.layout.read_spec(), spec, place=self.layout.place(SPEC))

    def withdraw(self, unit: WorkUnit) -> None:
        """Take back our own commit of `unit`, which belongs to a store that is no more."""
        self.layout.storage.delete(self.layout.commit_name(unit.name))

    def write_by(self, spec: StoreSpec, unit: WorkUnit, write: Callable[[], bool]) -> bool:
        """`write()`, which commits `unit`, unless the store is begun anew with another spec.

        spec: the one that we work by.
        unit: one of its plan.
        write: whether the unit's commit is ours.

        Raises SpecError where another spec stands there, before or after; then nothing of ours
        stays.
        """
        self.refuse_other_settings(spec)
        won = write()
        try:
            self.refuse_other_settings(spec)
        except SpecError:
            if won:
                self.withdraw(unit)
            raise
        return won

    def new_attempt(self) -> str:
        """The name of a fresh attempt at a unit."""
        return secrets.token_hex(4)

    def commit(self, commit: Commit) -> bool:
        """Make an attempt part of the store; False, and its objects gone, if another was first.

        commit: of an attempt whose objects are durable.
        """
        name, data = self.layout.commit_name(commit.unit), with_check(commit.to_json())
        try:
            won = self.layout.storage.put_if_absent(name, data)
        except StorageError:
            # The object may have been created before the error came.
            if not self._holds(name, data):
                raise
            return True
        # So may it where our request was sent again because the answer to it was lost.
        if won or self._holds(name, data):
            return True
        if commit.folder is not None:
            self._remove(self.layout.shard_prefix(commit))
        return False

    def discard(self, unit: WorkUnit, attempt: str) -> Commit | None:
        """Remove what an attempt has written, unless it was committed; the unit's commit, if any.

        unit: the one that was tried.
        attempt: the name of the try.

        Where that cannot be read nothing is removed: sealing sweeps what no commit names.
        """
        commit = self.layout.read_commit(unit)
        if commit is None or commit.attempt != attempt:
            self._remove(f"{DATA}{unit.name}-{attempt}/")
        return commit

    def committed(self, plan: Plan) -> list[Commit]:
        """The commits that are there, in the plan's order.

        plan: of the store.
        """
        commits = (self.layout.read_commit(unit) for unit in plan.units)
        return [commit for commit in commits if commit is not None]

    def seal(self, plan: Plan, *, check: bool = True) -> Manifest:
        """Write the manifest over a store whose every unit is committed; sweep what none names.

        plan: of the store.
        check: whether every object is read once more and its hash compared. Otherwise sizes are.

        Sealing a sealed store finishes what a killed process left undone, and changes nothing else.
        Raises CorruptionError where an object that a commit names is not there as it was written.
        """
        layout = self.layout
        spec, commits = layout.read_spec(), self.committed(plan)
        if len(commits) != len(plan.units):
            raise StoreError(
                "store cannot be sealed yet",
                place=layout.uri,
                found=f"{len(commits)} of {len(plan.units)} units",
            )
        if not layout.sealed():
            layout.read_plan()  # it may have rotted since it was written
            self._check_beside(spec)
            self._check_settings(spec, commits)
            self._check_objects(commits, hashes=check)
        self._sweep(commits)
        if not layout.sealed():
            if isinstance(layout.storage, Named):
                layout.storage.sync_names(COMMITS)  # of others, who may not have come to it yet
            manifest = self._manifest(spec, commits)
            try:
                layout.storage.put_if_absent(MANIFEST, manifest.encoded())
            except StorageError:
                if not self._holds(MANIFEST, manifest.encoded()):  # the reply alone was lost
                    raise
        manifest = layout.read_manifest()
        if layout.storage.size(README) is None:
            card = store_card(spec, manifest, Totals.of(commits), name=base_name(layout.storage))
            layout.storage.put(README, card.encode())
        layout.storage.sweep()
        return manifest

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return self.layout.storage.read(name) == data
        except StorageError:
            return False

    def _check_objects(self, commits: Sequence[Commit], *, hashes: bool) -> None:
        """Refuse to seal what has rotted since it was written: it would be the truth then."""
        for commit in commits:
            try:
                check_objects(
                    self.layout.storage,
                    self.layout.shard_prefix(commit),
                    commit.objects,
                    hashed=lambda _: hashes,
                )
            except CorruptionError as error:
                commit_place = self.layout.place(self.layout.commit_name(commit.unit))
                error.remedy = (
                    f"Delete {commit_place} and run the same command again: it dumps that unit anew"
                )
                raise

    def _check_settings(self, spec: StoreSpec, commits: Sequence[Commit]) -> None:
        """Refuse to seal a unit of another store, or all units under another store's spec."""
        allowed = fingerprint(spec.identity())
        for commit in commits:
            if commit.settings not in (None, allowed):
                raise CorruptionError(
                    f"the unit was made with other settings than {SPEC} says",
                    place=self.layout.place(self.layout.commit_name(commit.unit)),
                    found=commit.settings,
                    allowed=allowed,
                )

    def _check_beside(self, spec: StoreSpec) -> None:
        """Refuse to seal a tokenizer or an output layer that has rotted."""
        layout = self.layout
        hashes = {
            f"{TOKENIZER}{name}": sha256 for name, sha256 in layout.tokenizer_hashes(spec).items()
        }
        if spec.states is not None and spec.states.head is not None:
            hashes[HEAD] = spec.states.head.sha256
        for path, sha256 in hashes.items():
            there = layout.storage.size(path) is not None
            found = sha256_of(layout.storage, path) if there else None
            if found != sha256:
                raise CorruptionError(
                    "file is missing or has changed since it was written",
                    place=layout.place(path),
                    found=f"sha256 {found}" if there else "no file",
                    allowed=sha256,
                    remedy="Delete it and run the same command again: it is written anew",
                )

    def _manifest(self, spec: StoreSpec, commits: list[Commit]) -> Manifest:
        layout, storage = self.layout, self.layout.storage
        totals = Totals.of(commits)
        return Manifest(
            format=spec.format,
            fingerprint=store_fingerprint(spec, (commit.data_identity() for commit in commits)),
            objects={name: sha256_of(storage, name) for name in layout.small_names(spec)},
            documents=totals.documents,
            tokens=totals.tokens,
            targets=totals.targets,
            bytes=layout.stored_bytes(commits),
            skipped=totals.skipped,
            column_bytes=totals.column_bytes,
            sums=totals.sums,
            units=SealedUnits(
                names=tuple(commit.unit for commit in commits),
                commit_sha256=tuple(
                    sha256_of(storage, layout.commit_name(commit.unit)) for commit in commits
                ),
                blocks_U=np.array([len(commit.blocks) for commit in commits], dtype=np.int64),
            ),
            blocks=BlockTable.of(block for commit in commits for block in commit.blocks),
        )

    def _sweep(self, commits: list[Commit]) -> None:
        """Remove attempts that lost, and leases."""
        kept = {commit.folder for commit in commits}
        found = {name.split("/")[1] for name in self.layout.storage.list(DATA)}
        for folder in found - kept:
            self._remove(f"{DATA}{folder}/")
        self._remove(LEASES)

    def _remove(self, prefix: str) -> None:
        names: list[str] = []
        with suppress(StorageError):  # it is garbage, in nobody's way
            names += self.layout.storage.list(prefix)
        for name in names:
            with suppress(StorageError):
                self.layout.storage.delete(name)
