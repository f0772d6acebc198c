"""A remote storage whose shards are kept in a cache, by the version that the service names.

Only objects below `data/` are kept: they are most of a store, and are never changed in place.
Before the first range of an object is taken from the cache, the service is asked which version it
has; a range that is fetched must be of that version. What has no version (an ETag) is not kept.
"""

from __future__ import annotations

import builtins
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from logitstore.errors import ObjectMissing, SettingError
from logitstore.store.memory_limit import parse_bytes
from logitstore.store.remote.cache import RangeCache
from logitstore.store.remote.calls import ENDPOINTS, Got, Refused
from logitstore.store.remote.requests import together
from logitstore.store.remote.spans import read_spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from logitstore.store.remote.calls import Head
    from logitstore.store.remote.hub import HubStorage
    from logitstore.store.remote.objects import RemoteStorage

__all__ = ["CachedStorage", "with_cache"]

_FOLDER, _SIZE = "LOGITSTORE_CACHE", "LOGITSTORE_CACHE_SIZE"
_DEFAULT_SIZE = "10G"
_KEPT = "data/"
Versioned: TypeAlias = "RemoteStorage | HubStorage"
_MOST_VERSIONS = 10_000  # of objects, in memory


def with_cache(storage: Versioned) -> Versioned | CachedStorage:
    """The storage, behind the cache that the environment names, if it does.

    storage: of a URI.

    Raises SettingError for a size that is none, and for a folder that cannot be written to.
    """
    folder = os.environ.get(_FOLDER)
    if not folder:
        return storage
    try:
        most = parse_bytes(os.environ.get(_SIZE) or _DEFAULT_SIZE)
    except SettingError as error:
        raise SettingError(
            f"{_SIZE} is no size of a cache",
            found=repr(os.environ.get(_SIZE))[:80],
            allowed="as in 8G or 500M, 1M or more",
        ) from error
    path = Path(folder).expanduser().absolute()
    _refuse_unusable(path)
    return CachedStorage(storage, RangeCache(path, most))


def _refuse_unusable(folder: Path) -> None:
    """Raise SettingError for a folder in which nothing can be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        usable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
        problem = "cannot be written to"
    except OSError as error:
        usable, problem = False, f"cannot be made: {error.strerror}"
    if not usable:
        raise SettingError(
            f"the folder of {_FOLDER} {problem}",
            found=str(folder),
            remedy="Name another folder, or unset the variable",
        )


@dataclass(frozen=True, slots=True, eq=False)
class CachedStorage:
    """A `Storage` of remote objects, whose shards are read from the cache where they are in it.

    storage: where they lie.
    cache: where their ranges are kept.
    """

    storage: Versioned
    cache: RangeCache
    _versions: OrderedDict[str, Head] = field(default_factory=OrderedDict)

    @property
    def uri(self) -> str:
        """See `Storage`."""
        return self.storage.uri

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        head = self._version(name) if name.startswith(_KEPT) else None
        return self.storage.read(name) if head is None else self._part(name, 0, head.size).data

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> builtins.list[bytes]:
        """See `Storage`."""
        return self.read_together({name: ranges})[name]

    def read_together(
        self, wanted: Mapping[str, Sequence[tuple[int, int]]]
    ) -> dict[str, builtins.list[bytes]]:
        """See `FarStorage`."""
        kept = {name: ranges for name, ranges in wanted.items() if name.startswith(_KEPT)}
        rest = {name: ranges for name, ranges in wanted.items() if name not in kept}
        found = self.storage.read_together(rest) if rest else {}
        unknown = [name for name in kept if name not in self._versions]
        together([partial(self._version, name) for name in unknown])
        parts = read_spans(self._part, self.storage.size, kept)
        return found | parts

    def size(self, name: str) -> int | None:
        """See `Storage`. It is asked for anew."""
        self._versions.pop(name, None)
        head = self.storage.head(name)
        if head is not None and name.startswith(_KEPT):
            self._versions[name] = head
        return None if head is None else head.size

    def modified(self, name: str) -> float | None:
        """See `RemoteStorage`.

        name: of the object.
        """
        return self.storage.modified(name)

    def list(self, prefix: str) -> Iterator[str]:
        """See `Storage`."""
        return self.storage.list(prefix)

    def put(self, name: str, data: bytes) -> None:
        """See `Storage`."""
        self._versions.pop(name, None)
        self.storage.put(name, data)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Storage`."""
        return self.storage.put_if_absent(name, data)

    def delete(self, name: str) -> None:
        """See `Storage`."""
        self._versions.pop(name, None)
        self.storage.delete(name)

    def sweep(self) -> None:
        """See `Storage`."""
        self.storage.sweep()

    def _version(self, name: str) -> Head:
        """The version that the service has, asked for once. Raises ObjectMissing."""
        head = self._versions.get(name)
        if head is None:
            head = self.storage.head(name)
            if head is None:
                raise ObjectMissing("there is no such object", place=self.storage.place(name))
            self._versions[name] = head
            while len(self._versions) > _MOST_VERSIONS:
                self._versions.popitem(last=False)
        return head

    def _part(self, name: str, start: int, stop: int) -> Got:
        """A range of an object, of one version of it: from the cache, or kept there now."""
        head = self._version(name)
        stop = min(stop, head.size)
        if start >= stop:
            return Got(b"", *head)
        if head.etag is None:
            return self.storage.got(name, start, stop)
        key = (*self._place, name, head.etag, head.size, head.modified, start, stop)
        data = self.cache.get(*key)
        if data is not None and len(data) == stop - start:
            return Got(data, *head)
        try:
            strong = None if head.etag.startswith("W/") else head.etag
            got = self.storage.got(name, start, stop, etag=strong)
        except Refused:  # it was changed since: what is kept of it is of another version
            got = self.storage.got(name, start, stop)
        if (got.size, got.etag) == (head.size, head.etag):
            self.cache.put(got.data, *key)
        else:
            self._versions.pop(name, None)
        return got

    @property
    def _place(self) -> tuple[str, ...]:
        """What the URI stands for: two services may have a bucket of one name."""
        return self.uri, *(os.environ.get(one, "") for one in ENDPOINTS)
