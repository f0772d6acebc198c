"""The application: a catalogue's page, each store's page, what these ask for, and files.

/                      the catalogue, or the page of the only store
/view/NAME             the page of a store
/api/WHAT?store=NAME   what pages ask for, as JSON
/stores/NAME/FILE      files of a store, by which it is opened elsewhere
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from logitstore.errors import (
    LogitStoreError,
    ObjectMissing,
    SettingError,
    StorageError,
    StoreError,
)
from logitstore.serving.access import Guard
from logitstore.serving.files import Holdings, file_response
from logitstore.store.local import LocalStorage
from logitstore.viewing.finding import search
from logitstore.viewing.page import page

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from logitstore.serving.catalogue import Catalogue, Opened
    from logitstore.viewing.page import Page

__all__ = ["application"]

_MOST_SURVEY_SECONDS = 2.0  # of one request


def application(catalogue: Catalogue, *, token: str | None, host: str, port: int) -> Guard:
    """The application over a catalogue.

    catalogue: of stores.
    token: without which nothing is given; None for none.
    host, port: that are listened to.
    """
    endpoints = _Endpoints(catalogue)
    routes = [
        Route("/", endpoints.start),
        Route("/view/{name:path}", endpoints.viewer),
        Route("/stores/{path:path}", endpoints.file),
        Route("/api/stores", endpoints.listing),
        *(Route(f"/api/{name}", endpoints.api(ask)) for name, ask in _ASKED.items()),
    ]
    handlers: dict[Any, Any] = {LogitStoreError: endpoints.failed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    return Guard(app, token=token, host=host, port=port)


class _Endpoints:
    """Answers to requests. Starlette runs each in a thread: reading a store takes its time."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        root = catalogue.root
        self._root: Path | None = root.folder if isinstance(root, LocalStorage) else None
        self._holdings = lru_cache(16)(lambda store: Holdings(store, self._root))

    def start(self, request: Request) -> Response:  # noqa: ARG002
        if self._catalogue.single:
            (name,) = self._catalogue.names()
            return RedirectResponse(f"/view/{quote(name)}", status_code=303)
        return _page(page("catalogue", title="Stores · logitstore", data={}))

    def listing(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"stores": self._catalogue.summaries()})

    def viewer(self, request: Request) -> Response:
        name = request.path_params["name"].rstrip("/")
        if name not in self._catalogue.names():
            raise ObjectMissing("there is no such store", found=name)
        data = {"store": name, "catalogue": not self._catalogue.single}
        return _page(page("viewer", title=f"{name} · logitstore", data=data))

    def file(self, request: Request) -> Response:
        found = self._catalogue.named_in(request.path_params["path"])
        if found is None:
            return Response("no such store\n", status_code=404, media_type="text/plain")
        name, path = found
        if path == "":  # the address of the store itself, in a browser
            return RedirectResponse(f"/view/{quote(name)}", status_code=303)
        store = self._catalogue.opened(name).view.store
        return file_response(request, self._holdings(store), path)

    def api(self, ask: Callable[[Opened, _Query], dict[str, Any]]) -> Callable[[Request], Response]:
        """The endpoint that answers with what `ask` returns of a store."""

        def endpoint(request: Request) -> Response:
            query = _Query(request)
            opened = self._catalogue.opened(query.text("store"), draw=query.number("draw"))
            return JSONResponse(ask(opened, query))

        return endpoint

    def failed(self, request: Request, error: Exception) -> Response:
        """What the errors of this project become: a message without folders of this machine."""
        told = str(error)
        for place in {self._catalogue.root.uri, str(self._root or "")} - {"", "."}:
            told = told.replace(f"{place.rstrip('/')}/", "").replace(place, "the store")
        status = 404 if isinstance(error, ObjectMissing) else 500
        status = 400 if isinstance(error, SettingError) else status
        status = 503 if type(error) is StorageError else status
        # A store that is not finished is there for people alone; nobody asks again after a 404.
        if type(error) is StoreError:
            status = 404 if request.url.path.startswith("/stores/") else 409
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": told}, status_code=status)
        return Response(f"{told}\n", status_code=status, media_type="text/plain")


class _Query:
    """What stands behind the question mark."""

    def __init__(self, request: Request) -> None:
        self._given = request.query_params

    def text(self, name: str) -> str:
        return self._given.get(name, "")

    def number(self, name: str) -> int:
        given = self._given.get(name, "0")
        if not (given.isascii() and given.isdigit() and len(given) <= 15):
            raise SettingError(f"{name} is no number", found=given[:40], allowed="0 or more")
        return int(given)


_ASKED: dict[str, Callable[[Any, _Query], dict[str, Any]]] = {
    "info": lambda opened, _: opened.view.info(),
    "document": lambda opened, query: opened.view.documents([query.number("number")]).to_json(),
    "find": lambda opened, query: opened.view.find(query.text("id")),
    "search": lambda opened, query: search(
        opened.view.store, opened.view.texts, query.text("text"), start=query.number("start")
    ),
    "survey": lambda opened, query: opened.survey.look(
        seconds=min(query.number("seconds"), _MOST_SURVEY_SECONDS)
    ),
}


def _page(made: Page) -> Response:
    return HTMLResponse(made.html, headers={"content-security-policy": made.policy})
