"""`push`: a sealed store to the Hub, or to any other storage; the manifest last.

A reader opens a store by its manifest, so it never sees half of one. What is there by its hash is
not sent again, so the same command goes on after a kill at any moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError, StoreError
from logitstore.format.manifest import Totals
from logitstore.options import takes
from logitstore.progress import Meter, OnProgress
from logitstore.sharing.addresses import HubAddress
from logitstore.sharing.hub import HubRepository
from logitstore.sharing.hub_push import HubPush
from logitstore.sharing.objects import (
    Carrier,
    SealedObject,
    claim,
    refuse_other_store,
    sealed_objects,
)
from logitstore.sharing.options import PUSH_OPTIONS
from logitstore.store.card import CardFacts, store_card
from logitstore.store.last_audit import audit_json
from logitstore.store.layout import AUDIT, DATA, MANIFEST, PLAN, README, SPEC
from logitstore.store.reader import Store, StoreLike, as_store
from logitstore.store.storage import Storage, base_name, open_storage
from logitstore.store.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["Shared", "push"]

_MOST_IN_A_FOLDER = 10_000  # entries, as the Hub advises


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """A store that was carried, and what of it had to be."""

    uri: str  # where it lies now
    pinned: str | None  # the same at its commit, on the Hub
    commit: str | None  # of the Hub
    fingerprint: str
    objects: int  # all that lie there, the card too
    bytes: int  # of them
    sent_objects: int  # those that did not lie there before
    sent_bytes: int
    warnings: tuple[str, ...] = ()

    @staticmethod
    def of(
        carrier: Carrier,
        *,
        uri: str,
        fingerprint: str,
        pinned: str | None = None,
        commit: str | None = None,
    ) -> Shared:
        """A store that a carrier has brought to its place.

        carrier: when it has ended.
        uri: where the store lies now.
        fingerprint: of the store.
        pinned: where it came from on the Hub, at a commit.
        commit: that one.
        """
        return Shared(
            uri=uri,
            pinned=pinned,
            commit=commit,
            fingerprint=fingerprint,
            objects=carrier.objects,
            bytes=carrier.total_bytes,
            sent_objects=carrier.sent_objects,
            sent_bytes=carrier.sent_bytes,
        )


@takes(PUSH_OPTIONS)
def push(
    store: StoreLike,
    remote: Any,
    *,
    public: bool,
    license: str | None,  # noqa: A002 - as the command line has it
    teacher_license: str | None,
    corpus_license: str | None,
    audit: Path | None,
    on_progress: OnProgress | None,
) -> Shared:
    """Send a sealed store to the Hub or to a storage, and compare what lies there by its hashes.

    The store's own hashes are compared first. Raises StoreError where it is not sealed, where
    another store lies at `remote`, and where that is public without `public`; CorruptionError where
    the store has changed; StorageError where the Hub, the service or the network refuses.
    """
    opened = as_store(store)
    for fault in verify(opened, hashes=True, on_progress=on_progress):
        raise CorruptionError(
            f"the store is not sound: {fault}",
            place=opened.uri,
            remedy="`logitstore verify` lists all faults",
        )
    address = HubAddress.of(remote)
    facts = CardFacts.of(
        opened,
        license=license,
        teacher_license=teacher_license,
        corpus_license=corpus_license,
        audit=audit,
    )
    if address is not None:
        beside = _beside(opened, address.repository.split("/")[1], facts, address.uri(None))
        return _push_to_hub(opened, address, beside, public=public, on_progress=on_progress)
    storage = open_storage(remote)
    beside = _beside(opened, base_name(storage), facts, storage.uri)
    return _push_to_storage(opened, storage, beside, on_progress)


def _beside(store: Store, name: str, facts: CardFacts, uri: str) -> dict[str, bytes]:
    """What lies beside the store and is no part of it: its card, and its last audit."""
    totals = Totals.of(store.commits)
    card = store_card(store.spec, _manifest(store), totals, name=name, facts=facts, uri=uri)
    audit = {} if facts.audit is None else {AUDIT: audit_json(facts.audit)}
    return {README: card.encode(), **audit}


def _manifest(store: Store) -> Any:
    if store.manifest is None:
        raise StoreError("the store is not sealed", place=store.uri)
    return store.manifest


def _push_to_hub(
    store: Store,
    address: HubAddress,
    beside: Mapping[str, bytes],
    *,
    public: bool,
    on_progress: OnProgress | None,
) -> Shared:
    objects = {one.name: one for one in sealed_objects(store.layout, _manifest(store))}
    repository = HubRepository(address=address)
    repository.make(public=public)
    sending = HubPush(
        storage=store.layout.storage,
        objects=objects,
        seal={**beside, MANIFEST: store.layout.read_small(MANIFEST)},
        repository=repository,
        title=store.fingerprint[:12],
        on_progress=on_progress,
    )
    commit = sending.run()
    return Shared(
        uri=address.uri(None),
        pinned=address.uri(commit),
        commit=commit,
        fingerprint=store.fingerprint,
        objects=len(objects) + len(sending.seal),
        bytes=sending.bytes,
        sent_objects=sending.sent_objects,
        sent_bytes=sending.sent_bytes,
        warnings=tuple(_warnings(objects)),
    )


def _push_to_storage(
    store: Store, storage: Storage, beside: Mapping[str, bytes], on_progress: OnProgress | None
) -> Shared:
    manifest, seal = _manifest(store), store.layout.read_small(MANIFEST)
    refuse_other_store(storage, seal)
    claimed = claim(storage, {name: store.layout.read_small(name) for name in (SPEC, PLAN)})
    meter = Meter(on_progress, stage="sending", unit="bytes")
    carrier = Carrier(target=storage, claimed=claimed)
    for one in sealed_objects(store.layout, manifest):
        carrier.carry(store.layout.storage, one)
        share = min(1.0, carrier.total_bytes / max(1, manifest.bytes))
        meter.tell(carrier.total_bytes, fraction=share, detail=one.name)
    for name, data in beside.items():
        carrier.put(name, data)
    carrier.seal(seal)
    return Shared.of(carrier, uri=storage.uri, fingerprint=store.fingerprint)


def _warnings(objects: Mapping[str, SealedObject]) -> Iterator[str]:
    units = len({name.split("/")[1] for name in objects if name.startswith(DATA)})
    if units >= _MOST_IN_A_FOLDER:
        yield (
            f"{units:,} units are more than the {_MOST_IN_A_FOLDER:,} entries of a folder that the "
            "Hub advises: dump with a larger --unit-tokens"
        )
