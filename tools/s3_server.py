"""A real S3 server of this machine, moto's, in a process of its own, and what is asked of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ENVIRONMENT", "make_bucket", "s3_server"]

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
}
_NOBODY = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, Signature=0"


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of a server that is there meanwhile, without buckets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ}
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, server)
        yield url
    finally:
        server.kill()
        server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=10) as answer:
                json.load(answer)
            return
        except OSError:
            if server.poll() is not None:
                raise RuntimeError("the server has ended by itself") from None
            time.sleep(0.1)
    raise RuntimeError("the server does not answer")


def make_bucket(url: str, name: str) -> None:
    """Create a bucket; the server takes everybody for its owner.

    url: of the server.
    name: of the bucket.
    """
    request = urllib.request.Request(f"{url}/{name}", method="PUT")
    request.add_header("Authorization", _NOBODY)
    with urllib.request.urlopen(request, timeout=10):
        pass
