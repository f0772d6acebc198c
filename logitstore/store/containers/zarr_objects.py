"""The objects of one shard as a store that the Zarr library reads from."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from logitstore.errors import CorruptionError
from logitstore.store.containers.zarr_index import CRC_BYTES, ENTRY_BYTES, index_bytes, spans_in
from logitstore.store.storage import place_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from logitstore.store.storage import Storage

__all__ = ["ObjectStore", "unpacked_size"]

_ZSTD_MAGIC, _LEAST_FRAME = b"\x28\xb5\x2f\xfd", 9
_FRAME_SHARE, _FRAME_BYTES = 128, 1024  # zstd of what does not compress, and its checksum
_NOT_THERE = (1 << 64) - 1  # the start of a chunk that an index leaves out


def unpacked_size(data: bytes) -> int | None:
    """Bytes that a zstd frame says to unpack to; None where it does not say, or is none.

    As RFC 8878, section 3.1.1.1, lays out the header of a frame.
    """
    if len(data) < _LEAST_FRAME or data[:4] != _ZSTD_MAGIC:
        return None
    descriptor = data[4]
    single, flag = descriptor >> 5 & 1, descriptor >> 6
    start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    width = (single, 2, 4, 8)[flag]
    if not width:
        return None
    size = int.from_bytes(data[start : start + width], "little")
    return size + 256 if width == 2 else size


_Range = tuple[str, int, int]  # an object, and where in it


class ObjectStore(Store):
    """A shard's objects as Zarr reads them: whole ones and ranges, in the thread pool of asyncio.

    Zarr asks for one chunk after another. `ranges` says beforehand where chunks lie, so that they
    can be read at once; `holding` gives their bytes to whoever asks for them meanwhile.

    Args:
        storage: Where the objects are.
        prefix: What their names begin with.
        sizes: Bytes of each object that the commit names; there are no others.
        sums: Of some of them, what binds each chunk to its place (`chunk_sums`).
        kept: Objects that were read already, or the ends of them that hold their indexes.

    Raises CorruptionError for a chunk or an index that is another than the commit says, and for an
    index that leaves a chunk out, which Zarr would read as zeros.
    """

    supports_writes = False
    supports_deletes = False
    supports_partial_writes = False
    supports_listing = True

    def __init__(
        self,
        storage: Storage,
        prefix: str,
        sizes: Mapping[str, int],
        sums: Mapping[str, str],
        kept: Mapping[str, bytes],
    ) -> None:
        super().__init__(read_only=True)
        self.storage, self.prefix, self.sizes, self.sums = storage, prefix, sizes, sums
        self._kept = kept
        self._lock = Lock()
        self._held: dict[_Range, tuple[bytes, int]] = {}  # with how many hold it
        self._indexes: dict[str, bytes] = {}
        self._spans: dict[str, list[tuple[int, int]]] = {}  # as the index says
        self._chunks: dict[str, dict[int, bytes]] = {}  # object -> start of a chunk -> its crc32c
        self._bounds: dict[str, int] = {}  # array -> bytes of a chunk that is unpacked
        self._index_bytes: dict[str, int] = {}  # array -> bytes of the index of its chunks

    def bound(self, array: str, size: int, *, chunks: int) -> None:
        """Refuse each chunk of `array` that says to unpack to another size than `size` bytes.

        array: its name.
        size: bytes.
        chunks: how many the one object of the array has.
        """
        self._bounds[array] = size
        self._index_bytes[array] = index_bytes(chunks)

    def ranges(self, key: str, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """Where chunks of an object lie; the whole object where they are all that it has.

        key: of the object, whose array has a bound.
        numbers: of the chunks, in the order of the index.
        """
        size = self._index_bytes[key.split("/")[0]]
        if index_bytes(len(numbers)) == size:
            return [(0, self.sizes[key])]
        self._index(key, size)
        spans = [self._spans[key][number] for number in numbers]
        for start, stop in spans:
            self._check_length(key, start, stop)
        return spans

    @contextmanager
    def holding(self, parts: Mapping[_Range, bytes]) -> Iterator[None]:
        """Give these bytes meanwhile to whoever asks for exactly these ranges.

        parts: object and range -> bytes.
        """
        with self._lock:
            for one, data in parts.items():
                self._held[one] = (data, self._held.get(one, (b"", 0))[1] + 1)
        try:
            yield
        finally:
            with self._lock:
                for one in parts:
                    data, users = self._held.pop(one)
                    if users > 1:
                        self._held[one] = (data, users - 1)

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
        held = self._held_bytes(key, byte_range)
        if held is None:
            data = await asyncio.to_thread(self._read, key, byte_range)
        else:
            data = self._checked(key, byte_range, held)
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    def _held_bytes(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        """What is in memory already; an index is read once."""
        if isinstance(byte_range, SuffixByteRequest):
            return self._indexes.get(key)
        start, stop = self._bounds_of(key, byte_range)
        data, _ = self._held.get((key, start, stop), (None, 0))
        if data is None and len(self._kept.get(key, b"")) == self.sizes[key]:
            return self._kept[key][start:stop]
        return data

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes:
        if isinstance(byte_range, SuffixByteRequest):
            return self._index(key, byte_range.suffix)
        name = f"{self.prefix}{key}"
        if byte_range is None:
            return self._checked(key, None, self.storage.read(name))
        start, stop = self._bounds_of(key, byte_range)
        self._check_length(key, start, stop)
        size = self.sizes[key]
        (data,) = self.storage.read_ranges(name, [(min(start, size), min(stop, size))])
        return self._checked(key, byte_range, data)

    def _checked(self, key: str, byte_range: ByteRequest | None, data: bytes) -> bytes:
        """The same bytes, if they are chunks that were committed, or an index."""
        if byte_range is None:
            self._check_whole(key, data)
        elif not isinstance(byte_range, SuffixByteRequest):
            self._check_chunk(key, data, self._bounds_of(key, byte_range)[0])
        return data

    def _bounds_of(self, key: str, byte_range: ByteRequest | None) -> tuple[int, int]:
        """Where a range begins and ends that is none at the end of the object."""
        if isinstance(byte_range, RangeByteRequest):
            return byte_range.start, byte_range.end
        return (getattr(byte_range, "offset", 0), self.sizes[key])

    def _index(self, key: str, size: int) -> bytes:
        """The index of an object, of `size` bytes: read and checked once."""
        if key not in self._indexes:
            index = self._kept.get(key, b"")[-size:]
            if len(index) < size:
                start = max(0, self.sizes[key] - size)
                name = f"{self.prefix}{key}"
                (index,) = self.storage.read_ranges(name, [(start, self.sizes[key])])
            self._check_index(key, index)
            self._spans[key] = spans_in(index)
            self._indexes[key] = index
        return self._indexes[key]

    def _check_whole(self, key: str, data: bytes) -> None:
        """What is checked of each chunk, of all: Zarr reads a file whole if it wants them all."""
        array, _, rest = key.partition("/")
        if array not in self._bounds or not rest.startswith("c/"):
            return
        if len(data) != self.sizes[key]:
            raise CorruptionError(
                "file is of another size",
                place=place_of(self.storage, f"{self.prefix}{key}"),
                found=f"{len(data)} bytes",
                allowed=f"{self.sizes[key]} bytes",
            )
        index = data[-self._index_bytes[array] :]
        self._check_index(key, index)
        for start, stop in spans_in(index):
            self._check_length(key, start, stop)
            self._check_chunk(key, data[start:stop], start)

    def _check_length(self, key: str, start: int, stop: int) -> None:
        bound = self._bounds.get(key.split("/")[0])
        if bound is not None and stop - start > bound + bound // _FRAME_SHARE + _FRAME_BYTES:
            raise CorruptionError(
                "a chunk is larger than what it unpacks to",
                place=self._chunk_place(key, start, stop),
                allowed=f"{bound:,} bytes",
            )

    def _check_chunk(self, key: str, data: bytes, start: int) -> None:
        bound = self._bounds.get(key.split("/")[0])
        if bound is not None and unpacked_size(data) != bound:
            raise CorruptionError(
                "a chunk unpacks to another size than its array says",
                place=self._chunk_place(key, start, start + len(data)),
                found=unpacked_size(data),
                allowed=bound,
            )
        if key in self._chunks and data[-CRC_BYTES:] != self._chunks[key].get(start):
            raise CorruptionError(
                "a chunk is another than the one that was committed",
                place=self._chunk_place(key, start, start + len(data)),
            )

    def _chunk_place(self, key: str, start: int, stop: int) -> str:
        return f"{place_of(self.storage, f'{self.prefix}{key}')}, bytes {start} to {stop}"

    def _check_index(self, key: str, index: bytes) -> None:
        place = place_of(self.storage, f"{self.prefix}{key}")
        if len(index) % ENTRY_BYTES != CRC_BYTES:
            raise CorruptionError("the index of chunks is cut off", place=place)
        spans = spans_in(index)
        starts = [start for start, _ in spans]
        if _NOT_THERE in starts:
            raise CorruptionError(
                "the index leaves a chunk out",
                place=place,
                found=f"chunk {starts.index(_NOT_THERE)}",
            )
        most = self.sizes[key] - len(index)
        if any(stop > most for _, stop in spans):
            raise CorruptionError(
                "the index of chunks leads out of the file",
                place=place,
                found=f"byte {max(stop for _, stop in spans)}",
                allowed=f"up to {most}",
            )
        if key not in self.sums:
            return
        sums = bytes.fromhex(self.sums[key])
        if len(sums) != CRC_BYTES * (len(starts) + 1) or sums[-CRC_BYTES:] != index[-CRC_BYTES:]:
            raise CorruptionError(
                "the index of chunks is another than the one that was committed", place=place
            )
        self._chunks[key] = {
            start: sums[CRC_BYTES * number : CRC_BYTES * (number + 1)]
            for number, start in enumerate(starts)
        }

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
