"""`dump --positions`: targets of some positions alone, against the live teacher in float64."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import logitstore
import trainer
from logitstore.errors import CorpusError, CorruptionError, SettingError, SpecError
from logitstore.format.rules import TargetRule
from logitstore.format.spec import StoreSpec
from logitstore.store.containers import CONTAINERS
from logitstore.store.verify import verify
from logitstore.targets.documents import Document, TeacherText
from tests.test_dump import TEXTS, _data, _dense
from trainer.training.state_files import RunWarning

RULES = ("entropy:top:0.2", "loss:bottom:0.5", "entropy:above:2.5")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} {t}"}) + "\n" for n, t in enumerate(TEXTS)))
    return path


@pytest.fixture(scope="module")
def settings(teacher_folder: Path, corpus: Path) -> dict[str, Any]:
    return {
        "teacher": str(teacher_folder),
        "data": str(corpus),
        "sparsify": "topk",
        "k": 8,
        "unit_tokens": 600,
        "batch_tokens": 512,
    }


@pytest.fixture(scope="module")
def stores(
    settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str | None, Path]:
    """A store for each rule, and one of all positions."""
    folder = tmp_path_factory.mktemp("stores")
    found: dict[str | None, Path] = {}
    for number, rule in enumerate((None, *RULES)):
        found[rule] = folder / str(number)
        logitstore.dump(**settings, out=found[rule], positions=rule)
    return found


def _kept(rule: str, logp_RV: np.ndarray, labels_R: np.ndarray) -> set[int]:
    """The rows of a document that a rule keeps, from its dense distributions."""
    measure, side, value = rule.split(":")
    by_R = -(np.exp(logp_RV) * logp_RV).sum(axis=1)
    if measure == "loss":
        by_R = -logp_RV[np.arange(len(labels_R)), labels_R]
    if side == "above":
        return {row for row in range(len(by_R)) if by_R[row] >= float(value)}
    ranked = sorted(range(len(by_R)), key=lambda row: -by_R[row] if side == "top" else by_R[row])
    return set(ranked[: math.ceil(float(value) * len(by_R))])


@pytest.mark.parametrize("rule", RULES)
def test_those_targets_are_kept_and_are_as_in_a_store_of_all(
    stores: dict[str | None, Path], teacher_folder: Path, rule: str
) -> None:
    assert list(verify(stores[rule])) == []
    whole = {stored.document.id: stored for stored in logitstore.open(stores[None])}
    found = {stored.document.id: stored for stored in logitstore.open(stores[rule])}
    kept = 0
    for name, stored in whole.items():
        logp_RV = _dense(teacher_folder, stored.document.input_ids_L)
        rows = sorted(_kept(rule, logp_RV, stored.document.input_ids_L[1:].astype(int)))
        if not rows:
            assert name not in found
            continue
        kept += len(rows)
        own = found[name]
        assert own.document.input_ids_L.tolist() == stored.document.input_ids_L.tolist()
        assert np.flatnonzero(own.document.counted_L).tolist() == [row + 1 for row in rows]
        same = stored.targets.rows(np.array(rows))
        np.testing.assert_array_equal(own.targets.entropy_R, same.entropy_R)
        np.testing.assert_array_equal(own.targets.label_logprob_R, same.label_logprob_R)
        for mine, theirs in zip(own.targets.ids_RK, same.ids_RK, strict=True):
            assert set(mine.tolist()) == set(theirs.tolist())
    assert kept == logitstore.open(stores[rule]).targets > 0


def test_only_those_cost_bytes(stores: dict[str | None, Path]) -> None:
    some, every = (logitstore.inspect(stores[rule]) for rule in (RULES[0], None))
    assert some["targets"] == pytest.approx(0.2 * every["targets"], abs=some["documents"])

    def entries(told: dict[str, Any]) -> float:
        columns = told["column_bytes_per_target"]
        return told["targets"] * (columns["id_delta"] + columns["code"])

    assert entries(some) < 0.3 * entries(every)
    assert some["bytes"] < 0.8 * every["bytes"]
    assert some["corpus"]["positions"] == RULES[0]
    assert every["corpus"]["positions"] is None
    card = (stores[RULES[0]] / "README.md").read_text()
    assert "at positions chosen by entropy:top:0.2 alone" in card


@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_a_dump_is_the_same_bytes_again_and_the_same_positions_in_any_batch(
    settings: dict[str, Any], stores: dict[str | None, Path], tmp_path: Path, container: str
) -> None:
    given = settings | {"positions": "entropy:0.2", "format": container}
    for name in ("one", "two"):
        logitstore.dump(**given, out=tmp_path / name)
    assert _data(tmp_path / "one") == _data(tmp_path / "two")
    logitstore.dump(**given | {"batch_tokens": 64, "unit_tokens": 10_000}, out=tmp_path / "other")
    masks = [
        {one.document.id: one.document.counted_L.tolist() for one in logitstore.open(store)}
        for store in (tmp_path / "one", tmp_path / "other", stores[RULES[0]])
    ]
    assert masks[0] == masks[1] == masks[2]


def test_drawn_targets_are_those_of_a_store_of_all(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    drawn = settings | {"sparsify": "unbiased", "k": 6, "repeats": 2, "limit": 4}
    for name, rule in (("all", None), ("some", "entropy:top:0.3")):
        logitstore.dump(**drawn, out=tmp_path / name, positions=rule)
    for draw in range(2):
        pairs = zip(
            *(logitstore.open(tmp_path / name).with_draw(draw) for name in ("all", "some")),
            strict=True,
        )
        for every, some in pairs:
            rows = np.flatnonzero(some.document.counted_L[every.document.counted_L])
            same = every.targets.rows(rows)
            for mine, theirs in zip(some.targets.ids_RK, same.ids_RK, strict=True):
                assert set(mine.tolist()) == set(theirs.tolist())


# --- the spec


def test_older_versions_are_told_by_the_format_alone(stores: dict[str | None, Path]) -> None:
    some, every = (
        json.loads((stores[rule] / "store.json").read_text()) for rule in (RULES[0], None)
    )
    assert (some["format"], every["format"]) == ("logitstore/5", "logitstore/4")
    assert some["text"]["positions"] == RULES[0]
    assert "positions" not in every["text"]


@pytest.mark.parametrize("positions", ["kl:top:0.2", "entropy:0.2", 3, "entropy:top:2.0"])
def test_a_spec_with_no_rule_is_refused(stores: dict[str | None, Path], positions: Any) -> None:
    content = logitstore.open(stores[RULES[0]]).spec.to_json()
    content["text"] = content["text"] | {"positions": positions}
    with pytest.raises(CorruptionError, match="positions"):
        StoreSpec.from_json(content, place="store.json")


def test_the_field_and_the_format_go_together(stores: dict[str | None, Path]) -> None:
    spec = logitstore.open(stores[RULES[0]]).spec
    with pytest.raises(TypeError, match="positions"):
        replace(spec, format="logitstore/4").to_json()
    content = spec.to_json()
    del content["text"]["positions"]
    with pytest.raises(CorruptionError, match="positions"):
        StoreSpec.from_json(content, place="store.json")
    older = spec.to_json() | {"format": "logitstore/4"}
    with pytest.raises(CorruptionError, match="positions"):
        StoreSpec.from_json(older, place="store.json")


def test_other_positions_are_refused_on_resume(
    settings: dict[str, Any], stores: dict[str | None, Path]
) -> None:
    for there, here in ((RULES[0], "entropy:top:0.3"), (RULES[0], None), (None, RULES[0])):
        wanted = f"--positions {there or 'not given'} there, {here or 'not given'} here"
        with pytest.raises(SpecError) as refused:
            logitstore.dump(**settings, out=stores[there], positions=here)
        assert wanted in refused.value.command_line_message
    again = logitstore.dump(**settings, out=stores[RULES[0]], positions="entropy:0.2")
    assert again.new_targets == 0


def test_what_is_no_rule_or_keeps_nothing_is_refused(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match="positions: this describes no choice of targets"):
        logitstore.dump(**settings, out=tmp_path / "store", positions="entropy:top:20")
    assert not (tmp_path / "store").exists()
    with pytest.raises(CorpusError, match=r"no target of the sample is kept.*entropy:above:99"):
        logitstore.estimate(**settings, positions="entropy:above:99", seconds=60)
    with pytest.raises(CorpusError, match=r"no target of the corpus is kept.*entropy:above:99"):
        logitstore.dump(**settings, out=tmp_path / "store", positions="entropy:above:99")


def test_a_document_keeps_what_belongs_to_its_tokens() -> None:
    def mask(*at: int, length: int) -> np.ndarray:
        return np.isin(np.arange(length), at)

    document = Document(
        id=bytes(16),
        record=0,
        piece=0,
        input_ids_L=np.arange(5, dtype=np.uint32),
        counted_L=mask(1, 3, 4, length=5),
        teacher_text=TeacherText(
            input_ids_M=np.array([9, 9, 0, 1, 2, 3, 4], dtype=np.uint32),
            counted_M=mask(3, 5, 6, length=7),
        ),
        sampler_logprobs_R=np.array([-1, -2, -3], dtype=np.float32),
    )
    some = document.only(np.array([True, False, True]))
    assert np.flatnonzero(some.counted_L).tolist() == [1, 4]
    assert np.flatnonzero(some.as_read.counted_L).tolist() == [3, 6]
    assert some.sampler_logprobs_R is not None
    assert some.sampler_logprobs_R.tolist() == [-1, -3]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("entropy:top:0.4", [1, 3]),  # of equal ones the earlier
        ("entropy:bottom:0.01", [0]),
        ("entropy:top:1e-12", [3]),
        ("entropy:top:0.6", [1, 2, 3]),
        ("entropy:below:2", [0, 4]),
        ("loss:top:0.2", [4]),
    ],
)
def test_shares_are_of_a_document_and_round_up(text: str, kept: list[int]) -> None:
    targets = SimpleNamespace(
        entropy_R=np.array([1, 2, 2, 3, 1], dtype=np.float32),
        label_logprob_R=np.array([-1, -1, -2, -3, -4], dtype=np.float32),
    )
    assert np.flatnonzero(TargetRule.parse(text).kept_R(targets)).tolist() == kept
    hundred = SimpleNamespace(entropy_R=np.arange(100.0), label_logprob_R=np.zeros(100))
    assert TargetRule.parse("entropy:0.07").kept_R(hundred).sum() == 7


# --- what is made of such stores


def test_an_audit_finds_its_teacher(stores: dict[str | None, Path], teacher_folder: Path) -> None:
    for rule in RULES:
        found = logitstore.audit(stores[rule], teacher=str(teacher_folder), no_keep=True)
        assert found["ok"], found["faults"]
        assert found["kl"] < 2e-3


def test_an_audit_reads_again_what_only_the_teacher_read(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    prompt = "Read as the teacher does."
    given = settings | {"teacher_system": prompt, "max_length": 24, "limit": 8}
    logitstore.dump(**given, out=tmp_path / "store", positions="entropy:top:0.3")
    found = logitstore.audit(
        tmp_path / "store",
        teacher=settings["teacher"],
        data=settings["data"],
        teacher_system=prompt,
        no_keep=True,
    )
    assert found["ok"], found["faults"]


@pytest.mark.parametrize("rule", ["entropy:top:0.2", "entropy:above:2.5"])
def test_an_estimate_foretells_the_dump(
    settings: dict[str, Any], stores: dict[str | None, Path], rule: str
) -> None:
    found = logitstore.estimate(**settings, positions=rule, seconds=300)
    store = logitstore.open(stores[rule])
    assert (found.targets, found.documents) == (store.targets, len(store))
    assert found.bytes == pytest.approx(logitstore.inspect(stores[rule])["bytes"], rel=0.1)
    plan = logitstore.estimate(**settings, positions=rule, plan_only=True)
    if rule.startswith("entropy:top"):
        assert plan.targets == pytest.approx(store.targets, rel=0.1)
    else:
        assert plan.bytes is None
        assert any(rule in one for one in plan.missing)


def test_stores_made_of_such_stores_have_their_positions(
    settings: dict[str, Any], stores: dict[str | None, Path], tmp_path: Path
) -> None:
    source, rule = stores[RULES[0]], RULES[0]
    more = [f"more of the text, number {number}" for number in range(6)]
    logitstore.extend(source, tmp_path / "longer", teacher=settings["teacher"], data=more)
    logitstore.subset(source, tmp_path / "part", documents=":9")
    logitstore.convert(source, tmp_path / "parquet", format="parquet")
    given = settings | {"data": more, "positions": rule}
    logitstore.dump(**given, out=tmp_path / "more")
    logitstore.merge(out=tmp_path / "both", stores=[source, tmp_path / "more"])
    for name in ("longer", "part", "parquet", "both"):
        assert list(verify(tmp_path / name)) == []
        spec = logitstore.open(tmp_path / name).spec
        assert (spec.format, spec.text.positions) == ("logitstore/5", rule)
    longer = [one.document.counted_L.tolist() for one in logitstore.open(tmp_path / "longer")]
    both = [one.document.counted_L.tolist() for one in logitstore.open(tmp_path / "both")]
    assert sorted(longer) == sorted(both)
    with pytest.raises(SpecError, match=r"text.positions: entropy:top:0.2 there, nothing in"):
        logitstore.merge(out=tmp_path / "none", stores=[source, stores[None]])


def test_a_student_learns_from_them_as_by_select(
    stores: dict[str | None, Path], teacher_folder: Path, tmp_path: Path
) -> None:
    """One step over the whole store, the selection in the one and in the other."""
    plain = {
        "set": ["optim=sgd"], "lr": 1.0, "weight_decay": 0.0, "max_grad_norm": 0.0, "warmup": 0.0,
        "steps": 1, "batch_tokens": 4096, "micro_tokens": 1024, "alpha": 0.6, "device": "cpu",
        "student": teacher_folder / "config.json",
    }  # fmt: skip
    rule = RULES[2]
    trainer.fit(**plain, logits=stores[rule], out=tmp_path / "positions")
    trainer.fit(
        **plain, logits=stores[None], out=tmp_path / "select", select=rule, select_labels="selected"
    )
    one, two = (
        load_file(tmp_path / name / "model.safetensors") for name in ("positions", "select")
    )
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6
    with pytest.warns(RunWarning, match="positions that entropy:above:2.5 chose"):
        trainer.evaluate(tmp_path / "positions", logits=stores[rule])
