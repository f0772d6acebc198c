"""Containers: equal values from each, every flipped bit noticed, formats readable by others."""

import json
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

BLOCKS = [
    DocumentBlock.join(stored_documents([9, 30, 2], masked=True)),
    DocumentBlock.join(stored_documents([50], seed=1)),
]


def _columns() -> tuple[list[Columns], np.ndarray]:
    codec = new_codec(store_spec().sparsifier, vocab_size=300)
    ranking_V = codec.rank(BLOCKS)
    return [codec.encode(block, ranking_V) for block in BLOCKS], ranking_V


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


def _drawn_columns() -> tuple[list[Columns], np.ndarray]:
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
    ranking_V = codec.rank(blocks)
    return [codec.encode(block, ranking_V) for block in blocks], ranking_V


def _open(container: str, folder: Path, objects: list[StoredObject]) -> ShardReader:
    return CONTAINERS[container].open(folder, blocks=_counts(), objects=objects)


def _same(found: Columns, wanted: Columns) -> bool:
    arrays = ("id_deltas_RK", "codes_RK", "tokens_N", "counted_N", "documents_DC")
    return all(
        np.array_equal(getattr(found, name), getattr(wanted, name)) for name in arrays
    ) and all(np.array_equal(found.scalars[name], wanted.scalars[name]) for name in wanted.scalars)


@pytest.fixture(params=sorted(CONTAINERS))
def container(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(container: str, tmp_path: Path) -> Path:
    columns, ranking_V = _columns()
    shard = tmp_path / "shard"
    shard.mkdir()
    CONTAINERS[container].write(shard, columns, ranking_V)
    return shard


def test_columns_come_back_equal(container: str, folder: Path) -> None:
    columns, ranking_V = _columns()
    shard = _open(container, folder, _objects(folder))
    assert np.array_equal(shard.ranking_V, ranking_V)
    for number, wanted in enumerate(columns):
        assert _same(shard.block(number), wanted)
        assert np.array_equal(shard.documents(number), wanted.documents_DC)


def test_equal_columns_give_equal_bytes(container: str, folder: Path, tmp_path: Path) -> None:
    columns, ranking_V = _columns()
    again = tmp_path / "again"
    again.mkdir()
    CONTAINERS[container].write(again, columns, ranking_V)
    assert _objects(again) == _objects(folder)


def test_every_byte_belongs_to_a_column(container: str, folder: Path) -> None:
    sizes = CONTAINERS[container].column_bytes(folder)
    assert sum(sizes.values()) == sum(one.size for one in _objects(folder))
    assert {"id_delta", "code", "floor", "tail_0", "token_id", "documents"} <= set(sizes)


def test_no_flipped_bit_changes_a_value(container: str, folder: Path) -> None:
    """Every file, spread over its bytes: each flip is refused or harmless, none is silent."""
    columns, ranking_V = _columns()
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
                assert np.array_equal(shard.ranking_V, ranking_V)
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


@pytest.mark.parametrize("sampled", [False, True])
def test_draws_lie_side_by_side(container: str, sampled: bool, tmp_path: Path) -> None:
    columns, ranking_V = _drawn_columns()
    shard = tmp_path / "shard"
    CONTAINERS[container].write(shard, columns, ranking_V, draws=2, sampled=sampled)
    opened = _open(container, shard, _objects(shard))
    for number, wanted in enumerate(columns):
        assert _same(opened.block(number), wanted)
        for draw in range(2):
            found = opened.block(number, draw=draw)
            own = slice(6 * draw, 6 * draw + 6)
            wide = found.id_deltas_RK.shape[1] > 6  # a container may give the others as well
            deltas_RK = found.id_deltas_RK[:, own] if wide else found.id_deltas_RK
            assert np.array_equal(deltas_RK, wanted.id_deltas_RK[:, own])


def test_another_order_of_axes_is_refused(tmp_path: Path) -> None:
    columns, ranking_V = _drawn_columns()
    shard = tmp_path / "shard"
    CONTAINERS["zarr"].write(shard, columns, ranking_V, draws=2, sampled=True)
    metadata = shard / "entries" / "zarr.json"
    text = metadata.read_text()
    content = json.loads(text)
    content["codecs"][0]["configuration"]["codecs"][0]["configuration"]["order"] = [1, 0, 2]
    metadata.write_text(json.dumps(content))
    with pytest.raises(CorruptionError, match="other codecs"):
        _open("zarr", shard, _objects(shard)).block(0)
