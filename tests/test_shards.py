"""Containers: equal values from each, every flipped bit noticed, formats readable by others."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from logitstore.codec import new_codec
from logitstore.errors import CorruptionError
from logitstore.format.columns import Columns, planes_needed
from logitstore.format.manifest import BlockCounts, StoredObject
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.store.containers import CONTAINERS, ShardReader
from logitstore.store.files import sha256_of
from logitstore.targets.documents import DocumentBlock
from tests.synthetic import store_spec, stored_documents

Tables = dict[str, np.ndarray]
ENTRIES = ("id_delta", "code")
BLOCKS = [
    DocumentBlock.join(stored_documents([9, 30, 2], masked=True)),
    DocumentBlock.join(stored_documents([50], seed=1)),
]


def _columns() -> tuple[list[Columns], Tables]:
    codec = new_codec(store_spec().sparsifier, vocab_size=300)
    tables = codec.tables(BLOCKS)
    return [codec.encode(block, tables) for block in BLOCKS], tables


def _counts() -> list[BlockCounts]:
    return [
        BlockCounts(documents=len(one), tokens=len(one.input_ids_N), targets=len(one.targets))
        for one in BLOCKS
    ]


def _objects(folder: Path) -> list[StoredObject]:
    return [
        StoredObject(
            path=path.relative_to(folder).as_posix(),
            size=path.stat().st_size,
            sha256=sha256_of(path),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


DRAWN = sparsifier_spec("unbiased", k=6, temperatures=[1, 2])


def _drawn_columns() -> tuple[list[Columns], Tables]:
    """The same documents with two draws of each target."""
    blocks = []
    for block in BLOCKS:
        rows = len(block.targets)
        logits_RV = 2 * torch.randn(rows, 300, generator=torch.Generator().manual_seed(rows))
        draws = SPARSIFIERS["unbiased"].draw(
            logits_RV,
            torch.zeros(rows, dtype=torch.int64),
            np.arange(rows, dtype=np.uint64),
            DRAWN,
        )
        blocks.append(replace(block, targets=draws[0], further=draws[1:]))
    codec = new_codec(DRAWN, vocab_size=300)
    tables = codec.tables(blocks)
    return [codec.encode(block, tables) for block in blocks], tables


def _open(container: str, folder: Path, objects: list[StoredObject]) -> ShardReader:
    return CONTAINERS[container].open(folder, blocks=_counts(), objects=objects, entries=ENTRIES)


def _same(found: Columns, wanted: Columns) -> bool:
    arrays = ("tokens_N", "counted_N", "documents_DC")
    return (
        all(np.array_equal(getattr(found, name), getattr(wanted, name)) for name in arrays)
        and _same_arrays(found.entries, wanted.entries)
        and _same_arrays(found.scalars, wanted.scalars)
    )


def _same_arrays(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> bool:
    return set(found) == set(wanted) and all(
        np.array_equal(found[name], wanted[name]) for name in wanted
    )


@pytest.fixture(params=sorted(CONTAINERS))
def container(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(container: str, tmp_path: Path) -> Path:
    columns, tables = _columns()
    shard = tmp_path / "shard"
    shard.mkdir()
    CONTAINERS[container].write(shard, columns, tables)
    return shard


def test_columns_come_back_equal(container: str, folder: Path) -> None:
    columns, tables = _columns()
    shard = _open(container, folder, _objects(folder))
    assert _same_arrays(shard.tables, tables)
    for number, wanted in enumerate(columns):
        assert _same(shard.block(number), wanted)
        assert np.array_equal(shard.documents(number), wanted.documents_DC)


def test_equal_columns_give_equal_bytes(container: str, folder: Path, tmp_path: Path) -> None:
    columns, tables = _columns()
    again = tmp_path / "again"
    again.mkdir()
    CONTAINERS[container].write(again, columns, tables)
    assert _objects(again) == _objects(folder)


def test_every_byte_belongs_to_a_column(container: str, folder: Path) -> None:
    sizes = _open(container, folder, _objects(folder)).column_bytes()
    assert sum(sizes.values()) == sum(one.size for one in _objects(folder))
    assert {"id_delta", "code", "floor", "tail_0", "token_id", "documents"} <= set(sizes)


def test_no_flipped_bit_changes_a_value(container: str, folder: Path) -> None:
    """Every file, spread over its bytes: each flip is refused or harmless, none is silent."""
    columns, tables = _columns()
    objects = _objects(folder)
    generator = np.random.default_rng(0)
    noticed = tried = 0
    for one in objects:
        path = folder / one.path
        whole = path.read_bytes()
        for place in generator.choice(len(whole), size=min(40, len(whole)), replace=False):
            broken = bytearray(whole)
            broken[place] ^= 1 << int(generator.integers(8))
            path.write_bytes(broken)
            tried += 1
            try:
                shard = _open(container, folder, objects)
                assert _same_arrays(shard.tables, tables)
                assert all(_same(shard.block(n), wanted) for n, wanted in enumerate(columns))
            except CorruptionError:
                noticed += 1
        path.write_bytes(whole)
    assert noticed > 0.95 * tried


def test_truncated_and_missing_files_are_named(container: str, folder: Path) -> None:
    objects = _objects(folder)
    for one in objects:
        path = folder / one.path
        whole = path.read_bytes()
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(CorruptionError, match=path.name):
                _open(container, folder, objects)
        path.unlink()
        with pytest.raises(CorruptionError, match="no file"):
            _open(container, folder, objects)
        path.write_bytes(whole)


def test_a_chunk_of_another_shard_is_not_taken_for_ours(container: str, folder: Path) -> None:
    shard = _open(container, folder, _objects(folder))
    with pytest.raises((IndexError, CorruptionError)):
        shard.block(2)


def test_wide_integers_need_as_many_planes_as_bytes() -> None:
    assert [planes_needed(one) for one in (0, 255, 256, 65_535, 65_536, 1 << 24)] == [
        1,
        1,
        2,
        2,
        3,
        4,
    ]


@pytest.mark.parametrize("by_entry", [False, True])
def test_draws_lie_side_by_side(container: str, by_entry: bool, tmp_path: Path) -> None:
    columns, tables = _drawn_columns()
    shard = tmp_path / "shard"
    CONTAINERS[container].write(shard, columns, tables, draws=2, by_entry=by_entry)
    opened = _open(container, shard, _objects(shard))
    for number, wanted in enumerate(columns):
        assert _same(opened.block(number), wanted)
        for draw in range(2):
            found = opened.block(number, draw=draw)
            own = slice(6 * draw, 6 * draw + 6)
            for name, found_RK in found.entries.items():
                wide = found_RK.shape[1] > 6  # a container may give the others as well
                own_RK = found_RK[:, own] if wide else found_RK
                assert np.array_equal(own_RK, wanted.entries[name][:, own])


def test_another_order_of_axes_is_refused(tmp_path: Path) -> None:
    columns, tables = _drawn_columns()
    shard = tmp_path / "shard"
    CONTAINERS["zarr"].write(shard, columns, tables, draws=2, by_entry=True)
    metadata = shard / "entries" / "zarr.json"
    text = metadata.read_text()
    content = json.loads(text)
    content["codecs"][0]["configuration"]["codecs"][0]["configuration"]["order"] = [1, 0, 2]
    metadata.write_text(json.dumps(content))
    with pytest.raises(CorruptionError, match="other codecs"):
        _open("zarr", shard, _objects(shard)).block(0)


def test_tables_and_entries_are_whatever_the_codec_makes(container: str, tmp_path: Path) -> None:
    """Three columns of entries, a scalar whose name ends in s, and two tables or none."""
    columns, _ = _columns()
    odd = []
    for one in columns:
        code_RK, delta_RK = one.entries["code"], one.entries["id_delta"]
        entries = {"id": code_RK, "mass": delta_RK, "x_1": code_RK}
        odd.append(replace(one, entries=entries, scalars={"odds": one.scalars["count"]}))
    some = {"first": np.arange(7, dtype=np.uint32), "second": np.array([1 << 31], dtype=np.uint32)}
    for name, tables in (("some", some), ("none", {})):
        shard = tmp_path / name
        CONTAINERS[container].write(shard, odd, tables)
        opened = CONTAINERS[container].open(
            shard, blocks=_counts(), objects=_objects(shard), entries=("id", "mass", "x_1")
        )
        assert _same_arrays(opened.tables, tables)
        assert all(_same(opened.block(n), wanted) for n, wanted in enumerate(odd))
        sizes = opened.column_bytes()
        assert {"id", "mass", "x_1", "odds", *(f"{one}_id" for one in tables)} <= set(sizes)
