"""More documents for a store, dumped as those that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import logitstore
from logitstore.errors import CorpusError, ModelError, SettingError, SpecError
from logitstore.store.verify import verify
from tests.stored_values import assert_same_values, values_of

TEXTS = [f"{number} the teacher reads the text once. " * (3 + number % 4) for number in range(9)]


@pytest.fixture(scope="module")
def scene(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of text, a store of the first, and one of both."""
    folder = tmp_path_factory.mktemp("scene")
    (folder / "one.txt").write_text("\n\n".join(TEXTS[:6]))
    (folder / "two.txt").write_text("\n\n".join(TEXTS[6:]))
    settings: dict[str, Any] = {
        "teacher": str(teacher_folder),
        "device": "cpu",
        "sparsify": "hybrid",
        "k": 3,
        "tail_draws": 5,
        "seed": 4,
        "temperature": (1.0, 3.0, 5.0),
        "fidelity": "exact",
        "format": "parquet",
        "max_length": 40,
        "unit_tokens": 100,
        "batch_tokens": 128,
    }
    logitstore.dump(data=folder / "one.txt", out=folder / "one", **settings)
    both = [folder / "one.txt", folder / "two.txt"]
    logitstore.dump(data=both, out=folder / "both", **settings)
    return folder


def test_an_extended_store_holds_what_one_dump_of_all_would_hold(
    scene: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"data": scene / "two.txt", "teacher": str(teacher_folder)}
    edited = logitstore.extend(scene / "one", tmp_path / "out", device="cpu", **given)
    found, whole = logitstore.open(tmp_path / "out"), logitstore.open(scene / "both")
    old = logitstore.open(scene / "one")
    assert edited.new_targets == found.targets - old.targets > 0
    assert edited.copied_units == len(old.commits)
    assert list(verify(found)) == []
    assert found.spec.sparsifier == old.spec.sparsifier == whole.spec.sparsifier
    assert found.spec.codec == old.spec.codec
    # Alone, a file's documents are named by their file as among others.
    assert_same_values(values_of(found), values_of(whole))
    assert np.array_equal(found[-1].document.input_ids_L, whole[-1].document.input_ids_L)
    told = logitstore.inspect(found)["edits"]
    assert told[0]["sources"][0]["fingerprint"] == old.fingerprint
    assert told[0]["arguments"] == {"data": "two.txt"}
    again = logitstore.extend(old, tmp_path / "out", device="cpu", **given)
    assert again.found_finished
    assert again.fingerprint == edited.fingerprint


def test_only_the_stores_own_teacher_and_new_documents_are_taken(
    scene: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    out, store = tmp_path / "out", scene / "one"
    given: dict[str, Any] = {"teacher": str(teacher_folder), "data": scene / "two.txt"}
    with pytest.raises(CorpusError, match="the store holds these documents already"):
        logitstore.extend(store, out, **given | {"data": scene / "one.txt"})
    (tmp_path / "renamed.txt").write_bytes((scene / "one.txt").read_bytes())
    with pytest.raises(CorpusError, match=r"renamed\.txt.*the store holds these documents already"):
        logitstore.extend(store, out, **given | {"data": tmp_path / "renamed.txt"})
    with pytest.raises(SpecError, match="dtype float32 there, bfloat16 here"):
        logitstore.extend(store, out, **given, device="cpu", dtype="bfloat16")
    with pytest.raises(ModelError):
        logitstore.extend(store, out, **given | {"teacher": str(tmp_path)})
    with pytest.raises(SpecError, match="teacher_system"):
        logitstore.extend(store, out, **given, device="cpu", teacher_system="Be brief, please.")
    with pytest.raises(SettingError, match="cannot lie within"):
        logitstore.extend(store, store / "out", **given)
    assert not out.exists()
