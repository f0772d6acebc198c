"""An estimate against the dump that it foretells."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import logitstore
from logitstore.errors import CorpusError, LogitStoreError, SettingError
from tests.forked import run
from tests.test_dump import TEXTS

KEYS = {
    "documents",
    "targets",
    "bytes",
    "bytes_per_target",
    "seconds",
    "retained_mass",
    "units",
    "sample_documents",
    "sample_targets",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    lines = [json.dumps({"text": f"{n} {text}"}) + "\n" for n, text in enumerate(TEXTS * 40)]
    # One record in ten lines' bytes: what a slice holds is not what a record holds.
    lines[300] = json.dumps({"text": " ".join(TEXTS) * 10}) + "\n"
    path.write_text("".join(lines))
    return path


@pytest.fixture
def settings(teacher_folder: Path, corpus: Path) -> dict[str, Any]:
    return {
        "teacher": str(teacher_folder),
        "data": str(corpus),
        "sparsify": "unbiased",
        "k": 8,
        "batch_tokens": 512,
        "unit_tokens": 10_000,
    }


def _dumped(settings: dict[str, Any], folder: Path) -> tuple[logitstore.Store, int]:
    summary = logitstore.dump(**settings, out=folder / "store")
    return logitstore.open(summary.uri), summary.bytes


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"format": "parquet"},
        {"unit_tokens": 2_000, "limit": 500},
        {"sparsify": "sample", "k": None, "draws": 9, "temperature": [1.0, 2.0]},
        {"sparsify": "topk"},
    ],
)
def test_a_small_corpus_is_foretold_exactly(
    settings: dict[str, Any], tmp_path: Path, change: dict[str, Any]
) -> None:
    settings |= {"limit": 200} | change
    found = logitstore.estimate(**settings, seconds=300)
    store, stored = _dumped(settings, tmp_path)
    assert (found.targets, found.documents) == (store.targets, len(store))
    assert found.sample_targets == found.targets
    assert found.bytes == pytest.approx(stored, rel=0.05)
    assert found.units == pytest.approx(len(store.commits), abs=1)
    mass = sum(commit.sums["head_mass"] for commit in store.commits) / store.targets
    assert found.retained_mass == pytest.approx(mass, rel=1e-6)


def test_a_sample_speaks_for_the_whole(settings: dict[str, Any], tmp_path: Path) -> None:
    found = logitstore.estimate(**settings, seconds=1)
    store, stored = _dumped(settings, tmp_path)
    assert found.sample_targets <= store.targets
    assert found.targets == pytest.approx(store.targets, rel=0.15)
    assert found.bytes == pytest.approx(stored, rel=0.2)


def test_a_table_is_extrapolated_by_its_text(settings: dict[str, Any], tmp_path: Path) -> None:
    texts = [json.loads(line)["text"] for line in Path(settings["data"]).read_text().splitlines()]
    pq.write_table(pa.table({"text": texts}), tmp_path / "corpus.parquet")
    settings["data"] = str(tmp_path / "corpus.parquet")
    found = logitstore.estimate(**settings, seconds=1)
    store, _ = _dumped(settings, tmp_path)
    assert found.targets == pytest.approx(store.targets, rel=0.15)


def test_nothing_is_left_behind(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    logitstore.estimate(**settings, seconds=0.1)
    assert list(tmp_path.iterdir()) == []


def test_progress_goes_up_to_one(settings: dict[str, Any]) -> None:
    told: list[logitstore.Progress] = []
    logitstore.estimate(**settings, seconds=1.0, on_progress=told.append)
    shares = [one.fraction for one in told if one.stage == "sampling"]
    assert len(shares) > 1
    assert shares == sorted(shares)
    assert shares[-1] <= 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seconds": 0}, SettingError, "^seconds"),
        ({"seconds": float("inf")}, SettingError, "^seconds"),
        ({"seconds": float("nan")}, SettingError, "^seconds"),
        ({"k": 301}, SettingError, "301"),
        ({"fidelity": "best"}, SettingError, "^fidelity"),
        ({"format": "hdf5"}, SettingError, "hdf5"),
        ({"data": "/no/such/corpus.jsonl"}, CorpusError, r"/no/such/corpus\.jsonl"),
        ({"limit": 0}, SettingError, "^limit"),
    ],
)
def test_bad_options_are_told(
    settings: dict[str, Any], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        logitstore.estimate(**settings | change)


def test_a_corpus_of_nothing_but_bad_records(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n" * 5)
    settings["data"] = str(tmp_path / "bad.jsonl")
    with pytest.raises(LogitStoreError, match=r"bad\.jsonl:1"):
        logitstore.estimate(**settings)
    with pytest.raises(CorpusError, match="5 records skipped"):
        logitstore.estimate(**settings, skip_bad=True)


def test_the_command_prints_one_object(settings: dict[str, Any]) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    call = ["logitstore", "estimate", *options, "--seconds=0.2"]
    shown = run(*call, "--json")
    assert shown.returncode == 0, shown.stderr
    assert set(json.loads(shown.stdout)) == KEYS
    told = run(*call)
    assert told.returncode == 0, told.stderr
    assert "per target" in told.stdout
    failed = run(*(one for one in call if not one.startswith("--k=")), "--json", "--k=301")
    assert failed.returncode == 1
    assert "301" in json.loads(failed.stdout)["error"]


def test_an_estimate_has_no_other_fields(settings: dict[str, Any]) -> None:
    assert set(asdict(logitstore.estimate(**settings, seconds=0.1))) == KEYS
