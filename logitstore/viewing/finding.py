"""Documents found by their id or by their text, a bounded piece of the store at a time.

A store has no index of words: a search reads block after block, tells how far it came, and goes on
from there when it is asked again.
"""

from __future__ import annotations

import codecs
import time
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logitstore.store.reader import Store
    from logitstore.targets.documents import DocumentBlock
    from logitstore.viewing.token_texts import TokenTexts

__all__ = ["find_document", "search"]

_ID_SECONDS = 5.0  # of one look for an id
_SEARCH_SECONDS = 1.0  # of one piece of a search; a block is read whole
_MOST_HITS = 20  # of one piece
_MOST_QUERY = 200  # characters
_AROUND = 48  # characters of a hit's neighbourhood, to each side


def find_document(store: Store, prefix: str) -> tuple[int | None, int]:
    """The number of the first document whose id begins so, and how many blocks were looked at.

    store: whose tables of documents are read.
    prefix: hex digits.
    """
    digits = prefix.ljust(32, "0"), prefix.ljust(32, "f")
    (least, least_low), (most, most_low) = (
        (int(one[:16], 16), int(one[16:], 16)) for one in digits
    )
    until, first = time.monotonic() + _ID_SECONDS, 0
    for block, documents in enumerate(store.blocks.documents_B.tolist()):
        table_DC = store.read_documents(block)
        high_D, low_D = table_DC[:, 0], table_DC[:, 1]
        after_D = (high_D > least) | ((high_D == least) & (low_D >= least_low))
        before_D = (high_D < most) | ((high_D == most) & (low_D <= most_low))
        if (found := np.flatnonzero(after_D & before_D)).size:
            return first + int(found[0]), block + 1
        if time.monotonic() > until:
            return None, block + 1
        first += documents
    return None, len(store.blocks)


def search(store: Store, texts: TokenTexts, wanted: str, *, start: int = 0) -> dict[str, Any]:
    """Documents whose text has `wanted` in it, whatever the case, from document `start` on.

    store: which is read for about a second.
    texts: of its tokenizer.
    wanted: 1 to 200 characters.
    start: the number of the document that is looked at first.

    `hits` are in order; `next` is where to go on, None at the end of the store.
    """
    needle = wanted.casefold()
    if not 1 <= len(wanted) <= _MOST_QUERY or not needle:
        raise SettingError(
            "a search needs a text",
            found=f"{len(wanted)} characters",
            allowed=f"1 to {_MOST_QUERY}",
        )
    stops = np.cumsum(store.blocks.documents_B)
    block = int(np.searchsorted(stops, start, side="right"))
    until, hits, number = time.monotonic() + _SEARCH_SECONDS, [], start
    while block < len(store.blocks) and time.monotonic() < until:
        first = int(stops[block - 1]) if block else 0
        for place, ids, text in _texts_with(store.read_block(block), needle, texts):
            if first + place >= start:
                hits.append(_hit(first + place, ids, text, needle, texts))
            if len(hits) == _MOST_HITS:
                return _found(store, hits, first + place + 1)
        block += 1
        number = int(stops[block - 1])
    return _found(store, hits, number)


def _texts_with(
    block: DocumentBlock, needle: str, texts: TokenTexts
) -> Iterator[tuple[int, list[int], str]]:
    """Place, ids and text of the documents of a block that have `needle` in them, folded."""
    stops = np.cumsum(block.token_lengths_D).tolist()
    ids = block.input_ids_N.tolist()
    spans = list(zip([0, *stops], stops, strict=False))
    pieces = list(map(texts.bytes_of, ids))
    # Between documents stands a byte that completes no character, so each decodes as by itself.
    whole = b"\0".join(b"".join(pieces[start:stop]) for start, stop in spans)
    if needle not in whole.decode(errors="replace").casefold():
        return
    for place, (start, stop) in enumerate(spans):
        text = b"".join(pieces[start:stop]).decode(errors="replace")
        if needle in text.casefold():
            yield place, ids[start:stop], text


def _found(store: Store, hits: list[dict[str, Any]], number: int) -> dict[str, Any]:
    total = len(store)
    return {"hits": hits, "next": number if number < total else None, "documents": total}


def _hit(
    number: int, ids: Sequence[int], text: str, needle: str, texts: TokenTexts
) -> dict[str, Any]:
    """A document, the token in which the text begins there, and the words around it."""
    folded = text.casefold()
    place = folded.index(needle)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    lengths = (len(decoder.decode(texts.bytes_of(one)).casefold()) for one in ids)
    token = next((at for at, stop in enumerate(accumulate(lengths)) if stop > place), 0)
    # Folding makes two characters of some, character by character.
    stops = list(accumulate(len(one.casefold()) for one in text))
    start, stop = bisect_right(stops, place), bisect_left(stops, place + len(needle)) + 1
    return {
        "number": number,
        "token": token,
        "before": text[max(0, start - _AROUND) : start],
        "found": text[start:stop],
        "after": text[stop : stop + _AROUND],
    }
