"""The card of a store: what hubs read of it, terms and figures, snippets that run, foreign text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard

import logitstore
from logitstore.errors import SettingError
from logitstore.store.last_audit import keep_audit
from logitstore.store.storage import open_storage
from logitstore.store.verify import verify
from tests.synthetic import store_spec, stored_documents, write_store


def pushed(folder: Path, out: Path, **options: object) -> DatasetCard:
    logitstore.push(folder, str(out), **options)
    return DatasetCard((out / "README.md").read_text())


def row(card: DatasetCard, name: str) -> str:
    (found,) = re.findall(rf"^\| {name} \| (.*) \|$", card.text, flags=re.MULTILINE)
    return found


def test_snippets_of_a_parquet_store_run_as_they_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    units = [stored_documents([20, 30]), stored_documents([12], seed=5)]
    write_store(tmp_path / "store", units, spec=store_spec(container="parquet"))
    text = (tmp_path / "store" / "README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(snippets) == 4
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet, names)
    rows = names["rows"]
    assert [one["tokens"] for one in rows] == [20, 30, 12]  # type: ignore[attr-defined]
    told = capsys.readouterr().out
    first = logitstore.open("store")[0].document.input_ids_L[:8].tolist()
    assert f"20 {first}" in told
    assert told.count("30") >= 3  # of each tool
    assert DatasetCard(text).data["configs"] == [
        {"config_name": "default", "data_files": "data/*/documents.parquet"}
    ]


def test_terms_are_those_that_were_stated(tmp_path: Path) -> None:
    write_store(tmp_path / "store", [stored_documents([20])], spec=store_spec())
    plain = pushed(tmp_path / "store", tmp_path / "plain")
    assert "license" not in plain.data.to_dict()
    assert row(plain, "terms of the corpus") == row(plain, "terms of this store") == "not stated"
    assert "not audited when this card was made" in plain.text
    assert "container is parquet" in plain.text
    stated = pushed(
        tmp_path / "store",
        tmp_path / "stated",
        license="cc-by-4.0",
        teacher_license="Terms: of *Team* <b>",
        corpus_license="odc-by",
    )
    assert stated.data.license == "cc-by-4.0"
    assert row(stated, "terms of the teacher") == r"Terms: of \*Team\* &lt;b&gt;"
    other = pushed(tmp_path / "store", tmp_path / "other", license="Team: 'own'\nterms: x")
    assert other.data.license == "other"
    assert other.data.license_name == r"Team: 'own'\nterms: x"


def test_an_audit_is_that_of_the_store(tmp_path: Path) -> None:
    write_store(tmp_path / "store", [stored_documents([20])], spec=store_spec())
    fingerprint = logitstore.open(tmp_path / "store").fingerprint
    found = {"fingerprint": fingerprint, "documents": 32, "targets": 9000, "ok": True, "kl": 1.5e-4}
    file = tmp_path / "audit.json"
    file.write_text(json.dumps(found))
    card = pushed(tmp_path / "store", tmp_path / "out", audit=file)
    assert "32 documents and 9000 targets" in card.text
    assert "| 0.00015 |" in card.text
    for change, message in (
        ({"fingerprint": "0" * 64}, "another store"),
        ({"ok": False}, "has found faults"),
        ({"documents": None, "kl": None}, None),
    ):
        file.write_text(json.dumps(found | change))
        if message is not None:
            with pytest.raises(SettingError, match=message):
                logitstore.push(tmp_path / "store", str(tmp_path / "no"), audit=file)
    file.write_text("[1]")
    with pytest.raises(SettingError, match="nothing that `logitstore audit --json` wrote"):
        logitstore.push(tmp_path / "store", str(tmp_path / "no"), audit=file)
    assert not (tmp_path / "no").exists()


def test_the_last_audit_is_kept_beside_the_store_and_travels_with_it(tmp_path: Path) -> None:
    write_store(tmp_path / "store", [stored_documents([20])], spec=store_spec())
    fingerprint = logitstore.open(tmp_path / "store").fingerprint
    found = {"documents": 32, "targets": 9000, "kl": 1.5e-4, "temperature": 1.0, "dtype": "float32"}
    found |= dict.fromkeys(("noise_kl", "stated_kl", "retained_mass", "gradient_angle"))
    found |= {"fingerprint": fingerprint, "ok": True, "teacher_matches": True}
    storage = open_storage(tmp_path / "store")
    assert keep_audit(storage, found | {"teacher": "/home/ada/model"})
    assert "ada" not in (tmp_path / "store" / "audit.json").read_text()
    assert list(verify(tmp_path / "store", strict=True)) == []
    assert logitstore.inspect(tmp_path / "store")["last_audit"]["kl"] == 1.5e-4
    card = pushed(tmp_path / "store", tmp_path / "out")
    assert "Fidelity, by `logitstore audit` with 32 documents and 9000 targets" in card.text
    logitstore.pull(str(tmp_path / "out"), tmp_path / "pulled")
    assert logitstore.inspect(tmp_path / "pulled")["last_audit"]["documents"] == 32
    assert not keep_audit(storage, found | {"ok": False, "teacher_matches": False})
    assert keep_audit(storage, found | {"ok": False})  # with the store's own teacher
    assert "**The last audit found faults**" in pushed(tmp_path / "store", tmp_path / "bad").text
    planted = [{"fingerprint": "0" * 64}, {"kl": 10**400}, {"kl": None}, {"documents": -5}]
    planted += [{"retained_mass": [1]}, {"temperature": {}}, {"targets": 10**30}, {"ok": 1}]
    others = [json.dumps(found | one).encode() for one in planted]
    for other in (b"[1]", b"{", b"[" * 100_000, *others):
        storage.put("audit.json", other)
        assert logitstore.inspect(tmp_path / "store")["last_audit"] is None
        assert "not audited" in pushed(tmp_path / "store", tmp_path / "none").text


def test_foreign_text_stays_text(tmp_path: Path) -> None:
    spec = store_spec(container="parquet")
    name = "a|b <script>alert(1)</script> [x](javascript:1)\n---\nlicense: mit\n\x1b[31m`"
    spec = replace(spec, teacher=replace(spec.teacher, name=name))
    spec = replace(spec, corpus=replace(spec.corpus, name=name))
    write_store(tmp_path / "st'\";re", [stored_documents([20])], spec=spec)
    card = DatasetCard((tmp_path / "st'\";re" / "README.md").read_text())
    assert "license" not in card.data.to_dict()
    assert "<script>" not in card.text
    assert "[x](" not in card.text
    assert "\x1b" not in card.text
    assert row(card, "teacher").startswith(r"a\|b &lt;script&gt;")
    assert 'open("st___re")' in card.text
