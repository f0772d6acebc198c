"""A repository of data on the Hub: what lies in it by hash, commits to it, a revision as storage.

All requests are huggingface_hub's, which repeats what is refused for a time and takes the token
from the environment or from a login; none is taken here or written anywhere. The Hub lists files
with their hashes: sha256 of large ones, git's sha1 of small ones, so nothing is read back.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore.errors import LogitStoreError, ObjectMissing, SettingError, StorageError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from logitstore.sharing.addresses import HubAddress

__all__ = ["HubError", "HubFile", "HubRepository", "HubRevision", "blob_id"]

_LOGIN = "Log in by `hf auth login`, or set HF_TOKEN to a token that may do this"
_AGAIN = "Run the same command again: what is there is not sent again"
_CONFLICTS = (409, 412)
_DENIALS = {
    401: "the Hub knows no such repository, or this user may not see it",
    403: "the Hub does not allow this",
    404: "the Hub knows no such repository, revision or file, or this user may not see it",
}


class HubError(StorageError):
    """The Hub or the network has refused."""

    may_pass = True  # whether it may be over soon: not for want of rights


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """A file as the Hub lists it."""

    size: int
    blob: str  # git's hash
    sha256: str | None  # of a large one


def blob_id(data: bytes) -> str:
    """What git calls a file of these bytes.

    data: all of it.
    """
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class HubRepository:
    """A repository of data; it need not be there."""

    address: HubAddress

    @property
    def name(self) -> str:
        """ "org/name"."""
        return self.address.repository

    def make(self, *, public: bool) -> None:
        """Create the repository where there is none.

        public: whether everybody may read it. Raises StoreError where it is public and need not be.
        """
        with self._explained():
            self._api.create_repo(self.name, repo_type="dataset", private=not public, exist_ok=True)
            private = self._api.repo_info(self.name, repo_type="dataset").private
        if not public and private is False:
            raise StoreError(
                "everybody can read the repository",
                place=self.address.uri(None),
                remedy="Push with --public, or to a private repository",
            )

    def commit_of(self, revision: str | None) -> str:
        """The commit that a branch, a tag or the head of the main branch is now.

        revision: None for the head.
        """
        with self._explained():
            info = self._api.repo_info(self.name, repo_type="dataset", revision=revision)
        return str(info.sha)

    def files(self, commit: str) -> dict[str, HubFile]:
        """All files of a commit, by name.

        commit: as `commit_of` gives it.
        """
        found = {}
        with self._explained():
            for one in self._api.list_repo_tree(
                self.name, repo_type="dataset", revision=commit, recursive=True
            ):
                if hasattr(one, "blob_id"):  # no folder
                    sha256 = None if one.lfs is None else one.lfs.sha256
                    found[one.path] = HubFile(size=one.size, blob=one.blob_id, sha256=sha256)
        return found

    def commit(self, files: Mapping[str, bytes | Path], *, parent: str, message: str) -> str:
        """Add files in one commit, and give its hash.

        files: by their names; a path is read as it is sent.
        parent: the commit on which it is based.
        message: of the commit.

        Raises HubError where the head is another than `parent`.
        """
        from huggingface_hub import CommitOperationAdd

        with self._explained():
            operations = [
                CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
                for name, content in files.items()
            ]
            done = self._api.create_commit(
                self.name,
                operations,
                commit_message=message,
                repo_type="dataset",
                parent_commit=parent,
            )
        return str(done.oid)

    @property
    def _api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(library_name="logitstore")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        with explained(self.address.uri(None)):
            yield


@dataclass(frozen=True, kw_only=True, slots=True)
class HubRevision:
    """One commit of a repository as a storage that is read alone; see `Storage`."""

    repository: HubRepository
    commit: str
    listed: Mapping[str, HubFile]

    @staticmethod
    def of(repository: HubRepository, commit: str) -> HubRevision:
        """The files at a commit.

        repository: where they lie.
        commit: as `HubRepository.commit_of` gives it.
        """
        listed = repository.files(commit)
        return HubRevision(repository=repository, commit=commit, listed=listed)

    @property
    def uri(self) -> str:
        """The pinned address."""
        return self.repository.address.uri(self.commit)

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        return self.read_ranges(name, [(0, self._known(name).size)])[0]

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `Storage`. A request for each range."""
        size = self._known(name).size
        return [self._got(name, start, min(stop, size)) for start, stop in ranges]

    def size(self, name: str) -> int | None:
        """See `Storage`."""
        return self.listed[name].size if name in self.listed else None

    def list(self, prefix: str) -> Iterator[str]:
        """See `Storage`."""
        return (name for name in self.listed if name.startswith(prefix))

    def put(self, name: str, data: bytes) -> None:
        """A commit does not change."""
        raise self._refusal(name, data)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """A commit does not change."""
        raise self._refusal(name, data)

    def delete(self, name: str) -> None:
        """A commit does not change."""
        raise self._refusal(name)

    def sweep(self) -> None:
        """See `Storage`: nothing is left behind."""

    def _known(self, name: str) -> HubFile:
        if name not in self.listed:
            raise ObjectMissing("there is no such object", place=f"{self.uri}/{name}")
        return self.listed[name]

    def _got(self, name: str, start: int, stop: int) -> bytes:
        import huggingface_hub

        if start >= stop:
            return b""
        place = f"{self.uri}/{name}"
        utils: Any = huggingface_hub.utils
        with explained(place):
            url = huggingface_hub.hf_hub_url(
                self.repository.name,
                name,
                repo_type="dataset",
                revision=self.commit,
                endpoint=huggingface_hub.HfApi().endpoint,
            )
            headers = utils.build_hf_headers(library_name="logitstore")
            headers["range"] = f"bytes={start}-{stop - 1}"
            answer = utils.http_backoff("GET", url, headers=headers, timeout=60)
            utils.hf_raise_for_status(answer)
            data: bytes = answer.content
        if len(data) == self.listed[name].size != stop - start:
            data = data[start:stop]  # of a server that knows no ranges
        if len(data) != stop - start:
            raise StorageError(
                "the server answers with other bytes than were asked for",
                place=place,
                found=f"{len(data)} bytes",
                allowed=stop - start,
                remedy=_AGAIN,
            )
        return data

    def _refusal(self, name: str, data: bytes = b"") -> StorageError:
        del data
        return StorageError(
            "a revision of the Hub is only read from",
            place=f"{self.uri}/{name}",
            remedy="Write a store by `logitstore push`",
        )


@contextmanager
def explained(place: str) -> Iterator[None]:
    """What huggingface_hub raises, as errors of this project.

    place: what they name.

    It raises errors of its HTTP client too, which is another one in another version, and plain
    ValueErrors and RuntimeErrors of an upload: so every Exception is taken for a refusal.
    """
    try:
        yield
    except (LogitStoreError, MemoryError):
        raise
    except ImportError as error:
        raise SettingError(f"huggingface_hub cannot be used: {error}", place=place) from error
    except Exception as error:
        raise _refusal(error, place) from error


def _refusal(error: Exception, place: str) -> HubError:
    status = _status(error)
    if status in _DENIALS:
        problem = f"{_DENIALS[status]} (HTTP {status})"
        denial = HubError(problem, place=place, remedy=_LOGIN)
        denial.may_pass = False
        return denial
    words = _words(error)
    if status in _CONFLICTS:
        words = f"somebody else has changed the repository meanwhile (HTTP {status})"
    return HubError(f"the Hub or the network refused: {words}", place=place, remedy=_AGAIN)


def _words(error: BaseException) -> str:
    """What an error says, and what the first one says that led to it."""
    told = " ".join(str(error).split())[:300] or type(error).__name__
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    return told if first is error else f"{told.rstrip('.')}: {str(first)[:200]}"


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, which may be that of its cause."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(getattr(response, "status_code", None), int):
            return int(response.status_code)  # type: ignore[union-attr]
        error = error.__cause__
    return None
