"""Containers: equal values from each, every flipped bit noticed, formats readable by others."""

import hashlib
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numcodecs import Zstd

from logitstore.codec import new_codec
from logitstore.errors import CorruptionError
from logitstore.format.blocks import BlockCounts
from logitstore.format.columns import Columns, planes_needed
from logitstore.format.manifest import StoredObject
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.store.containers import CONTAINERS, ShardReader, load_container
from logitstore.store.containers.limits import ShardLimits
from logitstore.store.containers.parquet_pages import Chunk, check_pages
from logitstore.store.containers.zarr_checks import CHUNKED
from logitstore.store.containers.zarr_objects import unpacked_size
from logitstore.targets.documents import DocumentBlock
from tests.peak_memory import peak_memory
from tests.synthetic import store_spec, stored_documents
from tools.dict_storage import DictStorage

Tables = dict[str, np.ndarray]
Names = tuple[str, ...]
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


def _objects(storage: DictStorage) -> list[StoredObject]:
    return [
        StoredObject(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in sorted(storage.objects.items())
    ]


def _written(container: str, columns: list[Columns], tables: Tables, **how: Any) -> DictStorage:
    storage = DictStorage()
    storage.objects = dict(load_container(container).write(columns, tables, **how))
    return storage


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
        blocks.append(replace(block, targets=draws[0], other_draws=draws[1:]))
    codec = new_codec(DRAWN, vocab_size=300)
    tables = codec.tables(blocks)
    return [codec.encode(block, tables) for block in blocks], tables


def _limits(columns: list[Columns], tables: Tables, *, draws: int = 1) -> ShardLimits:
    (width,) = {one.shape[1] for block in columns for one in block.entries.values()}
    return ShardLimits(
        entries=width,
        draws=draws,
        scalars=frozenset(columns[0].scalars),
        tables=frozenset(tables),
        table=65_536,
    )


def _open(
    container: str,
    storage: DictStorage,
    objects: list[StoredObject],
    entries: Names = ENTRIES,
    limits: ShardLimits | None = None,
    prefix: str = "",
) -> ShardReader:
    opener = load_container(container)
    limits = limits or _limits(*_columns())
    return opener.open(
        storage, prefix, blocks=_counts(), objects=objects, entries=entries, limits=limits
    )


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
def shard(container: str) -> DictStorage:
    return _written(container, *_columns())


def test_columns_come_back_equal(container: str, shard: DictStorage) -> None:
    columns, tables = _columns()
    opened = _open(container, shard, _objects(shard))
    assert _same_arrays(opened.tables, tables)
    for number, wanted in enumerate(columns):
        assert _same(opened.block(number), wanted)
        assert np.array_equal(opened.documents(number), wanted.documents_DC)


def test_columns_come_back_in_the_declared_types(container: str, shard: DictStorage) -> None:
    """Whatever width the codec gave them: what decodes them may count on it."""
    columns, _ = _columns()
    narrow = [replace(one, entries={**one.entries} | {"code": _narrow(one)}) for one in columns]
    shard = _written(container, narrow, _columns()[1])
    opened = _open(container, shard, _objects(shard))
    assert {one.dtype for one in opened.tables.values()} == {np.dtype(np.uint32)}
    for number in range(len(BLOCKS)):
        found = opened.block(number)
        arrays = [*found.entries.values(), *found.scalars.values(), found.tokens_N]
        assert {one.dtype for one in arrays} == {np.dtype(np.uint32)}
        assert found.counted_N.dtype == np.uint8
        assert found.documents_DC.dtype == opened.documents(number).dtype == np.uint64


def _narrow(columns: Columns) -> np.ndarray:
    """Codes that fit into a byte, in a byte."""
    return (columns.entries["code"] & 0xFF).astype(np.uint8)


def test_a_shard_is_read_where_its_prefix_says(container: str, shard: DictStorage) -> None:
    columns, _ = _columns()
    objects = _objects(shard)
    shard.objects = {f"data/000000-aa/{name}": data for name, data in shard.objects.items()}
    opened = _open(container, shard, objects, prefix="data/000000-aa/")
    assert _same(opened.block(1), columns[1])


def test_names_of_objects_are_plain(shard: DictStorage) -> None:
    for name in shard.objects:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", name)
        assert not {".", ".."} & set(name.split("/"))


def test_equal_columns_give_equal_bytes(container: str, shard: DictStorage) -> None:
    assert _written(container, *_columns()).objects == shard.objects


def test_every_byte_belongs_to_a_column(container: str, shard: DictStorage) -> None:
    sizes = _open(container, shard, _objects(shard)).column_bytes()
    assert sum(sizes.values()) == sum(map(len, shard.objects.values()))
    named = {"id_delta", "code", "floor", "tail_0", "token_id", "token_counted", "ranking_id"}
    assert named | {"documents", "container"} <= set(sizes)


def test_no_flipped_bit_changes_a_value(container: str, shard: DictStorage) -> None:
    """Every object, spread over its bytes: each flip is refused or harmless, none is silent."""
    columns, tables = _columns()
    objects = _objects(shard)
    generator = np.random.default_rng(0)
    noticed = tried = 0
    for one in objects:
        whole = shard.objects[one.path]
        for place in generator.choice(len(whole), size=min(40, len(whole)), replace=False):
            broken = bytearray(whole)
            broken[place] ^= 1 << int(generator.integers(8))
            shard.objects[one.path] = bytes(broken)
            tried += 1
            try:
                opened = _open(container, shard, objects)
                assert _same_arrays(opened.tables, tables)
                assert all(_same(opened.block(n), wanted) for n, wanted in enumerate(columns))
            except CorruptionError:
                noticed += 1
        shard.objects[one.path] = whole
    assert noticed > 0.95 * tried


def test_truncated_and_missing_objects_are_named(container: str, shard: DictStorage) -> None:
    objects = _objects(shard)
    for one in objects:
        whole = shard.objects[one.path]
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            shard.objects[one.path] = whole[:length]
            with pytest.raises(CorruptionError, match=one.path):
                _open(container, shard, objects)
        del shard.objects[one.path]
        with pytest.raises(CorruptionError, match=rf"{one.path}: file is missing"):
            _open(container, shard, objects)
        shard.objects[one.path] = whole


@pytest.mark.parametrize("part", [0.0, 0.25, 0.5, 0.75, 0.99])
def test_what_is_cut_short_after_opening_is_refused_or_harmless(
    container: str, shard: DictStorage, part: float
) -> None:
    """A block that lies in what is left, or was read before, may still be given: as it was."""
    columns, _ = _columns()
    opened = _open(container, shard, _objects(shard))
    for name, data in shard.objects.items():
        shard.objects[name] = data[: int(part * len(data))]
    for number, wanted in enumerate(columns):
        with suppress(CorruptionError):
            assert _same(opened.block(number), wanted)
        with suppress(CorruptionError):
            assert np.array_equal(opened.documents(number), wanted.documents_DC)


def test_what_goes_after_opening_is_told_as_corruption(container: str, shard: DictStorage) -> None:
    opened = _open(container, shard, _objects(shard))
    shard.objects.clear()
    # In another process, which has neither a handle nor what was read before.
    opened = pickle.loads(pickle.dumps(opened))
    for number in range(len(BLOCKS)):
        with pytest.raises(CorruptionError, match="memory://store"):
            opened.block(number)


@pytest.mark.parametrize("number", [2, -1, 99])
def test_a_block_out_of_range_is_an_index_error(
    container: str, shard: DictStorage, number: int
) -> None:
    opened = _open(container, shard, _objects(shard))
    with pytest.raises(IndexError):
        opened.block(number)
    with pytest.raises(IndexError):
        opened.documents(number)


def test_threads_read_at_once(container: str, shard: DictStorage) -> None:
    columns, _ = _columns()
    opened = _open(container, shard, _objects(shard))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: opened.block(number % 2), range(32)))
    assert all(_same(one, columns[number % 2]) for number, one in enumerate(found))


def test_an_open_shard_pickles_also_after_it_was_read(container: str, shard: DictStorage) -> None:
    columns, tables = _columns()
    opened = _open(container, shard, _objects(shard))
    opened.block(0)
    assert _same_arrays(opened.tables, tables)
    again = pickle.loads(pickle.dumps(opened))
    assert _same(again.block(1), columns[1])


def test_the_documents_of_a_block_cost_a_part_of_it(container: str, shard: DictStorage) -> None:
    """Lengths of documents are asked of every block before the first one is decoded."""
    opened = _open(container, shard, _objects(shard))
    opened.documents(1)  # the metadata, which is read once
    shard.ranges.clear()
    opened.documents(0)
    lengths = sum(stop - start for _, start, stop in shard.ranges)
    shard.ranges.clear()
    opened.block(0)
    assert lengths < sum(stop - start for _, start, stop in shard.ranges)


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
def test_draws_lie_side_by_side(container: str, by_entry: bool) -> None:
    columns, tables = _drawn_columns()
    shard = _written(container, columns, tables, draw_count=2, by_entry=by_entry)
    opened = _open(container, shard, _objects(shard), limits=_limits(columns, tables, draws=2))
    for number, wanted in enumerate(columns):
        assert _same(opened.block(number), wanted)
        for draw in range(2):
            found = opened.block(number, draw=draw)
            own = slice(6 * draw, 6 * draw + 6)
            for name, found_RK in found.entries.items():
                wide = found_RK.shape[1] > 6  # a container may give the others as well
                own_RK = found_RK[:, own] if wide else found_RK
                assert np.array_equal(own_RK, wanted.entries[name][:, own])


def test_another_order_of_axes_is_refused() -> None:
    shard = _written("zarr", *_drawn_columns(), draw_count=2, by_entry=True)
    content = json.loads(shard.objects["entries/zarr.json"])
    content["codecs"][0]["configuration"]["codecs"][0]["configuration"]["order"] = [1, 0, 2]
    shard.objects["entries/zarr.json"] = json.dumps(content).encode()
    limits = _limits(*_drawn_columns(), draws=2)
    with pytest.raises(CorruptionError, match="codecs of an array"):
        _open("zarr", shard, _objects(shard), limits=limits).block(0)


@pytest.mark.parametrize("draws", [1, 2])
def test_a_zarr_block_reads_its_chunks_which_lie_together_and_no_more(draws: int) -> None:
    """One range of each array; what is hashed when a shard is opened is not read again."""
    columns, tables = _columns() if draws == 1 else _drawn_columns()
    shard = _written("zarr", columns, tables, draw_count=draws)
    names = {
        one: next(n for n in shard.objects if n.startswith(f"{one}/c/"))
        for one in CHUNKED
        if one != "states"
    }
    limits = _limits(columns, tables, draws=draws)
    opened = _open("zarr", shard, _bound("zarr", shard), limits=limits)
    for number, draw in [(0, 0), (1, 0), (1, draws - 1), (0, None)]:
        shard.ranges.clear()
        opened.block(number, draw=draw)
        for name in names.values():
            own = sorted((start, stop) for one, start, stop in shard.ranges if one == name)
            assert own
            assert all(one[1] == two[0] for one, two in pairwise(own))
            assert own[-1][1] - own[0][0] < len(shard.objects[name]) - 20
        assert {one for one, _, _ in shard.ranges} == {*names.values()}


def test_what_is_fetched_beforehand_is_checked_and_is_all_that_is_read(container: str) -> None:
    columns, tables = _columns()
    shard = _written(container, columns, tables)
    opened = _open(container, shard, _bound(container, shard))
    parts = {number: opened.fetch(number) for number in range(2)}
    shard.ranges.clear()
    assert _same(opened.block(1, fetched=parts[1]), columns[1])
    assert not shard.ranges
    for path, own in parts[0].items():
        for place, part in enumerate(own):
            broken = bytearray(part)
            broken[len(part) // 2] ^= 4
            changed = {**parts[0], path: [*own[:place], bytes(broken), *own[place + 1 :]]}
            with pytest.raises(CorruptionError, match=path):
                opened.block(0, fetched=changed)
    assert _same(opened.block(0, fetched=parts[0]), columns[0])


def test_tables_and_entries_are_whatever_the_codec_makes(container: str) -> None:
    """Three columns of entries, a scalar whose name ends in s, and two tables or none."""
    columns, _ = _columns()
    odd = []
    for one in columns:
        code_RK, delta_RK = one.entries["code"], one.entries["id_delta"]
        entries = {"id": code_RK, "mass": delta_RK, "x_1": code_RK}
        odd.append(replace(one, entries=entries, scalars={"odds": one.scalars["count"]}))
    some = {"first": np.arange(7, dtype=np.uint32), "second": np.array([1 << 31], dtype=np.uint32)}
    names = ("id", "mass", "x_1")
    for tables in (some, {}):
        shard = _written(container, odd, tables)
        limits = _limits(odd, tables)
        opened = _open(container, shard, _objects(shard), names, limits)
        assert _same_arrays(opened.tables, tables)
        assert all(_same(opened.block(n), wanted) for n, wanted in enumerate(odd))
        sizes = opened.column_bytes()
        assert {*names, "odds", *(f"{one}_id" for one in tables)} <= set(sizes)
        with pytest.raises(CorruptionError, match="no_such"):
            _open(container, shard, _objects(shard), ("id", "no_such"), limits).block(0)


def test_a_bit_that_flips_behind_the_hashes_changes_no_value(container: str) -> None:
    """In bytes that nothing makes smaller: the checksum of a chunk or a page alone tells."""
    columns, tables = _random_columns(1)
    shard = _written(container, columns, tables)
    name = max(shard.objects, key=lambda one: len(shard.objects[one]))
    whole, objects, refused = shard.objects[name], _bound(container, shard), 0
    counts = [
        BlockCounts(documents=1, tokens=len(BLOCKS[1].input_ids_N), targets=len(BLOCKS[1].targets))
    ] * 2
    generator = np.random.default_rng(3)
    for place in generator.choice(len(whole), size=60, replace=False):
        opened = load_container(container).open(
            shard,
            "",
            blocks=counts,
            objects=objects,
            entries=ENTRIES,
            limits=_limits(columns, tables),
        )
        broken = bytearray(whole)
        broken[place] ^= 1 << int(generator.integers(8))
        shard.objects[name] = bytes(broken)
        try:
            assert all(_same(opened.block(n), one) for n, one in enumerate(columns))
        except CorruptionError:
            refused += 1
        shard.objects[name] = whole
    assert refused > 30


def _random_columns(seed: int) -> tuple[list[Columns], Tables]:
    """Two blocks that no codec makes smaller: whatever they hold, their bytes are as many."""
    generator = np.random.default_rng(seed)
    columns, tables = _columns()
    rows, length = len(BLOCKS[1].targets), len(BLOCKS[1].input_ids_N)
    blocks = [
        replace(
            columns[1],
            entries={
                name: generator.integers(0, 256, (rows, 64), dtype=np.uint32) for name in ENTRIES
            },
            scalars={
                name: generator.integers(0, 256, rows, dtype=np.uint32)
                for name in columns[1].scalars
            },
            tokens_N=generator.integers(0, 256, length, dtype=np.uint32),
            documents_DC=np.hstack(
                [
                    generator.integers(0, 1 << 63, (1, 4), dtype=np.uint64),
                    columns[1].documents_DC[:, 4:],
                ]
            ),
        )
        for _ in range(2)
    ]
    ids = {
        name: generator.integers(0, 256, len(one), dtype=np.uint32) for name, one in tables.items()
    }
    return blocks, ids


def _bound(container: str, storage: DictStorage) -> list[StoredObject]:
    sums = load_container(container).chunk_sums(storage.objects)
    return [replace(one, chunks=sums.get(one.path)) for one in _objects(storage)]


def _read_all(
    container: str, storage: DictStorage, objects: list[StoredObject], *, blocks: int = 2
) -> None:
    counts = [
        BlockCounts(documents=1, tokens=len(BLOCKS[1].input_ids_N), targets=len(BLOCKS[1].targets))
    ] * blocks
    opener = load_container(container)
    limits = _limits(*_random_columns(1))
    shard = opener.open(storage, "", blocks=counts, objects=objects, entries=ENTRIES, limits=limits)
    for number in range(blocks):
        shard.block(number)


@pytest.mark.parametrize("blocks", [1, 2])
def test_an_object_of_another_shard_of_the_same_size_is_refused(
    container: str, blocks: int
) -> None:
    """Its checksums are sound, and it has the right shape: it stands in the wrong place.

    Of one block Zarr reads an object whole, and neither its index nor its chunks alone.
    """
    (mine, tables), (theirs, other_tables) = _random_columns(1), _random_columns(2)
    storage = _written(container, mine[:blocks], tables)
    other = _written(container, theirs[:blocks], other_tables)
    objects = _bound(container, storage)
    _read_all(container, storage, objects, blocks=blocks)
    moved = [name for name, data in other.objects.items() if data != storage.objects[name]]
    same = [name for name in moved if len(other.objects[name]) == len(storage.objects[name])]
    assert moved
    kinds = {"entries", "scalars", "tokens", "documents", "ranking"}
    assert {name.split("/")[0] for name in same} >= kinds or container != "zarr"
    for name in moved:
        own = storage.objects[name]
        storage.objects[name] = other.objects[name]
        with pytest.raises(CorruptionError, match=re.escape(name)):
            _read_all(container, storage, objects, blocks=blocks)
        storage.objects[name] = own


@pytest.mark.parametrize("name", ["entries/c/0/0/0", "scalars/c/0/0", "tokens/c/0/0"])
def test_chunks_that_change_places_are_refused(name: str) -> None:
    storage = _written("zarr", *_random_columns(1))
    objects, data = _bound("zarr", storage), storage.objects[name]
    sums = next(one.chunks for one in objects if one.path == name) or ""
    count = len(sums) // 8 - 1
    index = np.frombuffer(data[-16 * count - 4 : -4], dtype="<u8").reshape(-1, 2).tolist()
    tried = 0
    for one in index:
        for two in index:
            mine, theirs = data[one[0] : sum(one)], data[two[0] : sum(two)]
            if one[0] >= two[0] or len(mine) != len(theirs) or mine == theirs:
                continue
            changed = bytearray(data)
            changed[one[0] : sum(one)], changed[two[0] : sum(two)] = theirs, mine
            storage.objects[name] = bytes(changed)
            with pytest.raises(CorruptionError, match="another than the one that was committed"):
                _read_all("zarr", storage, objects)
            # What binds them is what tells: each chunk's own checksum is right.
            _read_all("zarr", storage, [replace(two, chunks=None) for two in objects])
            tried += 1
    assert tried


def test_a_chunk_that_the_index_leaves_out_is_not_read_as_zeros() -> None:
    storage = _written("zarr", *_columns())
    name, size = "documents/c/0/0", 16 * len(BLOCKS)
    data = storage.objects[name]
    index = b"\xff" * 16 + data[-size - 4 : -4][16:]
    checksum = google_crc32c.value(index).to_bytes(4, "little")
    storage.objects[name] = data[: -size - 4] + index + checksum
    with pytest.raises(CorruptionError, match="leaves a chunk out"):
        _open("zarr", storage, _objects(storage)).block(0)


@pytest.mark.parametrize("beyond", [1, 1 << 40, (1 << 64) - 8])
def test_an_index_of_chunks_that_leads_out_of_the_file_is_refused(beyond: int) -> None:
    storage = _written("zarr", *_columns())
    name, size = "documents/c/0/0", 16 * len(BLOCKS)
    data = storage.objects[name]
    entries = np.frombuffer(data[-size - 4 : -4], dtype="<u8").copy()
    entries[-1] = beyond if beyond > 1 else entries[-1] + 1
    index = entries.tobytes()
    checksum = google_crc32c.value(index).to_bytes(4, "little")
    storage.objects[name] = data[: -size - 4] + index + checksum
    with pytest.raises(CorruptionError, match="leads out of the file"):
        _open("zarr", storage, _objects(storage)).block(1)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_535, 65_536, 70_000, 1 << 20])
@pytest.mark.parametrize("level", [1, 17])
def test_the_size_of_a_frame_is_read_from_its_header(size: int, level: int) -> None:
    data = (
        Zstd(level=level).encode(bytes(size)) if size else b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00"
    )
    assert unpacked_size(data) == size
    assert unpacked_size(data[1:]) is None


@pytest.mark.parametrize(
    ("size", "told"),
    [(1 << 30, "larger than what it unpacks to"), (1 << 24, "unpacks to another size")],
)
def test_a_chunk_that_unpacks_to_more_than_its_array_is_refused(size: int, told: str) -> None:
    """32 KB that would take a gigabyte, or 500 bytes 16 MB: with all checksums right."""
    columns, tables = _columns()
    storage = _written("zarr", columns, tables)
    name = "scalars/c/0/0"
    bomb = Zstd(level=19).encode(bytes(size))
    assert len(bomb) < 100_000
    bomb += google_crc32c.value(bomb).to_bytes(4, "little")
    sums = load_container("zarr").chunk_sums(storage.objects)[name]
    count = len(sums) // 8 - 1
    data = storage.objects[name]
    old = np.frombuffer(data[-16 * count - 4 : -4], dtype="<u8").reshape(-1, 2)
    index = np.column_stack([np.zeros(count), np.full(count, len(bomb))]).astype("<u8").tobytes()
    assert len(old) == count
    storage.objects[name] = bomb + index + google_crc32c.value(index).to_bytes(4, "little")
    with peak_memory() as peak, pytest.raises(CorruptionError, match=told):
        _open("zarr", storage, _objects(storage)).block(0)
    assert peak.bytes < 50 << 20


@pytest.mark.parametrize(
    ("name", "axis", "size"),
    [("entries", 0, 60), ("entries", 2, 1 << 20), ("scalars", 0, 10_000), ("ranking", 1, 1 << 30)],
)
def test_an_array_larger_than_the_store_allows_is_refused(name: str, axis: int, size: int) -> None:
    """It says so in its metadata, and has no chunks: Zarr would fill them with zeros."""
    storage = _written("zarr", *_columns())
    content = json.loads(storage.objects[f"{name}/zarr.json"])
    content["shape"][axis] = size
    chunks = content["chunk_grid"]["configuration"]["chunk_shape"]
    chunks[axis] = size
    content["codecs"][0]["configuration"]["chunk_shape"][axis] = size if axis else 1
    storage.objects[f"{name}/zarr.json"] = json.dumps(content).encode()
    with peak_memory() as peak:
        shard = _open("zarr", storage, _objects(storage))
        with pytest.raises(CorruptionError, match=r"shape of an array|planes"):
            shard.block(0)
    assert peak.bytes < 50 << 20


def test_a_parquet_file_larger_than_the_store_allows_is_refused() -> None:
    storage = _written("parquet", *_columns())
    table = pa.table({"id": pa.array(np.zeros(1 << 22, np.uint32))})
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=False,
        write_page_checksum=True,
        row_group_size=1 << 22,
    )
    storage.objects["ranking.parquet"] = sink.getvalue().to_pybytes()
    shard = _open("parquet", storage, _objects(storage))
    with pytest.raises(CorruptionError, match="longer than one of this store"):
        assert shard.tables


def test_a_container_is_imported_when_it_is_asked_for() -> None:
    script = (
        "import sys; from logitstore.store.containers import CONTAINERS, load_container\n"
        "assert not {'zarr', 'pyarrow'} & set(sys.modules)\n"
        "load_container('parquet')\n"
        "assert 'pyarrow' in sys.modules and 'zarr' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def _page_numbers(data: bytes) -> list[int]:
    """Where the numbers of the first page's header begin: sizes, checksum, values, encoding."""
    places, at = [], 4
    for tags in (1, 1, 1, 1, 2, 1, 1, 1):
        at += tags
        places.append(at)
        while data[at] >= 0x80:
            at += 1
        at += 1
    return places


def _varint(number: int, *, length: int) -> bytes:
    """`number`, zigzag and base 128, in `length` bytes: of 32 bits there are five at most."""
    parts = [(number << 1) >> (7 * place) & 0x7F for place in range(length)]
    return bytes([*(one | 0x80 for one in parts[:-1]), parts[-1]])


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("lie", [-1, 1 << 20, (1 << 31) - 1])
def test_a_page_that_lies_of_what_it_unpacks_to_is_refused(number: int, lie: int) -> None:
    """Arrow sets aside what the header says before it looks: 2 GiB for a page of some bytes."""
    storage = _written("parquet", *_columns())
    data = storage.objects["documents.parquet"]
    at = _page_numbers(data)[number]
    stop = at
    while data[stop] >= 0x80:
        stop += 1
    lying = _varint(lie, length=5) if lie > 0 else b"\x01"
    # The page grows by some bytes; so do the offsets of those behind it, of which none is read.
    changed = data[:at] + lying + data[stop + 1 :]
    storage.objects["documents.parquet"] = changed
    footer = pq.read_metadata(pa.BufferReader(data))
    first = footer.row_group(0).column(0)
    chunk = Chunk(
        name="id",
        start=first.data_page_offset,
        stop=first.data_page_offset + first.total_compressed_size,
        values=first.num_values,
        width=16,
    )
    sound = memoryview(data)[chunk.start : chunk.stop]
    check_pages(sound, chunk, place="here")
    grown = len(changed) - len(data)
    with pytest.raises(CorruptionError, match="says to hold more than its column"):
        check_pages(memoryview(changed)[chunk.start : chunk.stop + grown], chunk, place="here")


def _blocks(container: str, storage: DictStorage, objects: list[StoredObject]) -> list[Columns]:
    shard = _open(container, storage, objects)
    return [shard.block(number) for number in range(len(BLOCKS))]


def _parquet_with(
    change: Callable[[pa.Table], pa.Table], **written: Any
) -> tuple[DictStorage, list[StoredObject]]:
    """A shard whose documents are changed and written again as this format writes them."""
    storage = _written("parquet", *_columns())
    with pq.ParquetFile(pa.BufferReader(storage.objects["documents.parquet"])) as file:
        tables = [change(file.read_row_group(number)) for number in range(2)]
    sink = pa.BufferOutputStream()
    how = {
        "compression": "zstd",
        "use_dictionary": False,
        "write_statistics": False,
        "write_page_checksum": True,
    } | written
    with pq.ParquetWriter(sink, tables[0].schema, **how) as writer:
        for table in tables:
            writer.write_table(table)
    storage.objects["documents.parquet"] = sink.getvalue().to_pybytes()
    return storage, _objects(storage)


def _with(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    """A table whose column `name` is what `values` makes of it."""

    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.get_field_index(name), name, values(table[name]))

    return change


def _nulls(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([None, *column.to_pylist()[1:]], column.type)


def _null_elements(column: pa.ChunkedArray) -> pa.Array:
    first, *rest = column.to_pylist()
    return pa.array([[None, *first[1:]], *rest], column.type)


def _shifted(column: pa.ChunkedArray) -> pa.Array:
    """The same values end to end, but another number of them in each document."""
    lists = column.to_pylist()
    if len(lists) > 1:
        lists[:2] = [lists[0] + lists[1][:1], lists[1][1:]]
    return pa.array(lists, column.type)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_with("input_ids", lambda one: one.cast(pa.list_(pa.int64()))), "of another type"),
        (_with("count", lambda one: one.cast(pa.list_(pa.float32()))), "of another type"),
        (_with("record", lambda one: one.cast(pa.int32())), "of another type"),
        (_with("record", lambda one: one.cast(pa.string())), "of another type"),
        (_with("id", lambda one: one.cast(pa.binary())), "of another type"),
        (_with("record", _nulls), "holds a null"),
        (_with("id", _nulls), "holds a null"),
        (_with("count", _nulls), "another number of values|holds a null"),
        (_with("input_ids", _null_elements), "holds a null"),
        (_with("record", lambda one: pa.compute.subtract(one, 1 << 40)), "negative"),
        (_with("input_ids", _shifted), "another length than its document"),
        (_with("codes", _shifted), "another length than its document"),
        (lambda table: table.drop_columns(["entropy"]), "entropy"),
        (lambda table: table.append_column("more", table["record"]), "more"),
        (lambda table: table.append_column("record", table["record"]), "there twice"),
        (lambda table: table.slice(1), "lies outside of its file"),
    ],
)
def test_documents_of_another_schema_are_refused(
    change: Callable[[pa.Table], pa.Table], told: str
) -> None:
    storage, objects = _parquet_with(change)
    with pytest.raises(CorruptionError, match=told):
        _blocks("parquet", storage, objects)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"compression": "gzip"}, "codec 2"),
        ({"compression": "none"}, "codec 0"),
        ({"use_dictionary": True}, "compressed or encoded in another way"),
        ({"column_encoding": {"record": "DELTA_BINARY_PACKED"}}, "encodings 3, 5"),
        ({"data_page_version": "2.0"}, "kind 3|header of a page"),
        ({"write_page_checksum": False}, "header of a page"),
    ],
)
def test_documents_stored_in_another_way_are_refused(how: dict[str, Any], told: str) -> None:
    storage, objects = _parquet_with(lambda table: table, **how)
    with pytest.raises(CorruptionError, match=told):
        _open("parquet", storage, objects).block(0)


def test_documents_written_again_as_the_format_says_are_read() -> None:
    columns, _ = _columns()
    storage, objects = _parquet_with(lambda table: table.select(table.column_names[::-1]))
    shard = _open("parquet", storage, objects)
    assert all(_same(shard.block(number), wanted) for number, wanted in enumerate(columns))


@pytest.mark.parametrize(
    "values",
    [
        pa.array(np.arange(300, dtype=np.float32)),
        pa.array(np.arange(300, dtype=np.int64)),
        pa.array([str(one) for one in range(300)]),
        pa.array([[one] for one in range(300)], pa.list_(pa.uint32())),
        pa.array([None, *range(1, 300)], pa.uint32()),
    ],
)
def test_a_table_of_another_type_is_refused(values: pa.Array) -> None:
    storage = _written("parquet", *_columns())
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table({"id": values}),
        sink,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    storage.objects["ranking.parquet"] = sink.getvalue().to_pybytes()
    shard = _open("parquet", storage, _objects(storage))
    with pytest.raises(CorruptionError, match=r"of another type|holds a null"):
        assert shard.tables


@pytest.mark.parametrize("change", ["left out", "added", "twice"])
def test_a_shard_has_the_objects_of_its_format_and_no_other(container: str, change: str) -> None:
    storage = _written(container, *_columns())
    objects = _objects(storage)
    changed = {
        "left out": objects[1:],
        "added": [*objects, replace(objects[0], path="more")],
        "twice": [*objects, objects[0]],
    }[change]
    with pytest.raises(CorruptionError, match="missing, unknown or named twice"):
        _open(container, storage, changed)
