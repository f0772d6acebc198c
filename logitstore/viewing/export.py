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
    info = view.info()
    content = {
        "info": info,
        "pack": view.documents(sorted(set(numbers))),
        "survey": Survey(view.store).look(seconds=_SURVEY_SECONDS),
    }
    text = page("viewer", title=f"{info['name']} · logitstore", data=content, alone=True)
    data = text.html.encode()
    storage.put(name, data)
    return len(data)
