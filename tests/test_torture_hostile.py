"""Hostile stores, in the short form: some kinds for each container; the tool itself tries all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from logitstore.store.containers.thrift_compact import Field, read_struct, write_struct
from tools.hostile_files import file_kinds
from tools.hostile_json import json_kinds
from tools.hostile_parquet import parquet_kinds
from tools.hostile_values import value_kinds
from tools.hostile_zarr import zarr_kinds

GOLDEN = Path(__file__).parent / "golden" / "format2"


@pytest.mark.parametrize("container", ["zarr", "parquet"])
def test_there_are_hundreds_of_kinds(container: str) -> None:
    store = GOLDEN / container
    shards = zarr_kinds(store) if container == "zarr" else parquet_kinds(store)
    kinds = [*json_kinds(store), *file_kinds(store), *value_kinds(container), *shards]
    names = [f"{one.area}: {one.name}" for one in kinds]
    assert len(set(names)) == len(names) > 1000


def test_some_of_them_are_refused_or_harmless() -> None:
    """In a process of its own: the tool forks for each, which must not copy threads."""
    command = [sys.executable, "-m", "tools.torture_hostile", "--share", "0.001", "--seed", "7"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| all |") == 2


def test_a_struct_comes_back_as_it_was() -> None:
    footer = {
        1: Field(5, -(1 << 31)),
        2: Field(6, (1 << 63) - 1),
        3: Field(8, b"name"),
        4: Field(9, (12, [Field(12, {1: Field(5, 7)}), Field(12, {})])),
        20: Field(12, {2: Field(1, True), 3: Field(2, False), 4: Field(3, b"\x20")}),
        3000: Field(9, (5, [Field(5, number) for number in range(40)])),
    }
    data = write_struct(footer)
    assert read_struct(data) == (footer, len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x15",
        b"\x15" + b"\xff" * 11,
        b"\x18\xff\xff\xff\xff\x07evil",
        b"\x19\xf5\xff\xff\xff\xff\x07",
        b"\x1c" * 100,
        b"\x15\x02\x05\x02\x02\x00",
        b"\x19\xf1\xff\xff\xff\xff\x07\x00",
        b"\x1f\x00",
    ],
)
def test_bytes_that_are_no_struct_are_told(data: bytes) -> None:
    with pytest.raises((IndexError, ValueError)):
        read_struct(data)
