"""What docs/interoperability.md shows in other libraries is what a reader of the package sees."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import logitstore
from tests.synthetic import store_spec, stored_documents, write_store

DOCS = Path(__file__).parent.parent / "docs" / "interoperability.md"
_BLOCK = re.compile(r"^```(python|sql)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names that the blocks of the page leave, run in their order."""
    folder = tmp_path_factory.mktemp("page")
    documents = stored_documents([20, 30, 9], masked=True)
    for name, container in (("store", "parquet"), ("store-zarr", "zarr")):
        write_store(folder / name, [documents], spec=store_spec(container=container))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        connection = duckdb.connect()
        names: dict[str, Any] = {"connection": connection, "__name__": "page", "folder": folder}
        for language, text in _BLOCK.findall(DOCS.read_text()):
            if language == "sql":
                found = connection.sql(text)
                names["sql"] = names.get("sql") or (found and found.fetchall())
            else:
                exec(compile(text, str(DOCS), "exec"), names)
    names["block"] = logitstore.open(folder / "store").read_block(0)
    return names


def test_duckdb_sees_documents_and_targets(seen: dict[str, Any]) -> None:
    block = seen["block"]
    assert [row[3] for row in seen["sql"]] == [
        one.document.input_ids_L.tolist() for one in block.split()
    ]
    expected = [
        (one.document.id.hex(), int(position))
        for one in block.split()
        for position in np.flatnonzero(one.document.counted_L)
    ]
    assert [(document, position) for document, position, _, _ in seen["rows"]] == expected
    for row, (_, _, ids, logprobs) in enumerate(seen["rows"]):
        assert ids == block.targets.ids_RK[row].tolist()
        assert logprobs == pytest.approx(block.targets.logprobs_RK[row], abs=1e-5)


def test_polars_sees_the_entries(seen: dict[str, Any]) -> None:
    targets, entries = seen["block"].targets, seen["entries"]
    assert len(entries) == targets.count_R.sum()
    assert entries["id"].to_list() == targets.ids_RK[targets.used_RK()].tolist()
    expected = targets.logprobs_RK[targets.used_RK()]
    assert entries["logprob"].to_numpy() == pytest.approx(expected, abs=1e-5)


def test_pandas_and_datasets_see_the_documents(seen: dict[str, Any]) -> None:
    block = seen["block"]
    assert seen["entropies"].to_numpy() == pytest.approx(block.targets.entropy_R, abs=1e-6)
    tokens = [one.document.input_ids_L.tolist() for one in block.split()]
    assert [list(row) for row in seen["data"]["input_ids"]] == tokens
    assert [row["input_ids"] for row in seen["stream"]] == tokens


def test_zarr_tensorstore_and_xarray_see_the_same_bytes(seen: dict[str, Any]) -> None:
    labels_R = seen["block"].targets.label_logprob_R
    assert seen["label_codes"] / -256 == pytest.approx(labels_R, abs=1e-6)
    for name, array in seen["group"].arrays():
        assert np.array_equal(seen["read"][name], array[:])
    places = seen["scalars"].sel(plane="label_logprob.0").to_numpy()
    assert np.array_equal(places, seen["label_codes"] & 255)
