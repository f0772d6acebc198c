"""Documents that stand in several stores: found by their ids, told apart by their tokens.

An id is made of the name of a corpus file, the record and the piece. So documents of two corpora
may have the same id and other tokens: these are no duplicates, and nothing is done about them.

Ids are looked through in shares, so that memory stays bounded in a store of any size.

Shapes: D documents of a store.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from logitstore.progress import Meter
from logitstore.targets.draws import GAMMA

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logitstore.progress import OnProgress
    from logitstore.store.reader import Store

__all__ = ["Duplicates", "find_duplicates"]

_AT_ONCE = 4_000_000  # ids: some 100 bytes each while they are sorted
_COMPARED = 250_000  # documents whose tokens are compared at once


@dataclass(kw_only=True, slots=True)
class Duplicates:
    """What was found.

    documents: that have the id and the tokens of an earlier one.
    others: that have the id of an earlier one, and other tokens than any of that id.
    repeated: store -> bool [D], which of its documents are among `documents`.
    first: the store of the first of them.
    """

    documents: int = 0
    others: int = 0
    repeated: dict[int, np.ndarray] = field(default_factory=dict)
    first: str | None = None

    def notes(self, *, kept: bool) -> Iterator[str]:
        """What is told of them, in lines.

        kept: whether duplicates stay.
        """
        if self.documents:
            what = "kept: --duplicates drop leaves them out" if kept else "not kept"
            yield (
                f"{self.documents:,} documents have the id and the tokens of an earlier one; {what}"
            )
        if self.others:
            yield (
                f"{self.others:,} documents have the id of an earlier one and other tokens: the "
                "corpora have files of the same name; all are kept"
            )


class _Place(NamedTuple):
    store: int
    block: int
    document: int  # of the block


def find_duplicates(
    stores: Sequence[Store], *, on_progress: OnProgress | None = None
) -> Duplicates:
    """The documents that stand in the stores more than once.

    stores: in the order in which their documents are to stand.
    on_progress: told how far it is.

    The tokens of documents with the same id are read and compared by their hashes.
    """
    found = Duplicates()
    shares = max(1, -(-sum(map(len, stores)) // _AT_ONCE))
    meter = Meter(on_progress, stage="looking for duplicates", unit="documents")
    for share in range(shares):
        places_D3, group_D = _same_ids(stores, share, shares)
        start = 0
        while start < len(group_D):
            last = group_D[min(start + _COMPARED, len(group_D)) - 1]
            stop = int(np.searchsorted(group_D, last, side="right"))  # groups stay whole
            _compare(stores, places_D3[start:stop], group_D[start:stop], found)
            start = stop
            meter.tell(start, fraction=(share + start / len(group_D)) / shares)
    return found


def _same_ids(stores: Sequence[Store], share: int, shares: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of documents that share their id with others, and the number of each one's group.

    Store, block and document in it, int64 [D, 3], by id and within one id in order; of one share
    of all ids.
    """
    halves, places = [np.zeros((0, 2), dtype=np.uint64)], [np.zeros((0, 3), dtype=np.int64)]
    for store, one in enumerate(stores):
        for block in range(len(one.blocks)):
            ids_D2 = one.read_documents(block)[:, :2]
            mixed_D = (ids_D2[:, 0] ^ ids_D2[:, 1]) * np.uint64(GAMMA)
            own = np.flatnonzero((mixed_D >> np.uint64(32)) % np.uint64(shares) == share)
            halves.append(ids_D2[own])
            at = np.empty((len(own), 3), dtype=np.int64)
            at[:, 0], at[:, 1], at[:, 2] = store, block, own
            places.append(at)
    ids_D2, places_D3 = np.concatenate(halves), np.concatenate(places)
    order_D = np.lexsort((ids_D2[:, 1], ids_D2[:, 0]))  # stable: places of one id stay in order
    ids_D2, places_D3 = ids_D2[order_D], places_D3[order_D]
    as_before_D = np.zeros(len(ids_D2), dtype=bool)
    as_before_D[1:] = (ids_D2[1:] == ids_D2[:-1]).all(axis=1)
    several_D = as_before_D.copy()
    several_D[:-1] |= as_before_D[1:]
    return places_D3[several_D], np.cumsum(~as_before_D)[several_D]


def _compare(
    stores: Sequence[Store], places_D3: np.ndarray, group_D: np.ndarray, found: Duplicates
) -> None:
    """Count and mark what has the tokens of an earlier document of its group."""
    places = [_Place(*one) for one in places_D3.tolist()]
    starts = [one.blocks.documents_B.cumsum() - one.blocks.documents_B for one in stores]
    hashes = _token_hashes(stores, sorted(places))
    seen: set[bytes] = set()
    group = None
    for place, own_group in zip(places, group_D.tolist(), strict=True):
        if own_group != group:
            group, seen = own_group, set()
        own = hashes[place]
        if own in seen:
            found.documents += 1
            number = int(starts[place.store][place.block]) + place.document
            _note(stores[place.store], place.store, number, found)
        elif seen:
            found.others += 1
        seen.add(own)


def _note(store: Store, number: int, document: int, found: Duplicates) -> None:
    """Mark a document of the store of that number."""
    found.first = found.first or store.uri
    found.repeated.setdefault(number, np.zeros(len(store), dtype=bool))[document] = True


def _token_hashes(stores: Sequence[Store], places: Sequence[_Place]) -> dict[_Place, bytes]:
    """16 bytes of each document's tokens and of which of them count. Blocks are read in order."""
    found: dict[_Place, bytes] = {}
    at = None
    for place in places:
        if at != place[:2]:
            columns, _ = stores[place.store].read_columns(place.block)
            stops_D = np.cumsum(columns.documents_DC[:, 4]).astype(np.int64)
            at = place[:2]
        stop = int(stops_D[place.document])
        own = slice(stop - int(columns.documents_DC[place.document, 4]), stop)
        tokens = np.ascontiguousarray(columns.tokens_N[own], dtype="<u4").tobytes()
        counted = np.ascontiguousarray(columns.counted_N[own], dtype=np.uint8).tobytes()
        found[place] = hashlib.blake2b(tokens + b"\0" + counted, digest_size=16).digest()
    return found
