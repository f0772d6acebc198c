"""Verify: every object is there, is what the manifest says, and decodes to what it may hold."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.errors import CorruptionError, LogitStoreError, StorageError, shown
from logitstore.format.states import HEAD
from logitstore.options import takes
from logitstore.progress import Meter, OnProgress
from logitstore.store.ahead import ReadAhead
from logitstore.store.commits import SealedCommits
from logitstore.store.head import read_head
from logitstore.store.layout import StoreLayout
from logitstore.store.options import VERIFY_OPTIONS
from logitstore.store.reader import Store, StoreLike, load_store, unsealed
from logitstore.store.seal import seal_faults, total_faults
from logitstore.store.state_checks import state_errors
from logitstore.store.storage import sha256_of
from logitstore.store.strays import strays
from logitstore.store.way_out import DAMAGED

if TYPE_CHECKING:
    from logitstore.format.blocks import BlockCounts
    from logitstore.format.manifest import Commit
    from logitstore.targets.documents import DocumentBlock
    from logitstore.targets.targets import SparseTargets

__all__ = ["Fault", "verify"]

# A row's head and tail may add up to more than 1 by the steps of both, half of each; and where a
# codec names no such steps, by this.
_MASS_SLACK = 2e-3
_MASS_STEPS = ("floor_steps", "odds_steps", "tail_steps")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that is wrong with a store; as a string, the line that the command prints."""

    place: str | None  # the object, block or file
    problem: str
    found: Any = None
    allowed: Any = None
    remedy: str | None = None

    @staticmethod
    def of(error: LogitStoreError) -> Fault:
        """What an error says.

        error: what reading a store raised.
        """
        return Fault(
            place=None if error.place is None else str(error.place),
            problem=error.problem,
            found=_short(error.found),
            allowed=_short(error.allowed),
            remedy=None if error.remedy == DAMAGED else error.remedy,  # it lists all damage
        )

    def __str__(self) -> str:
        return str(
            CorruptionError(
                self.problem,
                place=self.place,
                found=self.found,
                allowed=self.allowed,
                remedy=self.remedy,
            )
        )


@takes(VERIFY_OPTIONS)
def verify(
    store: StoreLike,
    *,
    fast: bool,
    hashes: bool,
    strict: bool,
    max_memory: int | str | None,
    on_progress: OnProgress | None,
) -> Iterator[Fault]:
    """Every fault of a store, each with the place that it is at; a sound store gives none.

    With neither `fast` nor `hashes` every byte is read, every block decoded, and what it holds is
    checked. With `strict` an object that the store does not name is a fault; `strays` lists these.
    What the storage refuses for now is a fault among the others. Raises StoreError where
    there is no store at all, SettingError for a URI that nothing serves.
    """
    layout = store.layout if isinstance(store, Store) else StoreLayout.at(store)
    if not _is_there(layout):
        layout.read_spec()  # raises
    faults = _faults(
        layout,
        hashes=not fast,
        content=not (fast or hashes),
        max_memory=store.shards.memory if isinstance(store, Store) else max_memory,
        on_progress=on_progress,
    )
    return chain(faults, _stray_faults(layout)) if strict else faults


def _stray_faults(layout: StoreLayout) -> Iterator[Fault]:
    try:
        store = load_store(layout.storage, allow_partial=True)
    except LogitStoreError:
        return  # told already
    try:
        for name in strays(store):
            yield Fault(place=layout.place(name), problem="the store does not name this file")
    except CorruptionError:
        return  # of a commit: told already
    except LogitStoreError as error:
        yield Fault.of(error)  # nothing else asks for a list


def _is_there(layout: StoreLayout) -> bool:
    """Whether there is a store at all; so it is where the storage does not say."""
    try:
        return layout.exists() or layout.planned() or layout.sealed()
    except StorageError:
        return True


def _faults(
    layout: StoreLayout,
    *,
    hashes: bool,
    content: bool,
    max_memory: int | str | None,
    on_progress: OnProgress | None,
) -> Iterator[Fault]:
    try:
        store = load_store(layout.storage, allow_partial=True, max_memory=max_memory)
    except LogitStoreError as error:
        first = Fault.of(error)
        yield first
        told = (first.place, first.problem)  # the same without a way out is no other fault
        yield from (one for one in _listed_faults(layout) if (one.place, one.problem) != told)
        return
    if store.manifest is None:
        yield from _unfinished(store)
    yield from map(Fault.of, seal_faults(store.layout, store.spec, store.commits, store.manifest))
    commits = _damaged_commits(store)
    yield from map(Fault.of, commits.values())
    yield from _total_faults(store, commits.keys())
    damaged = set(commits)
    for unit, fault in _stored_faults(
        store, commits.keys(), hashes=hashes, on_progress=on_progress
    ):
        damaged.add(unit)
        yield fault
    if hashes:
        yield from _head_faults(store, content=content)
    if content:
        yield from _tokenizer_faults(store)
        yield from _content_faults(store, damaged, on_progress)


def _unfinished(store: Store) -> Iterator[Fault]:
    """That a store has no manifest, and how much of it is there."""
    try:
        units = f"{len(store.commits):,} of {len(store.layout.read_plan().units):,} units"
    except LogitStoreError as error:
        yield Fault.of(error)
        return
    missing = unsealed(store.uri)
    yield Fault(place=store.uri, problem=missing.problem, found=units, remedy=missing.remedy)


def _tokenizer_faults(store: Store) -> Iterator[Fault]:
    """What refuses the files of the tokenizer to all that ask for them."""
    try:
        store.tokenizer_files()
    except LogitStoreError as error:
        yield Fault.of(error)


def _head_faults(store: Store, *, content: bool) -> Iterator[Fault]:
    """What refuses the output layer to all that ask for it; its size is compared elsewhere."""
    head = None if store.spec.states is None else store.spec.states.head
    if head is None or store.layout.storage.size(HEAD) != head.size:
        return
    try:
        read_head(store.layout, head)
        if content:
            store.head.on("cpu")
    except LogitStoreError as error:
        yield Fault.of(error)


def _damaged_commits(store: Store) -> dict[int, LogitStoreError]:
    """The numbers of the units whose commits cannot be read, and why."""
    found: dict[int, LogitStoreError] = {}
    for number in range(len(store.commits)):
        try:
            operator.getitem(store.commits, number)
        except LogitStoreError as error:
            found[number] = error
    return found


def _total_faults(store: Store, damaged: Set[int]) -> Iterator[Fault]:
    """Where the manifest adds up to something else: to be told where every commit is sound."""
    manifest = store.manifest
    if manifest is not None and manifest.units is not None and not damaged:
        try:
            found = list(total_faults(store.layout, store.spec, store.commits, manifest))
        except LogitStoreError as error:  # a commit that could be read before
            found = [error]
        yield from map(Fault.of, found)


def _stored_faults(
    store: Store, damaged: Set[int], *, hashes: bool, on_progress: OnProgress | None
) -> Iterator[tuple[int, Fault]]:
    """Of the units whose commit can be read: their numbers, and what is wrong with their files."""
    meter = Meter(on_progress, stage="hashing" if hashes else "looking for files", unit="bytes")
    done = 0
    for number in range(len(store.commits)):
        if number in damaged:
            continue
        try:
            commit = store.commits[number]
            store.shards.check_sizes(commit)
            for fault in _shard_faults(store.layout, commit, hashes=hashes):
                yield number, fault
        except LogitStoreError as error:
            yield number, Fault.of(error)
            continue
        done += sum(one.size for one in commit.objects)
        meter.tell(done, fraction=min(1.0, done / max(1, store.stored_bytes)))


def _listed_faults(layout: StoreLayout) -> Iterator[Fault]:
    """Where too little is left to read the store by: what its manifest can still tell."""
    try:
        manifest = layout.read_manifest() if layout.sealed() else None
    except LogitStoreError as error:
        yield Fault.of(error)
        return
    if manifest is None:
        return
    for name, sha256 in manifest.objects.items():
        most = layout.most_bytes(name, otherwise=manifest.bytes)
        yield from _object_faults(layout, name, most=most, sha256=sha256)
    if manifest.units is None:
        return
    commits = SealedCommits(layout=layout, manifest=manifest)
    for number in range(len(commits)):
        try:
            commit = commits[number]
        except LogitStoreError as error:
            yield Fault.of(error)
        else:
            yield from _shard_faults(layout, commit, hashes=True)


def _shard_faults(layout: StoreLayout, commit: Commit, *, hashes: bool) -> Iterator[Fault]:
    for one in commit.objects:
        name = f"{layout.shard_prefix(commit)}{one.path}"
        sha256 = one.sha256 if hashes else None
        yield from _object_faults(layout, name, size=one.size, sha256=sha256)


def _object_faults(
    layout: StoreLayout,
    name: str,
    *,
    size: int | None = None,
    most: int | None = None,
    sha256: str | None = None,
) -> Iterator[Fault]:
    try:
        stored = layout.storage.size(name)
        if stored is None:
            yield _fault(layout.place(name), "file", "none", "one")
        elif size is not None and stored != size:
            yield _fault(layout.place(name), "size in bytes", stored, size)
        elif most is not None and stored > most:  # it may be a hole of a terabyte
            yield _fault(layout.place(name), "size in bytes", stored, f"up to {most}")
        elif sha256 is not None and (found := sha256_of(layout.storage, name)) != sha256:
            yield _fault(layout.place(name), "sha256", found, sha256)
    except LogitStoreError as error:  # it cannot be read
        yield Fault.of(error)


def _content_faults(
    store: Store, damaged: Set[int], on_progress: OnProgress | None
) -> Iterator[Fault]:
    """The faults of what the blocks hold; not of units whose commit or files are `damaged`."""
    meter = Meter(on_progress, stage="reading every row", unit="targets")
    done = 0
    closed = set(damaged)  # units whose shard cannot be opened: told once, not for each block
    ahead = ReadAhead(store, all_draws=True)
    for number in ahead.in_turn(range(len(store.blocks))):
        unit, counts = store.unit_of(number), store.blocks[number]
        if unit not in closed:
            try:
                store.shards.of_unit(unit)
                yield from _block_faults(store, ahead, number, counts)
            except LogitStoreError as error:
                yield Fault.of(error)
                closed |= {unit} if isinstance(error, CorruptionError) else set()
        done += counts.targets
        meter.tell(done, fraction=done / max(1, store.targets))


def _block_faults(
    store: Store, ahead: ReadAhead, number: int, counts: BlockCounts
) -> Iterator[Fault]:
    """The faults of a block, draw by draw, all of which are read at once."""
    try:
        for block in ahead.read_draws(number):
            for stored in block.split():
                del stored  # building it checks that tokens, mask and targets belong together
            found = (len(block), len(block.input_ids_N), len(block.targets))
            if found != (counts.documents, counts.tokens, counts.targets):
                yield _fault(f"block {number}", "documents, tokens, targets", found, counts)
            place = f"{store.uri}, block {number}"
            yield from _row_faults(block, place=place, slack=_mass_slack(store))
            if store.spec.states is not None and store.spec.states.head is not None:
                yield from map(Fault.of, state_errors(store.head, block.targets, place=place))
    except LogitStoreError as error:
        yield Fault.of(error)


def _mass_slack(store: Store) -> float:
    """By how much the mass of a row may differ from 1."""
    steps = [store.spec.codec.parameters.get(name) for name in _MASS_STEPS]
    return max(_MASS_SLACK, sum(0.5 / one for one in steps if one is not None))


def _row_faults(block: DocumentBlock, *, place: str, slack: float) -> Iterator[Fault]:
    targets = block.targets
    used_RK = targets.used_RK()
    sorted_RK = np.sort(np.where(used_RK, targets.ids_RK.astype(np.int64), -1), axis=1)
    twice_R = ((sorted_RK[:, 1:] == sorted_RK[:, :-1]) & (sorted_RK[:, 1:] >= 0)).any(axis=1)
    mass_R = _mass_R(targets)
    for name, bad_R, value_R, allowed in (
        ("a row holds an id twice", twice_R, sorted_RK[:, -1], "each id once"),
        (
            "a row's mass is not 1",
            ~(np.abs(mass_R - 1) <= slack),
            mass_R,
            f"1 +- {slack:.2g}",
        ),
        (
            "entropy is negative",
            ~(targets.entropy_R >= 0) & targets.kind.knows_whole,
            targets.entropy_R,
            "0 or more",
        ),
    ):
        if bad_R.any():
            row = int(np.argmax(bad_R))
            problem = f"target {row}: {name}"
            yield Fault(place=place, problem=problem, found=value_R[row].item(), allowed=allowed)


def _mass_R(targets: SparseTargets) -> np.ndarray:
    """[R]: what should be 1: the weights where they are a distribution, else the head and its tail.

    Drawn weights that are no distribution sum to 1 on average alone, and tell nothing of one row.
    """
    if targets.kind.weights_sum_to_one:
        return targets.weights_RK.sum(axis=1)
    if not targets.kind.keeps_tail:
        return np.ones(len(targets))
    exact_RK = targets.exact_RK()
    head_R = targets.weights_RK.sum(axis=1, where=exact_RK)
    return head_R + np.exp(targets.tail_logmass_RB[:, 0])  # at b = 1


def _short(value: Any) -> Any:
    """The value itself, or how a message shows it where that is shorter."""
    text = shown(value)
    return value if text == str(value) else text


def _fault(place: str, what: str, found: object, allowed: object) -> Fault:
    return Fault(place=place, problem=f"{what} is not as written", found=found, allowed=allowed)
