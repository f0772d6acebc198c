"""Storage: objects by name, behind which a store lies; a folder of files is one implementation.

Nothing else of a store knows paths. A storage has nine methods, chosen so that an object store can
offer them too: whole objects are put, ranges are read, and creating an object that must not exist
yet is one step (a hard link here, a conditional put there). An implementation for another kind of
URI is a class and a line of `STORAGES`.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from logitstore.errors import SettingError
from logitstore.store.local import LocalStorage
from logitstore.store.remote.opening import open_remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = [
    "STORAGES",
    "FarStorage",
    "Storage",
    "StorageLike",
    "base_name",
    "open_storage",
    "place_of",
    "read_together",
    "sha256_of",
]


@runtime_checkable
class Storage(Protocol):
    """Objects by name. Threads and processes may use one at the same time.

    A name is made of parts with `/` between them, none of them empty, `.` or `..`. An object is
    never changed in place: who reads sees all of one version or nothing. What the storage refuses
    (no space, no permission, no connection) is a StorageError that names the object.
    """

    @property
    def uri(self) -> str:
        """Where it is, as its user wrote it: what messages begin with."""
        ...

    def read(self, name: str) -> bytes:
        """The object's bytes. Raises ObjectMissing where there is none.

        name: of the object.
        """
        ...

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes `start` to `stop` of the object for each of `ranges`; fewer where it ends before.

        name: of the object.
        ranges: pairs of `start` and `stop`.

        Raises ObjectMissing where there is no such object. Ranges of one call are wanted together:
        an implementation may fetch neighbours in one request.
        """
        ...

    def size(self, name: str) -> int | None:
        """The object's bytes, counted; None where there is no such object.

        name: of the object.
        """
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """The names that begin with `prefix`, in no order. What writers leave behind is not one.

        prefix: what the names begin with; empty for all.
        """
        ...

    def put(self, name: str, data: bytes) -> None:
        """Store an object, whatever stood there; it outlives a loss of power once this returns.

        name: of the object.
        data: its bytes.
        """
        ...

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Store an object as `put` does and return True, unless there is one: then return False.

        name: of the object.
        data: its bytes.

        Of any number of callers one gets True. After an error the object may be there or not, and
        an object store may answer False to a caller whose own object it already holds: who must
        know for sure looks what is there.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove the object, if there is one.

        name: of the object.
        """
        ...

    def sweep(self) -> None:
        """Remove what killed writers left behind that is no object; writers at work survive it."""
        ...


@runtime_checkable
class FarStorage(Protocol):
    """What a storage offers besides, to which each request takes long: many of them at once."""

    def read_together(
        self, wanted: Mapping[str, Sequence[tuple[int, int]]]
    ) -> dict[str, list[bytes]]:
        """The result of `read_ranges` for each object.

        wanted: object -> pairs of `start` and `stop`.
        """
        ...


StorageLike: TypeAlias = "str | os.PathLike[str] | Storage"  # a folder, a URI, or the object itself

# Kind of URI -> what opens one.
STORAGES: dict[str, Callable[[str], Storage]] = {
    "file": LocalStorage.of_uri,
    **dict.fromkeys(("s3", "gs", "az", "http", "https", "hf"), open_remote),
}

_PIECE_BYTES = 4 << 20  # read at a time to hash
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_storage(where: StorageLike) -> Storage:
    """The storage at a folder's path or a URI; one that is open already is returned as it is.

    where: a path, a URI, or an object with the methods of `Storage`.

    Raises SettingError for a URI of a kind that no implementation serves, and for what is no name.
    """
    if isinstance(where, Storage) and not isinstance(where, type):
        return where
    if not isinstance(where, str | os.PathLike) or not _is_text(os.fspath(where)):
        raise SettingError(
            "a store is named by a folder's path or a URI",
            found=repr(where)[:80],
            allowed="a path, a URI, or an object with the methods of logitstore.Storage",
        )
    text = os.fspath(where)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return LocalStorage(text)
    if scheme[1].lower() not in STORAGES:
        raise SettingError(
            "no storage of this kind is built in",
            found=text,
            allowed=", ".join(["a folder", *(f"{name}://" for name in STORAGES)]),
            remedy="Copy or mount it to a folder and name that; from Python, pass an object with "
            "the methods of logitstore.Storage",
        )
    return STORAGES[scheme[1].lower()](text)


def _is_text(path: object) -> bool:
    return isinstance(path, str) and path != ""


def place_of(storage: Storage, name: str) -> str:
    """An object as its user knows it: the storage's URI and the name.

    storage: where the object lies.
    name: of the object.
    """
    return f"{storage.uri.rstrip('/')}/{name}" if storage.uri != "." else name


def base_name(storage: Storage) -> str:
    """The last part of the storage's URI, or of the folder that `.` and links stand for.

    storage: where a store lies.
    """
    path = storage.folder if isinstance(storage, LocalStorage) else storage.uri
    return os.path.basename(os.path.realpath(path))  # noqa: PTH119


def read_together(
    storage: Storage, wanted: Mapping[str, Sequence[tuple[int, int]]]
) -> dict[str, list[bytes]]:
    """Ranges of several objects: at the same time where the storage is far away.

    storage: where the objects lie.
    wanted: object -> pairs of `start` and `stop`.

    Raises ObjectMissing where one of the objects is missing.
    """
    if isinstance(storage, FarStorage):
        return storage.read_together(wanted)
    return {name: storage.read_ranges(name, ranges) for name, ranges in wanted.items()}


def sha256_of(storage: Storage, name: str) -> str:
    """The object's sha256, in hex, read a piece at a time.

    storage: where the object lies.
    name: of the object.
    """
    digest, start = hashlib.sha256(), 0
    while True:
        (piece,) = storage.read_ranges(name, [(start, start + _PIECE_BYTES)])
        digest.update(piece)
        start += len(piece)
        if len(piece) < _PIECE_BYTES:
            return digest.hexdigest()
