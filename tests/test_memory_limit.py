"""`--max-memory`: what it takes, and that counts alone refuse what the machine cannot hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import logitstore
from logitstore.errors import CorruptionError, SettingError, StoreError
from logitstore.store import memory_limit as module
from logitstore.store.containers.limits import check_sizes
from logitstore.store.memory_limit import machine_bytes, memory_limit, parse_bytes
from logitstore.store.verify import verify
from tests.peak_memory import peak_memory
from tests.synthetic import store_spec, stored_documents, write_store


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("8G", 8 << 30),
        ("8 GiB", 8 << 30),
        ("1.5gb", 3 << 29),
        ("500M", 500 << 20),
        ("2t", 2 << 40),
        ("1048576", 1 << 20),
        (1 << 30, 1 << 30),
    ],
)
def test_sizes_are_powers_of_1024(given: Any, found: int) -> None:
    assert parse_bytes(given) == memory_limit(given) == found


@pytest.mark.parametrize("given", ["", "G", "8X", "-1G", "1K", 0, -5, True, 8.5, "1e9", None])
def test_what_is_no_size_is_refused(given: Any) -> None:
    with pytest.raises(SettingError):
        parse_bytes(given)


def test_the_default_is_half_of_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = tmp_path / "memory.max"
    monkeypatch.setattr(module, "_CGROUPS", (str(tmp_path / "none"), str(group)))
    whole = machine_bytes()
    assert 1 << 28 < whole < 1 << 50
    group.write_text("max\n")
    assert machine_bytes() == whole
    group.write_text(f"{1 << 28}\n")
    assert memory_limit(None) == 1 << 27


@pytest.fixture(params=["zarr", "parquet"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    spec = store_spec(container=request.param, block_targets=10_000)
    write_store(tmp_path / "store", [stored_documents([60] * 50)], spec=spec)
    return tmp_path / "store"


def test_a_block_beyond_the_limit_is_refused_by_its_counts(folder: Path) -> None:
    store = logitstore.open(folder, max_memory=1 << 20)
    with pytest.raises(StoreError, match=r"000000-\w+, block 0: .* memory.*Give max_memory"):
        store.read_block(0)
    with pytest.raises(StoreError, match="max_memory"):
        store.document_lengths(0)
    assert any("max_memory" in str(one) for one in verify(store))
    assert len(logitstore.open(folder, max_memory="128M").read_block(0)) == 50


def test_counts_that_no_file_can_hold_are_refused_by_arithmetic(folder: Path) -> None:
    store = logitstore.open(folder)
    commit = store.commits[0]
    with peak_memory() as peak:
        for name in ("targets", "tokens", "documents"):
            blocks = tuple(replace(one, **{name: 1 << 50}) for one in commit.blocks)
            for memory in (None, 1 << 30):
                with pytest.raises(CorruptionError, match="more than its files can"):
                    check_sizes(
                        replace(store.shards.limits, memory=memory),
                        blocks,
                        commit.objects,
                        columns=2,
                        place="here",
                    )
    assert peak.bytes < 10 << 20


def test_an_object_larger_than_what_lies_in_it_is_refused(folder: Path) -> None:
    store = logitstore.open(folder)
    commit = store.commits[0]
    objects = tuple(replace(one, size=1 << 40) for one in commit.objects)
    with pytest.raises(CorruptionError, match="larger than what lies in it"):
        check_sizes(store.shards.limits, commit.blocks, objects, columns=2, place="here")
