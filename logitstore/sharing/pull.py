"""`pull`: a sealed store from the Hub, a web server or any storage, each file checked.

The revision is fixed when the pull begins and written down beside the store, so that a pull that
was killed goes on at the same one. Objects are hashed in memory and written whole; the manifest is
the last, so that a folder is a store once everything is in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError, StoreError
from logitstore.format.json import parse_json, with_check
from logitstore.options import takes
from logitstore.progress import Meter, OnProgress, tell_stage
from logitstore.sharing.addresses import HubAddress
from logitstore.sharing.hub import HubRepository, HubRevision
from logitstore.sharing.objects import Carrier, refuse_other_store, refuse_strangers, sealed_objects
from logitstore.sharing.options import PULL_OPTIONS
from logitstore.sharing.push import Shared
from logitstore.store.layout import AUDIT, MANIFEST, PULLED, README, StoreLayout
from logitstore.store.local import LocalStorage
from logitstore.store.reader import open_store
from logitstore.store.storage import Storage, open_storage, place_of

if TYPE_CHECKING:
    from logitstore.format.manifest import Manifest

__all__ = ["pull"]

_MOST_RECORD, _MOST_CARD = 64 << 10, 4 << 20  # bytes


@takes(PULL_OPTIONS)
def pull(remote: Any, out: Any, *, on_progress: OnProgress | None) -> Shared:
    """Fetch a sealed store into `out`, and check each object by the hashes of its seal.

    Raises StoreError where there is no sealed store at `remote`, and where `out` holds anything but
    a part of the same one; CorruptionError where an object is not what was sealed, which is then
    not written; StorageError where a server or the network refuses.
    """
    target = open_storage(out)
    tell_stage(on_progress, "asking for the store")
    source, commit = _source(remote, target)
    layout = StoreLayout(source)
    if source.size(MANIFEST) is None:
        raise StoreError(
            "no finished store here: it has no manifest.json",
            place=source.uri,
            remedy="Name a store that `logitstore push` or `logitstore dump` has finished",
        )
    seal, manifest = layout.read_small(MANIFEST), layout.read_manifest()
    refuse_other_store(target, seal)
    _record(target, _named(source))
    carrier = Carrier(target=target)
    _carry_all(layout, carrier, manifest, on_progress)
    for name in (README, AUDIT):
        _carry_beside(source, carrier, name)
    carrier.seal(seal)
    return Shared.of(
        carrier,
        uri=target.uri,
        fingerprint=open_store(target).fingerprint,
        pinned=source.uri if commit is not None else None,
        commit=commit,
    )


def _source(remote: Any, target: Storage) -> tuple[Storage, str | None]:
    """What is read, at one revision: that of a pull which has begun, where none is asked for."""
    address = HubAddress.of(remote)
    record = _begun(target)
    if address is None:
        source = open_storage(remote)
        if _named(source) == _named(target):
            raise StoreError("a store cannot be pulled into itself", place=target.uri)
        _refuse_strangers(target, record)
        _refuse_other_source(target, record, _named(source))
        return source, None
    repository = HubRepository(address=address)
    before = None if record is None else HubAddress.of(record)
    same = before is not None and before.repository == address.repository
    if address.revision is None and before is not None and same:
        commit = str(before.revision)
    else:
        commit = repository.commit_of(address.revision)
    _refuse_strangers(target, record)
    _refuse_other_source(target, record, address.uri(commit))
    return HubRevision.of(repository, commit), commit


def _named(source: Storage) -> str:
    """A source as it is written down: a path from the root, and no password of a URI."""
    if isinstance(source, LocalStorage):
        return str(source.folder)
    return re.sub(r"//[^/@]*@", "//", source.uri)


def _begun(target: Storage) -> str | None:
    """From where a pull into this place has begun; None where none has."""
    size = target.size(PULLED)
    if size is None:
        return None
    place = place_of(target, PULLED)
    if size > _MOST_RECORD:
        raise CorruptionError("file is too large", place=place, found=size, allowed=_MOST_RECORD)
    content = parse_json(target.read(PULLED), place=place)
    found = content.get("source") if isinstance(content, dict) else None
    if not isinstance(found, str):
        raise CorruptionError(
            "the record of a pull names no source", place=place, remedy="Remove it, and pull again"
        )
    return found


def _record(target: Storage, source: str) -> None:
    if target.size(PULLED) is None:
        target.put(PULLED, with_check({"source": source}))


def _refuse_strangers(target: Storage, record: str | None) -> None:
    """Raise StoreError where a pull would write among files of somebody else."""
    if record is None and target.size(MANIFEST) is None:
        refuse_strangers(target)


def _refuse_other_source(target: Storage, record: str | None, source: str) -> None:
    if record is not None and record != source:
        raise StoreError(
            "the folder holds a pull from elsewhere",
            place=target.uri,
            found=record,
            allowed=source,
            remedy="Name an empty folder, or pull that one again",
        )


def _carry_all(
    layout: StoreLayout, carrier: Carrier, manifest: Manifest, on_progress: OnProgress | None
) -> None:
    """Every object that the seal covers."""
    meter = Meter(on_progress, stage="fetching", unit="bytes")
    for one in sealed_objects(layout, manifest):
        carrier.carry(layout.storage, one)
        share = min(1.0, carrier.total_bytes / max(1, manifest.bytes))
        meter.tell(carrier.total_bytes, fraction=share, detail=one.name)


def _carry_beside(source: Storage, carrier: Carrier, name: str) -> None:
    """A card or an audit, which no hash covers; a card that is there stays."""
    size = source.size(name)
    if size is None or size > _MOST_CARD:
        return
    there = carrier.target.size(name)
    if there is None or name == AUDIT:  # which nobody writes by hand
        carrier.put(name, source.read(name))
    else:
        carrier.count(there, sent=False)
