"""Some documents of a store as one page in a file: it is sent, opened and read without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from logitstore.errors import StoreError
from logitstore.store.local import LocalStorage
from logitstore.viewing.page import page
from logitstore.viewing.survey import Survey

if TYPE_CHECKING:
    from pathlib import Path

    from logitstore.viewing.documents import StoreView

__all__ = ["DOCUMENTS", "export_page"]

DOCUMENTS = 20
_SURVEY_SECONDS = 10.0
# A page of 20 documents of 1,024 tokens must fit into a mail. Entries of less than these
# probabilities are counted, not listed, where it would have more bytes.
_LEAST = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
_BYTES_A_DOCUMENT = 147_000


def export_page(view: StoreView, path: Path, *, documents: int = DOCUMENTS) -> int:
    """Write a page with some documents, spread over the store; return its bytes.

    view: the store, and what is beside it.
    path: of the file, which is replaced.
    documents: how many; all where the store has no more.

    Raises StoreError for a store without documents, StorageError where the file cannot be written.
    """
    total = len(view.store)
    if not total:
        raise StoreError("the store holds no documents to show", place=view.store.uri)
    numbers = np.linspace(0, total - 1, num=min(documents, total)).round().astype(int).tolist()
    storage, name = LocalStorage.of_file(path)
    data = _fitting(view, sorted(set(numbers)))
    storage.put(name, data)
    return len(data)


def _fitting(view: StoreView, numbers: list[int]) -> bytes:
    """The page with all entries, or with as many as it has room for."""
    info, shown = view.info(), view.documents(numbers)
    content = {"info": info, "survey": Survey(view.store).look(seconds=_SURVEY_SECONDS)}
    title = f"{info['name']} · logitstore"
    data = b""
    for least in _LEAST:
        content["pack"] = shown.to_json(least=least)
        data = page("viewer", title=title, data=content, alone=True).html.encode()
        if len(data) <= max(DOCUMENTS, len(numbers)) * _BYTES_A_DOCUMENT:
            break
    return data
