"""Data sets of the Hub as a storage to read from: `hf://datasets/ORG/NAME[@REVISION][/path]`.

Requests are made by huggingface_hub, with its token and its endpoint (`HF_TOKEN`, `HF_ENDPOINT`). A
branch or a tag is looked up once and read as the commit that it names then, so a store does not
change while it is read.
"""

from __future__ import annotations

import builtins
import os
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import unquote

from logitstore.errors import LogitStoreError, ObjectMissing, SettingError, StorageError
from logitstore.store.remote.calls import Got, Head
from logitstore.store.remote.spans import read_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["HubStorage"]

T = TypeVar("T")

_URI = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?((?:/[^/]+)*)/?")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_QUERY = re.compile(r"\?\S*")  # of a URL in an error; it may be signed
_REQUEST_SECONDS, _RETRIES, _WAIT_SECONDS, _MOST_WAIT = 60, 6, 0.5, 20
_NO_RANGE = 416
_PARTIAL = 206
_FOR_A_TIME = {429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True, eq=False)
class HubStorage:
    """Files of one revision of a data set, below one folder of it.

    uri: as its user wrote it.
    repo: `ORG/NAME`.
    revision: a branch, a tag or a commit.
    folder: its path in the repository; empty for all of it.
    """

    uri: str
    repo: str
    revision: str
    folder: str
    _pinned: list[str] = field(default_factory=list)  # the commit, once it is known

    @staticmethod
    def of_uri(uri: str) -> HubStorage:
        """The storage at a URI; nothing is asked of the Hub yet.

        uri: `hf://datasets/ORG/NAME[@REVISION][/path]`; a `/` in a revision is written `%2F`.

        Raises SettingError for any other.
        """
        found = _URI.fullmatch(uri)
        parts = found[3].strip("/").split("/") if found else []
        if found is None or {".", ".."} & set(parts):
            raise SettingError(
                "the URI names no data set of the Hub",
                found=uri,
                allowed="hf://datasets/ORG/NAME, with @REVISION and /path behind it where needed",
            )
        return HubStorage(uri, found[1], unquote(found[2] or "main"), "/".join(parts))

    @property
    def commit(self) -> str:
        """The commit that the revision names, looked up once. Raises StorageError."""
        if not self._pinned:
            with self._explained("", missing="there is no such data set or revision"):
                found = _again(lambda: self._api.dataset_info(self.repo, revision=self.revision))
            self._pinned.append(str(found.sha))
        return self._pinned[0]

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        return self.got(name).data

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> builtins.list[bytes]:
        """See `Storage`."""
        return self.read_together({name: ranges})[name]

    def read_together(
        self, wanted: Mapping[str, Sequence[tuple[int, int]]]
    ) -> dict[str, builtins.list[bytes]]:
        """See `FarStorage`."""
        _ = self.commit  # once, before there are threads
        return read_spans(self.got, self.size, wanted)

    def got(
        self,
        name: str,
        start: int = 0,
        stop: int | None = None,
        *,
        etag: str | None = None,  # noqa: ARG002 - a file of a commit never changes
    ) -> Got:
        """The file's bytes and which version they are of: one request.

        name: of the file.
        start: where the bytes begin.
        stop: where they end, or the file if that is before; None for its end.
        etag: as `RemoteStorage.got` takes it.
        """
        whole = not start and stop is None
        headers = {} if whole else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        with self._explained(name):
            answer = self._request("GET", name, headers)
        if answer.status_code == _NO_RANGE:
            return Got(b"", 0, None, 0.0)
        data = bytes(answer.content)
        size = len(data) if whole else self._size_in(answer, name, start, stop)
        return Got(data, size, self.commit, 0.0)

    def head(self, name: str) -> Head | None:
        """What the Hub says of the file; None where there is none.

        name: of the file.
        """
        from huggingface_hub import get_hf_file_metadata

        try:
            with self._explained(name):
                found = get_hf_file_metadata(
                    self._url(name), timeout=_REQUEST_SECONDS, retry_on_errors=True
                )
        except ObjectMissing:
            return None
        return Head(int(found.size or 0), self.commit, 0.0)

    def size(self, name: str) -> int | None:
        """See `Storage`."""
        head = self.head(name)
        return None if head is None else head.size

    def modified(self, name: str) -> float | None:  # noqa: ARG002
        """Files of a commit have no time of their own."""
        return None

    def list(self, prefix: str) -> Iterator[str]:
        """See `Storage`."""
        start = f"{self.folder}/" if self.folder else ""
        folder = prefix[: prefix.rfind("/")] if "/" in prefix else ""
        path = f"{start}{folder}".rstrip("/") or None
        try:
            with self._explained(prefix):
                names = _again(lambda: self._listed(path))
        except ObjectMissing:
            return
        inside = (name.removeprefix(start) for name in names)
        yield from (name for name in inside if name.startswith(prefix))

    def _listed(self, path: str | None) -> builtins.list[str]:
        """The paths of all files in a folder of the repository, and below it."""
        tree = self._api.list_repo_tree(
            self.repo, path, recursive=True, revision=self.commit, repo_type="dataset"
        )
        return [one.path for one in tree if hasattr(one, "size")]

    def put(self, name: str, data: bytes) -> None:  # noqa: ARG002
        """A data set takes no single files."""
        self._refuse(name)

    def put_if_absent(self, name: str, data: bytes) -> bool:  # noqa: ARG002
        """A data set takes no single files."""
        self._refuse(name)

    def delete(self, name: str) -> None:
        """A data set is not changed here."""
        self._refuse(name)

    def sweep(self) -> None:
        """See `Storage`: nothing is written here."""

    def place(self, name: str) -> str:
        """The file as its user knows it.

        name: of the file.
        """
        return f"{self.uri.rstrip('/')}/{name}" if name else self.uri

    def _refuse(self, name: str) -> NoReturn:
        raise StorageError(
            "a data set of the Hub is only read from",
            place=self.place(name),
            remedy="Dump into a folder, and share that with `logitstore push`",
        )

    @property
    def _api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="logitstore")

    def _url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(
            self.repo,
            f"{self.folder}/{name}" if self.folder else name,
            repo_type="dataset",
            revision=self.commit,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )

    def _request(self, method: Any, name: str, headers: Mapping[str, str]) -> Any:
        """An answer that is no refusal; 416 is one to be looked at."""
        from huggingface_hub import utils

        asking: Any = utils  # names that it gives out lazily
        answer = asking.http_backoff(
            method,
            self._url(name),
            headers={**asking.build_hf_headers(), "Accept-Encoding": "identity", **headers},
            max_retries=_RETRIES,
            base_wait_time=_WAIT_SECONDS,
            max_wait_time=_MOST_WAIT,
            follow_redirects=True,
            timeout=_REQUEST_SECONDS,
        )
        if answer.status_code != _NO_RANGE:
            asking.hf_raise_for_status(answer)
        return answer

    def _size_in(self, answer: Any, name: str, start: int, stop: int | None) -> int:
        """Bytes of the whole file, if the answer holds what was asked for."""
        told = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        length = len(answer.content)
        if answer.status_code == _PARTIAL and told is not None:
            first, size = int(told[1]), int(told[3])
            if first == start and length == min(size, stop or size) - start:
                return size
        raise StorageError(
            "the server answers with other bytes than were asked for",
            place=self.place(name),
            found=f"{length} bytes, {answer.headers.get('Content-Range', 'of no range')}",
            allowed=f"from {start} on",
            remedy="Run the same command again",
        )

    @contextmanager
    def _explained(self, name: str, *, missing: str = "") -> Iterator[None]:
        """What the Hub or the network refuses, as errors of this project."""
        from huggingface_hub import errors

        try:
            yield
        except LogitStoreError:
            raise
        except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
            raise StorageError(
                "there is no such data set, or it is not for everybody",
                place=self.place(name),
                remedy="Check its name; for a private or gated one set HF_TOKEN",
            ) from error
        except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
            if missing:
                raise StorageError(missing, place=self.place(name)) from error
            raise ObjectMissing("there is no such file", place=self.place(name)) from error
        except Exception as error:  # of httpx, whose name changes with huggingface_hub
            told = _QUERY.sub("?...", " ".join(str(error).split("\n")[0].split()))[:300]
            raise StorageError(
                f"the Hub or the network refused: {_QUERY.sub('?...', told)}",
                place=self.place(name),
                remedy="Check the name, the network and HF_TOKEN, and run the same command again",
            ) from error


def _again(ask: Callable[[], T]) -> T:
    """What is asked, once more where the Hub is busy; huggingface_hub does so for files alone.

    ask: raises what huggingface_hub raises.
    """
    from huggingface_hub.errors import HfHubHTTPError

    wait = _WAIT_SECONDS
    for _ in range(_RETRIES):
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response is None or error.response.status_code not in _FOR_A_TIME:
                raise
        time.sleep(wait)
        wait = min(2 * wait, _MOST_WAIT)
    return ask()
