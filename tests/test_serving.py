"""Stores over HTTP: what is given to whom, file by file, on a real server of this machine."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import logitstore
from logitstore.errors import SettingError, StorageError, StoreError
from logitstore.serving.catalogue import Catalogue
from logitstore.serving.serve import serve
from logitstore.store.last_audit import keep_audit
from logitstore.store.remote import calls
from logitstore.store.storage import open_storage
from tests.synthetic import store_spec, stored_documents, write_store
from tests.viewed_stores import HOSTILE, documents, write_viewed
from tools.served import served
from tools.torture_store import CONTAINERS

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "a-token-of-this-test"
UNITS = [stored_documents([9, 5, 7]), stored_documents([4, 30], seed=1)]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stores, and of what must not be found or leave it."""
    root = tmp_path_factory.mktemp("root")
    team = root / "team"
    for container in CONTAINERS:
        write_store(team / container, UNITS, spec=store_spec(container=container))
    write_viewed(team / "texts" / "hostile", documents(HOSTILE))
    write_store(team / "open", UNITS[:1], spec=store_spec(), seal=False)
    write_store(root / "outside", UNITS, spec=store_spec())
    write_store(team / ".hidden", UNITS, spec=store_spec())
    (team / "linked").symlink_to(root / "outside")
    (root / "secret.txt").write_text("not to be given")
    (team / "zarr" / "notes.txt").write_text("not to be given")
    (team / "zarr" / ".env").write_text("not to be given")
    readme = team / "texts" / "hostile" / "README.md"
    readme.unlink()
    readme.symlink_to(root / "secret.txt")
    return team


@pytest.fixture(scope="module")
def url(team: Path) -> Iterator[str]:
    with served(Catalogue.below(team)) as url:
        yield url


def ask(
    url: str, path: str, *, method: str = "GET", body: str = "", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; the path goes out as it is written here."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host="host" in named)
        if body:
            named["content-length"] = str(len(body))
        for name, value in named.items():
            connection.putheader(name, value)
        connection.endheaders(body.encode() or None)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def listed(url: str, **headers: str) -> dict[str, Any]:
    content = json.loads(ask(url, "/api/stores", **headers)[2])
    return {one["name"]: one for one in content["stores"]}


def test_a_catalogue_has_the_stores_below_a_folder(team: Path, url: str) -> None:
    found = listed(url)
    assert sorted(found) == sorted([*CONTAINERS, "open", "texts/hostile"])
    told = logitstore.inspect(team / "zarr")
    for name in ("documents", "targets", "bytes", "sparsifier", "fingerprint", "retained_mass"):
        assert found["zarr"][name] == told[name]
    assert found["zarr"]["last_audit"] is None
    assert found["zarr"]["tokenizer"] == told["tokenizer"]["fingerprint"]
    assert (found["zarr"]["sealed"], found["open"]["sealed"]) == (True, False)
    status, _, body = ask(url, "/")
    assert status == 200
    assert b"Stores" in body
    assert ask(url, "/view/open")[0] == 200  # its page tells that it is not finished
    status, _, body = ask(url, "/api/info?store=open")
    assert (status, b"not finished" in body) == (409, True)
    assert ask(url, "/stores/open/store.json")[0] == 404  # which no client asks for again
    with pytest.raises(StoreError, match="no store here"):
        logitstore.open(f"{url}/stores/open")


def test_a_catalogue_tells_of_the_last_audit_and_of_what_is_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logitstore.serving.catalogue._FRESH_SECONDS", 0.0)
    write_store(tmp_path / "store", [stored_documents([9])], spec=store_spec())
    write_store(tmp_path / "open", [stored_documents([9])] * 2, spec=store_spec(), seal=False)
    spec = (tmp_path / "open" / "store.json").read_bytes()
    commit = tmp_path / "open" / "commits" / "000001.json"
    written = commit.read_bytes()
    commit.unlink()
    catalogue = Catalogue.below(tmp_path)

    def told(name: str) -> dict[str, Any]:
        return next(one for one in catalogue.summaries() if one["name"] == name)

    assert told("store")["last_audit"] is None
    assert told("open")["documents"] == 1
    found = {"fingerprint": told("store")["fingerprint"], "ok": True, "documents": 1, "targets": 8}
    found |= {"kl": 0.5, "temperature": 1.0, "dtype": "float32", "teacher_matches": True}
    found |= dict.fromkeys(("noise_kl", "stated_kl", "retained_mass", "gradient_angle"))
    assert keep_audit(open_storage(tmp_path / "store"), found)
    commit.write_bytes(written)
    assert told("store")["last_audit"]["kl"] == 0.5
    assert told("open")["documents"] == 2
    (tmp_path / "open" / "store.json").write_bytes(b"{")
    assert "error" in told("open")
    (tmp_path / "open" / "store.json").write_bytes(spec)
    assert told("open")["documents"] == 2


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_store_is_read_over_http_as_from_its_folder(team: Path, url: str, container: str) -> None:
    here, there = (logitstore.open(one) for one in (team / container, f"{url}/stores/{container}"))
    assert there.fingerprint == here.fingerprint
    assert [one.document.id for one in there] == [one.document.id for one in here]
    assert not list(logitstore.verify(f"{url}/stores/{container}", hashes=True))


def test_stores_in_a_bucket_are_served_too(team: Path, bucket: str) -> None:
    for name in ("one", "deep/two"):
        write_store(f"{bucket}/{name}", UNITS, spec=store_spec())
    with served(Catalogue.below(bucket)) as url:
        assert sorted(listed(url)) == ["deep/two", "one"]
        there = logitstore.open(f"{url}/stores/deep/two")
        assert there.fingerprint == logitstore.open(team / "zarr").fingerprint
        assert len(there[4].targets) == 29
        assert ask(url, "/stores/one/leases/x")[0] == 404


def test_ranges_are_those_of_the_file(team: Path, url: str) -> None:
    data = (team / "zarr" / "manifest.json").read_bytes()
    path, size = "/stores/zarr/manifest.json", len(data)
    for asked, start, stop in (
        ("bytes=5-9", 5, 10),
        ("bytes=0-", 0, size),
        (f"bytes={size - 3}-{size + 50}", size - 3, size),
        ("bytes=-7", size - 7, size),
    ):
        status, headers, body = ask(url, path, range=asked)
        assert (status, body) == (206, data[start:stop])
        assert headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    for odd in ("bytes=1-2,4-5", "bytes=-", "lines=1-2", "bytes=x-"):
        assert ask(url, path, range=odd)[::2] == (200, data)
    for beyond in (f"bytes={size}-", "bytes=9-4", "bytes=-0"):
        status, headers, _ = ask(url, path, range=beyond)
        assert (status, headers["content-range"]) == (416, f"bytes */{size}")
    status, headers, body = ask(url, path, method="HEAD")
    assert (status, headers["content-length"], body) == (200, str(size), b"")
    etag = ask(url, "/stores/zarr/store.json")[1]["etag"]
    for known in (etag, "*", f'"other", W/{etag}'):
        assert ask(url, "/stores/zarr/store.json", if_none_match=known)[0] == 304
    assert ask(url, "/stores/zarr/store.json", range="bytes=0-1", if_range='"other"')[0] == 200
    assert ask(url, "/stores/zarr/store.json", range="bytes=0-1", if_range=etag)[0] == 206


def test_only_what_a_store_names_is_given(team: Path, url: str) -> None:
    for path in (
        "/stores/zarr/notes.txt",
        "/stores/zarr/.env",
        "/stores/zarr/../../secret.txt",
        "/stores/zarr/%2e%2e/%2e%2e/secret.txt",
        "/stores/zarr/..%2f..%2fsecret.txt",
        "/stores/../secret.txt",
        "/stores/zarr//etc/passwd",
        "/stores//etc/passwd",
        "/stores/zarr/data/../store.json",
        "/stores/zarr/commits/../store.json",
        "/stores/zarr/commits/000009.json",
        "/stores/zarr/data/000000-ffffffff/entries/zarr.json",
        "/stores/zarr/data",
        "/stores/zarr/store.json%00",
        "/stores/texts/hostile/README.md",  # a link that leads out of what is served
        "/stores/linked/store.json",
        "/stores/.hidden/store.json",
        "/stores/outside/store.json",
        "/stores/texts",
        "/view/../../secret.txt",
    ):
        status, _, body = ask(url, path)
        assert status in (404, 400), path
        assert b"not to be" not in body, path
    names = [path.relative_to(team / "zarr").as_posix() for path in (team / "zarr").rglob("*.*")]
    assert len(names) > 10
    for name in names:
        if name not in ("notes.txt", ".env"):
            assert ask(url, f"/stores/zarr/{name}", method="HEAD")[0] == 200, name


def test_it_is_read_only_and_says_what_pages_may_do(url: str) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert ask(url, "/stores/zarr/store.json", method=method)[0] == 405
    for path in ("/", "/view/zarr", "/api/info?store=zarr", "/stores/zarr/README.md", "/nothing"):
        headers = ask(url, path)[1]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    # A name of another site that leads to this machine is not answered.
    assert ask(url, "/api/stores", host="evil.example")[0] == 421
    assert ask(url, "/api/stores", host=f"localhost:{urlsplit(url).port}")[0] == 200


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/document?store=zarr&number=99", 400, "no such document"),
        ("/api/document?store=zarr&number=x", 400, "number is no number"),
        ("/api/info?store=none", 404, "no such store"),
        ("/api/find?store=zarr&id=zz", 400, "no document's id"),
        ("/api/search?store=zarr&text=", 400, "a search needs a text"),
        ("/api/info?store=zarr&draw=7", 400, "no such draw"),
    ],
)
def test_errors_are_one_sentence_without_folders(
    team: Path, url: str, path: str, status: int, words: str
) -> None:
    found, _, body = ask(url, path)
    assert found == status
    assert words in json.loads(body)["error"]
    assert str(team) not in body.decode()


def test_a_damaged_store_is_told_and_not_given(tmp_path: Path) -> None:
    write_store(tmp_path / "team" / "bad", UNITS, spec=store_spec())
    (path,) = (tmp_path / "team" / "bad").glob("data/000000-*/entries/c/0/0/0")
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    with served(Catalogue.below(tmp_path / "team")) as url:
        status, _, body = ask(url, "/api/document?store=bad&number=0")
        assert status == 500
        assert "damaged" in json.loads(body)["error"]
        assert str(tmp_path) not in body.decode()
        (tmp_path / "team" / "bad" / "manifest.json").write_text("{}")
        assert "error" in listed(url)["bad"]


def test_nothing_is_given_without_the_token(team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Catalogue.below(team), token=TOKEN) as url:
        for path in ("/", "/api/stores", "/view/zarr", "/stores/zarr/store.json", "/nothing"):
            for headers in (
                {},
                {"authorization": "Bearer no"},
                {"authorization": f"Basic {TOKEN}"},
                {"cookie": f"logitstore-{urlsplit(url).port}={TOKEN}"},
            ):
                assert ask(url, path, **headers)[0] == 401, (path, headers)
            assert ask(url, f"{path}?token=wrong")[0] == 401
        assert "zarr" in listed(url, authorization=f"Bearer {TOKEN}")
        assert b"<form" in ask(url, "/", accept="text/html")[2]
        # A browser gets a cookie for the token, which does not hold it, and the token is gone.
        status, headers, _ = ask(url, f"/view/zarr?a=b&token={TOKEN}")
        assert (status, headers["location"]) == (303, "/view/zarr?a=b")
        cookie = headers["set-cookie"]
        assert re.search(r"HttpOnly; .*SameSite=strict", cookie)
        assert TOKEN not in cookie
        assert ask(url, "/api/stores", cookie=cookie.split(";")[0])[0] == 200
        status, headers, _ = ask(url, "/login", method="POST", body=f"token={TOKEN}")
        assert (status, headers["location"]) == (303, "/")
        assert ask(url, "/login", method="POST", body="token=wrong")[0] == 401
        assert ask(url, "/login", method="POST", body="x" * 9000)[0] == 413
        assert ask(url, f"//evil.example?token={TOKEN}")[1]["location"].startswith("/evil")
        with pytest.raises((StorageError, StoreError)):
            logitstore.open(f"{url}/stores/zarr")
        monkeypatch.setenv("LOGITSTORE_TOKEN", TOKEN)
        calls._opened.cache_clear()
        there = logitstore.open(f"{url}/stores/zarr")
        assert there.fingerprint == logitstore.open(team / "zarr").fingerprint


@pytest.mark.parametrize(
    ("uri", "hosts", "sent"),
    [
        ("http://127.0.0.1:8420/stores/a", "", True),
        ("http://localhost/a", "", True),
        ("http://[::1]:8420/a", "", True),
        ("http://box:8420/a", "", False),
        ("http://box:8420/a", "box:8420", True),
        ("HTTPS://Box/a", "other, box", True),
        ("http://box:8421/a", "box:8420,box", False),
        ("http://box.evil.example:8420/a", "box:8420", False),
        ("http://box:8420@evil.example/a", "box:8420", False),
        ("http://127.0.0.1.evil.example/a", "", False),
        ("s3://box:8420/a", "box:8420", False),
    ],
)
def test_a_token_goes_to_those_it_is_for(
    uri: str, hosts: str, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGITSTORE_TOKEN", TOKEN)
    monkeypatch.setenv("LOGITSTORE_TOKEN_HOSTS", hosts)
    assert calls.token_for(uri) == (TOKEN if sent else None)
    if not sent and uri.startswith("http"):
        assert "was not sent there: set LOGITSTORE_TOKEN_HOSTS=" in calls.denied_remedy(uri)
    if sent:
        assert "refuses what LOGITSTORE_TOKEN holds" in calls.denied_remedy(uri)
    monkeypatch.delenv("LOGITSTORE_TOKEN")
    if uri.startswith("http"):
        assert "If the server asks for a token, set LOGITSTORE_TOKEN" in calls.denied_remedy(uri)


@pytest.mark.parametrize("token", ["s3cret-s3cret\n", "schlüssel", "a\x00b"])
def test_a_token_that_cannot_be_sent_is_named(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls.os, "environ", {**os.environ, "LOGITSTORE_TOKEN": token})
    with pytest.raises(SettingError, match="what LOGITSTORE_TOKEN holds can be no token") as told:
        logitstore.open("http://127.0.0.1:1/stores/a")
    assert token not in str(told.value)


def test_a_served_store_is_verified_by_the_command(team: Path) -> None:
    with served(Catalogue.below(team)) as url:
        done = subprocess.run(
            [sys.executable, "-m", "logitstore", "verify", f"{url}/stores/zarr"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "sound" in done.stdout
    assert "strays are not looked for" in done.stderr


def test_what_is_served_and_to_whom_is_told(team: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "logitstore", "serve", str(team), "--port", "0"]
    with subprocess.Popen(
        [*command, "--host", "0.0.0.0", "--token", TOKEN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        port = re.search(r":(\d+)/", lines[1])
        assert port is not None
        url = f"http://127.0.0.1:{port[1]}"
        assert "zarr" in listed(url, authorization=f"Bearer {TOKEN}")
        assert f"LOGITSTORE_TOKEN_HOSTS={socket.gethostname()}:{port[1]} " in lines[-1]
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert lines[0].startswith(f"serving {len(CONTAINERS) + 2} stores of {team}, read-only: ")
    assert lines[1].startswith("to who has the token on every machine that reaches this one: ")
    assert lines[2].startswith("warning: the token is sent without encryption")
    assert process.returncode == 0  # this is how a server ends
    assert errors == "stopped\n"
    with pytest.raises(StoreError, match="no store here, nor below"):
        serve(tmp_path, port=0)
    with pytest.raises(SettingError, match="this can be no token"):
        serve(team, token="short")
    with pytest.raises(SettingError, match="nothing can be served there"):
        serve(team, host="192.0.2.1")


def test_view_serves_one_store_to_this_machine(team: Path) -> None:
    command = [sys.executable, "-m", "logitstore", "view", str(team / "zarr")]
    with subprocess.Popen(
        [*command, str(team / "parquet")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert url is not None
        assert line.startswith(f"{team}/zarr, to this machine alone: ")
        assert ask(url[0], "/")[1]["location"] == "/view/zarr"
        content = json.loads(ask(url[0], "/api/document?store=zarr&number=2")[2])
        assert content["documents"][0]["second"] == 0
        assert ask(url[0], "/api/info?store=parquet")[0] == 404
        process.terminate()
    assert process.returncode == 0


def test_without_starlette_one_error_says_what_to_install(team: Path) -> None:
    script = (
        "import sys; sys.modules['starlette'] = None\nimport logitstore.cli; logitstore.cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "view", str(team / "zarr")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith("pip install 'logitstore[serve]'\n")
    assert done.stderr.count("\n") == 1
