"""Objects of a bucket, or files of a web server, as a storage: `s3://`, `gs://`, `https://`."""

from __future__ import annotations

import builtins
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore.errors import ObjectMissing, StorageError
from logitstore.store.remote.calls import Refused, denied_remedy
from logitstore.store.remote.requests import call
from logitstore.store.remote.spans import read_spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from logitstore.store.remote.calls import Got, Head

__all__ = ["ReadOnlyStorage", "RemoteStorage"]

_WAY_OUT = "Check the name, the network and the credentials, and run the same command again"


@dataclass(frozen=True, slots=True)
class RemoteStorage:
    """Objects of a bucket whose names begin with a path.

    uri: as its user wrote it.
    """

    uri: str

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        return self.got(name).data

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> builtins.list[bytes]:
        """See `Storage`. Neighbours are one request; requests are made at the same time."""
        return self.read_together({name: ranges})[name]

    def read_together(
        self, wanted: Mapping[str, Sequence[tuple[int, int]]]
    ) -> dict[str, builtins.list[bytes]]:
        """See `FarStorage`."""
        return read_spans(self.got, self.size, wanted)

    def got(
        self, name: str, start: int = 0, stop: int | None = None, *, etag: str | None = None
    ) -> Got:
        """The object's bytes and which version they are of: one request.

        name: of the object.
        start: where the bytes begin.
        stop: where they end, or the object if that is before; None for its end.
        etag: of the version that is wanted; another one raises Refused.
        """
        return self._call("get", name, start, stop, etag)

    def head(self, name: str) -> Head | None:
        """What the service says of the object; None where there is none.

        name: of the object.
        """
        return self._call("head", name)

    def size(self, name: str) -> int | None:
        """See `Storage`."""
        head = self.head(name)
        return None if head is None else head.size

    def modified(self, name: str) -> float | None:
        """Seconds since 1970 at which the object was written; None where there is none.

        name: of the object.
        """
        head = self.head(name)
        return None if head is None else head.modified

    def list(self, prefix: str) -> Iterator[str]:
        """See `Storage`."""
        with self._explained(prefix):
            yield from call("names", self.uri, prefix)

    def put(self, name: str, data: bytes) -> None:
        """See `Storage`."""
        self._call("put", name, data)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Storage`. By a conditional put, which the service decides."""
        return self._call("put", name, data, create=True)

    def delete(self, name: str) -> None:
        """See `Storage`."""
        self._call("delete", name)

    def sweep(self) -> None:
        """See `Storage`: an object is there whole or not at all."""

    def place(self, name: str) -> str:
        """The object as its user knows it.

        name: of the object.
        """
        return f"{self.uri.rstrip('/')}/{name}"

    def _call(self, what: str, name: str, *arguments: Any, **named: Any) -> Any:
        if {"", ".", ".."} & set(name.split("/")) or "\0" in name:
            raise ValueError(f"{name!r} is no name of an object")
        with self._explained(name):
            return call(what, self.uri, name, *arguments, **named)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """What the service or the network refuses, as errors of this project."""
        try:
            yield
        except Refused as error:
            place = self.place(name)
            if error.kind == "changed":
                raise
            if error.kind == "missing":
                raise ObjectMissing("there is no such object", place=place) from error
            if error.kind == "denied":
                raise StorageError(
                    "the service denies access",
                    place=place,
                    remedy=denied_remedy(place),
                ) from error
            if error.kind == "ranges":
                raise StorageError(
                    "the server gives whole files alone, and a store is read by ranges",
                    place=place,
                    remedy="Serve it with a server that knows ranges (nginx, caddy, object "
                    "storage), or copy it to a folder",
                ) from error
            problem = f"the service or the network refused: {error.told}"
            if error.kind == "wrong":
                problem = f"the server answers with other bytes than were asked for: {error.told}"
            raise StorageError(problem, place=place, remedy=_WAY_OUT) from error


@dataclass(frozen=True, slots=True)
class ReadOnlyStorage(RemoteStorage):
    """Files below a URL of a web server: they are read, and none is listed or written."""

    def list(self, prefix: str) -> Iterator[str]:
        """A web server lists nothing."""
        raise self._refusal("lists no files", prefix)

    def put(self, name: str, data: bytes) -> None:  # noqa: ARG002
        """A web server takes nothing."""
        raise self._refusal("is only read from", name)

    def put_if_absent(self, name: str, data: bytes) -> bool:  # noqa: ARG002
        """A web server takes nothing."""
        raise self._refusal("is only read from", name)

    def delete(self, name: str) -> None:
        """A web server takes nothing."""
        raise self._refusal("is only read from", name)

    def _refusal(self, what: str, name: str) -> StorageError:
        return StorageError(
            f"a web server {what}",
            place=self.place(name),
            remedy="Write to a folder or to object storage, s3:// for one",
        )
