"""Compressed files, read as the plain bytes that they hold."""

from __future__ import annotations

import bz2
import gzip
import io
from typing import TYPE_CHECKING, BinaryIO, cast

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["COMPRESSIONS", "StreamCursor", "compression_of"]

_PIECE = 1 << 20


def _zstd(path: Path) -> BinaryIO:
    return cast("BinaryIO", io.BufferedReader(pa.input_stream(str(path), compression="zstd")))


COMPRESSIONS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": lambda path: cast("BinaryIO", gzip.GzipFile(path)),
    ".bz2": lambda path: cast("BinaryIO", bz2.BZ2File(path)),
    ".zst": _zstd,
}


def compression_of(name: str) -> str | None:
    """The ending of `name` that tells how it is compressed; None where it is not."""
    return next((suffix for suffix in COMPRESSIONS if name.lower().endswith(suffix)), None)


class StreamCursor:
    """The one decompressing stream that a corpus keeps open.

    A compressed file can only be entered at its front, so reaching unit n costs n units of
    decompression. Kept open, the stream gives units read in order for a single pass.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._stream: BinaryIO | None = None
        self._position = 0

    def read(self, path: Path, start: int, stop: int) -> bytes:
        """Plain bytes `start` to `stop` of `path`; fewer where it ends before."""
        try:
            stream = self._at(path, start)
            while self._position < start:
                skipped = stream.read(min(start - self._position, _PIECE))
                if not skipped:
                    return b""
                self._position += len(skipped)
            data = stream.read(stop - start)
        except BaseException:
            self._close()
            raise
        self._position += len(data)
        return data

    def _at(self, path: Path, start: int) -> BinaryIO:
        if self._stream is None or self._path != path or self._position > start:
            self._close()
            self._path = path
            self._stream = COMPRESSIONS[compression_of(path.name) or ""](path)
        return self._stream

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream, self._position = None, 0
