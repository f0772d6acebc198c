"""What a sealed store is made of, by the hashes of its seal, and how an object of it is carried.

Nothing is believed that a hash does not cover: a name must be one that a store has, an object is
bounded before it is read, hashed in memory, and only then written, whole.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from logitstore.errors import CorruptionError, ObjectMissing, StorageError, StoreError
from logitstore.format.states import HEAD
from logitstore.format.tokenizer_names import is_tokenizer_name
from logitstore.store.commits import SealedCommits
from logitstore.store.layout import COMMITS, DATA, MANIFEST, PLAN, SPEC, TOKENIZER, StoreLayout
from logitstore.store.storage import place_of, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from logitstore.format.manifest import Manifest
    from logitstore.store.storage import Storage

__all__ = [
    "Carrier",
    "SealedObject",
    "claim",
    "holds",
    "read_object",
    "refuse_other_store",
    "refuse_strangers",
    "sealed_objects",
]

_PIECE_BYTES = 32 << 20  # of one request
# Names that old manifests list: those of commits and shards.
_LISTED = re.compile(rf"{COMMITS}[0-9]{{6,12}}\.json|{DATA}[0-9]{{6,12}}-[0-9a-f]{{8}}/.+")


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedObject:
    """One object of a store, as its seal knows it."""

    name: str
    sha256: str
    size: int | None  # bytes; None where no commit says it
    most: int  # bytes that it may have


def sealed_objects(layout: StoreLayout, manifest: Manifest) -> Iterator[SealedObject]:
    """Every object of a sealed store but its manifest and its card; a commit behind its shard.

    layout: where the store lies. Commits are read from there, and compared with the manifest.
    manifest: the store's.

    Raises CorruptionError for a name that no store has, and for a commit that has changed.
    """
    for name, sha256 in manifest.objects.items():
        own = name in (SPEC, PLAN, HEAD) or (
            name.startswith(TOKENIZER) and is_tokenizer_name(name.removeprefix(TOKENIZER))
        )
        if not own and (manifest.units is not None or not _LISTED.fullmatch(name)):
            raise CorruptionError(
                "the manifest names a file that no store has", place=layout.uri, found=name
            )
        most = layout.most_bytes(name, otherwise=manifest.bytes)
        yield SealedObject(name=name, sha256=sha256, size=None, most=most)
    if manifest.units is None:
        return
    commits = SealedCommits(layout=layout, manifest=manifest)
    for commit, sha256 in zip(commits, manifest.units.commit_sha256, strict=True):
        for one in commit.objects:
            yield SealedObject(
                name=f"{layout.shard_prefix(commit)}{one.path}",
                sha256=one.sha256,
                size=one.size,
                most=one.size,
            )
        name = layout.commit_name(commit.unit)
        most = layout.most_bytes(name, otherwise=0)
        yield SealedObject(name=name, sha256=sha256, size=None, most=most)


def read_object(storage: Storage, one: SealedObject) -> bytes:
    """The bytes of an object, which are those that were sealed.

    storage: where it lies.
    one: which it is.

    Raises CorruptionError where it is missing, of another size, or has changed.
    """
    place = place_of(storage, one.name)
    size = storage.size(one.name)
    if size is None:
        raise CorruptionError("file is missing", place=place)
    if size > one.most or one.size not in (None, size):
        raise CorruptionError(
            "size in bytes is not as written",
            place=place,
            found=size,
            allowed=one.size if one.size is not None else f"up to {one.most:,}",
        )
    pieces = [(start, start + _PIECE_BYTES) for start in range(0, size, _PIECE_BYTES)]
    data = b"".join(part for piece in pieces for part in storage.read_ranges(one.name, [piece]))
    found = hashlib.sha256(data).hexdigest()
    if found != one.sha256:
        raise CorruptionError(
            "file has changed since the store was sealed",
            place=place,
            found=f"sha256 {found}",
            allowed=one.sha256,
        )
    return data


def holds(storage: Storage, one: SealedObject) -> bool:
    """Whether an object lies in a storage already, by its hash.

    storage: where it may lie.
    one: which it is.
    """
    size = storage.size(one.name)
    if size is None or size > one.most or one.size not in (None, size):
        return False
    try:
        return sha256_of(storage, one.name) == one.sha256
    except ObjectMissing:
        return False


@dataclass(kw_only=True, slots=True)
class Carrier:
    """Objects on their way into a storage, counted: all of them, and those that were written."""

    target: Storage
    claimed: frozenset[str] = frozenset()  # what `claim` has written just now
    objects: int = 0
    total_bytes: int = 0
    sent_objects: int = 0
    sent_bytes: int = 0

    def carry(self, source: Storage, one: SealedObject) -> None:
        """Copy a sealed object, unless it is there.

        source: where it lies.
        one: which it is.

        Raises CorruptionError where it is not what was sealed.
        """
        if holds(self.target, one):
            size = one.size if one.size is not None else self.target.size(one.name)
            self.count(size or 0, sent=one.name in self.claimed)
            return
        data = read_object(source, one)
        self.target.put(one.name, data)
        self.count(len(data), sent=True)

    def put(self, name: str, data: bytes) -> None:
        """Write an object that no hash covers, unless it is there.

        name: of the object.
        data: its bytes.
        """
        there = self.target.size(name) == len(data) and self.target.read(name) == data
        if not there:
            self.target.put(name, data)
        self.count(len(data), sent=not there)

    def seal(self, manifest: bytes) -> None:
        """Write the manifest, the last of all. Raises StoreError where another one lies there.

        manifest: its bytes.
        """
        written = self.target.put_if_absent(MANIFEST, manifest)
        if not written:
            refuse_other_store(self.target, manifest)
        self.count(len(manifest), sent=written)

    def count(self, size: int, *, sent: bool) -> None:
        """Count an object that lies there now.

        size: its bytes.
        sent: whether it was written.
        """
        self.objects, self.total_bytes = self.objects + 1, self.total_bytes + size
        if sent:
            self.sent_objects, self.sent_bytes = self.sent_objects + 1, self.sent_bytes + size


def refuse_strangers(storage: Storage) -> None:
    """Raise StoreError where anything lies in a place for a store, or nobody can tell.

    storage: that place.
    """
    try:
        found = next(iter(storage.list("")), None)
    except StorageError as error:
        raise StoreError(
            f"no store can be written here: {error.problem}",
            place=storage.uri,
            remedy="Name another place",
        ) from error
    if found is not None:
        raise StoreError(
            "something lies here that is no part of this store",
            place=storage.uri,
            found=found,
            remedy="Name another place, or an empty one",
        )


def claim(storage: Storage, beginning: Mapping[str, bytes]) -> frozenset[str]:
    """Make a place that of one store, before anything else of it is written there.

    storage: where the store shall lie.
    beginning: its spec and its plan, by their names, which no other store has.

    Gives the names of what was written. Raises StoreError where something else lies there, or
    another process has begun another store.
    """
    written = set()
    if all(storage.size(name) is None for name in (MANIFEST, *beginning)):
        refuse_strangers(storage)
    for name, data in beginning.items():
        if storage.put_if_absent(name, data):
            written.add(name)
        elif storage.read(name) != data:
            raise StoreError(
                "another store lies here, or a part of one",
                place=place_of(storage, name),
                remedy="Name another place, or remove that store first",
            )
    return frozenset(written)


def refuse_other_store(storage: Storage, seal: bytes) -> None:
    """Raise StoreError where a storage holds the manifest of another store.

    storage: where a store shall lie.
    seal: its manifest.
    """
    size = storage.size(MANIFEST)
    if size is not None and (size != len(seal) or storage.read(MANIFEST) != seal):
        raise StoreError(
            "another store lies here",
            place=storage.uri,
            remedy="Name another place, or remove that store first",
        )
