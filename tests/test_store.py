"""Stores: begun once, committed by the first, sealed, read as a sequence, verified.

Each container in each storage: files, files where there are no hard links, a dict in memory.
"""

import errno
import gc
import hashlib
import json
import os
import pickle
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import logitstore
from logitstore.errors import CorruptionError, SettingError, SpecError, StorageError, StoreError
from logitstore.format.json import canonical_json, with_check
from logitstore.sparsify.build import sparsifier_spec
from logitstore.store import open_shards
from logitstore.store.commit import StoreWriter, refuse_foreign_storage
from logitstore.store.containers import CONTAINERS
from logitstore.store.inspect import inspect
from logitstore.store.layout import MANIFEST, README, StoreLayout
from logitstore.store.lease import Lease
from logitstore.store.local import LocalStorage
from logitstore.store.reader import as_store, load_store
from logitstore.store.storage import Storage, place_of
from logitstore.store.verify import Fault, verify
from logitstore.store.writer import UnitWriter
from tests.peak_memory import peak_memory
from tests.synthetic import NO_TOKENIZER, plan_of, store_spec, stored_documents, write_store
from tools.dict_storage import DictStorage

UNITS = [
    stored_documents([30, 60, 12, 50], masked=True),
    stored_documents([64] * 5, seed=10),
    stored_documents([2], seed=20),
]


@pytest.fixture(params=sorted(CONTAINERS))
def container(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["files", "files without links", "memory"])
def storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Storage:
    """Where stores of these tests lie; empty."""
    if request.param == "files without links":
        monkeypatch.setattr(os, "link", _no_links)
    return DictStorage() if request.param == "memory" else LocalStorage(tmp_path / "store")


def _no_links(*_: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.fixture
def layout(container: str, storage: Storage) -> StoreLayout:
    """A sealed store."""
    return write_store(storage, UNITS, spec=store_spec(container=container))


def test_a_store_is_the_sequence_of_its_documents(layout: StoreLayout) -> None:
    store = logitstore.open(layout.storage)
    wanted = [stored for unit in UNITS for stored in unit]
    assert len(store) == len(wanted)
    assert [one.document.id for one in store] == [one.document.id for one in wanted]
    for place in (0, 3, 4, 9, -1):
        found = store[place]
        assert np.array_equal(found.document.input_ids_L, wanted[place].document.input_ids_L)
        assert np.array_equal(found.document.counted_L, wanted[place].document.counted_L)
        assert np.array_equal(
            np.sort(found.targets.ids_RK, axis=1), np.sort(wanted[place].targets.ids_RK, axis=1)
        )
    assert [one.document.record for one in store[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        store[len(wanted)]


def test_every_container_holds_equal_values(layout: StoreLayout) -> None:
    wanted = write_store(DictStorage(), UNITS, spec=store_spec(container="zarr"))
    stores = (logitstore.open(one.storage) for one in (layout, wanted))
    for one, two in zip(*stores, strict=True):
        assert np.array_equal(one.document.input_ids_L, two.document.input_ids_L)
        for name in ("ids_RK", "logprobs_RK", "tail_logmass_RB", "label_logprob_R", "entropy_R"):
            assert np.array_equal(getattr(one.targets, name), getattr(two.targets, name))


def test_blocks_hold_whole_documents_of_about_the_size_asked_for(layout: StoreLayout) -> None:
    store = logitstore.open(layout.storage)
    assert len(store.blocks) > len(UNITS)
    assert all(block.targets <= 100 for block in store.blocks)
    for number, block in enumerate(store.blocks):
        tokens_D, targets_D = store.document_lengths(number)
        assert (len(tokens_D), tokens_D.sum(), targets_D.sum()) == (
            block.documents,
            block.tokens,
            block.targets,
        )


def test_the_same_dump_twice_has_the_same_fingerprint(container: str, layout: StoreLayout) -> None:
    spec = replace(store_spec(container=container), provenance={"created": "another day"})
    again = write_store(DictStorage(), UNITS, spec=spec)
    other = write_store(DictStorage(), UNITS[::-1], spec=spec)
    fingerprint = logitstore.open(layout.storage).fingerprint
    assert logitstore.open(again.storage).fingerprint == fingerprint
    assert logitstore.open(other.storage).fingerprint != fingerprint


def test_an_unsealed_store_is_read_only_on_demand(storage: Storage) -> None:
    write_store(storage, UNITS, spec=store_spec(), seal=False)
    storage.delete("commits/000001.json")
    with pytest.raises(StoreError, match="not finished"):
        logitstore.open(storage)
    assert len(logitstore.open(storage, allow_partial=True)) == 5
    assert inspect(storage)["units_done"] == 2


def test_no_store_there(storage: Storage) -> None:
    with pytest.raises(StoreError, match=r"no store\.json"):
        logitstore.open(storage)


def test_a_path_and_a_uri_name_the_same_store(tmp_path: Path) -> None:
    write_store(tmp_path / "a:b c", UNITS, spec=store_spec())
    stores = [
        logitstore.open(where)
        for where in (tmp_path / "a:b c", f"{tmp_path}/a:b c", f"file://{tmp_path}/a:b%20c")
    ]
    assert len({store.fingerprint for store in stores}) == 1


def test_another_spec_is_refused_with_the_fields_that_differ(
    layout: StoreLayout, container: str
) -> None:
    other = store_spec(container=container, k=9)
    with pytest.raises(SpecError, match=r"store\.json.*k 8 there, 9 here"):
        StoreWriter(layout).begin(other, plan_of(3), NO_TOKENIZER)


def test_a_storage_that_holds_something_else_is_refused(storage: Storage) -> None:
    refuse_foreign_storage(storage)
    storage.put("thesis/thesis.tex", b"precious")
    with pytest.raises(StoreError, match="thesis"):
        refuse_foreign_storage(storage)


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".store.json.12345678.tmp").write_text("left by a killed process")
    refuse_foreign_storage(LocalStorage(tmp_path))
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        refuse_foreign_storage(LocalStorage(tmp_path))
    with pytest.raises(StorageError, match=r"thesis\.tex: is a file.*Name a new folder"):
        refuse_foreign_storage(LocalStorage(tmp_path / "thesis.tex"))


def test_the_second_attempt_at_a_unit_loses_and_leaves_nothing(layout: StoreLayout) -> None:
    writer = UnitWriter.of(StoreWriter(layout), layout.read_spec())
    before = sorted(layout.storage.list(""))
    assert writer.write(plan_of(3).units[0], UNITS[1], skipped=0) is False
    assert sorted(layout.storage.list("")) == before
    if isinstance(layout.storage, LocalStorage):
        assert len(list((layout.storage.folder / "data").iterdir())) == 3


def test_sealing_sweeps_what_no_commit_names(storage: Storage) -> None:
    layout = write_store(storage, UNITS, spec=store_spec(), seal=False)
    storage.put("data/000000-deadbeef/entries/zarr.json", b"{}")
    storage.put("leases/000000.json", b"{}")
    if isinstance(storage, LocalStorage):
        (storage.folder / "commits" / ".000000.json.00000000.tmp").write_text("half a commit")
        (storage.folder / "data" / "000001-00000000" / "entries").mkdir(parents=True)
    with pytest.raises(StoreError, match="3 of 4 units"):
        StoreWriter(layout).seal(plan_of(4))
    StoreWriter(layout).seal(plan_of(3))
    assert len({name.split("/")[1] for name in storage.list("data/")}) == 3
    assert not list(storage.list("leases/"))
    if isinstance(storage, LocalStorage):
        assert not [path for path in storage.folder.rglob("*") if path.name.startswith(".")]
        assert len(list((storage.folder / "data").iterdir())) == 3
        assert not (storage.folder / "leases").exists()
    assert list(verify(storage)) == []


def test_threads_that_write_one_store_commit_each_unit_once(
    container: str, storage: Storage
) -> None:
    layout, plan = StoreLayout(storage), plan_of(len(UNITS))
    spec = store_spec(container=container)

    def work(_: int) -> list[bool]:
        writer = StoreWriter(layout)
        writer.begin(spec, plan, NO_TOKENIZER)
        units = zip(plan.units, UNITS, strict=True)
        won = [UnitWriter.of(writer, spec).write(unit, own, skipped=0) for unit, own in units]
        writer.seal(plan)
        return won

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(work, range(4)))
    assert [sum(column) for column in zip(*won, strict=True)] == [1] * len(UNITS)
    assert list(verify(storage)) == []
    alone = write_store(DictStorage(), UNITS, spec=spec)
    assert logitstore.open(storage).fingerprint == logitstore.open(alone.storage).fingerprint


def test_leases_lapse_with_their_process(storage: Storage) -> None:
    lease = Lease(storage, plan_of(1).units[0])

    def taken_by(**owner: Any) -> None:
        storage.put(lease.name, json.dumps(mine | owner).encode())

    assert lease.take()
    assert lease.take()  # our own, left from before
    mine = json.loads(storage.read(lease.name))
    taken_by(pid=os.getppid())
    assert not lease.take()
    taken_by(pid=os.getppid(), time=mine["time"] - 100)
    assert lease.take()
    taken_by(pid=2**22 + 1)
    assert lease.take()
    taken_by(host="another")
    assert not lease.take()
    storage.put(lease.name, b"no lease")
    assert lease.take()
    lease.release()
    assert storage.size(lease.name) is None


def test_a_lease_at_work_is_renewed(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease(storage, plan_of(1).units[0])
    lease.take()
    first = storage.read(lease.name)
    lease.renew()
    assert storage.read(lease.name) == first  # it was taken less than ten seconds ago
    monkeypatch.setattr(lease, "_renewed", time.monotonic() - 11)
    lease.renew()
    assert storage.read(lease.name) != first


def test_a_sound_store_has_no_faults(layout: StoreLayout) -> None:
    for depth in ({"fast": True}, {"hashes": True}, {}):
        assert list(verify(layout.storage, **depth)) == []


def _shard(layout: StoreLayout) -> list[str]:
    """The objects of one unit."""
    return sorted(layout.storage.list("data/000001-"))


def _largest(layout: StoreLayout) -> str:
    return max(_shard(layout), key=lambda name: layout.storage.size(name) or 0)


def _flip(storage: Storage, name: str) -> None:
    data = bytearray(storage.read(name))
    data[len(data) // 2] ^= 4
    storage.put(name, bytes(data))


def _delete(layout: StoreLayout, *names: str) -> None:
    for name in names:
        layout.storage.delete(name)


DAMAGE: dict[str, Callable[[StoreLayout], object]] = {
    "a shard's file flipped": lambda one: _flip(one.storage, _largest(one)),
    "a shard's file cut short": lambda one: one.storage.put(_largest(one), b"short"),
    "a shard's file gone": lambda one: _delete(one, _largest(one)),
    "a shard gone": lambda one: _delete(one, *_shard(one)),
    "a commit gone": lambda one: _delete(one, "commits/000001.json"),
    "a commit changed": lambda one: _flip(one.storage, "commits/000001.json"),
    "the plan changed": lambda one: _flip(one.storage, "plan.json"),
    "the plan gone": lambda one: _delete(one, "plan.json"),
    "the spec changed": lambda one: _flip(one.storage, "store.json"),
    "the spec gone": lambda one: _delete(one, "store.json"),
    "the tokenizer changed": lambda one: one.storage.put("tokenizer/tokenizer.json", b"{ }"),
    "the manifest changed": lambda one: _flip(one.storage, MANIFEST),
    "the manifest reformatted": lambda one: one.storage.put(
        MANIFEST, json.dumps(json.loads(one.storage.read(MANIFEST))).encode()
    ),
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_verify_names_every_damage(layout: StoreLayout, damage: str) -> None:
    DAMAGE[damage](layout)
    faults = list(verify(layout.storage))
    assert faults
    assert list(verify(layout.storage, hashes=True))
    assert len({(fault.place, fault.problem) for fault in faults}) == len(faults)
    for fault in faults:
        assert fault.problem
        assert layout.uri in str(fault.place) or "block" in str(fault.place)
        assert str(fault).startswith(f"{fault.place}: {fault.problem}")


def test_faults_are_objects_that_say_what_the_lines_say(layout: StoreLayout) -> None:
    name = _largest(layout)
    size = layout.storage.size(name)
    layout.storage.put(name, b"short")
    (fault,) = verify(layout.storage, fast=True)
    place = place_of(layout.storage, name)
    problem = "size in bytes is not as written"
    assert fault == Fault(place=place, problem=problem, found=5, allowed=size)
    assert str(fault) == f"{place}: {problem} (found 5; allowed: {size})"
    assert logitstore.Fault is Fault


def test_verify_tells_what_a_row_may_not_hold(storage: Storage) -> None:
    documents = stored_documents([10])
    targets = documents[0].targets
    twice_RK = targets.ids_RK.copy()
    twice_RK[3, 1] = twice_RK[3, 0]
    broken = replace(documents[0], targets=replace(targets, ids_RK=twice_RK))
    write_store(storage, [[broken]], spec=store_spec())
    assert any("target 3: a row holds an id twice" in str(one) for one in verify(storage))
    heavy_RB = targets.tail_logmass_RB.copy()
    heavy_RB[5, 0] = 0.0
    broken = replace(documents[0], targets=replace(targets, tail_logmass_RB=heavy_RB))
    heavy = write_store(DictStorage(), [[broken]], spec=store_spec()).storage
    assert any("target 5: a row's mass is not 1" in str(one) for one in verify(heavy))


@pytest.mark.parametrize(
    "name", ["store.json", "plan.json", "commits/000001.json", "tokenizer/tokenizer.json"]
)
def test_a_changed_small_object_is_refused_when_the_store_is_opened(
    layout: StoreLayout, name: str
) -> None:
    """A digit of the spec decides what the shards are decoded to."""
    data = layout.storage.read(name)
    before, _, after = data.rpartition(b"10")  # the first may be in an attempt's name
    layout.storage.put(name, before + b"20" * bool(before) + after + b" ")
    with pytest.raises(CorruptionError, match=name):
        _read_all(layout.storage, tokenizer=False)


def _read_all(storage: Storage, *, tokenizer: bool = True) -> None:
    """Open the store and read what is not read at once."""
    store = logitstore.open(storage)
    if tokenizer:
        store.tokenizer_files()
    list(store)


def _shards(layout: StoreLayout) -> list[str]:
    """What the names of each shard's objects begin with."""
    names = {name.split("/")[1] for name in layout.storage.list("data/")}
    return [f"data/{name}/" for name in sorted(names)]


def test_an_object_of_another_unit_is_refused(layout: StoreLayout) -> None:
    """Its own checksums are right; what it says is not about this shard."""
    storage, shards = layout.storage, _shards(layout)
    tried = 0
    for name in list(storage.list(shards[0])):
        mine, theirs = storage.read(name), storage.read(name.replace(shards[0], shards[1]))
        if mine == theirs:
            continue
        storage.put(name, theirs.ljust(len(mine), b"0")[: len(mine)])
        with pytest.raises(CorruptionError, match=shards[0]):
            list(logitstore.open(storage))
        storage.put(name, mine)
        tried += 1
    assert tried
    assert len(list(logitstore.open(storage))) == 10


def test_the_manifest_lists_all_and_nothing_else(layout: StoreLayout) -> None:
    storage = layout.storage
    content = json.loads(storage.read(MANIFEST))
    del content["sha256"]
    changes: dict[str, Any] = {"bytes": 1, "format": "other/9", "documents": 1, "skipped": 1}
    changes |= {"sums": {}, "column_bytes": {"id": 1}, "fingerprint": "0" * 64}
    for name, value in changes.items():
        storage.put(MANIFEST, with_check(content | {name: value}))
        assert list(verify(storage)), name
    storage.put(MANIFEST, canonical_json(content))
    assert [fault.problem for fault in verify(storage)] == ["manifest lacks its hash"]
    readme = {README: hashlib.sha256(storage.read(README)).hexdigest()}
    storage.put(MANIFEST, with_check(content | {"objects": content["objects"] | readme}))
    with pytest.raises(CorruptionError, match=r"names a file too many .*README"):
        logitstore.open(storage)
    del content["objects"]["plan.json"]
    storage.put(MANIFEST, with_check(content))
    assert any("plan.json" in str(fault) for fault in verify(storage))


def test_sealing_again_finishes_what_a_killed_process_left(layout: StoreLayout) -> None:
    storage = layout.storage
    storage.delete(README)
    if isinstance(storage, LocalStorage):
        (storage.folder / ".README.md.00000000.tmp").write_text("half")
    manifest = storage.read(MANIFEST)
    StoreWriter(layout).seal(plan_of(3))
    assert storage.size(README)
    if isinstance(storage, LocalStorage):
        assert not list(storage.folder.glob(".*.tmp"))
    assert storage.read(MANIFEST) == manifest


def test_reading_a_damaged_block_names_the_file(layout: StoreLayout) -> None:
    DAMAGE["a shard's file flipped"](layout)
    shard = _shard(layout)[0].split("/")[1]
    with pytest.raises(CorruptionError, match=shard):
        list(logitstore.open(layout.storage))


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a//b", "c/../../../x"])
def test_paths_that_leave_the_store_are_refused(layout: StoreLayout, path: str) -> None:
    name = "commits/000000.json"
    content = json.loads(layout.storage.read(name))
    content["objects"][0]["path"] = path
    del content["sha256"]
    layout.storage.put(name, canonical_json(content))
    layout.storage.delete(MANIFEST)
    with pytest.raises(CorruptionError, match="files inside of it"):
        logitstore.open(layout.storage, allow_partial=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"unit": "000001"}, "name its own unit"),
        ({"attempt": "../../x"}, "an attempt"),
        ({"attempt": "0123abcde"}, "an attempt"),
        ({"blocks": [{"documents": 0, "tokens": 1, "targets": 1}]}, "a block holds nothing"),
        ({"objects": [{"path": "a", "size": 1, "sha256": "0", "chunks": "0x"}]}, "no checksums"),
    ],
)
def test_a_commit_says_what_a_commit_can(
    layout: StoreLayout, change: dict[str, Any], told: str
) -> None:
    """Its hash is right."""
    name = "commits/000000.json"
    content = json.loads(layout.storage.read(name))
    del content["sha256"]
    layout.storage.put(name, with_check(content | change))
    layout.storage.delete(MANIFEST)
    with pytest.raises(CorruptionError, match=f"{re.escape(name)}.*{told}"):
        logitstore.open(layout.storage, allow_partial=True)


@pytest.mark.parametrize("names", [["../../x"], ["000000", "000000"], ["0"], ["a00000"]])
def test_a_plan_names_its_units_each_by_a_number_of_its_own(names: list[str]) -> None:
    units = [vars_of(unit) for unit in plan_of(len(names)).units]
    content = {"units": [unit | {"name": name} for unit, name in zip(units, names, strict=True)]}
    with pytest.raises(CorruptionError, match="names of units"):
        StoreLayout(DictStorage()).parse_plan(with_check(content))


def vars_of(unit: Any) -> dict[str, Any]:
    return {one.name: getattr(unit, one.name) for one in fields(unit)}


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one["units"]["name"].__setitem__(0, "../../x"),
        lambda one: one["units"]["name"].__setitem__(0, one["units"]["name"][1]),
        lambda one: one["units"]["blocks"].__setitem__(0, one["units"]["blocks"][0] + 1),
        lambda one: one["objects"].__setitem__("../../x", "0" * 64),
        lambda one: one.__setitem__("documents", one["documents"] + 1),
        lambda one: one.__setitem__("tokens", one["tokens"] + 1),
        lambda one: one.__setitem__("targets", one["targets"] - 1),
        lambda one: one["sums"].__setitem__("entropy", 1e300),
        lambda one: one["column_bytes"].__setitem__("id", "7"),
    ],
)
def test_a_manifest_says_what_a_manifest_can(
    layout: StoreLayout, change: Callable[[dict[str, Any]], None]
) -> None:
    """Its hash is right, and it is refused before a unit is read."""
    content = json.loads(layout.storage.read(MANIFEST))
    del content["sha256"]
    change(content)
    layout.storage.put(MANIFEST, with_check(content))
    with pytest.raises(CorruptionError, match=r"manifest\.json"):
        load_store(layout.storage)


def test_a_changed_letter_of_a_small_file_is_refused_before_the_seal(storage: Storage) -> None:
    """Of a store that is not sealed yet: what has rotted would be the truth then."""
    layout = write_store(storage, [stored_documents([9])], spec=store_spec(), seal=False)
    for name in ("store.json", "plan.json", "commits/000000.json"):
        data = storage.read(name)
        for place in random.Random(0).sample(range(len(data)), 60):
            if not chr(data[place]).isalnum():
                continue
            storage.put(name, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(CorruptionError, match=re.escape(name)):
                StoreWriter(layout).seal(plan_of(1))
        storage.put(name, data)
    StoreWriter(layout).seal(plan_of(1))


def test_what_rots_before_the_seal_is_not_sealed(storage: Storage) -> None:
    layout = write_store(
        storage,
        [stored_documents([9]), stored_documents([5], seed=1)],
        spec=store_spec(),
        seal=False,
    )
    shards = [name for name in storage.list("data/") if not name.endswith("zarr.json")]
    for name in [*shards, "tokenizer/tokenizer.json"]:
        data = storage.read(name)
        storage.put(name, data[:-1] + bytes([data[-1] ^ 4]))
        with pytest.raises(CorruptionError, match=re.escape(name)):
            StoreWriter(layout).seal(plan_of(2))
        assert storage.size(MANIFEST) is None
        storage.put(name, data)
    StoreWriter(layout).seal(plan_of(2))
    assert not list(verify(storage))


def test_a_file_of_the_tokenizer_that_has_rotted_is_written_anew(storage: Storage) -> None:
    spec = store_spec()
    layout = write_store(storage, [stored_documents([9])], spec=store_spec(), seal=False)
    storage.put("tokenizer/tokenizer.json", b"{ }")
    StoreWriter(layout).begin(spec, plan_of(1), NO_TOKENIZER)
    assert storage.read("tokenizer/tokenizer.json") == NO_TOKENIZER["tokenizer.json"]


@pytest.mark.parametrize(
    "name", ["evil.py", "eval.json", "pytorch_model.bin", "adapter_config.json"]
)
def test_only_what_a_tokenizer_has_is_taken_for_its_files(layout: StoreLayout, name: str) -> None:
    layout.storage.put(f"tokenizer/{name}", b"{}")
    assert set(logitstore.open(layout.storage).tokenizer_files()) == set(NO_TOKENIZER)
    with pytest.raises(SettingError, match="could not be read again"):
        StoreWriter(StoreLayout(DictStorage())).begin(
            store_spec(), plan_of(1), {**NO_TOKENIZER, name: b"{}"}
        )


@pytest.mark.parametrize("written", ["auto_map", "\\u0061uto_map"])
def test_a_tokenizer_that_asks_for_code_is_refused(storage: Storage, written: str) -> None:
    config = json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})
    config = config.replace("auto_map", written)
    files = {**NO_TOKENIZER, "tokenizer_config.json": config.encode()}
    StoreWriter(StoreLayout(storage)).begin(store_spec(), plan_of(1), files)
    with pytest.raises(CorruptionError, match=r"tokenizer_config\.json: .*code of its own"):
        logitstore.open(storage, allow_partial=True).tokenizer_files()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("store.json", "[" * 100_000),
        ("store.json", '{"format": "logitstore/99"}'),
        ("store.json", '{"format": "logitstore/1"}'),
        ("store.json", "null"),
        ("store.json", '{"format": NaN}'),
        ("store.json", '{"format": "\\ud800"}'),
        ("plan.json", '{"units": [{"name": []}]}'),
        ("plan.json", '{"units": [{"name": "../../x"}]}'),
        ("commits/000000.json", '{"unit": 7}'),
    ],
)
def test_hostile_json_is_refused(layout: StoreLayout, name: str, content: str) -> None:
    layout.storage.put(name, content.encode())
    with pytest.raises(CorruptionError, match=name):
        _read_all(layout.storage)
    layout.storage.delete(MANIFEST)
    with pytest.raises(CorruptionError, match=name):
        logitstore.open(layout.storage, allow_partial=True)


@pytest.mark.parametrize(
    ("sparsifier", "change"),
    [
        ("topk", {"tail_nodes": [1.0, 0.009]}),
        ("topk", {"tail_nodes": [1.0, *(1 / (2 + n) for n in range(64))]}),
        ("topk", {"tail_nodes": [1.5, 1.0]}),
        ("unbiased", {"temperatures": [0.05]}),
        ("unbiased", {"temperatures": [101.0]}),
        ("unbiased", {"temperatures": [1.0, 1.0]}),
        ("unbiased", {"repeats": 65}),
        ("unbiased", {"temperatures": [1.0, 2.0], "repeats": 33}),
    ],
)
def test_a_store_may_say_no_more_than_options_may(
    storage: Storage, sparsifier: str, change: dict[str, Any]
) -> None:
    spec = store_spec(sparsifier=sparsifier_spec(sparsifier))
    storage.put("store.json", canonical_json(spec.to_json()))
    storage.put("plan.json", canonical_json(plan_of(1).to_json()))
    assert len(logitstore.open(storage, allow_partial=True)) == 0
    content = spec.to_json()
    content["sparsifier"] |= change
    storage.put("store.json", canonical_json(content))
    with pytest.raises(CorruptionError, match=r"store\.json"):
        logitstore.open(storage, allow_partial=True)


@pytest.mark.parametrize(
    "content", [b"[" * (8 << 20), b"[" + b"0," * (9 << 20) + b"0]", b"[" + b"[],{}," * (1 << 19)]
)
def test_json_that_would_fill_memory_is_refused_before_it_is_parsed(
    layout: StoreLayout, content: bytes
) -> None:
    layout.storage.put("plan.json", content)
    layout.storage.delete(MANIFEST)
    with (
        peak_memory() as peak,
        pytest.raises(CorruptionError, match=r"plan\.json: JSON holds too much"),
    ):
        logitstore.open(layout.storage, allow_partial=True)
    assert peak.bytes < 60 << 20


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("store.json", 64 << 20),
        ("plan.json", 64 << 20),
        ("manifest.json", 64 << 20),
        ("commits/000000.json", 4 << 20),
        ("tokenizer/tokenizer.json", 256 << 20),
    ],
)
@pytest.mark.parametrize("huge", [False, True])
def test_a_huge_sparse_file_is_refused_by_its_size(
    tmp_path: Path, name: str, most: int, huge: bool
) -> None:
    write_store(tmp_path, UNITS, spec=store_spec())
    with (tmp_path / name).open("ab") as file:
        file.truncate(1 << 40 if huge else most + 1)
    started = time.monotonic()
    with pytest.raises(CorruptionError, match=f"{re.escape(name)}: file is too large"):
        _read_all(LocalStorage(tmp_path))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (1 << 22, r"no order of the vocabulary .found 300 ids"),
        ((1 << 22) + 1, "vocab_size is out of range"),
        (1 << 40, "vocab_size is out of range"),
    ],
)
def test_a_vocabulary_larger_than_its_table_costs_no_memory(
    layout: StoreLayout, size: int, told: str
) -> None:
    content = json.loads(layout.storage.read("store.json"))
    content["tokenizer"]["vocab_size"] = size
    del content["sha256"]
    layout.storage.put("store.json", canonical_json(content))
    with pytest.raises(CorruptionError, match=told):
        load_store(layout.storage).read_block(0)


class _Flaky(DictStorage):
    """Refuses some requests, as a disk that is about to die."""

    def __init__(self, objects: dict[str, bytes], *, refused: str, often: float) -> None:
        super().__init__()
        self.objects, self.refused, self.often = objects, refused, often
        self.random = random.Random(0)
        self.requests: list[tuple[str, str]] = []

    def read(self, name: str) -> bytes:
        self._refuse("read", name)
        return super().read(name)

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self._refuse("read_ranges", name)
        return super().read_ranges(name, ranges)

    def size(self, name: str) -> int | None:
        self._refuse("size", name)
        return super().size(name)

    def list(self, prefix: str) -> Iterator[str]:
        self._refuse("list", prefix)
        return super().list(prefix)

    def _refuse(self, request: str, name: str) -> None:
        self.requests.append((request, name))
        if request == self.refused and self.random.random() < self.often:
            raise StorageError("the disk refused", place=name)


@pytest.mark.parametrize("refused", ["read", "read_ranges", "size", "list"])
@pytest.mark.parametrize("often", [0.02, 0.1, 0.5])
def test_verify_goes_on_where_the_disk_refuses(
    refused: str, often: float, container: str, caplog: pytest.LogCaptureFixture
) -> None:
    sound = DictStorage()
    write_store(sound, UNITS, spec=store_spec(container=container))
    storage = _Flaky(sound.objects, refused=refused, often=often)
    lists = refused == "list"  # of files that the store does not name
    found = [fault for _ in range(60 if lists else 20) for fault in verify(storage, strict=lists)]
    gc.collect()
    assert all("refused" in str(fault) or "Zarr" in str(fault) for fault in found)
    assert found or often < 0.1
    assert not caplog.records  # asyncio logs errors that nobody has looked at


def test_verify_reads_what_is_there_of_an_unfinished_store(storage: Storage) -> None:
    write_store(storage, UNITS, spec=store_spec(), seal=False)
    storage.delete("commits/000002.json")
    (told,) = verify(storage)
    assert "not finished" in told.problem
    assert told.found == "2 of 3 units"
    assert "Run the command that wrote it again" in str(told)
    (name,) = (one for one in storage.list("data/000001-") if "entries/c" in one)
    data = bytearray(storage.read(name))
    data[len(data) // 2] ^= 1
    storage.put(name, bytes(data))
    for how in ({}, {"hashes": True}):
        assert [fault.place for fault in verify(storage, **how)] == [
            told.place,
            place_of(storage, name),
        ]
    assert list(verify(storage, fast=True)) == [told]


@pytest.mark.parametrize("seed", range(8))
def test_verify_tells_a_changed_byte_once(layout: StoreLayout, seed: int) -> None:
    """By its file, not by each block that cannot be read for it."""
    storage = layout.storage
    names = sorted(storage.list("data/"))
    name = random.Random(seed).choice(names)
    data = bytearray(storage.read(name))
    data[random.Random(seed).randrange(len(data))] ^= 1
    storage.put(name, bytes(data))
    assert [fault.place for fault in verify(storage)] == [place_of(storage, name)]


@pytest.mark.parametrize("how", [{"fast": "yes"}, {"hashes": 1}, {"fast": None}])
def test_what_is_no_yes_or_no_is_refused(storage: Storage, how: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="must be True or False"):
        verify(storage, **how)


def test_a_store_is_one_line(layout: StoreLayout, container: str) -> None:
    store = logitstore.open(layout.storage)
    targets = sum(len(stored.targets) for unit in UNITS for stored in unit)
    said = f"10 documents, {targets} targets, topk, {container}, sealed>"
    assert repr(store) == f"<Store {layout.uri!r}: {said}"


def test_open_shards_are_let_go(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many units a store has, only some of their tables are in memory."""
    units = [stored_documents([4 + number], seed=number) for number in range(8)]
    write_store(storage, units, spec=store_spec())
    monkeypatch.setattr(open_shards, "_SHARDS_BYTES", 0)
    monkeypatch.setattr(open_shards, "_LEAST_SHARDS", 2)
    store = logitstore.open(storage)
    lengths = [len(one.document) for one in store]
    assert lengths == [4 + number for number in range(8)]
    info = store.shards._cached.cache_info()  # type: ignore[attr-defined]
    assert (info.currsize, info.misses) == (2, 8)


def test_draws_share_the_open_shards(layout: StoreLayout) -> None:
    """A shard of many repeats is opened once, not once for each."""
    store = logitstore.open(layout.storage)
    assert store.with_draw(0).shards is store.shards


@pytest.mark.parametrize("units", [1, 12])
def test_opening_asks_for_as_much_however_many_units_there_are(units: int) -> None:
    storage = _Flaky({}, refused="", often=0.0)
    write_store(storage, [UNITS[2]] * units, spec=store_spec())
    storage.requests.clear()
    store = logitstore.open(storage)
    inspect(store)
    assert len(store.blocks) == units
    assert len(storage.requests) == 14
    assert not any(name.startswith(("commits/", "data/")) for _, name in storage.requests)


def test_a_unit_is_read_when_it_is_asked_for(layout: StoreLayout) -> None:
    """Opening costs no request for each unit."""
    layout.storage.delete("commits/000001.json")
    store = logitstore.open(layout.storage)
    assert len(store.read_block(0)) == store.blocks[0].documents
    with pytest.raises(CorruptionError, match=r"commits/000001\.json: a commit .* is missing"):
        list(store)


def test_a_commit_of_another_store_is_refused(layout: StoreLayout) -> None:
    """Its own hash is right, and so is that of its shard."""
    storage = layout.storage
    other = write_store(DictStorage(), UNITS[::-1], spec=layout.read_spec()).storage
    for name in other.list("commits/000001"):
        storage.put(name, other.read(name))
    for name in other.list("data/000001-"):
        storage.put(name, other.read(name))
    with pytest.raises(CorruptionError, match=r"commits/000001.*has changed since"):
        list(logitstore.open(storage))
    assert any("commits/000001.json" in str(fault) for fault in verify(storage))


def test_counts_of_blocks_that_no_commit_says_are_refused(layout: StoreLayout) -> None:
    """All hashes are right, and what the manifest says adds up."""
    content = json.loads(layout.storage.read(MANIFEST))
    del content["sha256"]
    counts = content["blocks"]["tokens"]
    counts[0], counts[1] = counts[0] + 1, counts[1] - 1
    layout.storage.put(MANIFEST, with_check(content))
    told = r"commits/000000\.json: the manifest says other counts of blocks"
    with pytest.raises(CorruptionError, match=told):
        list(logitstore.open(layout.storage))
    assert re.search(told, "\n".join(map(str, verify(layout.storage))))


def test_a_store_pickles_also_after_it_was_read(layout: StoreLayout) -> None:
    store = logitstore.open(layout.storage)
    wanted = [stored.targets.ids_RK for stored in store]
    assert np.array_equal(store[3].targets.ids_RK, wanted[3])
    again = pickle.loads(pickle.dumps(store))
    assert "_cached" not in vars(again.shards)
    assert (repr(again), again.fingerprint) == (repr(store), store.fingerprint)
    for stored, ids_RK in zip(again, wanted, strict=True):
        assert np.array_equal(stored.targets.ids_RK, ids_RK)


def test_a_store_gives_its_tokenizers_files(layout: StoreLayout) -> None:
    assert logitstore.open(layout.storage).tokenizer_files() == NO_TOKENIZER


def test_an_open_store_is_taken_as_it_is(layout: StoreLayout, storage: Storage) -> None:
    store = logitstore.open(storage)
    assert as_store(store) is store
    assert as_store(storage).fingerprint == store.fingerprint
    assert inspect(store) == inspect(storage)
    assert list(verify(store)) == []
    storage.delete(MANIFEST)
    partial = logitstore.open(storage, allow_partial=True)
    assert as_store(partial, allow_partial=True) is partial
    with pytest.raises(StoreError, match="not finished"):
        as_store(partial)


UNSERVED = ["ftp://host/store", "S4://b"]


@pytest.mark.parametrize("uri", UNSERVED)
@pytest.mark.parametrize(
    "use", [logitstore.open, inspect, lambda uri: verify(uri)], ids=["open", "inspect", "verify"]
)
def test_a_uri_that_nothing_serves_is_refused_and_makes_no_folder(
    use: Callable[[str], object], uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=rf"{uri}.*a folder, file://.*Copy or mount"):
        use(uri)
    assert not list(tmp_path.iterdir())


def test_inspect_tells_no_means_of_a_store_without_targets(storage: Storage) -> None:
    StoreWriter(StoreLayout(storage)).begin(store_spec(), plan_of(1), {})
    content = inspect(storage)
    assert (content["targets"], content["sealed"], content["units_done"]) == (0, False, 0)
    for name in ("bytes_per_target", "teacher_loss", "teacher_entropy", "retained_mass"):
        assert content[name] is None


def test_verify_of_what_is_no_store_is_one_error(storage: Storage) -> None:
    for depth in ({"fast": True}, {}):
        with pytest.raises(StoreError, match="no store here"):
            verify(storage, **depth)


def test_one_number_of_bytes(layout: StoreLayout) -> None:
    """What inspect says, the manifest and the card of one store are the same."""
    size = inspect(layout.storage)["bytes"]
    assert size == layout.read_manifest().bytes
    assert f"| bytes | {size:,} (" in layout.storage.read(README).decode()


def test_documents_are_numbered_and_shown_on_a_line(layout: StoreLayout) -> None:
    store = logitstore.open(layout.storage)
    assert store[np.int64(0)].document.id == store[0].document.id
    for index in ("a", 1.0, None):
        with pytest.raises(TypeError, match=f"an integer or a slice, not {type(index).__name__}"):
            store[index]  # type: ignore[call-overload]
    for one in (store[0], store[0].document, store.read_block(0)):
        assert len(repr(one).splitlines()) == 1
        assert "tokens" in repr(one)


def test_inspect_adds_up(layout: StoreLayout) -> None:
    storage = layout.storage
    content = inspect(storage)
    targets = sum(len(stored.targets) for unit in UNITS for stored in unit)
    assert content["targets"] == targets
    assert content["sealed"] is True
    assert sum(content["column_bytes_per_target"].values()) == pytest.approx(
        content["bytes_per_target"]
    )
    left_out = (README, MANIFEST, "tokenizer/")
    counted = [name for name in storage.list("") if not name.startswith(left_out)]
    assert content["bytes"] == sum(storage.size(name) or 0 for name in counted)
    head = [np.exp(stored.targets.logprobs_RK).sum() for unit in UNITS for stored in unit]
    assert content["retained_mass"] == pytest.approx(sum(head) / targets, rel=1e-5)
