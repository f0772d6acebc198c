"""`view`: one store and what is beside it, on a page of this machine or in a file."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from logitstore.options import takes
from logitstore.serving.server import listening, run_server, url_of
from logitstore.store.reader import as_store
from logitstore.viewing.documents import StoreView
from logitstore.viewing.options import VIEW_OPTIONS

if TYPE_CHECKING:
    from pathlib import Path

    from logitstore.store.reader import Store
    from logitstore.viewing.comparison import Second

__all__ = ["view"]

_HOST = "127.0.0.1"


@takes(VIEW_OPTIONS)
def view(
    *, store: Any, html: Path | None, documents: int | None, tell: Any, **options: Any
) -> None:
    """Show a store: serve its page to this machine until interrupted, or write it into a file.

    With `html` the page holds `documents` of the store's, and it returns when the file is there.
    Raises StoreError and CorruptionError for a store that is not to be read, TokenizerError for
    something beside it that has another tokenizer, ModelError for no student.
    """
    opened = None if html is not None else listening(_HOST, options["port"])
    first = as_store(store, max_memory=options["max_memory"])
    shown = StoreView(first, _second(first, {**options, "tell": tell}))
    if opened is None:
        _export(shown, html, documents, tell)
        return
    from logitstore.serving.app import application
    from logitstore.serving.catalogue import Catalogue

    with opened:
        port, url = opened.getsockname()[1], url_of(opened, _HOST)
        app = application(Catalogue.of(shown), token=None, host=_HOST, port=port)
        # What the page shows first is read while the user turns to it.
        threading.Thread(target=_read_first, args=(shown,), daemon=True).start()
        tell(f"{first.uri}, to this machine alone: {url}")
        if options["open"]:
            import webbrowser

            webbrowser.open(url)
        run_server(app, opened)


def _read_first(shown: StoreView) -> None:
    """Read the tokenizer and the first document; what is wrong with them is told on the page."""
    with suppress(Exception):
        shown.info()
        StoreView(shown.store).documents([0])


def _second(first: Store, options: dict[str, Any]) -> Second | None:
    """What is shown beside the store."""
    if options["other"] is not None:
        from logitstore.viewing.comparison import SecondStore

        other = as_store(options["other"], max_memory=options["max_memory"])
        return SecondStore.of(other, first)
    if options["student"] is None:
        return None
    options["tell"](f"loading the student {options['student']}")
    from logitstore.viewing.student import open_student

    return open_student(options["student"], first, device=options["device"], dtype=options["dtype"])


def _export(shown: StoreView, html: Any, documents: int | None, tell: Any) -> None:
    from logitstore.viewing.export import DOCUMENTS, export_page

    size = export_page(shown, html, documents=documents or DOCUMENTS)
    tell(f"{html}: {min(documents or DOCUMENTS, len(shown.store)):,} documents, {size:,} bytes")
