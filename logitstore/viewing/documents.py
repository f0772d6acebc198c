"""A store as a page asks for it: what it is, one document, a document by its id.

Nothing but the manifest is read until a document is asked for; then its block alone is.

Shapes: D documents of a block.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.errors import SettingError, printable
from logitstore.sparsify import sparsifier_of
from logitstore.store.inspect import inspect
from logitstore.store.storage import base_name
from logitstore.viewing.comparison import Beside
from logitstore.viewing.finding import find_document
from logitstore.viewing.packing import column, pack, thousandths
from logitstore.viewing.token_texts import TokenTexts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.store.reader import Store
    from logitstore.targets.documents import Document, StoredDocument
    from logitstore.viewing.comparison import Second

__all__ = ["Shown", "StoreView"]


@dataclass(frozen=True, eq=False)
class StoreView:
    """One store, and what is shown beside it.

    store: sealed.
    second: another store or a student, whose distributions of the same text are compared.
    """

    store: Store
    second: Second | None = None

    @cached_property
    def texts(self) -> TokenTexts:
        """What its token ids stand for."""
        return TokenTexts.of(
            self.store.tokenizer_files(), vocab_size=self.store.spec.tokenizer.vocab_size
        )

    @cached_property
    def _reading(self) -> threading.Lock:
        """One block is decoded at a time: it may take as much memory as reading may."""
        return threading.Lock()

    def info(self) -> dict[str, Any]:
        """What the store is: as `logitstore inspect` tells it, its draws, what is beside it."""
        spec = self.store.spec
        kind = sparsifier_of(spec.sparsifier).targets
        return {
            **inspect(self.store),
            "name": base_name(self.store.layout.storage),
            "entries": kind.entries.value,
            "exact": kind.has_exact,
            "whole": kind.knows_whole,
            "draws": self._draws(),
            "draw": self.store.draw,
            "max_length": spec.text.max_length,
            "note": self.texts.note,
            "second": None if self.second is None else self.second.info(),
        }

    def at_draw(self, draw: int) -> StoreView:
        """The same store, read at another of its draws.

        draw: its number, from 0.

        Raises SettingError where the store has no such draw.
        """
        if not 0 <= draw < max(1, len(self._draws())):
            raise SettingError("the store has no such draw", found=draw)
        if draw == self.store.draw:
            return self
        store = self.store.with_draw(draw)
        return StoreView(store, None if self.second is None else self.second.to_draw_of(store))

    def _draws(self) -> list[str]:
        """Each draw of a target in words."""
        sparsifier = self.store.spec.sparsifier
        return [
            f"T = {temperature:g}" + (f", draw {repeat + 1}" if sparsifier.repeats > 1 else "")
            for temperature in sparsifier.drawn_at
            for repeat in range(sparsifier.repeats)
        ]

    def documents(self, numbers: Sequence[int]) -> Shown:
        """Some documents with their targets, and what is beside them.

        numbers: of documents of the store, from 0; one or more.

        Raises SettingError for a number that no document has, CorruptionError for damage.
        """
        for number in numbers:
            if not 0 <= number < len(self.store):
                raise SettingError(
                    "the store has no such document",
                    found=number + 1,
                    allowed=f"1 to {len(self.store):,}",
                )
        with self._reading:
            stored = [self.store[number] for number in numbers]
        second = self.second
        beside = [
            Beside(stored=None) if second is None else second.beside(one, number)
            for one, number in zip(stored, numbers, strict=True)
        ]
        return Shown(numbers=tuple(numbers), first=stored, beside=beside, texts=self.texts)

    def find(self, document_id: str) -> dict[str, Any]:
        """The number of the document with that id, or of the first whose id begins so.

        document_id: hex, 4 to 32 digits.

        Only the tables of documents are read, for a few seconds at most; `blocks` tells how many.
        """
        text = document_id.strip().lower()
        try:
            wanted = int(text, 16) if 4 <= len(text) <= 32 else -1
        except ValueError:
            wanted = -1
        if wanted < 0:
            raise SettingError(
                "is no document's id", found=printable(text[:80]), allowed="4 to 32 hex digits"
            )
        number, seen = find_document(self.store, text)
        return {"number": number, "blocks": seen, "of": len(self.store.blocks)}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shown:
    """Documents that are shown, in the order of `numbers`."""

    numbers: tuple[int, ...]
    first: Sequence[StoredDocument]
    beside: Sequence[Beside]
    texts: TokenTexts

    def to_json(self, *, least: float = 0.0) -> dict[str, Any]:
        """The documents as an object of JSON: a pack of each side.

        least: the least probability, or weight, of an entry that is told.
        """
        others = [one.stored for one in self.beside if one.stored is not None]
        listed: list[dict[str, Any]] = []
        for number, one, beside in zip(self.numbers, self.first, self.beside, strict=True):
            before = sum("second" in named for named in listed)
            place = {} if beside.stored is None else {"second": before}
            listed.append({**_named(one.document, number), "note": beside.note, **place})
        kl = [
            np.full(len(one.targets), np.nan) if beside.kl_R is None else beside.kl_R
            for one, beside in zip(self.first, self.beside, strict=True)
        ]
        return {
            "documents": listed,
            "first": pack(self.first, self.texts, least=least),
            "second": pack(others, self.texts, least=least) if others else None,
            "kl": column(thousandths(np.concatenate(kl))) if others else None,
        }


def _named(document: Document, number: int) -> dict[str, Any]:
    return {
        "number": number,
        "id": document.id.hex(),
        "record": document.record,
        "piece": document.piece,
    }
