"""The server: an address that is listened to, and uvicorn, which answers until it is ended."""

from __future__ import annotations

import socket
from typing import Any

from logitstore.errors import SettingError

__all__ = ["listening", "run_server", "url_of"]

_EVERY_ADDRESS = ("0.0.0.0", "::")  # no address that another machine could ask

_GRACE_SECONDS = 1  # for answers that are being given when the server is ended
_MOST_CONNECTIONS = 256


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    host: an address or a name of this machine.
    port: 0 takes a free one.

    Raises SettingError where that is not to be had, or where uvicorn is not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise SettingError(
            "starlette and uvicorn are not installed, which serve pages",
            remedy="pip install 'logitstore[serve]'",
        ) from error
    opened = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen()  # who connects from now on waits until answers are given
    except OSError as error:
        if opened is not None:
            opened.close()
        raise SettingError(
            f"nothing can be served there: {error.strerror or error}",
            found=f"--host {host} --port {port}",
            remedy="Name another port, or --port 0 for a free one",
        ) from error
    return opened


def url_of(opened: socket.socket, host: str) -> str:
    """The URL of a socket that listens; by the machine's name where it listens to every address.

    host: that was asked for.
    """
    if host in _EVERY_ADDRESS:
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{opened.getsockname()[1]}/"


def run_server(app: Any, opened: socket.socket) -> None:
    """Answer requests until the process is interrupted.

    app: an ASGI application.
    opened: a socket that listens.
    """
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=_GRACE_SECONDS,
        limit_concurrency=_MOST_CONNECTIONS,
    )
    uvicorn.Server(config).run(sockets=[opened])
