"""Stores in object storage and on web servers: `s3://`, `gs://`, `az://`, `http://`, `https://`.

Requests are made by obstore, which is installed with the extra `remote`: it repeats what a server
or a connection refuses for a time, and takes credentials from the environment as the tools of each
service do. Nothing of them is kept.
"""

from __future__ import annotations

import builtins
import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from logitstore.errors import ObjectMissing, SettingError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["ReadOnlyStorage", "RemoteStorage", "open_remote", "spans_of"]

# Bytes between two ranges that are fetched with them: less than what a request costs in time, and
# at most a share of the bytes that are wanted.
_GAP, _GAP_SHARE = 1 << 20, 16
_REQUEST_SECONDS, _RETRY_SECONDS, _RETRIES = 60, 120, 8
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
_TOKEN = "LOGITSTORE_TOKEN"  # what `logitstore serve` asks for; sent to http(s) servers alone
_WAY_OUT = "Check the name, the network and the credentials, and run the same command again"


def open_remote(uri: str) -> RemoteStorage:
    """The storage at a URI; nothing is asked of the server yet.

    uri: `s3://bucket/path`, `gs://bucket/path`, `az://container/path` or `https://host/path`.

    Raises SettingError for a URI that names no place, and where obstore is not installed.
    """
    kind = ReadOnlyStorage if uri.lower().startswith("http") else RemoteStorage
    storage = kind(uri)
    storage._store  # noqa: B018 - a URI that is none is told now
    return storage


@dataclass(frozen=True, slots=True)
class RemoteStorage:
    """Objects of a bucket whose names begin with a path.

    uri: as its user wrote it.
    """

    uri: str

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        with self._explained(name):
            return self._got(name)

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> builtins.list[bytes]:
        """See `Storage`. Neighbours are one request; requests follow one another."""
        found = [b""] * len(ranges)
        with self._explained(name):
            spans = spans_of(ranges)
            if ranges and not spans and self.size(name) is None:
                raise FileNotFoundError(name)
            for (start, stop), numbers in zip(spans, self._numbers(ranges, spans), strict=True):
                data = self._got(name, start, stop)
                for number in numbers:
                    low, high = ranges[number]
                    found[number] = data[low - start : max(high, low) - start]
        return found

    def size(self, name: str) -> int | None:
        """See `Storage`."""
        head = self._head(name)
        return None if head is None else int(head["size"])

    def modified(self, name: str) -> float | None:
        """Seconds since 1970 at which the object was written; None where there is none.

        name: of the object.
        """
        head = self._head(name)
        return None if head is None else float(head["last_modified"].timestamp())

    def list(self, prefix: str) -> Iterator[str]:
        """See `Storage`."""
        import obstore

        # A service lists what is below a part of a path; the rest of the prefix is looked at here.
        folder = prefix[: prefix.rfind("/")] if "/" in prefix else None
        with self._explained(prefix):
            for part in obstore.list(self._store, folder):
                for one in part:
                    if one["path"].startswith(prefix):
                        yield one["path"]

    def put(self, name: str, data: bytes) -> None:
        """See `Storage`."""
        import obstore

        with self._explained(name):
            obstore.put(self._store, _path(name), data)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `Storage`. By a conditional put, which the service decides."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with self._explained(name):
            try:
                obstore.put(self._store, _path(name), data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def delete(self, name: str) -> None:
        """See `Storage`."""
        import obstore

        with self._explained(name):
            try:
                obstore.delete(self._store, _path(name))
            except FileNotFoundError:
                return

    def sweep(self) -> None:
        """See `Storage`: an object is there whole or not at all."""

    @property
    def _store(self) -> Any:
        return _opened(self.uri, os.getpid())

    def _got(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The object's bytes from `start` to `stop`, or to its end: one request."""
        import obstore

        whole = start == 0 and stop is None
        options: Any = {} if whole else {"range": (start, stop) if stop else {"offset": start}}
        try:
            answer = obstore.get(self._store, _path(name), options=options)
        except obstore.exceptions.GenericError as error:
            if not whole and _begins_behind_the_end(error):
                return b""
            raise
        data = bytes(answer.bytes())
        size = answer.meta["size"]
        wanted = (start, size if stop is None else min(stop, size))
        if answer.range != wanted or len(data) != wanted[1] - wanted[0]:
            raise StorageError(
                "the server answers with other bytes than were asked for",
                place=self._place(name),
                found=f"{len(data)} bytes from {answer.range[0]}",
                allowed=f"{wanted[1] - wanted[0]} from {start}",
                remedy=_WAY_OUT,
            )
        return data

    @staticmethod
    def _numbers(
        ranges: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
    ) -> Iterator[Sequence[int]]:
        """Of each span the numbers of the ranges in it."""
        for start, stop in spans:
            yield [
                number for number, (low, high) in enumerate(ranges) if start <= low < high <= stop
            ]

    def _head(self, name: str) -> Any:
        import obstore

        with self._explained(name):
            try:
                return obstore.head(self._store, _path(name))
            except FileNotFoundError:
                return None

    def _place(self, name: str) -> str:
        return f"{self.uri.rstrip('/')}/{name}"

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """What the service or the network refuses, as errors of this project."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except FileNotFoundError as error:
            raise ObjectMissing("there is no such object", place=self._place(name)) from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StorageError(
                "the service denies access",
                place=self._place(name),
                remedy="Set the credentials of the service in the environment",
            ) from error
        except (BaseError, OSError) as error:
            raise StorageError(
                f"the service or the network refused: {_first_words(error)}",
                place=self._place(name),
                remedy=_WAY_OUT,
            ) from error


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
            place=self._place(name),
            remedy="Write to a folder or to object storage, s3:// for one",
        )


def spans_of(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans to fetch for some ranges, in order: what lies close together is one.

    ranges: pairs of `start` and `stop`, in any order; empty ones need nothing.

    A gap is read over where it is below 1 MiB and a sixteenth of the bytes that are wanted around
    it, so that at most a tenth more is read than is wanted.
    """
    spans: list[list[int]] = []  # start, stop, bytes read in vain
    for start, stop in sorted(one for one in ranges if one[0] < one[1]):
        if spans:
            first, last, wasted = spans[-1]
            gap = max(0, start - last)
            wanted = max(stop, last) - first - wasted - gap
            if gap <= _GAP and (wasted + gap) * _GAP_SHARE <= wanted:
                spans[-1] = [first, max(stop, last), wasted + gap]
                continue
        spans.append([start, stop, 0])
    return [(start, stop) for start, stop, _ in spans]


@lru_cache(maxsize=64)
def _opened(uri: str, process: int) -> Any:  # noqa: ARG001
    """What obstore opens of a URI, once in a process: a fork has no threads of its parent's."""
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise SettingError(
            "obstore is not installed, which reads and writes stores that are not in a folder",
            found=uri,
            remedy="pip install 'logitstore[remote]'",
        ) from error
    options: Any = {"timeout": timedelta(seconds=_REQUEST_SECONDS)}
    endpoints = [os.environ.get(name, "") for name in _ENDPOINTS]
    if any(one.lower().startswith("http://") for one in (uri, *endpoints)):
        options["allow_http"] = True  # asked for by name; obstore wants to be told so
    if uri.lower().startswith("http") and (token := os.environ.get(_TOKEN)):
        options["default_headers"] = {"authorization": f"Bearer {token}"}
    try:
        return from_url(
            uri,
            client_options=options,
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
            },
        )
    except (BaseError, ValueError) as error:
        raise SettingError(
            f"the URI names no place for a store: {_first_words(error)}", found=uri
        ) from error


def _path(name: str) -> str:
    if {"", ".", ".."} & set(name.split("/")) or "\0" in name:
        raise ValueError(f"{name!r} is no name of an object")
    return name


def _begins_behind_the_end(error: Exception) -> bool:
    told = str(error)
    return "416" in told or "Requested range not satisfiable" in told


def _first_words(error: Exception) -> str:
    """What an error of obstore says, without the structures that it prints behind it."""
    return " ".join(str(error).split("\n\n")[0].split())[:300]
