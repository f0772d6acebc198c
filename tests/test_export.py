"""Export: numbers that are the reader's, and files that import again as what they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import logitstore
from logitstore import SettingError, export_store, import_store
from logitstore.exchange import exporting
from logitstore.format.spec import SparsifierSpec
from logitstore.sparsify import SPARSIFIERS
from logitstore.targets.documents import StoredDocument
from logitstore.targets.draws import row_keys
from tests.synthetic import store_spec, stored_documents, write_store

HYBRID = SparsifierSpec(
    name="hybrid", k=8, tail_nodes=(1.0, 0.5), options={"tail_draws": 4, "seed": 0}
)


def _heads(folder: Path, *, masked: bool = False) -> logitstore.Store:
    documents = stored_documents([20, 30, 9], masked=masked)
    # Blocks of a document or two, the second row of the first with fewer entries.
    write_store(folder, [documents[:2], documents[2:]], spec=store_spec(block_targets=20))
    return logitstore.open(folder)


def _hybrid(folder: Path) -> logitstore.Store:
    stored = []
    for one in stored_documents([20, 9]):
        logits_RV = 2 * torch.randn(
            one.document.targets, 300, generator=torch.Generator().manual_seed(1)
        )
        labels_R = torch.from_numpy(
            one.document.input_ids_L[one.document.counted_L].astype(np.int64)
        )
        (targets,) = SPARSIFIERS["hybrid"].draw(
            logits_RV, labels_R, row_keys(one.document, seed=0), HYBRID
        )
        stored.append(StoredDocument(document=one.document, targets=targets))
    write_store(folder, [stored], spec=store_spec(sparsifier=HYBRID))
    return logitstore.open(folder)


def _rows(store: logitstore.Store) -> list[tuple[str, int, int, Any, int]]:
    """Document, position, token, its targets and the row in them."""
    return [
        (
            one.document.id.hex(),
            int(position),
            int(one.document.input_ids_L[position]),
            one.targets,
            row,
        )
        for one in store
        for row, position in enumerate(np.flatnonzero(one.document.counted_L))
    ]


@pytest.mark.parametrize("made", [_heads, _hybrid], ids=["topk", "hybrid"])
def test_parquet_holds_what_the_reader_reads(made: Any, tmp_path: Path) -> None:
    store = made(tmp_path / "store")
    export_store(tmp_path / "store", tmp_path / "out", to="parquet")
    table = pq.read_table(tmp_path / "out" / "targets.parquet").to_pylist()
    assert len(table) == store.targets
    for found, (document, position, token, targets, row) in zip(table, _rows(store), strict=True):
        assert (found["document"], found["position"], found["token"]) == (document, position, token)
        used = targets.used_RK()[row]
        expected = {
            int(i): (None if drawn else float(p), float(w))
            for i, drawn, p, w in zip(
                targets.ids_RK[row][used],
                targets.sampled_RK[row][used],
                targets.logprobs_RK[row][used],
                targets.weights_RK[row][used],
                strict=True,
            )
        }
        values = zip(found["ids"], found["logprobs"], found["weights"], strict=True)
        assert {number: (p, w) for number, p, w in values} == expected
        drawn = found.get("drawn") or [False] * len(found["ids"])
        order = [(one, -weight) for one, weight in zip(drawn, found["weights"], strict=True)]
        assert order == sorted(order)  # exact ones first: the first is the most probable token
        assert found["tail_mass"] == pytest.approx(np.exp(targets.tail_logmass_RB[row, 0]))
        assert found["tail_logmass"] == targets.tail_logmass_RB[row].tolist()
        assert found["entropy"] == targets.entropy_R[row]
        assert found["label_logprob"] == targets.label_logprob_R[row]
    documents = pq.read_table(tmp_path / "out" / "documents.parquet").to_pylist()
    for found, one in zip(documents, store, strict=True):
        assert found["input_ids"] == one.document.input_ids_L.tolist()
        assert found["counted"] == one.document.counted_L.tolist()


def test_datasets_loads_the_same_from_disk(tmp_path: Path) -> None:
    import datasets

    store = _heads(tmp_path / "store", masked=True)
    summary = export_store(tmp_path / "store", tmp_path / "out", to="datasets")
    assert set(summary.files) >= {"state.json", "dataset_info.json"}
    data = datasets.load_from_disk(str(tmp_path / "out"))
    assert len(data) == len(store)
    for found, one in zip(data, store, strict=True):
        assert found["input_ids"] == one.document.input_ids_L.tolist()
        assert found["entropy"] == one.targets.entropy_R.tolist()
        for row, ids in enumerate(found["ids"]):
            assert set(ids) == set(one.targets.ids_RK[row][one.targets.used_RK()[row]].tolist())


@pytest.mark.parametrize("made", [_heads, _hybrid], ids=["topk", "hybrid"])
def test_distillkit_comes_back_but_for_the_last_token(
    made: Any, tmp_path: Path, tokenizer: Any
) -> None:
    store = made(tmp_path / "store")
    summary = export_store(tmp_path / "store", tmp_path / "out", to="distillkit")
    assert "the last token of each document, to which its last row belongs" in summary.lacks
    import_store(tmp_path / "out", tmp_path / "again", from_="distillkit", tokenizer=tokenizer)
    for one, again in zip(store, logitstore.open(tmp_path / "again"), strict=True):
        assert np.array_equal(again.document.input_ids_L, one.document.input_ids_L[:-1])
        assert len(again.targets) == len(one.targets) - 1
        _compare(one.targets, again.targets, shares=False)


@pytest.mark.parametrize("made", [_heads, _hybrid], ids=["topk", "hybrid"])
def test_axolotl_comes_back_renormalised(made: Any, tmp_path: Path, tokenizer: Any) -> None:
    store = made(tmp_path / "store", masked=True) if made is _heads else made(tmp_path / "store")
    export_store(tmp_path / "store", tmp_path / "out", to="axolotl")
    options = {"from_": "axolotl", "tokenizer": tokenizer, "alignment": "next"}
    import_store(tmp_path / "out", tmp_path / "again", **options)
    for one, again in zip(store, logitstore.open(tmp_path / "again"), strict=True):
        assert np.array_equal(again.document.input_ids_L, one.document.input_ids_L)
        assert np.array_equal(again.document.counted_L, one.document.counted_L)
        _compare(one.targets, again.targets, shares=True)
    export_store(tmp_path / "again", tmp_path / "shares", to="parquet")
    names = pq.read_schema(tmp_path / "shares" / "targets.parquet").names
    assert names == ["document", "position", "token", "ids", "weights"]
    with pytest.raises(SettingError, match="up to a constant"):
        export_store(tmp_path / "again", tmp_path / "other", to="distillkit")


def _compare(before: Any, after: Any, *, shares: bool) -> None:
    exact_RK = before.exact_RK()
    for row in range(len(after)):
        wanted = dict(
            zip(
                before.ids_RK[row][exact_RK[row]],
                before.logprobs_RK[row][exact_RK[row]],
                strict=True,
            )
        )
        used = after.used_RK()[row]
        found = dict(zip(after.ids_RK[row][used], after.logprobs_RK[row][used], strict=True))
        shift = np.logaddexp.reduce(list(wanted.values())) if shares else 0.0
        assert set(found) == set(wanted)
        for number, value in wanted.items():
            assert found[number] == pytest.approx(value - shift, abs=0.012)


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    _heads(tmp_path / "store", masked=True)
    with pytest.raises(SettingError, match="DistillKit has no mask"):
        export_store(tmp_path / "store", tmp_path / "out", to="distillkit")
    (one,) = stored_documents([9])
    spec = SparsifierSpec(
        name="unbiased", k=8, temperatures=(1.0,), options={"repeats": 1, "seed": 0}
    )
    logits_RV = torch.randn(8, 300, generator=torch.Generator().manual_seed(0))
    (targets,) = SPARSIFIERS["unbiased"].draw(
        logits_RV, torch.zeros(8, dtype=torch.int64), row_keys(one.document, seed=0), spec
    )
    write_store(
        tmp_path / "drawn", [[replace(one, targets=targets)]], spec=store_spec(sparsifier=spec)
    )
    for to in ("distillkit", "axolotl"):
        with pytest.raises(SettingError, match="the entries were drawn"):
            export_store(tmp_path / "drawn", tmp_path / "out", to=to)
    export_store(tmp_path / "drawn", tmp_path / "out", to="parquet")
    with pytest.raises(SettingError, match="there already"):
        export_store(tmp_path / "drawn", tmp_path / "out", to="parquet")


def test_an_export_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _heads(tmp_path / "store")
    calls = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "_add", fail)
    with pytest.raises(KeyboardInterrupt):
        export_store(tmp_path / "store", tmp_path / "out", to="parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
