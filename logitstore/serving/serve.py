"""`serve`: the stores below a place, to whoever may see them, until the process is interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from logitstore.options import takes
from logitstore.serving.options import SERVE_OPTIONS, TOKEN_VARIABLE, chosen_token
from logitstore.serving.server import listening, run_server, url_of
from logitstore.store.remote.calls import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["serve"]

_NAMED = 8  # stores that are named on start


@takes(SERVE_OPTIONS)
def serve(
    *, where: Any, host: str, port: int, token: str | None, max_memory: Any, tell: Any
) -> None:
    """Serve the stores at or below a place: a catalogue, a page of each, and their files.

    It returns when the process is interrupted. Raises StoreError where there is no store,
    SettingError for an address that is not to be had, or where starlette and uvicorn lack.
    """
    opened = listening(host, port)
    from logitstore.serving.app import application
    from logitstore.serving.catalogue import Catalogue

    with opened:
        token = chosen_token(token)
        catalogue = Catalogue.below(where, max_memory=max_memory)
        url, own_port = url_of(opened, host), opened.getsockname()[1]
        app = application(catalogue, token=token, host=host, port=own_port)
        for line in _told(catalogue, url, host=host, token=token):
            tell(line)
        run_server(app, opened)


def _told(catalogue: Any, url: str, *, host: str, token: str | None) -> Iterator[str]:
    """What is served, and to whom."""
    names = catalogue.names()
    some = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    number = "1 store" if len(names) == 1 else f"{len(names):,} stores"
    yield f"serving {number} of {catalogue.root.uri}, read-only: {some}"
    who = "this machine" if is_loopback(host) else "every machine that reaches this one"
    whom = "who has the token" if token else "anybody"
    yield f"to {whom} on {who}: {url}"
    if token is None and not is_loopback(host):
        yield (
            "warning: no token is needed, so all who reach this address can read and copy these "
            f"stores. Give --token, or set {TOKEN_VARIABLE}"
        )
    if token and not is_loopback(host):
        yield "warning: the token is sent without encryption, unless a proxy with TLS is before it"
    name = "" if catalogue.single else "NAME"
    shown = names[0] if catalogue.single else name
    secret = f"{TOKEN_VARIABLE}=TOKEN {_hosts(url, host)}" if token else ""
    use = f"trainer fit --logits {url}stores/{shown} --student MODEL --out RUN"
    yield f"train from one: {secret}{use}"


def _hosts(url: str, host: str) -> str:
    """What else is set by who reads from another machine, for the token to be sent here."""
    return "" if is_loopback(host) else f"LOGITSTORE_TOKEN_HOSTS={urlsplit(url).netloc} "
