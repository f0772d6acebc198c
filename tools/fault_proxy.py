"""A web proxy in a process of its own that passes requests on, late, wrongly or not at all.

    python -m tools.fault_proxy http://127.0.0.1:PORT

It stands between a client and a real server, prints its port, takes rules at `/__rules__` and
tells what was asked at `/__asked__`. A rule matches the method and the path by a regular expression
and is used so many times; what the faults are stands in `_Proxy._faulty`.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FaultProxy", "fault_proxy"]

_OWN = ("connection", "transfer-encoding", "keep-alive", "content-length", "date", "server")
_ALWAYS = 1 << 30


@dataclass(frozen=True, slots=True)
class FaultProxy:
    """What a test asks of the proxy.

    url: of the proxy.
    """

    url: str

    def rules(self, *rules: dict[str, Any]) -> None:
        """Take these in the place of all rules, and forget what was asked."""
        request = urllib.request.Request(
            f"{self.url}/__rules__", data=json.dumps(rules).encode(), method="POST"
        )
        urllib.request.urlopen(request, timeout=10).close()

    def asked(self, pattern: str = "") -> list[str]:
        """The requests since then that match: method, path, and range if there is one."""
        return [one for one, _ in self._log() if re.search(pattern, one)]

    def bytes(self, pattern: str = "") -> int:
        """Bytes of the answers to the requests since then that match."""
        return sum(size for one, size in self._log() if re.search(pattern, one))

    def _log(self) -> list[tuple[str, int]]:
        with urllib.request.urlopen(f"{self.url}/__asked__", timeout=10) as answer:
            return json.load(answer)


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = ""
    wanted: list[dict[str, Any]] = []  # noqa: RUF012 - of the one server of a process
    log: list[tuple[str, int]] = []  # noqa: RUF012 - what was asked, bytes that came back
    old: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {}  # noqa: RUF012
    lock = threading.Lock()
    number: int | None = None

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/__"):
            self._own(body)
            return
        asked = f"{self.command} {self.path} {self.headers.get('Range', '')}".strip()
        with self.lock:
            self.number = len(self.log)
            self.log.append((asked, 0))
            rule = next(
                (
                    r
                    for r in self.wanted
                    if r.get("times", _ALWAYS) > 0 and re.search(r["on"], asked)
                ),
                {},
            )
            if rule:
                rule["times"] = rule.get("times", _ALWAYS) - 1
        time.sleep(rule.get("seconds", 0))
        with suppress(ConnectionError):
            self._faulty(rule, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _own(self, body: bytes) -> None:
        self.number = None
        if self.path == "/__rules__":
            self.wanted[:] = json.loads(body)
            self.log.clear()
        self._send(200, [], json.dumps(self.log).encode())

    def _faulty(self, rule: dict[str, Any], body: bytes) -> None:
        fault = rule.get("fault", "")
        if fault == "status":  # `code`, and `headers` with it
            self._send(rule["code"], list(rule.get("headers", {}).items()), b"it is not my day")
            return
        if fault == "reset":
            self._reset()
            return
        if fault == "hang":  # the client has to give up
            time.sleep(rule["hang"])
            self._reset()
            return
        status, headers, data = self._passed_on(body)
        if fault == "lost":  # done, but nobody hears of it
            self._reset()
            return
        if fault == "stale":  # the answer that this request got first
            status, headers, data = self.old.setdefault(self.path, (status, headers, data))
        if fault == "other range":  # a range that begins elsewhere, and says so
            headers = [one for one in headers if one[0].lower() != "content-range"]
            headers.append(("Content-Range", f"bytes 3-{len(data) + 2}/{len(data) + 5000}"))
        if fault == "wrong bytes":
            data = bytes([data[0] ^ 255]) + data[1:] if data else data
        if fault == "fewer":  # a sound answer that lacks its end
            headers = [one for one in headers if one[0].lower() != "content-range"]
            data = data[: len(data) // 2]
        self._send(status, headers, data, cut=fault == "short")

    def _passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        there = urlsplit(self.upstream)
        connection = http.client.HTTPConnection(there.hostname or "", there.port, timeout=60)
        headers = {n: v for n, v in self.headers.items() if n.lower() != "connection"}
        connection.request(self.command, self.path, body=body or None, headers=headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        kept = [(n, v) for n, v in answer.getheaders() if n.lower() not in _OWN]
        if self.command == "HEAD":
            kept.append(("Content-Length", answer.getheader("Content-Length") or "0"))
        return answer.status, kept, data

    def _send(
        self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name == "Content-Length" for name, _ in headers) and status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            if self.number is not None:
                self.log[self.number] = (self.log[self.number][0], len(data))
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        """End the connection as a machine does that has gone."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy before a server that is there meanwhile.

    upstream: the URL of the server, without a path.
    """
    command = [sys.executable, "-m", "tools.fault_proxy", upstream]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None:
            raise RuntimeError("the proxy says nothing")
        with process.stdout:
            yield FaultProxy(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.wait()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """A connection that was reset on purpose."""


if __name__ == "__main__":
    _Proxy.upstream = sys.argv[1]
    server = _Server(("127.0.0.1", 0), _Proxy)
    print(server.server_port, flush=True)
    server.serve_forever()
