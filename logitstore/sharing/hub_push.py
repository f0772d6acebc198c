"""A store on its way to the Hub: few files a commit, card and manifest in the last one."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError, StoreError
from logitstore.progress import Meter, OnProgress
from logitstore.sharing.hub import HubError, HubFile, HubRepository, blob_id
from logitstore.sharing.objects import SealedObject, read_object
from logitstore.store.layout import MANIFEST
from logitstore.store.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from logitstore.store.storage import Storage

__all__ = ["HubPush"]

_BATCH_FILES = 50  # the Hub advises 50 to 100 a commit
_BATCH_BYTES = 256 << 20  # of one commit, where bytes and no files are sent
_TRIES, _FIRST_WAIT_SECONDS = 5, 1.0  # of a commit that is refused


@dataclass(kw_only=True, slots=True)
class HubPush:
    """What is sent, and how much of it was."""

    storage: Storage  # where the store lies
    objects: Mapping[str, SealedObject]  # by their names
    seal: Mapping[str, bytes]  # card, last audit and manifest
    repository: HubRepository
    title: str  # what commits are called by
    on_progress: OnProgress | None
    sent_objects: int = 0
    sent_bytes: int = 0

    def run(self) -> str:
        """Commit until nothing is missing, compare what lies there, and give the last commit."""
        commit = self._send()
        self._compare(self.repository.files(commit), commit)
        return commit

    @property
    def bytes(self) -> int:
        """Of all that lies there in the end."""
        return sum(map(self._size, (*self.objects, *self.seal)))

    def _send(self) -> str:
        """Commits until nothing is missing.

        After a refusal the repository is looked at anew: the commit may have been made, and only
        the answer lost.
        """
        meter = Meter(self.on_progress, stage="sending", unit="bytes")
        failures = 0
        while True:
            try:
                head = self.repository.commit_of(None)
                missing = self._missing(self.repository.files(head))
                left = sum(map(self._size, missing))
                for batch in self._batches(missing):
                    message = f"Add {len(batch)} files of store {self.title}"
                    head = self.repository.commit(batch, parent=head, message=message)
                    failures = 0
                    self.sent_objects += len(batch)
                    size = sum(map(self._size, batch))
                    self.sent_bytes, left = self.sent_bytes + size, left - size
                    share = self.sent_bytes / max(1, self.sent_bytes + left)
                    meter.tell(self.sent_bytes, fraction=share)
                return head
            except HubError as error:
                failures += 1
                if failures >= _TRIES or not error.may_pass:
                    raise
                time.sleep(_FIRST_WAIT_SECONDS * 2 ** (failures - 1))

    def _missing(self, files: Mapping[str, HubFile]) -> list[str]:
        """The names that are not there yet, those of the seal last.

        Raises StoreError where the repository holds another store, or a part of one.
        """
        found = [name for name in (*self.objects, MANIFEST) if name in files]
        for name in found:
            if not self._same(name, files[name]):
                raise StoreError(
                    "another store lies in the repository",
                    place=f"{self.repository.address.uri(None)}/{name}",
                    remedy="Push to another repository, or remove its files first",
                )
        missing = [name for name in self.objects if name not in files]
        beside = [name for name in self.seal if name != MANIFEST]
        missing += [one for one in beside if one not in files or not self._same(one, files[one])]
        return missing if MANIFEST in files else [*missing, MANIFEST]

    def _batches(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """Some files for each commit, what lies beside the store and manifest in the last one."""
        batch: dict[str, Any] = {}
        held = 0
        for name in (one for one in names if one not in self.seal):
            content = self._content(name)
            batch[name] = content
            held += len(content) if isinstance(content, bytes) else 0
            if len(batch) == _BATCH_FILES or held >= _BATCH_BYTES:
                yield batch
                batch, held = {}, 0
        if batch:
            yield batch
        last = {name: self.seal[name] for name in names if name in self.seal}
        if last:
            yield last

    def _content(self, name: str) -> Any:
        """The path of a file of a folder; of what lies elsewhere its bytes, checked again."""
        if isinstance(self.storage, LocalStorage):
            return self.storage.path_of(name)
        return read_object(self.storage, self.objects[name])

    def _same(self, name: str, file: HubFile) -> bool:
        """Whether the Hub has the bytes of an object.

        It keeps small files as git does, whose hash is another: their bytes are read here.
        """
        if name in self.seal:
            data = self.seal[name]
            sha256 = hashlib.sha256(data).hexdigest()
        elif file.sha256 is not None:
            return file.sha256 == self.objects[name].sha256
        elif self.storage.size(name) != file.size:
            return False
        else:
            data = self.storage.read(name)
            sha256 = self.objects[name].sha256
        return file.sha256 == sha256 if file.sha256 is not None else file.blob == blob_id(data)

    def _size(self, name: str) -> int:
        if name in self.seal:
            return len(self.seal[name])
        return self.objects[name].size or self.storage.size(name) or 0

    def _compare(self, files: Mapping[str, HubFile], commit: str) -> None:
        """Raise CorruptionError where the Hub lists other bytes than were sent."""
        names = (*self.objects, *self.seal)
        wrong = [one for one in names if one not in files or not self._same(one, files[one])]
        if wrong:
            raise CorruptionError(
                "the Hub lists no file, or another hash than that of the file that was sent",
                place=f"{self.repository.address.uri(commit)}/{wrong[0]}",
                found=f"{len(wrong):,} such files",
                remedy="Remove the repository's files and push again",
            )
