"""Stores in data sets of the Hub, read from a server that speaks its endpoints."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

import logitstore
from logitstore.errors import ObjectMissing, SettingError, StorageError
from logitstore.store.remote import hub as hub_module
from logitstore.store.storage import open_storage
from tests.hub_reading import Hub, hub_server
from tests.synthetic import store_spec, stored_documents, write_store
from tools.torture_store import content

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNITS = [stored_documents([9, 5, 7, 20], seed=seed) for seed in range(2)]
OLD, NEW = "a" * 40, "b" * 40
URI = "hf://datasets/team/store"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")
    monkeypatch.setattr(hub_module, "_WAIT_SECONDS", 0.01)
    write_store(tmp_path / OLD, UNITS, spec=store_spec(block_targets=20))
    write_store(tmp_path / NEW / "inner", UNITS[:1], spec=store_spec(container="parquet"))
    server = Hub(
        commits={one: tmp_path / one for one in (OLD, NEW)},
        branches={"main": OLD, "refs/pr/1": NEW, "v1": NEW},
    )
    with hub_server(server) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield server


def test_a_data_set_is_read_as_the_folder_that_it_holds(tmp_path: Path, hub: Hub) -> None:
    assert content(URI) == content(tmp_path / OLD)
    assert content(f"{URI}@v1/inner") == content(tmp_path / NEW / "inner")
    assert content(f"{URI}@refs%2Fpr%2F1/inner/") == content(tmp_path / NEW / "inner")
    assert content(f"{URI}@{OLD}") == content(tmp_path / OLD)
    hub.asked.clear()
    assert not list(logitstore.verify(URI, strict=True))
    assert [one for one in hub.asked if "cdn" in one and "bytes=" in one]
    storage = open_storage(f"{URI}@v1/inner")
    local = open_storage(tmp_path / NEW / "inner")
    for prefix in ("", "commits/", "data/0", "none/"):
        assert sorted(storage.list(prefix)) == sorted(local.list(prefix))
    size = storage.size("plan.json") or 0
    assert storage.read_ranges("plan.json", [(2, 5), (size - 1, size + 9), (size, size + 4)]) == [
        local.read("plan.json")[2:5],
        local.read("plan.json")[-1:],
        b"",
    ]


def test_a_store_that_is_open_stays_at_its_commit(tmp_path: Path, hub: Hub) -> None:
    store = logitstore.open(URI)
    first = store[0].document.id
    hub.branches["main"] = NEW
    assert next(one.document.id for one in store) == first
    assert len(store) == 8
    shutil.copytree(tmp_path / NEW / "inner", tmp_path / NEW, dirs_exist_ok=True)
    assert len(logitstore.open(URI)) == 4
    assert len([one for one in hub.asked if "/revision/" in one]) == 2  # once a store


def test_a_token_is_given_to_the_hub_and_to_nobody_else(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_geheim"
    with pytest.raises(StorageError, match="no such data set, or it is not for everybody"):
        logitstore.open(URI)
    monkeypatch.setenv("HF_TOKEN", "hf_geheim")
    assert len(list(logitstore.open(URI))) == 8
    assert [one for one in hub.asked if "/cdn/" in one]
    assert not hub.tokens_elsewhere


def test_a_busy_hub_is_asked_again_and_then_told(hub: Hub) -> None:
    hub.fail += [429, 503, 500]
    store = logitstore.open(URI)
    hub.fail += [429, 502] * 2
    assert len(list(store)) == 8
    hub.fail += [503] * 400
    with pytest.raises(StorageError, match=r"^hf://.*: the Hub or the network refused: .*503"):
        logitstore.open(URI)


def test_what_is_not_there_is_told(hub: Hub) -> None:
    storage = open_storage(URI)
    assert storage.size("none") is None
    with pytest.raises(ObjectMissing, match=f"^{URI}/none: there is no such file"):
        storage.read("none")
    with pytest.raises(StorageError, match="no such data set or revision"):
        logitstore.open(f"{URI}@none")
    with pytest.raises(StorageError, match="no such data set"):
        logitstore.open("hf://datasets/team/other")
    for call in (
        lambda: storage.put("a", b""),
        lambda: storage.put_if_absent("a", b""),
        lambda: storage.delete("a"),
    ):
        with pytest.raises(StorageError, match="only read from"):
            call()


@pytest.mark.parametrize("uri", ["hf://team/store", "hf://datasets/team", "hf://datasets/a/b/../c"])
def test_what_names_no_data_set_is_told(uri: str) -> None:
    with pytest.raises(SettingError, match="names no data set of the Hub"):
        open_storage(uri)


def test_a_cache_keeps_files_of_the_hub_too(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGITSTORE_CACHE", str(tmp_path / "cache"))
    first = content(URI)
    hub.asked.clear()
    assert content(URI) == first
    assert not [one for one in hub.asked if "cdn" in one]
