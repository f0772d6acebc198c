"""A server that speaks as much of the Hub as huggingface_hub asks of it to push and pull data.

    python -m tests.hub_server PORT

Repositories live in its memory: commits, files by git's hash and by sha256, private ones, tokens,
lists in pages, large files in one piece or in parts, redirects to where their bytes lie, ranges. On
`/_control` a test says which requests shall fail, and how; on `/_log` it reads what was asked. It
was written from what huggingface_hub sends and reads; the real Hub it does not stand for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["READER", "WRITER", "HubServer", "hub_server"]

WRITER, READER = "hf_writer", "hf_reader"
_PAGE = 7  # entries of a list
_PART_BYTES = 2_000  # of a large file in parts, from twice that on
_REPOSITORY = r"(?P<repo>[^/]+/[^/]+)"


class _Repository:
    def __init__(self, private: bool) -> None:
        self.private = private
        self.files: dict[str, dict[str, Any]] = {}
        self.commits: dict[str, dict[str, dict[str, Any]]] = {}
        self.head = ""
        self.add({".gitattributes": {"data": b"*.bin filter=lfs\n", "lfs": False}})

    def add(self, files: dict[str, dict[str, Any]]) -> str:
        self.files = self.files | files
        self.head = hashlib.sha1(f"{len(self.commits)} {sorted(self.files)}".encode()).hexdigest()
        self.commits[self.head] = self.files
        return self.head

    def at(self, revision: str) -> dict[str, dict[str, Any]] | None:
        return self.files if revision == "main" else self.commits.get(revision)


class _State:
    def __init__(self) -> None:
        self.lock = Lock()
        self.repositories: dict[str, _Repository] = {}
        self.large: dict[str, bytes] = {}  # by sha256
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults: list[dict[str, Any]] = []
        self.log: list[str] = []


_STATE = _State()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""

    def _serve(self) -> None:
        self.path_only = unquote(urlsplit(self.path).path)
        self.query = parse_qs(urlsplit(self.path).query)
        body = self._body()
        if self.path_only == "/_control":
            _STATE.faults = json.loads(body)
            return self._json({})
        if self.path_only == "/_log":
            found, _STATE.log = _STATE.log, []
            return self._json(found)
        with _STATE.lock:
            _STATE.log.append(f"{self.command} {self.path_only}")
            fault = self._fault()
        if fault is not None and fault.get("when") != "after":
            return self._fail(fault)
        for method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, self.path_only)
            if method == self.command and match is not None:
                with _STATE.lock:
                    return answer(self, body, fault=fault, **match.groupdict())
        return self._json({"error": "no such page"}, status=404)

    do_GET = do_POST = do_PUT = do_HEAD = _serve

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _fault(self) -> dict[str, Any] | None:
        for fault in _STATE.faults:
            if re.search(fault["match"], f"{self.command} {self.path_only}"):
                if fault.get("skip", 0) > 0:
                    fault["skip"] -= 1
                elif fault.get("times", 1) > 0:
                    fault["times"] = fault.get("times", 1) - 1
                    return fault
        return None

    def _fail(self, fault: dict[str, Any]) -> None:
        if fault.get("reset"):
            linger = struct.pack("ii", 1, 0)  # closed by a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
            return
        self._json({"error": "as the test wants it"}, status=fault["status"])

    def _json(self, content: Any, *, status: int = 200, **headers: str) -> None:
        self._bytes(json.dumps(content).encode(), status=status, **headers)

    def _bytes(self, data: bytes, *, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _repository(self, repo: str, *, write: bool = False) -> _Repository | None:
        """The repository that this user may see; else it is refused, and None."""
        found, token = _STATE.repositories.get(repo), self._token()
        if token not in (None, WRITER, READER):
            return self._json(
                {"error": "bad token"},
                status=401,
                X_Error_Message="Invalid credentials in Authorization header",
            )
        if found is None or (found.private and token is None):
            status = 401 if token is None else 404
            return self._json({"error": "none"}, status=status, X_Error_Code="RepoNotFound")
        if write and token != WRITER:
            return self._json({"error": "this token is for reading"}, status=403)
        return found


def _create(handler: _Handler, body: bytes, *, fault: Any) -> None:
    content = json.loads(body)
    repo = f"{content['organization']}/{content['name']}"
    url = f"http://{handler.headers['Host']}/datasets/{repo}"
    if handler._token() is None:
        return handler._json({"error": "log in"}, status=401)
    if repo in _STATE.repositories:
        return handler._json({"error": "there", "url": url}, status=409)
    if handler._token() != WRITER:
        return handler._json({"error": "this token is for reading"}, status=403)
    private = content.get("private") or content.get("visibility") == "private"
    _STATE.repositories[repo] = _Repository(bool(private))
    return handler._json({"url": url, "name": repo})


def _validate(handler: _Handler, body: bytes, *, fault: Any) -> None:
    """What the Hub says of a card: its front matter must be an object of YAML."""
    content = json.loads(body)["content"]
    front = yaml.safe_load(content.split("---\n")[1])
    if isinstance(front, dict) and all(isinstance(one, str) for one in front["tags"]):
        return handler._json({"errors": [], "warnings": []})
    return handler._json({"errors": [{"message": "no front matter"}], "warnings": []}, status=400)


def _info(
    handler: _Handler, body: bytes, *, fault: Any, repo: str, revision: str | None = None
) -> None:
    found = handler._repository(repo)
    if found is None:
        return None
    commit = found.head if revision in (None, "main") else revision
    if commit not in found.commits:
        return handler._json({"error": "none"}, status=404, X_Error_Code="RevisionNotFound")
    siblings = [{"rfilename": name} for name in found.commits[commit]]
    return handler._json(
        {"id": repo, "sha": commit, "private": found.private, "siblings": siblings, "tags": []}
    )


def _tree(handler: _Handler, body: bytes, *, fault: Any, repo: str, revision: str) -> None:
    found = handler._repository(repo)
    if found is None:
        return None
    files = found.at(revision)
    if files is None:
        return handler._json({"error": "none"}, status=404, X_Error_Code="RevisionNotFound")
    start = int(handler.query.get("cursor", ["0"])[0])
    names = sorted(files)
    folders = {os.path.dirname(name) for name in names} - {""}  # noqa: PTH120
    entries = [{"type": "directory", "path": one, "oid": "0" * 40} for one in sorted(folders)]
    entries += [_entry(name, files[name]) for name in names]
    headers = {}
    if start + _PAGE < len(entries):
        host = handler.headers["Host"]
        link = f"http://{host}{handler.path_only}?recursive=True&cursor={start + _PAGE}"
        headers["Link"] = f'<{link}>; rel="next"'
    return handler._json(entries[start : start + _PAGE], **headers)


def _entry(name: str, file: dict[str, Any]) -> dict[str, Any]:
    data = _content(file)
    entry = {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}
    if file["lfs"]:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{file['sha256']}\n"
        entry["oid"] = _blob(pointer.encode())
        entry["lfs"] = {"oid": file["sha256"], "size": len(data), "pointerSize": len(pointer)}
    return entry


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _content(file: dict[str, Any]) -> bytes:
    return _STATE.large[file["sha256"]] if file["lfs"] else file["data"]


def _preupload(handler: _Handler, body: bytes, *, fault: Any, repo: str, revision: str) -> None:
    if handler._repository(repo, write=True) is None:
        return None
    files = []
    for one in json.loads(body)["files"]:
        sample = base64.b64decode(one["sample"])
        large = one["size"] > 100_000 or b"\0" in sample or one["path"].endswith(".parquet")
        mode = "lfs" if large else "regular"
        files.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
    return handler._json({"files": files})


def _batch(handler: _Handler, body: bytes, *, fault: Any, repo: str) -> None:
    if handler._repository(repo, write=True) is None:
        return None
    host, objects = handler.headers["Host"], []
    for one in json.loads(body)["objects"]:
        oid, size = one["oid"], one["size"]
        answer: dict[str, Any] = {"oid": oid, "size": size}
        if oid not in _STATE.large:
            upload: dict[str, Any] = {"href": f"http://{host}/lfs/{oid}"}
            if size >= 2 * _PART_BYTES:
                count = -(-size // _PART_BYTES)
                parts = {
                    f"{number:05d}": f"http://{host}/lfs/{oid}/{number}"
                    for number in range(1, count + 1)
                }
                upload["header"] = {"chunk_size": str(_PART_BYTES), **parts}
            answer["actions"] = {"upload": upload}
        objects.append(answer)
    return handler._json({"transfer": "basic", "objects": objects})


def _put_large(handler: _Handler, body: bytes, *, fault: Any, oid: str) -> None:
    if hashlib.sha256(body).hexdigest() != oid:
        return handler._json({"error": "other bytes"}, status=400)
    _STATE.large[oid] = body
    return handler._json({})


def _put_part(handler: _Handler, body: bytes, *, fault: Any, oid: str, part: str) -> None:
    _STATE.parts.setdefault(oid, {})[int(part)] = body
    return handler._json({}, ETag=hashlib.md5(body).hexdigest())


def _complete(handler: _Handler, body: bytes, *, fault: Any, oid: str) -> None:
    parts = _STATE.parts.pop(oid)
    told = {one["partNumber"]: one["etag"] for one in json.loads(body)["parts"]}
    if told != {number: hashlib.md5(data).hexdigest() for number, data in parts.items()}:
        return handler._json({"error": "other parts"}, status=400)
    return _put_large(handler, b"".join(parts[one] for one in sorted(parts)), fault=fault, oid=oid)


def _commit(handler: _Handler, body: bytes, *, fault: Any, repo: str, revision: str) -> None:
    found = handler._repository(repo, write=True)
    if found is None:
        return None
    lines = [json.loads(line) for line in body.splitlines()]
    parent = lines[0]["value"].get("parentCommit")
    if parent not in (None, found.head):
        return handler._json({"error": "the head has moved"}, status=412)
    files = {}
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "file":
            data = base64.b64decode(value["content"])
            files[value["path"]] = {"data": data, "lfs": False}
        elif value["oid"] not in _STATE.large:
            return handler._json({"error": "that was never sent"}, status=400)
        else:
            files[value["path"]] = {"sha256": value["oid"], "lfs": True}
    if fault is not None and fault.get("damage"):
        name = next(name for name in files if files[name]["lfs"])
        _STATE.large["0" * 64] = b"other bytes"
        files[name] = {"sha256": "0" * 64, "lfs": True}
        fault = None
    oid = found.add(files)
    if fault is not None:
        return handler._fail(fault)
    url = f"http://{handler.headers['Host']}/datasets/{repo}/commit/{oid}"
    return handler._json({"commitUrl": url, "commitOid": oid, "success": True})


def _resolve(
    handler: _Handler, body: bytes, *, fault: Any, repo: str, revision: str, name: str
) -> None:
    found = handler._repository(repo)
    if found is None:
        return None
    files = found.at(revision)
    if files is None or name not in files:
        return handler._json({"error": "none"}, status=404, X_Error_Code="EntryNotFound")
    if files[name]["lfs"]:
        target = f"http://{handler.headers['Host']}/large/{files[name]['sha256']}"
        return handler._bytes(b"", status=302, Location=target, X_Repo_Commit=revision)
    return _ranged(handler, files[name]["data"])


def _get_large(handler: _Handler, body: bytes, *, fault: Any, oid: str) -> None:
    data = _STATE.large[oid]
    if fault is not None and fault.get("damage"):
        data = bytes([data[0] ^ 1]) + data[1:]
    return _ranged(handler, data)


def _ranged(handler: _Handler, data: bytes) -> None:
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range") or "")
    if match is None:
        return handler._bytes(data)
    start, last = int(match[1]), min(int(match[2]), len(data) - 1)
    told = f"bytes {start}-{last}/{len(data)}"
    return handler._bytes(data[start : last + 1], status=206, Content_Range=told)


_ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/api/repos/create", _create),
    ("POST", "/api/validate-yaml", _validate),
    ("GET", rf"/api/(?:datasets|models)/{_REPOSITORY}(?:/revision/(?P<revision>[^/]+))?", _info),
    ("GET", rf"/api/(?:datasets|models)/{_REPOSITORY}/tree/(?P<revision>[^/]+)", _tree),
    ("POST", rf"/api/(?:datasets|models)/{_REPOSITORY}/preupload/(?P<revision>[^/]+)", _preupload),
    ("POST", rf"/api/(?:datasets|models)/{_REPOSITORY}/commit/(?P<revision>[^/]+)", _commit),
    ("POST", rf"(?:/datasets)?/{_REPOSITORY}\.git/info/lfs/objects/batch", _batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _put_large),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})/(?P<part>\d+)", _put_part),
    ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})", _complete),
    ("GET", rf"(?:/datasets)?/{_REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", _resolve),
    ("HEAD", rf"(?:/datasets)?/{_REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", _resolve),
    ("GET", r"/large/(?P<oid>[0-9a-f]{64})", _get_large),
]


class HubServer:
    """The server, as a test sees it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def fail(self, *faults: dict[str, Any]) -> None:
        """Let requests fail that match: `match`, `status` or `reset`, `times`, `skip`, `when`."""
        self._ask("/_control", json.dumps(faults).encode())

    def log(self) -> list[str]:
        """What was asked since the last call: method and path."""
        return json.loads(self._ask("/_log"))

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}", data=body, timeout=10) as answer:
            return answer.read()


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A server that is there meanwhile, in a process of its own, without repositories."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "tests.hub_server", str(port)])
    server = HubServer(f"http://127.0.0.1:{port}")
    try:
        for _ in range(300):
            try:
                server.log()
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError("the server has ended by itself") from None
                time.sleep(0.1)
        yield server
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
