"""A storage in memory, as small as the contract allows: what a store may rest on, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.errors import ObjectMissing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["DictStorage"]


class DictStorage:
    """Objects in a dict, whose `setdefault` is one step for threads.

    `ranges` holds what was asked for by range, so that a test sees how much is read.

    Args:
        uri: What messages begin with.
    """

    def __init__(self, uri: str = "memory://store") -> None:
        self.uri = uri
        self.objects: dict[str, bytes] = {}
        self.ranges: list[tuple[str, int, int]] = []

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        self._check(name)
        if name not in self.objects:
            raise ObjectMissing("no such object", place=f"{self.uri}/{name}")
        return self.objects[name]

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Storage`."""
        data = self.read(name)
        self.ranges += [(name, start, stop) for start, stop in ranges]
        return [data[start:stop] for start, stop in ranges]

    def size(self, name: str) -> int | None:
        """See `Storage`."""
        self._check(name)
        return len(self.objects[name]) if name in self.objects else None

    def list(self, prefix: str) -> Iterator[str]:
        """See `Storage`."""
        return iter([name for name in self.objects.copy() if name.startswith(prefix)])

    def put(self, name: str, data: bytes) -> None:
        """See `Storage`."""
        self._check(name)
        self.objects[name] = bytes(data)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Storage`."""
        self._check(name)
        mine = bytearray(data)  # an object of its own, whatever else is equal to it
        return self.objects.setdefault(name, mine) is mine  # type: ignore[arg-type]

    def delete(self, name: str) -> None:
        """See `Storage`."""
        self._check(name)
        self.objects.pop(name, None)

    def sweep(self) -> None:
        """See `Storage`: writers leave nothing behind."""

    def _check(self, name: str) -> None:
        if {"", ".", ".."} & {*name.split("/")}:
            raise ValueError(f"no name of an object: {name!r}")
