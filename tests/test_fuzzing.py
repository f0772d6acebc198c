"""The fuzz targets, some inputs each: nothing but the project's errors comes out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from logitstore.errors import CorruptionError
from tests import run_files
from tools.fuzzing.choices import Choices
from tools.fuzzing.engine import Tried, tried
from tools.fuzzing.stores import make_stores
from tools.fuzzing.targets import TARGETS, Seeds
from tools.fuzzing.thrift import read_struct, written_struct

INPUTS = {"zarr": 12, "parquet": 20, "runs": 30, "tokenizer": 30}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Seeds:
    """Small stores of both containers, and the files of a run."""
    work = tmp_path_factory.mktemp("seeds")
    run_files.finished(work / "run")
    files = {str(one.relative_to(work / "run")): one for one in (work / "run").rglob("*.*")}
    stores = make_stores(work, kinds=("topk", "unbiased"))
    return Seeds(stores=stores, run={name: path.read_bytes() for name, path in files.items()})


@pytest.mark.parametrize("name", TARGETS)
def test_only_errors_of_the_project_come_out(name: str, seeds: Seeds, tmp_path: Path) -> None:
    generator, found = random.Random(name), Tried()
    target = TARGETS[name].make(seeds, tmp_path)
    for _ in range(INPUTS.get(name, 150)):
        tried(target, generator.randbytes(generator.choice((4, 16, 64))), found)
    assert not found.findings
    assert found.outcomes["refused"] > 0


def test_what_should_not_come_out_is_a_finding_once() -> None:
    def target(data: bytes) -> None:
        if data == b"sound":
            return
        if data == b"out of memory":
            raise CorruptionError("no") from MemoryError()
        raise CorruptionError("no") if data == b"refused" else KeyError(data)

    found = Tried()
    kinds = [
        getattr(tried(target, data, found), "kind", None)
        for data in (b"sound", b"refused", b"a", b"b", b"out of memory")
    ]
    assert kinds == [None, None, "KeyError", None, "MemoryError"]
    assert (found.executions, dict(found.outcomes)) == (5, {"accepted": 1, "refused": 1})
    assert [*found.findings.values()] == [2, 1]


def test_equal_bytes_are_equal_decisions_and_none_are_the_first_of_all() -> None:
    def taken(data: bytes) -> list[object]:
        choices = Choices(data)
        return [choices.below(300), choices.integer(7), choices.text("near"), choices.chance(0.5)]

    assert taken(b"some bytes of a fuzzer") == taken(b"some bytes of a fuzzer")
    assert taken(b"")[0] == 0
    assert taken(b"\xff" * 40) != taken(b"\x01" * 40)


def test_a_footer_of_parquet_comes_apart_and_together(seeds: Seeds) -> None:
    (data, *_) = (
        one
        for name, one in seeds.stores["parquet/topk"].items()
        if name.endswith("documents.parquet")
    )
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8]
    fields, stop = read_struct(footer)
    assert stop == length
    assert written_struct(fields) == footer
