"""Files of stores over HTTP, whole or a range of one: what `http://` stores are read by.

Only what a sealed store names is given: its small objects, its commits, and the files that these
name. No path of a request ever reaches the file system by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from starlette.concurrency import iterate_in_threadpool
from starlette.responses import Response, StreamingResponse

from logitstore.store.layout import AUDIT, COMMITS, DATA, MANIFEST, README, is_object_name
from logitstore.store.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.requests import Request

    from logitstore.format.manifest import Commit
    from logitstore.store.reader import Store
    from logitstore.store.storage import Storage

__all__ = ["Holdings", "file_response"]

_PIECE_BYTES = 4 << 20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, eq=False)
class Holdings:
    """What a sealed store names.

    store: sealed.
    root: the folder that is served, where it is one: no link may lead out of it.
    """

    store: Store
    root: Path | None
    _units: dict[str, int] = field(default_factory=dict)

    def hash_of(self, name: str) -> str | None:
        """The sha256 of an object, or "" where nothing tells it; None where it is none.

        name: as a request spells it.
        """
        manifest = self.store.manifest
        if manifest is None or not is_object_name(name) or not self._inside(name):
            return None
        if name in (MANIFEST, README, AUDIT):
            return ""
        if name in manifest.objects:
            return manifest.objects[name]
        unit = self._unit(name)
        if unit is None or manifest.units is None:
            return None
        if name.startswith(COMMITS):
            return manifest.units.commit_sha256[unit]
        commit = self._commit(unit)
        prefix = self.store.layout.shard_prefix(commit)
        return next((one.sha256 for one in commit.objects if f"{prefix}{one.path}" == name), None)

    def _unit(self, name: str) -> int | None:
        """The number of the unit that an object would be of."""
        units = self.store.manifest.units if self.store.manifest is not None else None
        if units is not None and not self._units:
            self._units.update({one: number for number, one in enumerate(units.names)})
        if name.startswith(COMMITS) and name.endswith(".json"):
            return self._units.get(name[len(COMMITS) : -len(".json")])
        if name.startswith(DATA):
            return self._units.get(name[len(DATA) :].split("-")[0])
        return None

    @cached_property
    def _commit(self) -> Callable[[int], Commit]:
        return lru_cache(256)(self.store.commits.__getitem__)

    def _inside(self, name: str) -> bool:
        """Whether a file lies in the folder that is served, wherever links lead."""
        storage = self.store.layout.storage
        if self.root is None or not isinstance(storage, LocalStorage):
            return True
        try:
            return (storage.folder / name).resolve(strict=True).is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):
            return False


def file_response(request: Request, holdings: Holdings, name: str) -> Response:
    """An object, or the range of it that was asked for; 404 for what the store does not name.

    request: GET or HEAD.
    holdings: of the store.
    name: of the object.
    """
    sha256 = holdings.hash_of(name)
    storage = holdings.store.layout.storage
    size = None if sha256 is None else storage.size(name)
    if sha256 is None or size is None:
        return Response("no such object\n", status_code=404, media_type="text/plain")
    headers = {"accept-ranges": "bytes", "cache-control": "private, no-cache"}
    if sha256:
        headers["etag"] = f'"{sha256}"'
        known = request.headers.get("if-none-match", "")
        if known.strip() == "*" or f'"{sha256}"' in known:
            return Response(status_code=304, headers=headers)
    span = _span(request, size, etag=headers.get("etag"))
    if span is None:
        headers["content-range"] = f"bytes */{size}"
        return Response(status_code=416, headers=headers)
    start, stop, part = span
    if part:
        headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["content-length"] = str(stop - start)
    status, kind = (206 if part else 200), "application/octet-stream"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=kind)
    pieces = iterate_in_threadpool(_pieces(storage, name, start, stop))
    return StreamingResponse(pieces, status_code=status, headers=headers, media_type=kind)


def _span(request: Request, size: int, *, etag: str | None) -> tuple[int, int, bool] | None:
    """The bytes that are asked for, and whether by a range; None where there are none of them.

    A range of another form than one of bytes is left out of account, as HTTP allows.
    """
    asked: Any = _RANGE.fullmatch(request.headers.get("range", ""))
    condition = request.headers.get("if-range")
    if asked is None or asked[1] == asked[2] == "" or condition not in (None, etag):
        return 0, size, False
    if asked[1] == "":  # the last bytes
        start, stop = max(0, size - int(asked[2])), size
    else:
        start = int(asked[1])
        stop = min(int(asked[2]) + 1, size) if asked[2] else size
    return (start, stop, True) if start < stop else None


def _pieces(storage: Storage, name: str, start: int, stop: int) -> Iterator[bytes]:
    for first in range(start, stop, _PIECE_BYTES):
        yield storage.read_ranges(name, [(first, min(stop, first + _PIECE_BYTES))])[0]
