"""A model of a disk that loses power: what of a folder is there afterwards, at the least.

Everything that a program does below a folder is recorded. What `fsync` of a file covers of its
bytes, and `fsync` of a folder of the names in it, outlives the loss. Of the rest any part may:
names without the bytes of their files, bytes torn, later names without earlier ones. A rename is
one step. No file system is as bad as that in all, so what survives this survives on them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.torture_calls import Call, calling, real

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

__all__ = ["LOSSES", "Disk"]

LOSSES = ("none", "all", "some")  # what is left of what nothing covers
_FOLDER = -1  # stands for a folder where a file has its number


@dataclass(frozen=True, slots=True)
class _Names:
    """Names of one folder that change in one step: name -> file, or None where it is taken away."""

    folder: str
    names: dict[str, int | None]


@dataclass(frozen=True, slots=True)
class _Bytes:
    """Bytes that are written to the end of a file."""

    file: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Sync:
    """What is written of a file, or the names of a folder, are on the disk."""

    what: int | str


@dataclass(slots=True)
class _Left:
    """What is on the disk, and what may be."""

    names: dict[str, dict[str, int]] = field(default_factory=dict)
    pending: dict[str, list[dict[str, int | None]]] = field(default_factory=dict)
    data: dict[int, bytes] = field(default_factory=dict)
    synced: dict[int, int] = field(default_factory=dict)

    def step(self, one: _Names | _Bytes | _Sync) -> None:
        """One more thing has happened."""
        if isinstance(one, _Names):
            self.pending.setdefault(one.folder, []).append(one.names)
        elif isinstance(one, _Bytes):
            self.data[one.file] = self.data.get(one.file, b"") + one.data
        elif isinstance(one.what, int):
            self.synced[one.what] = len(self.data.get(one.what, b""))
        else:
            for names in self.pending.pop(one.what, []):
                _change(self.names.setdefault(one.what, {}), names)

    def write(self, folder: str, out: Path, *, loss: str, generator: random.Random) -> None:
        """Put what is left of `folder` into the new folder `out`."""
        out.mkdir()
        names = dict(self.names.get(folder, {}))
        for change in self.pending.get(folder, []):
            if loss == "all" or (loss == "some" and generator.random() < 0.5):
                _change(names, change)
        for name, file in names.items():
            if file == _FOLDER:
                self.write(f"{folder}/{name}", out / name, loss=loss, generator=generator)
            else:
                (out / name).write_bytes(self._bytes(file, loss=loss, generator=generator))

    def _bytes(self, file: int, *, loss: str, generator: random.Random) -> bytes:
        data, safe = self.data.get(file, b""), self.synced.get(file, 0)
        if loss == "all" or safe == len(data):
            return data
        if loss == "none":
            return data[:safe]
        kept = generator.randint(safe, len(data))
        return data[:kept] + bytes(generator.choice([0, len(data) - kept]))


def _change(names: dict[str, int], change: dict[str, int | None]) -> None:
    for name, file in change.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


class Disk:
    """Records what is done below a folder, which must be there and be empty.

    root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.steps: list[Any] = []
        self._files: dict[str, int] = {}
        self._count = 0
        self._lock = threading.RLock()

    @contextmanager
    def recording(self, before: Callable[[Call], None] | None = None) -> Iterator[None]:
        """Record meanwhile.

        before: is called with each call before it is made.
        """

        def hook(call: Call) -> Any:
            if before is not None:
                before(call)
            with self._lock:
                there = call.name == "create" and os.path.lexists(call.paths[0])
                result = call.make()
                self._record(call, result, there=there)
            return result

        with calling(Path(self.root), hook):
            yield

    def note(self, what: Any) -> None:
        """Put something of the caller's own among the steps.

        what: it has no effect on the disk.
        """
        with self._lock:
            self.steps.append(what)

    def after(self, count: int, out: Path, *, loss: str, generator: random.Random) -> None:
        """Write what is there if power is lost behind so many steps.

        count: of `steps`.
        out: a folder to be made.
        loss: one of `LOSSES`: how much of what nothing covers is there.
        generator: of what is there, where it is some.
        """
        left = _Left()
        for one in self.steps[:count]:
            if isinstance(one, _Names | _Bytes | _Sync):
                left.step(one)
        with real():
            left.write(self.root, out, loss=loss, generator=generator)

    def _record(self, call: Call, result: Any, *, there: bool) -> None:
        path = call.paths[0]
        if call.name == "create" and not there:
            self._count += 1
            self._files[path] = self._count
            self._named(path, self._count)
        elif call.name == "write" and call.data is not None:
            self.steps.append(_Bytes(self._files[path], call.data[:result]))
        elif call.name == "fsync":
            self.steps.append(_Sync(self._files.get(path, path)))
        elif call.name == "link":
            self._files[call.paths[1]] = self._files[path]
            self._named(call.paths[1], self._files[path])
        elif call.name in ("replace", "rename"):
            source, target = (Path(one) for one in call.paths)
            file = self._files[call.paths[1]] = self._files.pop(path)
            self.steps.append(_Names(str(target.parent), {source.name: None, target.name: file}))
        elif call.name == "mkdir":
            self._named(path, _FOLDER)
        elif call.name in ("unlink", "rmdir"):
            self._files.pop(path, None)
            self._named(path, None)

    def _named(self, path: str, file: int | None) -> None:
        self.steps.append(_Names(str(Path(path).parent), {Path(path).name: file}))
