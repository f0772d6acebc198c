"""The contract of a container, and what every container needs to keep it.

A shard is a list of blocks and a few tables; a container lays their integers out in objects. To add
one, write a module with a class like `ZarrContainer` and its line of `CONTAINERS`; the tests of
shards, stores, dumps and the format run over that table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Protocol

import numpy as np

from logitstore.errors import CorruptionError, ObjectMissing
from logitstore.format.columns import Columns
from logitstore.format.manifest import BlockCounts, StoredObject
from logitstore.store.storage import Storage, place_of, sha256_of

__all__ = [
    "Container",
    "ShardReader",
    "add_container_bytes",
    "check_block",
    "check_objects",
    "fields_of",
    "missing_as_corruption",
]


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

    def block(self, number: int, *, draw: int | None = None) -> Columns:
        """The columns of block `number`.

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
        """Stored bytes by column; what belongs to none of them stands under "container".

        Entries and scalars have their own names, tokens `token_id` and `token_counted`, tables
        `<name>_id`, the table of documents `documents`. They add up to the bytes of all objects.
        """
        ...


class Container(Protocol):
    """One way to lay out a shard. Two containers given equal columns give back equal columns."""

    def write(
        self,
        blocks: Sequence[Columns],
        tables: Mapping[str, np.ndarray],
        *,
        draw_count: int = 1,
        by_entry: bool = False,
    ) -> Mapping[str, bytes]:
        """The objects of a shard by name; equal input gives equal bytes, on any machine.

        `blocks`, one at least, hold the entries of `draw_count` draws side by side; all have the
        same entries and scalars. `by_entry` asks a container that can to lay the n-th entries of
        all rows side by side, for rows that have little in common with their neighbours. A name
        has parts of letters, digits, `_`, `-` and `.`, with `/` between them.
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
    ) -> ShardReader:
        """The shard whose objects lie in `storage` under `prefix` and their names.

        `blocks` and `objects` are what the commit says of it, `entries` names the columns of
        entries. Raises CorruptionError that names the object where one is missing, has another
        size, or is of a kind that no other checksum covers and was changed.
        """
        ...


def check_objects(
    storage: Storage,
    prefix: str,
    objects: Sequence[StoredObject],
    *,
    hashed: Callable[[StoredObject], bool],
) -> None:
    """CorruptionError unless every object is there with its size and, where `hashed`, its hash."""
    for one in objects:
        name = f"{prefix}{one.path}"
        size = storage.size(name)
        if size != one.size:
            raise CorruptionError(
                "file is missing or of another size",
                place=place_of(storage, name),
                found="no file" if size is None else f"{size} bytes",
                allowed=f"{one.size} bytes",
            )
        if not hashed(one):
            continue
        with missing_as_corruption(place_of(storage, name)):
            found = sha256_of(storage, name)
        if found != one.sha256:
            raise CorruptionError(
                "file has changed since it was written",
                place=place_of(storage, name),
                found=f"sha256 {found}",
                allowed=one.sha256,
            )


@contextmanager
def missing_as_corruption(place: str) -> Iterator[None]:
    """An object that has gone since the shard was opened, as a CorruptionError at `place`."""
    try:
        yield
    except ObjectMissing as error:
        raise CorruptionError("file is missing", place=place) from error


def check_block(number: int, blocks: Sequence[BlockCounts]) -> None:
    """IndexError for a block that the shard does not have."""
    if not 0 <= number < len(blocks):
        raise IndexError(f"block {number} of a shard of {len(blocks)}")


def add_container_bytes(
    columns: Mapping[str, int], objects: Sequence[StoredObject]
) -> dict[str, int]:
    """`columns` with what is left of the objects' bytes under "container"."""
    total = sum(one.size for one in objects)
    return {**columns, "container": total - sum(columns.values())}


def fields_of(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass without what it has cached beside them: its state when pickled."""
    return {one.name: getattr(instance, one.name) for one in fields(instance)}
