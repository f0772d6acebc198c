"""Decisions taken from bytes, so that a fuzzer which changes bytes changes what is decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Choices"]

T = TypeVar("T")

# Where types, sizes and signs end, and what is just beyond.
_INTEGERS = (
    *(0, 1, 2, 3, 7, 8, 15, 16, 100, 127, 128, 255, 256, 300, 1000, 32767, 32768, 65535, 65536),
    *(1 << 20, 1 << 24, 1 << 28, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40),
    *((1 << 53) - 1, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**20, 10**400),
)
_TEXTS = (
    *("", " ", "a", "0", "-1", ".", "..", "/", "a/b", "../../x", "~", "C:\\", "nul\0", "\n", "\t"),
    *("\x1b[2J", "\x9b31m", "\u202e", "\ud800", "\uffff", "é", "日本", "[/nope]", "{x}", "%s"),
    *("null", "true", "NaN", "1e999", "0x10", "0" * 64, "f" * 64, "x" * 300, "[" * 100),
    *("topk", "hybrid", "rank-delta/1", "zarr", "parquet", "logitstore/1", "logitstore/99"),
)


class Choices:
    """Decisions from bytes: equal bytes, equal decisions; the first of all where they have ended.

    Args:
        data: From a fuzzer.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    @property
    def ended(self) -> bool:
        """Whether all bytes have been taken."""
        return self._place >= len(self._data)

    def number(self, width: int) -> int:
        """An integer of `width` bytes."""
        part = self._data[self._place : self._place + width]
        self._place += width
        return int.from_bytes(part, "little")

    def below(self, count: int) -> int:
        """An integer from 0 to `count` - 1; 0 where there is none."""
        if count < 2:
            return 0
        return self.number(1 if count <= 256 else 4) % count

    def one_of(self, options: Sequence[T]) -> T:
        """One of `options`, of which there is at least one."""
        return options[self.below(len(options))]

    def chance(self, share: float) -> bool:
        """True in about this share of all cases; False where the bytes have ended."""
        return not self.ended and self.number(1) >= 256 * (1 - share)

    def take(self, length: int) -> bytes:
        """The next bytes, up to `length` of them."""
        part = self._data[self._place : self._place + length]
        self._place += length
        return part

    def integer(self, near: int = 0) -> int:
        """Near `near`, at the end of a type, or any of eight bytes; of either sign."""
        kind = self.below(4)
        if kind == 0:
            return near + self.number(1) - 128
        if kind == 3:
            return self.number(8)
        found = self.one_of(_INTEGERS)
        return -found if kind == 2 else found

    def text(self, near: str = "") -> str:
        """`near` with a change, or one that is known to be awkward, or any."""
        kind = self.below(4)
        if kind == 0:
            place = self.below(len(near) + 1)
            return near[:place] + self.take(self.below(4)).decode("latin-1") + near[place + 1 :]
        if kind == 1:
            return self.take(self.below(16)).decode("utf-8", errors="surrogateescape")
        return self.one_of(_TEXTS)
