"""The calls to the operating system that a storage makes below a folder, each given to a hook.

What `os`, `io.open` and `fcntl.flock` are asked to do with a path or a descriptor below the folder
becomes a `Call`, and what the hook returns or raises is what the caller gets. So a hook may count
calls, kill its process between two of them, fail one, or make it and say that it failed.
"""

from __future__ import annotations

import fcntl
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

__all__ = ["CHANGES", "READS", "Call", "Hook", "calling", "real"]

# As functions of `os` take them: a path, a pair of paths, or a descriptor first.
_ONE_PATH = ("stat", "unlink", "mkdir", "rmdir", "scandir", "utime", "open")
_TWO_PATHS = ("link", "replace", "rename")
_DESCRIPTOR = ("fsync", "fstat", "pread", "pwrite", "ftruncate")
CHANGES = frozenset(
    {"link", "replace", "rename", "unlink", "mkdir", "rmdir", "utime", "create", "write", "fsync"}
    | {"pwrite", "ftruncate"}
)
READS = frozenset({"stat", "scandir", "open", "fstat", "pread", "read", "flock"})

_INSIDE = threading.local()  # whether this thread is in a hook, whose own calls are nobody's


@dataclass(frozen=True, slots=True)
class Call:
    """One call, not made yet.

    name: of the function; `create` is an `open` that may make a file.
    paths: what it is about.
    make: makes it; `write` and `pwrite` take other bytes, `read` and `pread` a smaller size.
    data: what is to be written.
    """

    name: str
    paths: tuple[str, ...]
    make: Callable[..., Any]
    data: bytes | None = None

    def made(self) -> Any:
        """What making it as it was asked for gives: a hook that changes nothing."""
        return self.make()

    def __str__(self) -> str:
        return f"{self.name} {' to '.join(self.paths)}"


Hook: TypeAlias = Callable[[Call], Any]


@contextmanager
def calling(root: Path, hook: Hook) -> Iterator[None]:
    """Give each call about what lies below `root`, and about `root`, to `hook` meanwhile.

    root: a folder that need not be there.
    hook: is called by every thread of this process.
    """
    seam = _Seam(os.path.realpath(root), hook)
    replaced: list[Any] = [
        *(patch.object(os, name, seam.of_path(name)) for name in _ONE_PATH),
        *(patch.object(os, name, seam.of_paths(name)) for name in _TWO_PATHS),
        *(patch.object(os, name, seam.of_descriptor(name)) for name in _DESCRIPTOR),
        patch.object(fcntl, "flock", seam.of_flock()),
        patch.object(io, "open", seam.of_file()),
    ]
    for one in replaced:
        one.start()
    try:
        yield
    finally:
        for one in replaced:
            one.stop()


@contextmanager
def real() -> Iterator[None]:
    """What this thread does meanwhile is given to no hook."""
    before = getattr(_INSIDE, "yes", False)
    _INSIDE.yes = True
    try:
        yield
    finally:
        _INSIDE.yes = before


@dataclass(frozen=True, slots=True)
class _Seam:
    root: str
    hook: Hook

    def ask(self, call: Call) -> Any:
        with real():
            return self.hook(call)

    def is_ours(self, path: Any) -> bool:
        if getattr(_INSIDE, "yes", False) or not isinstance(path, str | os.PathLike):
            return False
        text = os.fspath(path)
        return isinstance(text, str) and (text == self.root or text.startswith(f"{self.root}/"))

    def path_of(self, descriptor: Any) -> str | None:
        if getattr(_INSIDE, "yes", False) or not isinstance(descriptor, int):
            return None
        with real():
            try:
                path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
            except OSError:
                return None
        return path if self.is_ours(path) else None

    def of_path(self, name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def ask(path: Any, *given: Any, **named: Any) -> Any:
            if not self.is_ours(path):
                return function(path, *given, **named)
            makes = name == "open" and given and given[0] & os.O_CREAT
            called = "create" if makes else name
            return self.ask(
                Call(called, (os.fspath(path),), lambda: function(path, *given, **named))
            )

        return ask

    def of_paths(self, name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def ask(source: Any, target: Any, **named: Any) -> Any:
            if not self.is_ours(target):
                return function(source, target, **named)
            paths = (os.fspath(source), os.fspath(target))
            return self.ask(Call(name, paths, lambda: function(source, target, **named)))

        return ask

    def of_descriptor(self, name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def ask(descriptor: Any, *given: Any) -> Any:
            path = self.path_of(descriptor)
            if path is None:
                return function(descriptor, *given)

            def make(*other: Any) -> Any:
                return function(descriptor, *other, *given[len(other) :])

            data = bytes(given[0]) if name == "pwrite" else None
            return self.ask(Call(name, (path,), make, data))

        return ask

    def of_flock(self) -> Callable[..., Any]:
        function = fcntl.flock

        def ask(descriptor: Any, operation: int) -> Any:
            path = self.path_of(descriptor)
            if path is None:
                return function(descriptor, operation)
            return self.ask(Call("flock", (path,), lambda: function(descriptor, operation)))

        return ask

    def of_file(self) -> Callable[..., Any]:
        function = io.open

        def ask(file: Any, mode: str = "r", buffering: int = -1, *given: Any, **named: Any) -> Any:
            if not self.is_ours(file) or "b" not in mode:
                return function(file, mode, buffering, *given, **named)
            called = "open" if mode == "rb" else "create"
            path = os.fspath(file)
            raw = self.ask(Call(called, (path,), lambda: _File(self, path, mode)))
            return raw if buffering == 0 else io.BufferedReader(raw)

        return ask


class _File(io.FileIO):
    """A file each read and write of which is a call."""

    def __init__(self, seam: _Seam, path: str, mode: str) -> None:
        super().__init__(path, mode)
        self._seam, self._path = seam, path

    def write(self, data: Any) -> int:
        write = super().write
        call = Call("write", (self._path,), lambda other=data: write(other), bytes(data))
        return self._seam.ask(call)

    def readall(self) -> bytes:
        read = super().readall
        return self._seam.ask(Call("read", (self._path,), lambda: read()))

    def readinto(self, buffer: Any) -> int:
        read = super().readinto
        return self._seam.ask(Call("read", (self._path,), lambda: read(buffer)))
