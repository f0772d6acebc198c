"""Stores in object storage and on web servers, on real servers of this machine."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import logitstore
from logitstore.errors import ObjectMissing, SettingError, StorageError, StoreError
from logitstore.store.layout import StoreLayout
from logitstore.store.remote import calls
from logitstore.store.remote.spans import spans_of
from logitstore.store.storage import open_storage
from tests.synthetic import plan_of, store_spec, stored_documents, write_store
from tests.test_teacher import TEXTS, Lines
from tools.torture_store import content, make_scene, shard_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerFast

UNITS = [stored_documents([9, 5, 7]), stored_documents([4, 30], seed=1)]


class _Ranges(SimpleHTTPRequestHandler):
    """Files of a folder, whole or a range of one, as web servers give them."""

    asked: list[str] = []  # noqa: RUF012 - of the one server of a test

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('Range', '')}".strip())
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        try:
            data = Path(self.translate_path(self.path)).read_bytes()
        except OSError:
            self.send_error(404)
            return
        first, last = 0, len(data) - 1
        if wanted is not None:
            first = int(wanted[1])
            last = min(int(wanted[2] or last), last)
            if first > last:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(200 if wanted is None else 206)
        self.send_header("Content-Length", str(last - first + 1))
        if wanted is not None:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        self.wfile.write(data[first : last + 1])


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of `tmp_path`."""
    _Ranges.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Ranges, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("service", "container"), [("bucket", "zarr"), ("bucket", "parquet"), ("azure", "zarr")]
)
def test_a_dump_into_a_bucket_is_the_one_into_a_folder(
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    service: str,
    container: str,
) -> None:
    bucket = request.getfixturevalue(service)
    job: dict[str, Any] = {"teacher": Lines(), "tokenizer": tokenizer, "data": TEXTS}
    job |= {"format": container, "unit_tokens": 20}
    here = logitstore.dump(**job, out=tmp_path / "store")
    there = logitstore.dump(**job, out=bucket)
    assert (there.fingerprint, there.uri) == (here.fingerprint, bucket)
    assert content(bucket) == content(tmp_path / "store")
    assert not list(logitstore.verify(bucket, strict=True))
    assert logitstore.dump(**job, out=bucket).new_targets == 0


def test_a_killed_dump_beside_another_ends_in_the_same_bytes(tmp_path: Path, bucket: str) -> None:
    """Two processes make one store in a bucket; one gets SIGKILL at its first commit."""
    scene = make_scene(tmp_path, records=16)
    command = [sys.executable, "-m", "logitstore", "dump", "--unit-tokens=60", "--device=cpu"]
    command += [f"--teacher={scene.teacher}", f"--data={scene.data}"]
    subprocess.run([*command, f"--out={tmp_path / 'here'}"], check=True, capture_output=True)
    both = [
        subprocess.Popen(
            [*command, f"--out={bucket}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    storage = open_storage(bucket)
    while all(one.poll() is None for one in both) and not list(storage.list("commits/")):
        time.sleep(0.005)
    both[0].kill()
    for one in both:
        one.wait()
    subprocess.run([*command, f"--out={bucket}"], check=True, capture_output=True)
    assert shard_bytes(bucket) == shard_bytes(tmp_path / "here")
    assert not list(logitstore.verify(bucket, strict=True))


def test_a_dump_goes_on_where_it_stopped_and_garbage_goes(bucket: str) -> None:
    layout = write_store(open_storage(bucket), UNITS, spec=store_spec(), seal=False)
    layout.storage.put("data/000001-deadbeef/entries/c/0", b"left behind")
    layout.storage.delete("commits/000001.json")
    with pytest.raises(StoreError, match="not finished"):
        logitstore.open(bucket)
    assert logitstore.gc(bucket, grace=3600).kept > 0
    write_store(open_storage(bucket), UNITS, spec=store_spec())
    assert not list(logitstore.verify(bucket, strict=True))
    assert layout.read_plan() == plan_of(2)


def test_a_store_on_a_web_server_is_read_and_nothing_else(tmp_path: Path, web: str) -> None:
    write_store(tmp_path / "a store", UNITS, spec=store_spec())
    url = f"{web}/a%20store"
    assert content(url) == content(tmp_path / "a store")
    assert not list(logitstore.verify(url))
    storage = open_storage(url)
    for call in (
        lambda: storage.put("a", b"1"),
        lambda: storage.put_if_absent("a", b"1"),
        lambda: storage.delete("a"),
        lambda: next(storage.list("")),
    ):
        with pytest.raises(StorageError, match=r"a web server .* s3:// for one"):
            call()
    assert storage.size("none") is None
    with pytest.raises(ObjectMissing, match=rf"^{re.escape(url)}/none: "):
        storage.read("none")
    assert not [one for one in _Ranges.asked if "PROPFIND" in one]


def test_a_server_without_ranges_is_refused_in_plain_words(tmp_path: Path) -> None:
    """Python's own: it answers with the whole file, whatever is asked for."""
    write_store(tmp_path / "store", UNITS, spec=store_spec())
    whole = partial(_Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), whole) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/store"
            with pytest.raises(StorageError, match=r"gives whole files alone.*server that knows"):
                logitstore.open(url)
        finally:
            server.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


def test_neighbours_are_one_request(tmp_path: Path, web: str) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)
    storage = open_storage(web)
    ranges = [(1000, 2000), (0, 1000), (2010, 3000), (200_000, 200_010), (5, 5)]
    data = bytes(range(256)) * 1000
    assert storage.read_ranges("file", ranges) == [data[low:high] for low, high in ranges]
    assert sorted(_Ranges.asked) == ["/file bytes=0-2999", "/file bytes=200000-200009"]


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 300))))
def test_spans_hold_all_ranges_and_little_else(parts: list[tuple[int, int]]) -> None:
    ranges = [(start, start + size) for start, size in parts]
    spans = spans_of(ranges)
    assert spans == sorted(spans)
    assert all(one[1] <= two[0] for one, two in pairwise(spans))
    wanted = {byte for start, stop in ranges for byte in range(start, stop)}
    read = {byte for start, stop in spans for byte in range(start, stop)}
    assert wanted <= read
    assert len(read) <= 1.1 * len(wanted)


def test_a_server_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_RETRY_SECONDS", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/store"
    with pytest.raises(StorageError, match=rf"^{url}/store.json: the service or the network"):
        logitstore.open(url)


def test_a_bucket_that_is_not_there_is_told(bucket: str) -> None:
    with pytest.raises(StoreError, match=r"no store here: it has no store\.json"):
        logitstore.open(bucket)
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/a/store\.json: "):
        StoreLayout.at("s3://no-such-bucket/a").storage.put("store.json", b"")


@pytest.mark.parametrize("uri", ["s3://", "http://", "az:///a", "s3://b ucket"])
def test_what_names_no_place_is_told(uri: str) -> None:
    with pytest.raises(SettingError, match="names no place"):
        open_storage(uri)


def test_without_obstore_it_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(SettingError, match=r"obstore is not installed.*logitstore\[remote\]"):
        open_storage("s3://a-bucket-of-nobody/store")


def test_stores_are_edited_from_the_web_into_a_bucket(
    web: str, bucket: str, tmp_path: Path
) -> None:
    write_store(tmp_path / "store", UNITS, spec=store_spec(container="parquet"))
    source, out = f"{web}/store", bucket
    first, _ = logitstore.subset(source, f"{out}-some", rest=f"{out}-rest", documents="1:4")
    assert (first.copied_units, first.recoded_units) == (0, 2)
    whole = logitstore.merge(f"{out}-all", [f"{out}-some", f"{out}-rest"])
    assert (whole.documents, whole.copied_units) == (5, 4)
    assert list(logitstore.verify(f"{out}-all")) == []
    assert logitstore.subset(source, f"{out}-some", documents="1:4")[0].found_finished
    with pytest.raises(SettingError, match="cannot lie within another one"):
        logitstore.convert(f"{out}-all", f"{out}-all/inside")
    with pytest.raises(StorageError, match="a web server"):
        logitstore.convert(source, f"{web}/new", format="zarr")
