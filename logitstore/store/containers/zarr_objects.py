"""The objects of one shard as a store that the Zarr library reads from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from logitstore.store.storage import Storage

__all__ = ["ObjectStore"]


class ObjectStore(Store):
    """A shard's objects as Zarr reads them: whole ones and ranges, in the thread pool of asyncio.

    Args:
        storage: Where the objects are.
        prefix: What their names begin with.
        sizes: Bytes of each object that the commit names; there are no others.
    """

    supports_writes = False
    supports_deletes = False
    supports_partial_writes = False
    supports_listing = True

    def __init__(self, storage: Storage, prefix: str, sizes: Mapping[str, int]) -> None:
        super().__init__(read_only=True)
        self.storage, self.prefix, self.sizes = storage, prefix, sizes
        self._indexes: dict[str, bytes] = {}

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """The object `key`, or a range of it; None where there is no such object."""
        if key not in self.sizes:
            return None
        data = await asyncio.to_thread(self._read, key, byte_range)
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes:
        name, size = f"{self.prefix}{key}", self.sizes[key]
        if byte_range is None:
            return self.storage.read(name)
        if isinstance(byte_range, SuffixByteRequest):  # the index of a file's chunks, read often
            if key not in self._indexes:
                start = max(0, size - byte_range.suffix)
                (self._indexes[key],) = self.storage.read_ranges(name, [(start, size)])
            return self._indexes[key]
        start = byte_range.start if isinstance(byte_range, RangeByteRequest) else byte_range.offset
        stop = byte_range.end if isinstance(byte_range, RangeByteRequest) else size
        (data,) = self.storage.read_ranges(name, [(min(start, size), min(stop, size))])
        return data

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """The result of `get` for each key and range."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether the commit names the object."""
        return key in self.sizes

    async def list(self) -> AsyncIterator[str]:
        """The objects that the commit names."""
        for key in self.sizes:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """The objects that the commit names, whose names begin with `prefix`."""
        for key in self.sizes:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The next parts of the names that begin with the folder `prefix`."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        inside = (key[len(start) :] for key in self.sizes if key.startswith(start))
        for part in sorted({key.split("/")[0] for key in inside}):
            yield part

    async def set(self, key: str, value: Buffer) -> None:
        """Not possible: the store is read-only."""
        raise NotImplementedError(key)

    async def delete(self, key: str) -> None:
        """Not possible: the store is read-only."""
        raise NotImplementedError(key)
