"""What a container must do, and functions that every container needs.

A shard is a list of blocks and a few tables; a container stores their integers in objects. To add a
container, write a module with a class that has the methods of `Container`, and its line of
`CONTAINERS`. The tests of shards, stores, dumps and the format run over that table.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Protocol, TypeAlias

import numpy as np

from logitstore.errors import CorruptionError, ObjectMissing
from logitstore.format.blocks import BlockCounts
from logitstore.format.columns import Columns
from logitstore.format.manifest import StoredObject
from logitstore.store.containers.limits import ShardLimits
from logitstore.store.storage import Storage, place_of, read_together, sha256_of

__all__ = [
    "Container",
    "Fetched",
    "ShardReader",
    "add_container_bytes",
    "check_block",
    "check_names",
    "check_objects",
    "fetch_parts",
    "fields_of",
    "missing_as_corruption",
    "read_hashed",
]

# Object of a shard -> the bytes of each range that is read of it.
Fetched: TypeAlias = Mapping[str, Sequence[bytes]]


class ShardReader(Protocol):
    """An open shard: its columns, equal in name and value to those that were written.

    Entries, scalars, tokens and tables are uint32, the mask of counted tokens is uint8, and the
    table of documents uint64, whatever width the codec gave them. What a shard must do besides:

    * Threads may read from it at the same time.
    * It can be pickled, also after it was read. The copy opens handles and fills caches anew.
    * Every byte is checked against a checksum before a value is made of it. A changed byte raises a
      CorruptionError that names the object, or changes no value. The same holds for an object that
      was removed or cut short after the shard was opened.
    * A block's number that is out of range, or negative, raises IndexError.
    * A StorageError of the storage is passed on as it is.
    """

    @property
    def tables(self) -> Mapping[str, np.ndarray]:
        """The shard's tables by name, each uint32 of one axis."""
        ...

    def fetch(self, number: int, *, draw: int | None = None) -> Fetched:
        """What `block` reads of the storage, read at once; it may be asked for in advance.

        Far away that takes one request for each object, where a container can have it so.
        """
        ...

    def block(
        self, number: int, *, draw: int | None = None, fetched: Fetched | None = None
    ) -> Columns:
        """The columns of block `number`; of `fetched`, where `fetch` gave it for the same block.

        With `draw`, a container may leave out the entries of the other draws. Raises a
        CorruptionError that names a column of entries that the shard lacks.
        """
        ...

    def documents(self, number: int) -> np.ndarray:
        """uint64 [D, C]: the table of documents of block `number`.

        It reads less than `block` does: every block is asked for it before the first is decoded.
        """
        ...

    def column_bytes(self) -> dict[str, int]:
        """Stored bytes of each column; those of no column are named "container".

        Entries and scalars have their own names, tokens `token_id` and `token_counted`, a table
        `<name>_id`, the table of documents `documents`. The sum is the bytes of all objects.
        """
        ...


class Container(Protocol):
    """One way to store a shard. What is read has the names and values of what was written."""

    def write(
        self,
        blocks: Sequence[Columns],
        tables: Mapping[str, np.ndarray],
        *,
        draw_count: int = 1,
        by_entry: bool = False,
    ) -> Mapping[str, bytes]:
        """The objects of a shard: name -> bytes. Equal arguments give equal bytes on any machine.

        The name of an object consists of letters, digits, `_`, `-` and `.`, in parts with `/`
        between them.

        Args:
            blocks: The columns of each block, at least one; all have the same entries and scalars.
            tables: The tables of the shard by name, each uint32 of one axis; may be empty.
            draw_count: How many draws the entries hold, in equal parts of their last axis.
            by_entry: Whether to store the n-th entries of all rows next to each other, which
                compresses better where neighbouring rows have few ids in common. A container may
                ignore it.
        """
        ...

    def chunk_sums(self, objects: Mapping[str, bytes]) -> Mapping[str, str]:
        """Of the objects that `open` does not hash: name -> what binds each chunk to its place.

        As `StoredObject.chunks` says: by it a reader refuses a sound chunk of another object.
        """
        ...

    def open(
        self,
        storage: Storage,
        prefix: str,
        *,
        blocks: Sequence[BlockCounts],
        objects: Sequence[StoredObject],
        entries: Sequence[str],
        limits: ShardLimits,
    ) -> ShardReader:
        """A reader of the shard.

        Args:
            storage: Where its objects are.
            prefix: What their names begin with.
            blocks: The counts of each block, as the commit records them.
            objects: Name, size and hash of each object, as the commit records them.
            entries: The names of the columns of entries.
            limits: What it may hold, checked before memory is set aside.

        Raises a CorruptionError that names the object where an object is missing, unknown, has
        another size, or was changed and is of a kind that no other checksum covers.
        """
        ...


def check_names(objects: Sequence[StoredObject], wanted: Collection[str], *, place: str) -> None:
    """Raise CorruptionError unless a shard has the objects that are `wanted`, each once.

    objects: as the commit names them.
    wanted: their names.
    place: what an error names.
    """
    found = Counter(one.path for one in objects)
    odd = sorted({*found} ^ {*wanted}) or sorted(one for one, times in found.items() if times > 1)
    if odd:
        raise CorruptionError(
            "a file of the shard is missing, unknown or named twice", place=place, found=odd[0]
        )


def check_objects(
    storage: Storage,
    prefix: str,
    objects: Sequence[StoredObject],
    *,
    hashed: Callable[[StoredObject], bool],
) -> None:
    """Raise CorruptionError unless every object is there, with its size and its hash.

    Args:
        storage: Where the objects are.
        prefix: What their names begin with.
        objects: Name, size and hash of each, as the commit records them.
        hashed: Whether the hash of an object is checked; that reads the whole object.
    """
    for one in objects:
        name = f"{prefix}{one.path}"
        size = storage.size(name)
        if size is None:
            raise CorruptionError("file is missing", place=place_of(storage, name))
        if size != one.size:
            raise CorruptionError(
                "file is of another size",
                place=place_of(storage, name),
                found=f"{size} bytes",
                allowed=f"{one.size} bytes",
            )
        if not hashed(one):
            continue
        with missing_as_corruption(place_of(storage, name)):
            found = sha256_of(storage, name)
        _refuse_other_hash(storage, prefix, one, found)


def read_hashed(
    storage: Storage,
    prefix: str,
    objects: Sequence[StoredObject],
    *,
    ends: Mapping[str, int],
) -> dict[str, bytes]:
    """Objects by their paths, all read at once, whose sizes and hashes are as the commit says.

    Args:
        storage: Where the objects are.
        prefix: What their names begin with.
        objects: Name, size and hash of each, as the commit records them.
        ends: Of the objects that are not hashed, how many bytes of their end are read; that tells
            their size too.

    Raises CorruptionError as `check_objects` does.
    """
    # One byte more than there should be tells an object that is too long.
    ranges = {
        one.path: [(max(0, one.size - ends.get(one.path, one.size)), one.size + 1)]
        for one in objects
    }
    found = {path: part for path, (part,) in fetch_parts(storage, prefix, ranges).items()}
    for one in objects:
        ((start, _),) = ranges[one.path]
        if start + len(found[one.path]) != one.size:
            check_objects(storage, prefix, [one], hashed=lambda _: False)
            raise CorruptionError(
                "file changes while it is read", place=place_of(storage, f"{prefix}{one.path}")
            )
        if one.path not in ends:
            _refuse_other_hash(storage, prefix, one, hashlib.sha256(found[one.path]).hexdigest())
    return found


def fetch_parts(
    storage: Storage, prefix: str, ranges: Mapping[str, Sequence[tuple[int, int]]]
) -> dict[str, list[bytes]]:
    """Ranges of some objects of a shard, all at once: path -> the bytes of each.

    Args:
        storage: Where the objects are.
        prefix: What their names begin with.
        ranges: Path -> pairs of start and stop.

    Raises CorruptionError for an object that is missing.
    """
    wanted = {f"{prefix}{path}": own for path, own in ranges.items()}
    try:
        found = read_together(storage, wanted)
    except ObjectMissing as error:
        raise CorruptionError("file is missing", place=error.place) from error
    return {path: found[f"{prefix}{path}"] for path in ranges}


def _refuse_other_hash(storage: Storage, prefix: str, one: StoredObject, sha256: str) -> None:
    if sha256 != one.sha256:
        raise CorruptionError(
            "file has changed since it was written",
            place=place_of(storage, f"{prefix}{one.path}"),
            found=f"sha256 {sha256}",
            allowed=one.sha256,
        )


@contextmanager
def missing_as_corruption(place: str) -> Iterator[None]:
    """Turn the error for an object that was removed into a CorruptionError at `place`."""
    try:
        yield
    except ObjectMissing as error:
        raise CorruptionError("file is missing", place=place) from error


def check_block(number: int, blocks: Sequence[BlockCounts]) -> None:
    """Raise IndexError where `number` is not that of one of the shard's `blocks`."""
    if not 0 <= number < len(blocks):
        raise IndexError(f"block {number} of a shard of {len(blocks)}")


def add_container_bytes(
    columns: Mapping[str, int], objects: Sequence[StoredObject]
) -> dict[str, int]:
    """`columns` (name -> bytes) with the remaining bytes of `objects` as "container"."""
    total = sum(one.size for one in objects)
    return {**columns, "container": total - sum(columns.values())}


def fields_of(instance: Any) -> dict[str, Any]:
    """The fields of the dataclass `instance` without its cached properties, to be pickled."""
    return {one.name: getattr(instance, one.name) for one in fields(instance)}
