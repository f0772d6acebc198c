"""What a store does not name: told by verify, and removed by gc where it is garbage."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import logitstore
from logitstore.errors import StoreError
from logitstore.store.commit import StoreWriter
from logitstore.store.layout import StoreLayout
from logitstore.store.storage import Storage
from tests.synthetic import store_spec, stored_documents, write_store
from tools.dict_storage import DictStorage

UNITS = [stored_documents([9, 5]), stored_documents([7], seed=1)]
STRAYS = ["notes.txt", "commits/000009.json", "data/000000-deadbeef/entries/zarr.json"]


def put_strays(layout: StoreLayout) -> list[str]:
    shard = next((Path(layout.uri) / "data").iterdir()).name
    inside = f"data/{shard}/entries/c/9"
    for name in (*STRAYS, inside, "tokenizer/evil.py"):
        layout.storage.put(name, b"{}")
    return sorted([*STRAYS, inside, "tokenizer/evil.py"])


def test_verify_names_strays_and_takes_them_for_faults_only_if_asked(tmp_path: Path) -> None:
    layout = write_store(tmp_path, UNITS, spec=store_spec())
    names = put_strays(layout)
    store = logitstore.open(tmp_path)
    assert sorted(logitstore.strays(store)) == names
    assert not list(logitstore.verify(tmp_path))
    faults = list(logitstore.verify(tmp_path, strict=True))
    assert sorted(str(one.place).removeprefix(f"{tmp_path}/") for one in faults) == names
    assert {one.problem for one in faults} == {"the store does not name this file"}


@pytest.mark.parametrize("sealed", [False, True])
def test_what_somebody_puts_beside_a_tokenizer_is_no_part_of_it(
    tmp_path: Path, sealed: bool
) -> None:
    """Its name may be that of a file of a tokenizer, before and after the store is sealed."""
    plain = write_store(tmp_path / "plain", UNITS, spec=store_spec())
    layout = write_store(tmp_path / "store", UNITS, spec=store_spec(), seal=False)
    if sealed:
        StoreWriter(layout).seal(layout.read_plan())
    planted = ["tokenizer/added_tokens.json", "tokenizer/chat_template.jinja"]
    for name in planted:
        layout.storage.put(name, b"{}")
    StoreWriter(layout).seal(layout.read_plan())
    store = logitstore.open(tmp_path / "store")
    assert store.tokenizer_files() == logitstore.open(plain.storage).tokenizer_files()
    assert store.fingerprint == logitstore.open(plain.storage).fingerprint
    assert not set(planted) & set(layout.read_manifest().objects)
    assert sorted(logitstore.strays(store)) == planted
    assert not list(logitstore.verify(store))


def test_gc_removes_what_no_commit_names_and_nothing_else(tmp_path: Path) -> None:
    layout = write_store(tmp_path, UNITS, spec=store_spec())
    names = put_strays(layout)
    before = set(layout.storage.list(""))
    listed = logitstore.gc(tmp_path)
    assert set(layout.storage.list("")) == before
    assert not listed.removed
    found = logitstore.gc(tmp_path, yes=True)
    assert found.names == listed.names == tuple(n for n in names if n.startswith("data/"))
    assert before - set(layout.storage.list("")) == set(found.names)
    assert not list(logitstore.verify(tmp_path))
    assert logitstore.gc(tmp_path, yes=True).names == ()


def test_gc_spares_what_is_young_in_an_unfinished_store(tmp_path: Path) -> None:
    layout = write_store(tmp_path, UNITS, spec=store_spec(), seal=False)
    old, young = (f"data/000001-{name}/entries/zarr.json" for name in ("deadbeef", "cafecafe"))
    for name in (old, young):
        layout.storage.put(name, b"{}")
    hours_ago = time.time() - 7200
    os.utime(tmp_path / old, (hours_ago, hours_ago))
    found = logitstore.gc(tmp_path, yes=True)
    assert (found.names, found.kept) == ((old,), 1)
    assert layout.storage.size(young) == 2


def test_gc_refuses_where_it_cannot_tell(tmp_path: Path) -> None:
    storage = DictStorage()
    write_store(storage, UNITS, spec=store_spec(), seal=False)
    with pytest.raises(StoreError, match="does not tell how old"):
        logitstore.gc(storage, yes=True)
    write_store(tmp_path, UNITS, spec=store_spec(), seal=False)
    (tmp_path / "leases").mkdir(exist_ok=True)
    lease = f'{{"host": "elsewhere", "pid": 1, "time": {time.time()}}}'
    (tmp_path / "leases" / "000000.json").write_text(lease)
    with pytest.raises(StoreError, match="a dump is at work"):
        logitstore.gc(tmp_path, yes=True)


@pytest.mark.parametrize("seal", [True, False])
def test_gc_keeps_what_is_committed_while_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seal: bool
) -> None:
    layout = write_store(tmp_path, UNITS, spec=store_spec(), seal=False)
    opened = logitstore.open(tmp_path, allow_partial=True)
    commit = layout.storage.read("commits/000001.json")
    layout.storage.delete("commits/000001.json")

    def commit_and_end(storage: Storage) -> bool:
        """A dump at work has committed its unit, sealed the store and gone."""
        storage.put("commits/000001.json", commit)
        if seal:
            StoreWriter(layout).seal(layout.read_plan())
        return False

    monkeypatch.setattr("logitstore.store.strays.is_at_work", commit_and_end)
    for source in (tmp_path, opened):
        assert logitstore.gc(source, yes=True, grace=0.0).names == ()
    StoreWriter(layout).seal(layout.read_plan())
    assert not list(logitstore.verify(tmp_path))
