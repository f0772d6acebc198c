"""A server of this machine that speaks the endpoints of the Hub by which data sets are read.

It has one data set, `team/store`, whose files are those of a folder for each commit. Small files
are answered at once; those below `data/` by a redirect to another host, as large files are there.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Hub", "hub_server"]

_RESOLVE = re.compile(r"/datasets/team/store/resolve/([^/]+)/(.+)")
_REVISION = re.compile(r"/api/datasets/team/store/revision/([^/]+)")
_TREE = re.compile(r"/api/datasets/team/store/tree/([^/]+)/?(.*)")


@dataclass
class Hub:
    """What a test changes while the server runs.

    commits: name of a commit -> the folder of its files.
    branches: branch or tag -> commit.
    token: without which it is as if there were no data set.
    fail: statuses that the next requests get, whatever they ask for.
    """

    commits: dict[str, Path]
    branches: dict[str, str]
    url: str = ""
    token: str | None = None
    fail: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    tokens_elsewhere: list[str] = field(default_factory=list)

    def commit(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit."""
        found = self.branches.get(revision, revision)
        return found if found in self.commits else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def _handle(self) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        hub.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if hub.fail:
            self._send(hub.fail.pop(0), b"busy", {"Retry-After": "0"})
            return
        if path.startswith("/cdn/"):
            if self.headers.get("Authorization"):
                hub.tokens_elsewhere.append(path)
            _, _, commit, name = path.split("/", 3)
            self._send_file(hub.commits[commit] / name, {})
            return
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._refuse("RepoNotFound", status=401)
            return
        for pattern, answer in (
            (_REVISION, self._revision),
            (_TREE, self._tree),
            (_RESOLVE, self._resolve),
        ):
            found = pattern.fullmatch(path)
            if found is not None:
                commit = hub.commit(unquote(found[1]))
                if commit is None:
                    self._refuse("RevisionNotFound")
                else:
                    answer(commit, *map(unquote, found.groups()[1:]))
                return
        self._refuse("RepoNotFound")

    do_GET = do_HEAD = _handle

    def _revision(self, commit: str) -> None:
        content = {"id": "team/store", "sha": commit, "siblings": [], "private": False, "tags": []}
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _tree(self, commit: str, path: str) -> None:
        root = self.hub.commits[commit]
        if path and not (root / path).is_dir():
            self._refuse("EntryNotFound")
            return
        files = [
            {"type": "directory" if one.is_dir() else "file", "path": str(one.relative_to(root))}
            | {"oid": "0" * 40, "size": one.stat().st_size}
            for one in sorted((root / path).rglob("*"))
        ]
        self._send(200, json.dumps(files).encode(), {"Content-Type": "application/json"})

    def _resolve(self, commit: str, name: str) -> None:
        path = self.hub.commits[commit] / name
        if not path.is_file():
            self._refuse("EntryNotFound")
            return
        told = {"X-Repo-Commit": commit, "ETag": f'"{_etag(path)}"'}
        if "data/" not in name:
            self._send_file(path, told)
            return
        there = self.hub.url.replace("127.0.0.1", "localhost")
        linked = {"X-Linked-Size": str(path.stat().st_size), "X-Linked-ETag": told["ETag"]}
        self._send(
            302, b"", told | linked | {"Location": f"{there}/cdn/{commit}/{name}?sig=geheim"}
        )

    def _send_file(self, path: Path, headers: dict[str, str]) -> None:
        data = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._send(200, data, {"ETag": f'"{_etag(path)}"'} | headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if first > last:
            self._send(416, b"", {})
            return
        told = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        self._send(206, data[first : last + 1], headers | told)

    def _refuse(self, code: str, *, status: int = 404) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _etag(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def hub_server(hub: Hub) -> Iterator[str]:
    """The URL of a server of `hub` that is there meanwhile.

    hub: may be changed meanwhile.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub.url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
