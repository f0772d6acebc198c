"""Stores: begun once, committed by the first, sealed, read as a sequence, verified."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import logitstore
from logitstore.errors import CorruptionError, SpecError, StorageError, StoreError
from logitstore.format.json import canonical_json
from logitstore.store.commit import StoreWriter, refuse_foreign_folder
from logitstore.store.files import explain_io, put_if_absent
from logitstore.store.inspect import inspect
from logitstore.store.layout import Layout
from logitstore.store.lease import Lease
from logitstore.store.verify import verify
from logitstore.store.writer import UnitWriter
from tests.synthetic import NoTokenizer, plan_of, store_spec, stored_documents, write_store

UNITS = [
    stored_documents([30, 60, 12, 50], masked=True),
    stored_documents([64] * 5, seed=10),
    stored_documents([2], seed=20),
]


@pytest.fixture(params=["zarr", "parquet"])
def container(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(container: str, tmp_path: Path) -> Path:
    write_store(tmp_path / "store", UNITS, spec=store_spec(container=container))
    return tmp_path / "store"


def test_a_store_is_the_sequence_of_its_documents(folder: Path) -> None:
    store = logitstore.open(folder)
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


def test_both_containers_hold_equal_values(tmp_path: Path) -> None:
    stores = []
    for name in ("zarr", "parquet"):
        write_store(tmp_path / name, UNITS, spec=store_spec(container=name))
        stores.append(logitstore.open(tmp_path / name))
    for one, two in zip(*stores, strict=True):
        assert np.array_equal(one.document.input_ids_L, two.document.input_ids_L)
        for name in ("ids_RK", "logprobs_RK", "tail_logmass_RB", "label_logprob_R", "entropy_R"):
            assert np.array_equal(getattr(one.targets, name), getattr(two.targets, name))


def test_blocks_hold_whole_documents_of_about_the_size_asked_for(folder: Path) -> None:
    store = logitstore.open(folder)
    assert len(store.blocks) > len(UNITS)
    assert all(block.targets <= 100 for block in store.blocks)
    for number, block in enumerate(store.blocks):
        tokens_D, targets_D = store.document_lengths(number)
        assert (len(tokens_D), tokens_D.sum(), targets_D.sum()) == (
            block.documents,
            block.tokens,
            block.targets,
        )


def test_the_same_dump_twice_has_the_same_fingerprint(
    container: str, folder: Path, tmp_path: Path
) -> None:
    spec = replace(store_spec(container=container), provenance={"created": "another day"})
    write_store(tmp_path / "again", UNITS, spec=spec)
    other = write_store(tmp_path / "other", UNITS[::-1], spec=spec)
    fingerprint = logitstore.open(folder).fingerprint
    assert logitstore.open(tmp_path / "again").fingerprint == fingerprint
    assert logitstore.open(other.folder).fingerprint != fingerprint


def test_an_unsealed_store_is_read_only_on_demand(tmp_path: Path) -> None:
    write_store(tmp_path / "store", UNITS, spec=store_spec(), seal=False)
    (tmp_path / "store" / "commits" / "000001.json").unlink()
    with pytest.raises(StoreError, match="not finished"):
        logitstore.open(tmp_path / "store")
    assert len(logitstore.open(tmp_path / "store", allow_partial=True)) == 5
    assert inspect(tmp_path / "store")["units_done"] == 2


def test_no_store_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store\.json"):
        logitstore.open(tmp_path)


def test_another_spec_is_refused_with_the_fields_that_differ(folder: Path, container: str) -> None:
    writer = StoreWriter(Layout(folder))
    other = store_spec(container=container, k=9)
    with pytest.raises(SpecError, match=r"sparsifier\.k: 8 there, 9 here"):
        writer.begin(other, plan_of(3), NoTokenizer())


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    refuse_foreign_folder(tmp_path / "new")
    (tmp_path / ".store.json.12345678.tmp").write_text("left by a killed process")
    refuse_foreign_folder(tmp_path)
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        refuse_foreign_folder(tmp_path)
    with pytest.raises(StoreError, match="is a file"):
        refuse_foreign_folder(tmp_path / "thesis.tex")


def test_the_second_attempt_at_a_unit_loses_and_leaves_nothing(folder: Path) -> None:
    layout = Layout(folder)
    writer = UnitWriter.of(StoreWriter(layout), layout.read_spec())
    before = sorted(path.name for path in layout.data.iterdir())
    assert writer.write(plan_of(3).units[0], UNITS[1], skipped=0) is False
    assert sorted(path.name for path in layout.data.iterdir()) == before


def test_sealing_sweeps_what_no_commit_names(tmp_path: Path) -> None:
    layout = write_store(tmp_path / "store", UNITS, spec=store_spec(), seal=False)
    (layout.data / "000000-deadbeef").mkdir()
    (layout.commits / ".000000.json.00000000.tmp").write_text("half a commit")
    with pytest.raises(StoreError, match="3 of 4 units"):
        StoreWriter(layout).seal(plan_of(4))
    StoreWriter(layout).seal(plan_of(3))
    assert len(list(layout.data.iterdir())) == 3
    assert list(verify(layout.folder)) == []


def test_one_of_many_racing_writers_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        won = pool.starmap(_race, [(str(tmp_path), number) for number in range(4)])
    assert [sum(column) for column in zip(*won, strict=True)] == [1] * 50


def _race(folder: str, number: int) -> list[bool]:
    return [put_if_absent(Path(folder) / f"{round_}.json", b"%d" % number) for round_ in range(50)]


def test_put_if_absent_works_where_links_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert put_if_absent(tmp_path / "one", b"first")
    assert not put_if_absent(tmp_path / "one", b"second")
    assert (tmp_path / "one").read_bytes() == b"first"


def test_a_full_disk_is_told_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no space left.*resumes"), explain_io(tmp_path):
        raise OSError(28, "No space left on device", str(tmp_path))


def test_leases_lapse_with_their_process(tmp_path: Path) -> None:
    unit = plan_of(1).units[0]
    lease = Lease(Layout(tmp_path), unit)
    assert lease.take()
    assert lease.take()  # our own, left from before
    owner = json.loads(lease.path.read_bytes())
    lease.path.write_text(json.dumps(owner | {"pid": os.getppid()}))
    assert not lease.take()
    os.utime(lease.path, (0, 0))
    assert lease.take()
    lease.path.write_text(json.dumps(owner | {"pid": 2**22 + 1}))
    assert lease.take()
    lease.release()
    assert not lease.path.exists()


def test_a_sound_store_has_no_faults(folder: Path) -> None:
    for depth in ("fast", "hashes", "full"):
        assert list(verify(folder, depth=depth)) == []


def _shard(folder: Path) -> Path:
    return sorted((folder / "data").iterdir())[1]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a shard's file flipped": lambda folder: _flip(
        max(_shard(folder).rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    ),
    "a shard gone": lambda folder: shutil.rmtree(_shard(folder)),
    "a commit gone": lambda folder: (folder / "commits" / "000001.json").unlink(),
    "a commit changed": lambda folder: _flip(folder / "commits" / "000001.json"),
    "the plan changed": lambda folder: _flip(folder / "plan.json"),
    "the spec changed": lambda folder: _flip(folder / "store.json"),
    "the tokenizer changed": lambda folder: (folder / "tokenizer" / "tokenizer.json").write_text(
        "{ }"
    ),
    "the manifest changed": lambda folder: _flip(folder / "manifest.json"),
    "the manifest reformatted": lambda folder: (folder / "manifest.json").write_text(
        json.dumps(json.loads((folder / "manifest.json").read_text()))
    ),
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_verify_names_every_damage(folder: Path, damage: str) -> None:
    DAMAGE[damage](folder)
    faults = list(verify(folder))
    assert faults
    assert all(str(folder) in fault or "block" in fault for fault in faults)


def test_verify_tells_what_a_row_may_not_hold(tmp_path: Path) -> None:
    documents = stored_documents([10])
    targets = documents[0].targets
    twice_RK = targets.ids_RK.copy()
    twice_RK[3, 1] = twice_RK[3, 0]
    broken = replace(documents[0], targets=replace(targets, ids_RK=twice_RK))
    write_store(tmp_path / "twice", [[broken]], spec=store_spec())
    assert any("target 3: a row holds an id twice" in one for one in verify(tmp_path / "twice"))
    heavy_RB = targets.tail_logmass_RB.copy()
    heavy_RB[5, 0] = 0.0
    broken = replace(documents[0], targets=replace(targets, tail_logmass_RB=heavy_RB))
    write_store(tmp_path / "heavy", [[broken]], spec=store_spec())
    assert any("target 5: a row's mass is not 1" in one for one in verify(tmp_path / "heavy"))


@pytest.mark.parametrize(
    "file", ["store.json", "plan.json", "commits/000001.json", "tokenizer/tokenizer.json"]
)
def test_a_changed_small_file_is_refused_when_the_store_is_opened(folder: Path, file: str) -> None:
    """A digit of the spec decides what the shards are decoded to."""
    path = folder / file
    path.write_text(path.read_text().replace("10", "20", 1) + " ")
    with pytest.raises(CorruptionError, match=path.name):
        logitstore.open(folder)


def test_a_small_file_of_another_unit_is_refused(folder: Path, container: str) -> None:
    """Its own checksums are right; what it says is not about this shard."""
    name = {"zarr": "ranking/c/0/0", "parquet": "ranking.parquet"}[container]
    one, two = (shard / name for shard in sorted((folder / "data").iterdir())[:2])
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second.ljust(len(first), b"0")[: len(first)])
    two.write_bytes(first.ljust(len(second), b"0")[: len(second)])
    with pytest.raises(CorruptionError, match="ranking"):
        list(logitstore.open(folder))


def test_the_manifest_lists_all_and_nothing_else(folder: Path) -> None:
    (folder / "tokenizer" / "extra.json").write_text("{}")
    assert any("extra.json" in fault for fault in verify(folder))
    (folder / "tokenizer" / "extra.json").unlink()
    content = json.loads((folder / "manifest.json").read_text())
    for change in ({"bytes": 1}, {"format": "other/9"}, {"documents": 1}):
        (folder / "manifest.json").write_bytes(canonical_json(content | change))
        assert list(verify(folder)), change
    del content["objects"]["plan.json"]
    (folder / "manifest.json").write_bytes(canonical_json(content))
    assert any("plan.json" in fault for fault in verify(folder))


def test_sealing_again_finishes_what_a_killed_process_left(folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / ".README.md.00000000.tmp").write_text("half")
    manifest = (folder / "manifest.json").read_bytes()
    StoreWriter(Layout(folder)).seal(plan_of(3))
    assert (folder / "README.md").is_file()
    assert not list(folder.glob(".*.tmp"))
    assert (folder / "manifest.json").read_bytes() == manifest


def test_reading_a_damaged_block_names_the_file(folder: Path) -> None:
    DAMAGE["a shard's file flipped"](folder)
    with pytest.raises(CorruptionError, match=_shard(folder).name):
        list(logitstore.open(folder))


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a//b", "c/../../../x"])
def test_paths_that_leave_the_store_are_refused(folder: Path, path: str) -> None:
    place = folder / "commits" / "000000.json"
    content = json.loads(place.read_text())
    content["objects"][0]["path"] = path
    place.write_bytes(canonical_json(content))
    with pytest.raises(CorruptionError, match="files inside of it"):
        logitstore.open(folder)


@pytest.mark.parametrize(
    ("file", "content"),
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
def test_hostile_json_is_refused(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(CorruptionError, match=file.split("/")[-1]):
        logitstore.open(folder)


def test_inspect_adds_up(folder: Path) -> None:
    content = inspect(folder)
    targets = sum(len(stored.targets) for unit in UNITS for stored in unit)
    assert content["targets"] == targets
    assert content["sealed"] is True
    assert sum(content["column_bytes_per_target"].values()) == pytest.approx(
        content["bytes_per_target"]
    )
    counted = [folder / "store.json", folder / "plan.json", folder / "manifest.json"]
    counted += [*(folder / "commits").iterdir()]
    counted += [path for path in (folder / "data").rglob("*") if path.is_file()]
    assert content["bytes"] == sum(path.stat().st_size for path in counted)
    head = [np.exp(stored.targets.logprobs_RK).sum() for unit in UNITS for stored in unit]
    assert content["retained_mass"] == pytest.approx(sum(head) / targets, rel=1e-5)
