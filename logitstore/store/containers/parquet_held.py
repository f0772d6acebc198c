"""Columns of a Parquet file that are in memory: where they lie, and a file of them for Arrow."""

from __future__ import annotations

import io
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.store.containers.parquet_pages import Chunk

__all__ = ["HeldFile", "spans_of_columns"]

_GAP_BYTES = 1 << 16  # between columns, which is read rather than asked for apart


def spans_of_columns(chunks: Sequence[Chunk]) -> list[tuple[int, int]]:
    """Where some columns lie; neighbours are one span.

    chunks: of one row group.
    """
    spans: list[tuple[int, int]] = []
    for start, stop in sorted((one.start, one.stop) for one in chunks):
        if spans and start <= spans[-1][1] + _GAP_BYTES:
            spans[-1] = (spans[-1][0], max(stop, spans[-1][1]))
        else:
            spans.append((start, stop))
    return spans


class HeldFile(io.RawIOBase):
    """Ranges of a file that are in memory, as a file for Arrow: it reads nothing else of it."""

    def __init__(self, starts: Sequence[int], parts: Sequence[bytes]) -> None:
        super().__init__()
        self._starts, self._parts = starts, [memoryview(part) for part in parts]
        self._size = max(
            (start + len(part) for start, part in zip(starts, parts, strict=True)), default=0
        )
        self._position = 0

    def held(self, start: int, stop: int) -> memoryview:
        """The bytes from `start` to `stop`; fewer where they are not all in one part."""
        number = bisect_right(self._starts, start) - 1
        if number < 0:
            return memoryview(b"")
        first = self._starts[number]
        return self._parts[number][start - first : stop - first]

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position at which the next `read` begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset` from the start, the present position or the end; the new position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1) -> Any:
        """The next `size` bytes without a copy; all that are left where it is None or negative."""
        stop = self._size if size is None or size < 0 else self._position + size
        data = self.held(self._position, stop)
        self._position += len(data)
        return data
