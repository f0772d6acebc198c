"""A network and services at their worst: what is read is right, or refused in one sentence."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import logitstore
from logitstore.errors import CorruptionError, LogitStoreError, StorageError
from logitstore.store.commit import StoreWriter
from logitstore.store.layout import StoreLayout
from logitstore.store.remote import calls
from logitstore.store.storage import open_storage
from tests.synthetic import store_spec, stored_documents, write_store
from tools.torture_store import CONTAINERS, content, shard_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from tools.fault_proxy import FaultProxy

UNITS = [stored_documents([9, 5, 7, 20], seed=seed) for seed in range(2)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_REQUEST_SECONDS", 2)
    monkeypatch.setattr(calls, "_RETRY_SECONDS", 4)
    monkeypatch.setattr(calls, "_WRONG_SECONDS", 0.01)


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_passes_is_repeated_until_it_has_passed(
    bucket: str, proxy: FaultProxy, container: str
) -> None:
    """Every fault that a second try mends: all values are those of a quiet day."""
    write_store(open_storage(bucket), UNITS, spec=store_spec(container=container, block_targets=20))
    quiet = content(bucket)
    proxy.rules(
        {"on": "GET .*store.json", "fault": "status", "code": 503, "times": 2},
        {"on": "GET .*manifest", "fault": "status", "code": 500, "times": 1},
        {
            "on": "GET .*commits",
            "fault": "status",
            "code": 429,
            "headers": {"Retry-After": "1"},
            "times": 2,
        },
        {"on": "HEAD", "fault": "reset", "times": 2},
        {"on": "GET .*data.* bytes", "fault": "short", "times": 2},
        {"on": "GET .*data.* bytes", "fault": "reset", "times": 2},
        {"on": "GET .*data.* bytes", "fault": "other range", "times": 2},
        {"on": "GET .*data.* bytes", "fault": "fewer", "times": 1},
        {"on": "GET .*data.* bytes", "fault": "hang", "hang": 3, "times": 1},
    )
    assert content(bucket) == quiet
    assert len(proxy.asked()) > 20


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"fault": "status", "code": 503}, "refused"),
        ({"fault": "status", "code": 403}, "denies access.*credentials"),
        ({"fault": "reset"}, "refused"),
        ({"fault": "short"}, "refused"),
        ({"fault": "other range"}, "other bytes than were asked for"),
        ({"fault": "fewer"}, "other bytes than were asked for"),
    ],
    ids=lambda one: one.get("fault", "") if isinstance(one, dict) else "",
)
def test_what_does_not_pass_is_one_error_that_names_the_object(
    bucket: str, proxy: FaultProxy, fault: dict[str, Any], told: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(calls, "_RETRIES", 2)
    write_store(open_storage(bucket), UNITS, spec=store_spec())
    store = logitstore.open(bucket)
    proxy.rules({"on": "GET .*data/000001.*entries/c", **fault})
    with pytest.raises(StorageError, match=rf"^{bucket}/data/000001-[^ ]*: .*{told}") as caught:
        list(store)
    assert not isinstance(caught.value.__cause__, CorruptionError)
    assert "\n" not in str(caught.value)
    proxy.rules()
    assert len(list(store)) == 8  # nothing of it is left


@pytest.mark.parametrize("container", CONTAINERS)
def test_wrong_bytes_are_told_whatever_the_server_says(
    bucket: str, proxy: FaultProxy, container: str
) -> None:
    write_store(open_storage(bucket), UNITS[:1], spec=store_spec(container=container))
    names = [name for name in open_storage(bucket).list("") if name != "README.md"]
    for name in names:
        proxy.rules({"on": f"GET .*/{name}", "fault": "wrong bytes"})
        with pytest.raises(LogitStoreError):
            content(bucket)
    proxy.rules()
    assert content(bucket)


def test_an_answer_of_yesterday_is_told(bucket: str, proxy: FaultProxy) -> None:
    """A cache on the way that still gives objects of the store that lay here before."""
    storage = open_storage(bucket)
    write_store(storage, UNITS, spec=store_spec(block_targets=20))
    names = ["store.json", "manifest.json", "commits/000000.json"]
    proxy.rules(*({"on": f"GET .*/{name}", "fault": "stale"} for name in names))
    content(bucket)
    proxy.rules()
    for name in list(storage.list("")):
        storage.delete(name)
    other = [stored_documents([8, 6, 7, 20], seed=seed) for seed in range(5, 7)]
    write_store(storage, other, spec=store_spec(block_targets=30))
    for name in names:
        proxy.rules({"on": f"GET .*/{name}", "fault": "stale"})
        with pytest.raises(CorruptionError):
            content(bucket)
    proxy.rules()
    assert len(logitstore.open(bucket)) == 8


@pytest.mark.parametrize("losses", [1, 9])
def test_commits_whose_reply_is_lost_are_commits(
    tmp_path: Path, bucket: str, proxy: FaultProxy, losses: int
) -> None:
    """Lost once or as often as it is tried: one attempt of each unit is the store's, whole."""
    proxy.rules({"on": "PUT .*(commits|manifest)", "fault": "lost", "times": losses})
    write_store(open_storage(bucket), UNITS, spec=store_spec())
    write_store(tmp_path, UNITS, spec=store_spec())
    assert shard_bytes(bucket) == shard_bytes(tmp_path)
    assert not list(logitstore.verify(bucket, strict=True))


def test_of_two_writers_that_hear_nothing_one_wins_each_unit(
    tmp_path: Path, bucket: str, proxy: FaultProxy
) -> None:
    proxy.rules({"on": "PUT .*commits", "fault": "lost", "times": 3})
    failed: list[LogitStoreError] = []

    def write() -> None:
        try:
            write_store(open_storage(bucket), UNITS, spec=store_spec(), seal=False)
        except LogitStoreError as error:  # as a process that is started again
            failed.append(error)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    proxy.rules()
    write_store(open_storage(bucket), UNITS, spec=store_spec())
    write_store(tmp_path, UNITS, spec=store_spec())
    assert shard_bytes(bucket) == shard_bytes(tmp_path)
    assert not list(logitstore.verify(bucket, strict=True))
    assert StoreWriter(StoreLayout.at(bucket)).layout.sealed()


def test_a_uri_with_a_secret_is_refused_and_not_shown() -> None:
    for uri in ("https://me:geheim@host/store", "https://host/store?sig=geheim"):
        with pytest.raises(LogitStoreError, match="no password, key or query") as caught:
            open_storage(uri)
        assert "geheim" not in str(caught.value)
