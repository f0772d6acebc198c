"""The trade-off between bytes and error, and what is recommended of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import logitstore
from logitstore.errors import CorpusError, SettingError
from logitstore.fidelity.gradients import GradientComparison
from logitstore.fidelity.pulls import PullSum, compare, relative_error
from logitstore.forecast.serving import lacks
from logitstore.forecast.tradeoff import MeasuredSparsifier, TradeOff, recommend
from logitstore.forecast.tune import CANDIDATES
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from tests.forked import run
from tests.test_dump import TEXTS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"{n} {text}"}) + "\n" for n, text in enumerate(TEXTS * 3))
    )
    return path


@pytest.fixture(scope="module")
def found(teacher_folder: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TradeOff:
    picture = tmp_path_factory.mktemp("picture") / "tune.svg"
    return logitstore.tune(
        teacher=str(teacher_folder),
        data=str(corpus),
        batch_tokens=1024,
        seconds=300,
        out=picture,
    )


def test_every_candidate_has_its_row(found: TradeOff) -> None:
    assert len(found.measured) == len(CANDIDATES)
    sizes = [one.bytes_per_target for one in found.measured]
    assert sizes == sorted(sizes)
    assert found.recommended in found.measured
    for one in found.measured:
        assert one.error > 0
        assert one.angle > 0
        assert (one.retained_mass > 0) == SPARSIFIERS[one.sparsify].targets.has_exact


@pytest.mark.parametrize("name", ["topk", "topp", "sample", "unbiased"])
def test_more_entries_cost_more_and_err_less(found: TradeOff, name: str) -> None:
    line = [one for one in found.measured if one.sparsify == name]
    assert line == sorted(line, key=lambda one: list(one.options.values()))
    errors = [one.error for one in line]
    assert errors == sorted(errors, reverse=True)


def test_unbiased_targets_hardly_turn_the_gradient_of_the_sample(found: TradeOff) -> None:
    angle = {one.command: one.angle for one in found.measured}
    assert angle["--sparsify unbiased --k 24"] < angle["--sparsify topk --k 25"] / 2


def test_the_picture_names_every_sparsifier_that_is_compared(found: TradeOff) -> None:
    drawn = Path(str(found.picture)).read_text()
    assert drawn.startswith("<?xml")
    for name, _ in CANDIDATES:
        assert f">{name}<" in drawn
    assert found.recommended.command in drawn


def test_the_object_holds_rows_and_the_recommendation(found: TradeOff) -> None:
    content = json.loads(json.dumps(found.to_json()))
    assert len(content["rows"]) == len(CANDIDATES)
    assert content["recommendation"]["command"] == found.recommended.command
    assert content["recommendation"]["reason"] == found.reason
    kind = SPARSIFIERS[found.recommended.sparsify].targets
    assert content["recommendation"]["serves"] == kind.serves
    assert content["recommendation"]["lacks"]
    assert content["picture"] == found.picture
    assert content["sample_targets"] == found.sample_targets


def test_what_a_kind_cannot_serve_is_told_with_the_option_that_can() -> None:
    """Each option that is named, if it names a sparsifier, names one whose kind serves it."""
    wanted = {
        "unbiased": ["temperatures but 1", "not linear"],
        "sample": ["temperatures but 1", "not linear"],
        "topk": ["but as a bound", "below 1"],
        "topp": ["but as a bound", "below 1"],
        "hybrid": ["without bias at T other than 1", "below 1"],
    }
    for name, parts in wanted.items():
        found = lacks(SPARSIFIERS[name])
        assert [part in one.what for part, one in zip(parts, found, strict=True)] == [True, True]
    (_, tails) = lacks(SPARSIFIERS["unbiased"])
    assert tails.options == "--sparsify hybrid, topk, topp or hidden"
    assert all(SPARSIFIERS[one].targets.keeps_tail for one in ("hybrid", "topk", "topp"))
    (bias, low) = lacks(SPARSIFIERS["topk"])
    assert bias.options == "--sparsify hybrid, unbiased or sample"
    assert low.options == "--sparsify unbiased or sample --temperature 0.5"


def test_bytes_are_those_of_a_dump(
    found: TradeOff, teacher_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    settings = {"teacher": str(teacher_folder), "data": str(corpus), "sparsify": "topk", "k": 25}
    summary = logitstore.dump(**settings, out=tmp_path / "store")
    assert found.sample_targets == summary.targets
    (row,) = [one for one in found.measured if one.command == "--sparsify topk --k 25"]
    assert row.bytes_per_target == pytest.approx(summary.bytes / summary.targets, rel=0.03)


def _measured(name: str, size: float, error: float) -> MeasuredSparsifier:
    return MeasuredSparsifier(
        sparsify=name,
        options={"k": size},
        bytes_per_target=size,
        error=error,
        angle=1.0,
        norm_ratio=1.0,
        retained_mass=0.5,
    )


TABLE = [
    _measured("topk", 10, 0.3),
    _measured("unbiased", 15, 0.1),
    _measured("unbiased", 25, 0.05),
    _measured("topk", 30, 0.06),
    _measured("unbiased", 39, 0.04),
    _measured("sample", 100, 0.01),
]


@pytest.mark.parametrize(
    ("bounds", "size"),
    [
        ({"max_bytes": 12}, 10),
        ({"max_bytes": 30}, 25),
        ({"max_bytes": 1000}, 100),
        ({"max_error": 0.3}, 10),
        ({"max_error": 0.07}, 25),
        ({"max_error": 0.01}, 100),
        ({}, 25),
    ],
)
def test_the_recommendation_keeps_to_its_bound(bounds: dict[str, float], size: float) -> None:
    choice = recommend(TABLE, **{"max_bytes": None, "max_error": None} | bounds)
    assert choice.taken.bytes_per_target == size
    assert "byte" in choice.reason
    assert choice.unmet is None


def test_without_anything_modest_the_choice_is_among_all() -> None:
    choice = recommend(TABLE[-1:], max_bytes=None, max_error=None)
    assert choice.taken is TABLE[-1]
    assert "no setting takes 40 bytes" in choice.reason
    assert "buy" not in choice.reason


@pytest.mark.parametrize(
    ("bounds", "nearest", "unmet"),
    [
        ({"max_bytes": 9}, "topk --k 10", "--max-bytes (found 9; allowed: 10 or more)"),
        ({"max_error": 0.001}, "sample", "--max-error (found 0.001; allowed: 0.01 or more)"),
    ],
)
def test_a_bound_out_of_reach_is_told(bounds: dict[str, float], nearest: str, unmet: str) -> None:
    choice = recommend(TABLE, **{"max_bytes": None, "max_error": None} | bounds)
    assert nearest in choice.taken.command
    assert choice.unmet is not None
    assert unmet in choice.unmet


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_pulls_are_the_gradients_of_a_uniform_student(name: str) -> None:
    vocab_size = 200
    generator = torch.Generator().manual_seed(0)
    logits_RV = 3 * torch.randn(64, vocab_size, generator=generator)
    labels_R = torch.zeros(64, dtype=torch.long)
    spec = sparsifier_spec(name)
    keys_R = np.arange(64, dtype=np.uint64)
    (targets,) = SPARSIFIERS[name].draw(logits_RV.clone(), labels_R, keys_R, spec)
    one_by_one = GradientComparison(vocab_size)
    one_by_one.add(logits_RV.double().log_softmax(-1), targets)
    dense, sparse = PullSum(vocab_size), PullSum(vocab_size)
    dense.add_dense(logits_RV.double().softmax(-1))
    sparse.add(targets.rows(slice(0, 40)))
    rest = PullSum(vocab_size)
    rest.add(targets.rows(slice(40, 64)))
    sparse.include(rest)
    together = compare(dense, sparse)
    assert together.angle == pytest.approx(one_by_one.angle, rel=1e-4)
    assert together.norm_ratio == pytest.approx(one_by_one.norm_ratio, rel=1e-5)
    difference_V = sparse.mean_V - dense.mean_V
    length = np.linalg.norm(dense.mean_V - 1 / vocab_size)
    assert relative_error(together) == pytest.approx(
        np.linalg.norm(difference_V) / length, rel=1e-4
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"max_bytes": 20, "max_error": 0.1}, SettingError, "exclude each other"),
        ({"max_bytes": 0}, SettingError, "^max_bytes"),
        ({"max_error": -1}, SettingError, "^max_error"),
        ({"seconds": 0}, SettingError, "^seconds"),
        ({"seconds": float("inf")}, SettingError, "^seconds"),
        ({"out": "tune.txt"}, SettingError, r"tune\.txt.*\.png"),
        ({"out": "/no/such/folder/tune.png"}, SettingError, "/no/such/folder"),
        ({"fidelity": "best"}, SettingError, "^fidelity"),
        ({"data": "/no/such/corpus.jsonl"}, CorpusError, r"/no/such/corpus\.jsonl"),
    ],
)
def test_bad_options_are_told(
    teacher_folder: Path,
    corpus: Path,
    change: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    settings = {"teacher": str(teacher_folder), "data": str(corpus)} | change
    with pytest.raises(error, match=message):
        logitstore.tune(**settings)


@pytest.mark.parametrize("option", ["temperature", "k", "sparsify", "picture"])
def test_options_of_what_is_compared_are_none_of_tunes(option: str) -> None:
    with pytest.raises(TypeError, match=rf"tune\(\) got an unexpected keyword argument '{option}'"):
        logitstore.tune(teacher="teacher", data="data", **{option: None})


def test_the_command_line(teacher_folder: Path, corpus: Path, tmp_path: Path) -> None:
    call = ["logitstore", "tune", f"--data={corpus}", "--limit=9"]
    call += [f"--teacher={teacher_folder}", "--seconds=0.5"]
    told = run(*call, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert f"logitstore dump --teacher {teacher_folder} --data {corpus} --limit 9" in told.stdout
    assert "--out STORE --sparsify" in told.stdout
    assert "\nserves: " in told.stdout
    assert "\nnot: " in told.stdout
    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")
    failed = run(*call, "--json", "--max-bytes=1", cwd=tmp_path)
    assert failed.returncode == 1
    assert "--max-bytes" in json.loads(failed.stdout)["error"]
    assert "--max-bytes" in failed.stderr
    assert len(json.loads(failed.stdout)["rows"]) > 10  # what was measured is not lost
    assert "Traceback" not in failed.stderr
