"""A work unit taken over byte by byte: its objects keep their bytes and hashes.

Nothing in the bytes of a shard says which unit it is, or of which store: the commit does. So a
copied unit has a commit of its own, with the objects' old hashes and checksums of chunks.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from logitstore.errors import CorruptionError
from logitstore.store.containers import load_container
from logitstore.store.containers.base import missing_as_corruption
from logitstore.store.layout import DATA
from logitstore.store.storage import FarStorage, place_of
from logitstore.store.way_out import DAMAGED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from logitstore.format.manifest import Commit, StoredObject
    from logitstore.format.plan import WorkUnit
    from logitstore.store.reader import Store
    from logitstore.store.storage import Storage
    from logitstore.store.writer import UnitWriter

__all__ = ["copy_unit"]

# Read at a time: of a folder what stays in the processor's cache until it is written, which took a
# third of the time of pieces of 4 MiB; of what is far away as much as one request is worth.
_PIECE_BYTES, _FAR_PIECE_BYTES = 256 << 10, 4 << 20


@runtime_checkable
class TakesPieces(Protocol):
    """A storage that takes an object piece by piece; any other is given it whole."""

    def put_pieces(self, name: str, pieces: Callable[[], Iterable[bytes]], *, size: int) -> None:
        """As `put`, from pieces."""
        ...


def copy_unit(
    source: Store,
    number: int,
    writer: UnitWriter,
    unit: WorkUnit,
    *,
    on_object: Callable[[], None] = lambda: None,
) -> bool:
    """Commit a unit of another store as one of this store; False if another attempt was first.

    source: whose codec and container are those of the new store.
    number: of its unit.
    writer: of the new store.
    unit: of the new store's plan.
    on_object: called before each object.

    Raises CorruptionError where an object is not as it was written; nothing is committed then.
    """
    commit = source.commits[number]
    if commit.attempt is None:
        return writer.write_nothing(unit, skipped=commit.skipped)
    prefix = source.layout.shard_prefix(commit)

    def lay_out(attempt: str) -> Commit:
        objects = []
        for one in commit.objects:
            on_object()
            name = f"{DATA}{unit.name}-{attempt}/{one.path}"
            _copy(
                source.layout.storage, f"{prefix}{one.path}", writer.store.layout.storage, name, one
            )
            objects.append(one)
        sums = _older_sums(source, prefix, objects)
        objects = [replace(one, chunks=sums.get(one.path, one.chunks)) for one in objects]
        return replace(
            commit,
            unit=unit.name,
            attempt=attempt,
            objects=tuple(objects),
            settings=writer.settings,
        )

    return writer.attempt(unit, lay_out)


def _copy(source: Storage, name: str, out: Storage, own: str, one: StoredObject) -> None:
    """Copy an object whose bytes must be those of its commit."""
    if isinstance(out, TakesPieces):
        out.put_pieces(own, lambda: _checked(source, name, one), size=one.size)
    else:
        out.put(own, b"".join(_checked(source, name, one)))


def _checked(source: Storage, name: str, one: StoredObject) -> Iterator[bytes]:
    """The pieces of an object; CorruptionError behind the last one where they were others."""
    place, digest, start = place_of(source, name), hashlib.sha256(), 0
    most = _FAR_PIECE_BYTES if isinstance(source, FarStorage) else _PIECE_BYTES
    with missing_as_corruption(place):
        while start <= one.size:  # one byte more is asked for than there should be
            (piece,) = source.read_ranges(name, [(start, min(start + most, one.size + 1))])
            digest.update(piece)
            start += len(piece)
            if not piece:
                break
            yield piece
    found = digest.hexdigest()
    if start != one.size or found != one.sha256:
        raise CorruptionError(
            "file has changed since it was written",
            place=place,
            found=f"{start} bytes, sha256 {found}",
            allowed=f"{one.size} bytes, sha256 {one.sha256}",
            remedy=DAMAGED,
        )


def _older_sums(source: Store, prefix: str, objects: list[StoredObject]) -> dict[str, str]:
    """The checksums of chunks, where the commit is older than that they were written down."""
    if any(one.chunks is not None for one in objects):
        return {}
    storage = source.layout.storage
    container = load_container(source.spec.container)
    data = {one.path: storage.read(f"{prefix}{one.path}") for one in objects}
    return dict(container.chunk_sums(data))
