"""Verify: every object is there, is what the manifest says, and decodes to what it may hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from logitstore.errors import CorruptionError, LogitStoreError
from logitstore.store.files import sha256_of
from logitstore.store.layout import Layout
from logitstore.store.reader import Store, load_store, seal_faults

if TYPE_CHECKING:
    from logitstore.format.manifest import Commit
    from logitstore.targets.documents import DocumentBlock
    from logitstore.targets.targets import SparseTargets

__all__ = ["Depth", "verify"]

Depth: TypeAlias = Literal["fast", "hashes", "full"]

# A row's head and tail may add up to more than 1 by the steps of both: half of 1/1024 each.
_MASS_SLACK = 2e-3


def verify(uri: str | Path, *, depth: Depth = "full") -> Iterator[str]:
    """Every fault of the store at `uri`, each as one line that names the place.

    "fast" looks at names, sizes and the small objects; "hashes" reads every byte; "full" also
    decodes every block and checks what it holds. A sound store gives nothing.
    """
    try:
        store = load_store(uri)
    except LogitStoreError as error:
        yield str(error)
        yield from _listed_faults(Layout(Path(uri)))
        return
    yield from map(str, seal_faults(store))
    for commit in store.commits:
        yield from _object_faults(store, commit, hashes=depth != "fast")
    if depth == "full":
        yield from _content_faults(store)


def _listed_faults(layout: Layout) -> Iterator[str]:
    """Where too little is left to read the store by: what its manifest can still tell."""
    try:
        objects = layout.read_manifest().objects if layout.sealed() else {}
    except LogitStoreError as error:
        yield str(error)
        return
    for name, sha256 in objects.items():
        yield from _file_faults(layout.folder / name, sha256=sha256)


def _object_faults(store: Store, commit: Commit, *, hashes: bool) -> Iterator[str]:
    for one in commit.objects:
        path = store.layout.shard(commit) / one.path
        yield from _file_faults(path, size=one.size, sha256=one.sha256 if hashes else None)


def _file_faults(
    path: Path, *, size: int | None = None, sha256: str | None = None
) -> Iterator[str]:
    if not path.is_file():
        yield _fault(path, "file", "none", "one")
    elif size is not None and path.stat().st_size != size:
        yield _fault(path, "size in bytes", path.stat().st_size, size)
    elif sha256 is not None and (found := sha256_of(path)) != sha256:
        yield _fault(path, "sha256", found, sha256)


def _content_faults(store: Store) -> Iterator[str]:
    for draw in range(store.spec.sparsifier.draws):
        yield from _draw_faults(store.with_draw(draw))


def _draw_faults(store: Store) -> Iterator[str]:
    for number, counts in enumerate(store.blocks):
        try:
            block = store.read_block(number)
            for stored in block.split():
                del stored  # building it checks that tokens, mask and targets belong together
        except LogitStoreError as error:
            yield str(error)
            continue
        found = (len(block), len(block.input_ids_N), len(block.targets))
        if found != (counts.documents, counts.tokens, counts.targets):
            yield _fault(f"block {number}", "documents, tokens, targets", found, counts)
        for problem in _row_faults(block):
            yield f"{store.folder}, block {number}: {problem}"


def _row_faults(block: DocumentBlock) -> Iterator[str]:
    targets = block.targets
    used_RK = targets.used_RK()
    sorted_RK = np.sort(np.where(used_RK, targets.ids_RK.astype(np.int64), -1), axis=1)
    twice_R = ((sorted_RK[:, 1:] == sorted_RK[:, :-1]) & (sorted_RK[:, 1:] >= 0)).any(axis=1)
    mass_R = _mass_R(targets)
    for name, bad_R, value_R, allowed in (
        ("a row holds an id twice", twice_R, sorted_RK[:, -1], "each id once"),
        (
            "a row's mass is not 1",
            ~(np.abs(mass_R - 1) <= _MASS_SLACK),
            mass_R,
            f"1 +- {_MASS_SLACK}",
        ),
        ("entropy is negative", ~(targets.entropy_R >= 0), targets.entropy_R, "0 or more"),
    ):
        if bad_R.any():
            row = int(np.argmax(bad_R))
            yield f"target {row}: {name} (found {value_R[row]}; allowed: {allowed})"


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


def _fault(place: object, what: str, found: object, allowed: object) -> str:
    problem = f"{what} is not as written"
    return str(CorruptionError(problem, place=place, found=found, allowed=allowed))
