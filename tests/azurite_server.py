"""A real server of Azure's blob protocol on this machine: azurite from npm, if it is installed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["azurite_server", "make_container"]

_ACCOUNT = "devstoreaccount1"
# Of the account that every azurite has, as its documentation says.
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextmanager
def azurite_server() -> Iterator[dict[str, str]]:
    """What the environment has to say of a server that is there meanwhile, without containers."""
    program = shutil.which("azurite-blob")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("azurite is not installed, and .ci/run should have done so")
        pytest.skip("azurite is not installed: npm install -g azurite")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"]
    server = subprocess.Popen(
        [*command, "--blobHost", "127.0.0.1", "--blobPort", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, server)
        yield {
            "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": _KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/{_ACCOUNT}",
        }
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
            return
        except OSError:
            if server.poll() is not None:
                raise RuntimeError("azurite has ended by itself") from None
            time.sleep(0.1)
    raise RuntimeError("azurite does not answer")


def make_container(endpoint: str, name: str) -> None:
    """Create a container, by a request that is signed with the account's key.

    endpoint: of the account.
    name: of the container.
    """
    date = formatdate(usegmt=True)
    place = f"/{_ACCOUNT}/{_ACCOUNT}/{name}\nrestype:container"
    none = "\n" * 12  # of the headers that a signature may cover
    signed = f"PUT{none}x-ms-date:{date}\nx-ms-version:2021-08-06\n{place}"
    digest = hmac.new(base64.b64decode(_KEY), signed.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(f"{endpoint}/{name}?restype=container", method="PUT")
    request.add_header("x-ms-date", date)
    request.add_header("x-ms-version", "2021-08-06")
    request.add_header("Authorization", f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}")
    request.add_header("Content-Length", "0")
    with urllib.request.urlopen(request, timeout=30):
        pass
