"""The cache of remote ranges: shared, bounded, checked, never stale, and never in the way."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import logitstore
from logitstore.errors import SettingError
from logitstore.store.remote.cache import RangeCache
from logitstore.store.storage import open_storage
from tests.synthetic import store_spec, stored_documents, write_store
from tools.torture_store import CONTAINERS, content

if TYPE_CHECKING:
    from tools.fault_proxy import FaultProxy

UNITS = [stored_documents([9, 5, 7, 20], seed=seed) for seed in range(2)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOGITSTORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _entries(folder: Path) -> list[Path]:
    return [path for path in folder.glob("??/*") if path.is_file()]


@pytest.mark.parametrize("container", CONTAINERS)
def test_shards_are_read_once_and_damage_in_the_cache_is_mended(
    bucket: str, proxy: FaultProxy, folder: Path, container: str
) -> None:
    write_store(open_storage(bucket), UNITS, spec=store_spec(container=container, block_targets=20))
    first = content(bucket)
    proxy.rules()
    assert content(bucket) == first
    assert not proxy.asked("GET .*data/")
    for path in _entries(folder):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 16
        path.write_bytes(bytes(data))
    first_path = _entries(folder)[0]
    first_path.write_bytes(first_path.read_bytes()[:10])
    assert content(bucket) == first
    assert proxy.asked("GET .*data/")
    proxy.rules()
    assert content(bucket) == first
    assert not proxy.asked("GET .*data/")
    held = b"".join(path.read_bytes() for path in _entries(folder))
    assert b"secret" not in held
    assert bucket.encode() not in held
    for path in _entries(folder):  # nobody writes into these pipes
        path.unlink()
        os.mkfifo(path)
    assert content(bucket) == first


def test_an_object_that_was_changed_is_read_anew(bucket: str, folder: Path) -> None:
    storage = open_storage(bucket)
    storage.put("data/one", b"old bytes")
    assert storage.read_ranges("data/one", [(0, 3), (4, 9)]) == [b"old", b"bytes"]
    assert len(_entries(folder)) == 2
    open_storage(bucket).put("data/one", b"new bytes")
    assert open_storage(bucket).read_ranges("data/one", [(0, 3), (4, 99)]) == [b"new", b"bytes"]
    assert storage.read_ranges("data/one", [(4, 9)]) == [b"bytes"]
    assert storage.read_ranges("data/one", [(0, 5)]) in ([b"old b"], [b"new b"])
    storage.put("data/one", b"newest")
    assert storage.read_ranges("data/one", [(0, 9)]) == [b"newest"]
    assert open_storage(bucket).size("data/one") == 6


FILL = """
import sys
from pathlib import Path
from logitstore.store.remote.cache import RangeCache
cache = RangeCache(Path(sys.argv[1]), int(sys.argv[2]))
start = int(sys.argv[3])
for number in range(start, start + int(sys.argv[4])):
    cache.put(number.to_bytes(4, "big") * 2500, "uri", number)
    found = cache.get("uri", number)
    assert found in (None, number.to_bytes(4, "big") * 2500)
print("done", flush=True)
"""


def test_processes_share_it_and_it_stays_within_its_size_whoever_is_killed(tmp_path: Path) -> None:
    most = 300_000  # some 30 entries of 10,000 bytes
    for turn in range(3):
        command = [sys.executable, "-c", FILL, str(tmp_path), str(most)]
        both = [subprocess.Popen([*command, str(1000 * n), "100000"]) for n in range(2)]
        while not (tmp_path / "ledger").exists():
            time.sleep(0.01)
        time.sleep(0.3 + turn / 7)
        for one in both:
            one.send_signal(signal.SIGKILL)
            one.wait()
        size = sum(path.stat().st_size for path in _entries(tmp_path))
        # Each killed process may leave one file that it had begun.
        assert size <= most + 2 * 10_200
    subprocess.run([*command, "0", "200"], check=True, stdout=subprocess.DEVNULL)
    cache = RangeCache(tmp_path, most)
    kept = [number for number in range(200) if cache.get("uri", number) is not None]
    assert kept[-1] == 199
    assert len(kept) > 10
    assert sum(path.stat().st_size for path in _entries(tmp_path)) <= most


def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 100_000)
    for number in range(8):
        cache.put(bytes(10_000), "uri", number)
        os.utime(cache._path(_name_of(cache, number)), (number, number))
    assert cache.get("uri", 0) is not None
    for number in range(8, 11):
        cache.put(bytes(10_000), "uri", number)
    kept = [number for number in range(11) if cache.get("uri", number) is not None]
    assert 0 in kept
    assert 1 not in kept
    assert kept[-3:] == [8, 9, 10]


def _name_of(cache: RangeCache, number: int) -> str:
    from logitstore.store.remote.cache import _name

    return _name(("uri", number))


def test_a_disk_that_takes_nothing_is_no_reason_to_fail(
    bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(open_storage(bucket), UNITS, spec=store_spec())
    whole = content(bucket)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
        assert content(bucket) == whole
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not _entries(folder)
    (folder / "file").write_bytes(b"")
    for wrong in ("file", "file/below"):
        monkeypatch.setenv("LOGITSTORE_CACHE", str(folder / wrong))
        with pytest.raises(SettingError, match=r"^the folder of LOGITSTORE_CACHE cannot be made"):
            logitstore.open(bucket)


def test_a_size_that_is_none_is_told(
    bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGITSTORE_CACHE_SIZE", "much")
    with pytest.raises(SettingError, match=r"^LOGITSTORE_CACHE_SIZE is no size of a cache"):
        logitstore.open(bucket)
