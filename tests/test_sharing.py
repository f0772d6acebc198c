"""Stores that travel: to a server that speaks the Hub's requests, to S3, over http and back."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import logitstore
from logitstore.errors import CorruptionError, SettingError, StorageError, StoreError
from logitstore.format.json import with_check
from logitstore.store.layout import MANIFEST
from logitstore.store.verify import verify
from tests.hub_server import READER, WRITER, HubServer, hub_server
from tests.synthetic import store_spec, stored_documents, write_store

if TYPE_CHECKING:
    from collections.abc import Iterator

# huggingface_hub sends raw bytes as its own HTTP client would no longer have them.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")

HUB = "hf://datasets/team/store"
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def _hub() -> Iterator[HubServer]:
    with hub_server() as server:
        yield server


@pytest.fixture
def hub(_hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The server, as the environment of huggingface_hub names it, with a token that may write."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", _hub.url)
    template = f"{_hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr("logitstore.sharing.hub_push._FIRST_WAIT_SECONDS", 0.01)
    _hub.fail()
    _hub.log()
    return _hub


@pytest.fixture(scope="module", params=["parquet", "zarr"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "store"
    units = [stored_documents([40, 60, 30], seed=number) for number in range(3)]
    write_store(folder, units, spec=store_spec(container=request.param))
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    units = [stored_documents([20, 30], seed=number) for number in range(3)]
    write_store(tmp_path / "small", units, spec=store_spec(container="parquet"))
    return tmp_path / "small"


def content(folder: Path) -> dict[str, bytes]:
    """The files of a store but its card and what says where it was pulled from."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("README.md", "pulled.json")
    }


def commits(hub: HubServer) -> int:
    return sum("/commit/main" in line for line in hub.log())


def test_a_store_is_pushed_pinned_pulled_and_the_same(
    hub: HubServer, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{HUB}-{store.parent.name}"
    monkeypatch.setattr("logitstore.sharing.hub_push._BATCH_FILES", 4)
    sent = logitstore.push(store, uri)
    assert sent.pinned == f"{uri}@{sent.commit}"
    assert sent.sent_objects == sent.objects == len(content(store)) + 1
    assert sent.sent_bytes == sent.bytes > sum(map(len, content(store).values()))
    log = hub.log()
    assert sum("/commit/main" in line for line in log) == -(-(sent.objects - 2) // 4) + 1
    assert not any("/resolve/" in line or "GET /large" in line for line in log)  # nothing read back
    if "parquet" in uri:  # whose files are large enough to be sent in parts
        assert any("PUT /lfs/" in line and line.count("/") == 3 for line in log)
    again = logitstore.push(store, uri)
    assert (again.sent_objects, again.commit) == (0, sent.commit)
    assert not any("PUT" in line or "/commit/main" in line for line in hub.log())
    pulled = logitstore.pull(uri, tmp_path / "pulled")
    assert (pulled.pinned, pulled.objects, pulled.bytes) == (sent.pinned, sent.objects, sent.bytes)
    assert content(tmp_path / "pulled") == content(store)
    assert list(verify(tmp_path / "pulled", strict=True)) == []
    card = (tmp_path / "pulled" / "README.md").read_text()
    # A second card is one more commit, and the pinned one is what it was.
    other = logitstore.push(store, uri, license="apache-2.0")
    assert (other.sent_objects, other.commit != sent.commit) == (1, True)
    logitstore.pull(f"{uri}@{sent.commit}", tmp_path / "pinned")
    assert (tmp_path / "pinned" / "README.md").read_text() == card
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(StorageError, match=r"no such repository.*HTTP 401.*hf auth login"):
        logitstore.pull(uri, tmp_path / "private")


def test_answers_that_are_lost_and_servers_that_refuse(hub: HubServer, small: Path) -> None:
    hub.fail(
        {"match": "POST .*/commit/main", "reset": True},
        {"match": "POST .*/commit/main", "status": 500, "when": "after", "skip": 1},
        {"match": "POST .*/commit/main", "status": 429},
        {"match": "PUT /lfs/", "status": 503},
        {"match": "POST .*/preupload/", "reset": True},
    )
    sent = logitstore.push(small, f"{HUB}-lossy")
    assert logitstore.open(small).fingerprint == sent.fingerprint
    assert commits(hub) >= 4
    hub.fail({"match": "POST .*/commit/main", "status": 500, "times": 100})
    with pytest.raises(StorageError, match=r"the Hub or the network refused.*same command again"):
        logitstore.push(small, f"{HUB}-down")
    hub.fail({"match": "POST .*/commit/main", "damage": True, "when": "after"})
    with pytest.raises(CorruptionError, match=r"another hash than that of the file that was sent"):
        logitstore.push(small, f"{HUB}-damaged")


def test_somebody_else_commits_meanwhile(hub: HubServer, small: Path) -> None:
    hub.fail({"match": "POST .*/commit/main", "status": 409}, {"match": "/commit/", "status": 412})
    sent = logitstore.push(small, f"{HUB}-raced")
    assert commits(hub) == 4
    assert sent.commit is not None


def test_what_may_not_be_is_refused(
    hub: HubServer, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(StorageError, match=r"the Hub does not allow this \(HTTP 403\)"):
        logitstore.push(small, f"{HUB}-denied")
    monkeypatch.setenv("HF_TOKEN", WRITER)
    with pytest.raises(StorageError, match="HTTP 404"):
        logitstore.pull("hf://datasets/team/nothing", tmp_path / "none")
    logitstore.push(small, f"{HUB}-public", public=True)
    with pytest.raises(StoreError, match=r"everybody can read the repository.*public"):
        logitstore.push(small, f"{HUB}-public")
    write_store(tmp_path / "other", [stored_documents([9], k=6)], spec=store_spec(k=6))
    with pytest.raises(StoreError, match="another store lies in the repository"):
        logitstore.push(tmp_path / "other", f"{HUB}-public", public=True)
    with pytest.raises(StorageError, match="HTTP 404"):
        logitstore.pull(f"{HUB}-public@{'0' * 40}", tmp_path / "none")
    with pytest.raises(SettingError, match="main branch"):
        logitstore.push(small, f"{HUB}@main")
    for wrong in ("hf://models/team/store", "hf://datasets/store", f"{HUB}/../x", f"{HUB}@../x"):
        with pytest.raises(SettingError, match="no repository of data"):
            logitstore.pull(wrong, tmp_path / "none")
    unsealed = write_store(tmp_path / "half", [[]], spec=store_spec(), seal=False)
    with pytest.raises(StoreError, match="not finished"):
        logitstore.push(unsealed.storage, HUB)
    next(small.glob("data/*/ranking.parquet")).write_bytes(b"rotten")
    with pytest.raises(CorruptionError, match=r"not sound: .*ranking\.parquet"):
        logitstore.push(small, HUB)
    assert not (tmp_path / "none").exists()


def test_a_pull_stays_at_its_revision_and_takes_nothing_that_changed(
    hub: HubServer, small: Path, tmp_path: Path
) -> None:
    uri, folder = f"{HUB}-moving", tmp_path / "folder"
    first = logitstore.push(small, uri)
    hub.fail({"match": "GET /large/", "damage": True, "when": "after", "skip": 2})
    with pytest.raises(CorruptionError, match="has changed since the store was sealed"):
        logitstore.pull(uri, folder)
    assert not (folder / MANIFEST).exists()
    assert json.loads((folder / "pulled.json").read_text())["source"] == first.pinned
    had = len(content(folder))
    second = logitstore.push(small, uri, license="mit")
    pulled = logitstore.pull(uri, folder)  # goes on where it began
    assert pulled.pinned == first.pinned != second.pinned
    assert (
        pulled.sent_objects == len(content(small)) + 1 - had < len(content(small)) + 1
    )  # the card
    with pytest.raises(StoreError, match=r"a pull from elsewhere \(found hf://.*allowed: hf://"):
        logitstore.pull(f"{uri}@main", folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"no part of this store.*thesis\.txt"):
        logitstore.pull(uri, tmp_path / "mine")
    (folder / "plan.json").unlink()  # what is lost is fetched again
    assert logitstore.pull(uri, folder).sent_objects == 1
    assert list(verify(folder)) == []


@pytest.mark.parametrize("name", ["../escape", ".bashrc", "data/000000-00000000/../../x", "/etc/x"])
def test_a_manifest_that_names_other_files_is_refused(
    name: str, small: Path, tmp_path: Path
) -> None:
    manifest = json.loads((small / MANIFEST).read_text())
    del manifest["sha256"]
    manifest["objects"][name] = "0" * 64
    (small / MANIFEST).write_bytes(with_check(manifest))
    with pytest.raises(CorruptionError, match=r"leaves the store|that no store has"):
        logitstore.pull(str(small), tmp_path / "folder")
    assert sorted(path.name for path in (tmp_path / "folder").rglob("*")) in (
        [],
        ["plan.json", "pulled.json", "store.json", "tokenizer", "tokenizer.json"],
        ["pulled.json"],
    )


@pytest.mark.parametrize(
    "left", ["README.md", "audit.json", "thesis.txt", "data/000000-00000000/x"]
)
def test_a_push_writes_among_nobodys_files(left: str, small: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / left).parent.mkdir(parents=True)
    (tmp_path / "mine" / left).write_text("mine")
    with pytest.raises(StoreError, match=rf"no part of this store.*{left}"):
        logitstore.push(small, str(tmp_path / "mine"))
    assert len([one for one in (tmp_path / "mine").rglob("*") if one.is_file()]) == 1
    assert (tmp_path / "mine" / left).read_text() == "mine"


def test_a_push_leaves_a_dump_that_goes_on_and_another_push_alone(
    bucket: str, small: Path, tmp_path: Path
) -> None:
    units = [stored_documents([9], seed=3)]
    write_store(tmp_path / "other", units, spec=store_spec(container="parquet"), seal=False)
    before = content(tmp_path / "other")
    with pytest.raises(StoreError, match="another store lies here, or a part of one"):
        logitstore.push(small, str(tmp_path / "other"))
    assert content(tmp_path / "other") == before
    write_store(tmp_path / "third", units, spec=store_spec(container="zarr"))
    found: list[object] = []

    def push(store: Path) -> None:
        try:
            found.append(logitstore.push(store, bucket).fingerprint)
        except StoreError as error:
            found.append(error)

    threads = [threading.Thread(target=push, args=(one,)) for one in (small, tmp_path / "third")]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    (won,) = (one for one in found if isinstance(one, str))
    assert logitstore.open(bucket).fingerprint == won
    assert list(verify(bucket, hashes=True)) == []


def test_to_s3_and_back_and_over_http(bucket: str, small: Path, tmp_path: Path) -> None:
    sent = logitstore.push(small, bucket)
    assert sent.sent_objects == sent.objects == len(content(small)) + 1  # the card
    assert sent.sent_bytes == sent.bytes > sum(map(len, content(small).values()))
    assert logitstore.push(small, bucket).sent_objects == 0
    assert list(verify(bucket, hashes=True)) == []
    logitstore.pull(bucket, tmp_path / "pulled")
    assert content(tmp_path / "pulled") == content(small)
    write_store(tmp_path / "other", [stored_documents([9], k=6)], spec=store_spec(k=6))
    with pytest.raises(StoreError, match="another store lies here"):
        logitstore.push(tmp_path / "other", bucket)
    handler = partial(_Quiet, directory=str(small))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        logitstore.pull(url, tmp_path / "web")
        server.shutdown()
    assert content(tmp_path / "web") == content(small)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """A web server that knows ranges."""

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, asked = self.translate_path(self.path), self.headers.get("Range")
        if asked is None or not os.path.isfile(path):  # noqa: PTH113
            return super().do_GET()
        with open(path, "rb") as file:  # noqa: PTH123
            data = file.read()
        start, _, last = asked.removeprefix("bytes=").partition("-")
        stop = min(int(last) + 1 if last else len(data), len(data))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - int(start)))
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(data[int(start) : stop])
        return None


@pytest.mark.parametrize("name", ["topk/zarr", "format2/parquet", "format3/zarr"])
def test_stores_of_older_formats_travel_too(name: str, tmp_path: Path) -> None:
    pulled = logitstore.pull(str(GOLDEN / name), tmp_path / "folder")
    assert content(tmp_path / "folder") == content(GOLDEN / name)
    assert pulled.sent_objects == len(content(tmp_path / "folder")) + 1  # the card
    assert list(verify(tmp_path / "folder")) == []


@pytest.mark.parametrize("moment", ["POST .*/commit/main", "GET /large/"])
def test_a_kill_in_the_middle_costs_nothing_that_was_done(
    moment: str, hub: HubServer, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushing = "commit" in moment
    uri, folder = f"{HUB}-killed-{pushing}", tmp_path / "folder"
    if not pushing:
        logitstore.push(small, uri)
    call = ("push", str(small), uri) if pushing else ("pull", uri, str(folder))
    script = "import sys, logitstore.sharing.hub_push as one; one._BATCH_FILES = 2\n"
    script += "import logitstore; getattr(logitstore, sys.argv[1])(*sys.argv[2:])"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    # It is refused again and again at the third such request, and so waits until it is killed.
    hub.fail({"match": moment, "status": 503, "skip": 2, "times": 100})
    hub.log()
    process = subprocess.Popen([sys.executable, "-c", script, *call], env=environment)
    done: list[str] = []
    for _ in range(600):
        done += hub.log()
        if sum(moment.split("*")[-1].removeprefix("GET ") in line for line in done) > 2:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    hub.fail()
    monkeypatch.setattr("logitstore.sharing.hub_push._BATCH_FILES", 2)
    if pushing:
        with pytest.raises(StoreError, match="no finished store here"):
            logitstore.pull(uri, tmp_path / "half")
        sent = logitstore.push(small, uri)
        assert sent.sent_objects == sent.objects - 4
        earlier = {line for line in done if "PUT /lfs" in line}
        assert not earlier & set(hub.log())
        logitstore.pull(uri, folder)
    else:
        assert not (folder / MANIFEST).exists()
        had = len(content(folder))
        pulled = logitstore.pull(uri, folder)
        assert had >= 3
        assert pulled.sent_objects == len(content(small)) + 1 - had
    assert content(folder) == content(small)


def test_the_commands_say_what_they_did(hub: HubServer, small: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    base = [sys.executable, "-m", "logitstore"]
    run = partial(subprocess.run, env=environment, capture_output=True, text=True, check=False)
    pushed = run([*base, "push", str(small), f"{HUB}-commands", "--json"])
    assert pushed.returncode == 0, pushed.stderr
    told = json.loads(pushed.stdout)
    pulled = run([*base, "pull", told["pinned"], str(tmp_path / "folder")])
    assert f"pinned {told['pinned']}" in pulled.stdout
    assert WRITER not in pulled.stdout + pulled.stderr + pushed.stdout + pushed.stderr
    shutil.rmtree(tmp_path / "folder")
    failed = run([*base, "pull", f"{HUB}-none", str(tmp_path / "folder")])
    assert failed.returncode == 1
    assert len(failed.stderr.strip().splitlines()) == 1
    assert "Traceback" not in failed.stderr
