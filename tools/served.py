"""A server of stores in this process, for tests and for the pictures of the documentation."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from logitstore.serving.app import application
from logitstore.serving.server import listening, url_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logitstore.serving.catalogue import Catalogue

__all__ = ["served"]


@contextmanager
def served(catalogue: Catalogue, *, token: str | None = None) -> Iterator[str]:
    """The URL of a running server of a catalogue, without the last slash."""
    with listening("127.0.0.1", 0) as opened:
        url, port = url_of(opened, "127.0.0.1").rstrip("/"), opened.getsockname()[1]
        app = application(catalogue, token=token, host="127.0.0.1", port=port)
        config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield url
        finally:
            server.should_exit = True
            thread.join()
