"""`fit --select`: which targets count in the soft part, against dense float64, ranks and stops."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

import trainer
from logitstore.errors import SettingError, SpecError, StoreError
from logitstore.format.rules import TargetRule
from logitstore.format.spec import SparsifierSpec
from logitstore.sparsify.build import sparsifier_spec
from tests.memory_store import MemoryStore, teacher_logprobs
from tests.test_distil import SETTINGS, history, interrupt_at, start_worker
from tests.tiny_models import CONFIGS, tiny
from trainer.data.selection import measure_selection
from trainer.training.run_record import read_record
from trainer.training.state_files import RunWarning

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENTROPY_V = -(np.exp(teacher_logprobs()) * teacher_logprobs()).sum(axis=1).astype(np.float32)
WHOLE = {"batch_tokens": 2048, "micro_tokens": 2048, "steps": 1, "warmup": 0.0}
# One step of plain gradient descent: the weights before less those after are the gradient.
PLAIN = {"set": ["optim=sgd"], "lr": 1.0, "weight_decay": 0.0, "max_grad_norm": 0.0}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer").mkdir()
    path = tmp_path / "student.json"
    path.write_text(CONFIGS["llama"].to_json_string())
    return path


def fit(out: Path, student: Any, **settings: Any) -> dict[str, Any]:
    given = {"logits": MemoryStore(), "log_steps": 1, "save_steps": 3, "device": "cpu"} | settings
    return trainer.fit(student=student, out=out, **given)


# --- the rule


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("entropy:0.2", "entropy:top:0.2"),
        ("loss:bottom:1", "loss:bottom:1.0"),
        ("loss:0.5", "loss:top:0.5"),
        ("entropy:above:1.5", "entropy:above:1.5"),
        ("entropy:below:0", "entropy:below:0.0"),
    ],
)
def test_a_rule_has_one_full_form(text: str, full: str) -> None:
    rule = TargetRule.parse(text, flag="--select")
    assert str(rule) == full
    assert TargetRule.parse(full, flag="--select") == rule


@pytest.mark.parametrize(
    "text",
    [
        *("entropy", "entropy:", "entropy:top", "entropy:top:0", "entropy:top:1.1", "top:0.2"),
        *("entropy:2", "entropy:above:-1", "entropy:above:inf", "entropy:top:nan", "entropy:a:b:c"),
        *("", ":", "entropy:above", "kl:top:0.2", "entropy:top:0.2:0.3"),
        *("loss:above:1e300", "entropy:top: 0.2", "entropy:above:1_0"),
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="select describes no choice of targets"):
        TargetRule.parse(text, flag="--select")


@pytest.mark.parametrize("side", ["top", "bottom"])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.97, 1.0])
def test_a_share_is_cut_where_it_comes_nearest(side: str, share: float) -> None:
    values_R = np.random.default_rng(3).integers(0, 9, 500).astype(np.float32) / 8
    rule = TargetRule(measure="entropy", side=side, value=share)
    taken_R = rule.taken_R(values_R, cut=rule.cut_of(values_R))
    kept = (lambda cut: values_R >= cut) if side == "top" else (lambda cut: values_R <= cut)
    possible = [kept(cut).mean() for cut in set(values_R.tolist())]
    assert abs(taken_R.mean() - share) == min(abs(one - share) for one in possible)
    assert taken_R.any()


def test_numbers_of_nats_divide_all_targets() -> None:
    values_R = np.array([0.5, 1.5, 2.5], dtype=np.float32)
    taken = [
        TargetRule.parse(f"loss:{side}:1.5", flag="").taken_R(values_R, cut=1.5).tolist()
        for side in ("above", "below")
    ]
    assert taken == [[False, True, True], [True, False, False]]


# --- the gradient


def _dense_gradient(
    rule: str, *, alpha: float, labels: str, temperature: float = 1.0
) -> tuple[dict[str, torch.Tensor], float, float]:
    """The gradient of the mean loss over a whole store, its loss and the selected share."""
    measure, side, value = rule.split(":")
    model = tiny().double()
    teacher_VV = torch.from_numpy(teacher_logprobs())
    ce, kl, by = [], [], []
    for stored in MemoryStore():
        document = stored.document
        ids = torch.from_numpy(document.input_ids_L.astype(np.int64))
        logits_LV = model(ids[None]).logits[0]
        for at in np.flatnonzero(document.counted_L):
            logq_V = logits_LV[at - 1].log_softmax(-1)
            soft_V = (logits_LV[at - 1] / temperature).log_softmax(-1)
            logp_V = teacher_VV[ids[at - 1]]
            warm_V = (logp_V / temperature).log_softmax(-1)
            ce.append(-logq_V[ids[at]])
            kl.append((warm_V.exp() * (warm_V - soft_V)).sum() * temperature**2)
            own = ENTROPY_V[ids[at - 1]] if measure == "entropy" else np.float32(-logp_V[ids[at]])
            by.append(own)
    ordered = np.sort(np.array(by))[:: -1 if side in ("top", "above") else 1]
    if side in ("top", "bottom"):
        ends = np.flatnonzero(np.append(np.diff(ordered) != 0, True)) + 1  # of runs of equal ones
        count = ends[np.argmin(np.abs(ends / len(by) - float(value)))]
    else:
        count = int((np.array(by) >= float(value)).sum())
        assert side == "above"
    limit = ordered[count - 1]
    kept = [one >= limit if side in ("top", "above") else one <= limit for one in by]
    soft = torch.stack([one for one, keep in zip(kl, kept, strict=True) if keep]).mean()
    hard = torch.stack(
        [one for one, keep in zip(ce, kept, strict=True) if keep or labels == "all"]
    ).mean()
    loss = (1 - alpha) * hard + alpha * soft
    loss.backward()
    return dict(model.named_parameters()), float(loss.detach()), float(np.mean(kept))


@pytest.mark.parametrize(
    ("rule", "labels", "settings"),
    [
        ("entropy:top:0.2", "all", {}),
        ("entropy:top:0.2", "selected", {}),
        ("loss:bottom:0.5", "all", {"temperature": 2.0}),
        ("entropy:above:1.8", "all", {"alpha": 1.0}),
    ],
)
@pytest.mark.parametrize("micro", [2048, 128, 64])  # 1, 4 and 8 forwards of one step
def test_the_gradient_is_the_dense_one_however_the_step_is_divided(
    tmp_path: Path, rule: str, labels: str, settings: dict[str, Any], micro: int
) -> None:
    alpha = settings.get("alpha", 0.7)
    model = tiny()
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    step = {"batch_tokens": 512, "micro_tokens": micro} if micro < 2048 else {}
    result = fit(
        tmp_path / "run",
        model,
        select=rule,
        select_labels=labels,
        **WHOLE | PLAIN | {"alpha": alpha} | step | settings,
    )
    dense, loss, share = _dense_gradient(
        rule, alpha=alpha, labels=labels, temperature=settings.get("temperature", 1.0)
    )
    after = load_file(tmp_path / "run" / "model.safetensors")
    for name, one in before.items():
        gradient = one.double() - after[name].double()
        torch.testing.assert_close(gradient, dense[name].grad, rtol=0, atol=1e-6)
    [report] = history(tmp_path / "run")
    assert report["targets"] == sum(one.targets for one in MemoryStore().blocks)
    assert report["selected"] == pytest.approx(share)
    assert result["selected"][0]["share"] == pytest.approx(share)
    assert report["loss"] == pytest.approx(loss, rel=1e-5)


def test_two_processes_give_the_weights_of_one(tmp_path: Path, config: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"steps": 6, "select": "entropy:top:0.2", **PLAIN, "lr": 0.1}
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        start_worker(
            tmp_path / "two", config, settings, **common, RANK=str(rank), LOCAL_RANK=str(rank)
        )
        for rank in range(2)
    ]
    fit(tmp_path / "one", config, **SETTINGS | settings)
    for process in ranks:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-6
    shares = [
        [report["selected"] for report in history(tmp_path / name)] for name in ("one", "two")
    ]
    assert shares[0] == shares[1]
    assert len(set(shares[0])) > 1  # steps differ in it
    assert read_record(tmp_path / "one")["selected"] == read_record(tmp_path / "two")["selected"]


# --- stores and runs


def _less_sure(store: MemoryStore, *, by: float) -> MemoryStore:
    """The store with entropies that are so many nats higher, as of another teacher."""
    store._blocks = [
        replace(one, targets=replace(one.targets, entropy_R=one.targets.entropy_R + np.float32(by)))
        for one in store._blocks
    ]
    return store


def test_each_of_several_stores_gives_its_own_share(tmp_path: Path, config: Path) -> None:
    stores = [MemoryStore(seed=1), _less_sure(MemoryStore(seed=2), by=5.0)]
    result = fit(
        tmp_path / "run", config, logits=[(one, 1) for one in stores], select="entropy:top:0.25",
        batch_tokens=64, micro_tokens=16, epochs=1, lr=1e-3,
    )  # fmt: skip
    assert [part["store"] for part in result["parts"]] == [one.fingerprint for one in stores]
    cuts = result["selected"]
    assert cuts[1]["value"] == pytest.approx(cuts[0]["value"] + 5, abs=0.5)
    taken = 0
    for store, cut in zip(stores, cuts, strict=True):
        entropies = np.concatenate([one.targets.entropy_R for one in store])
        assert cut["share"] == pytest.approx(float((entropies >= cut["value"]).mean()))
        assert cut["share"] == pytest.approx(0.25, abs=0.06)
        taken += int((entropies >= cut["value"]).sum())
    reports = history(tmp_path / "run")
    assert round(sum(one["selected"] * one["targets"] for one in reports)) == taken


def _with_entropies(store: MemoryStore, entropies: Callable[[int, int], Any]) -> MemoryStore:
    """The store with others: those of block number n of m targets are `entropies(n, m)`."""
    store._blocks = [
        replace(
            one,
            targets=replace(
                one.targets,
                entropy_R=np.broadcast_to(
                    np.asarray(entropies(number, len(one.targets)), dtype=np.float32),
                    len(one.targets),
                ).copy(),
            ),
        )
        for number, one in enumerate(store._blocks)
    ]
    return store


@pytest.mark.parametrize("side", ["top", "bottom"])
def test_a_share_that_cannot_be_had_is_told(tmp_path: Path, config: Path, side: str) -> None:
    sure = _with_entropies(MemoryStore(), lambda number, _: 0.5 if number == 0 else 0.0)
    run = {"logits": sure, "steps": 1, "batch_tokens": 64, "select": f"entropy:{side}:0.5"}
    counts = [one.targets for one in sure.blocks]
    rare = counts[0] / sum(counts)  # the two shares that can be had are this one and all
    share, value = (rare, "0.5") if side == "top" and rare > 0 else (1 - rare, "0")
    said = (
        rf"memory: --select entropy:{side}:0.5 takes {100 * share:.1f}% .*entropy of {value} nats"
    )
    with pytest.warns(RunWarning, match=said):
        result = fit(tmp_path / "run", config, **run)
    assert result["selected"][0]["share"] == pytest.approx(share)


def test_a_share_that_is_near_is_not_told(tmp_path: Path, config: Path) -> None:
    run = {"logits": MemoryStore(), "steps": 1, "batch_tokens": 64}  # warnings are errors here
    fit(tmp_path / "run", config, **run, select="entropy:top:0.25")
    fit(tmp_path / "nats", config, **run, select="entropy:above:0")


def test_entropies_that_are_no_numbers_are_refused_first(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entropies(number: int, targets: int) -> np.ndarray:
        values_R = np.linspace(0, 1, targets)
        values_R[:2] = np.nan if number == 7 else 0
        return values_R

    store = _with_entropies(MemoryStore(), entropies)
    targets = store.blocks[7].targets
    said = rf"memory: block 7: targets have no entropy .*2 of {targets} targets.*Leave out select"
    for rule in ("entropy:top:0.2", "entropy:above:0.1"):
        with pytest.raises(StoreError, match=said):
            fit(tmp_path / "run", tmp_path / "none.json", logits=store, select=rule, steps=1)
    fit(tmp_path / "run", config, logits=store, select="loss:0.2", steps=1)
    # What was not looked at is found where it is read.
    monkeypatch.setattr("trainer.data.selection._MEASURED", 20)
    run = {"logits": store, "select": "entropy:0.2", "epochs": 1, "batch_tokens": 64}
    with pytest.raises(StoreError, match="store 1 of 1: targets have no entropy"):
        fit(tmp_path / "late", config, **run)


def test_a_stopped_run_selects_as_it_did(tmp_path: Path, config: Path) -> None:
    settings: dict[str, Any] = {
        "select": "loss:0.3", "batch_tokens": 64, "micro_tokens": 16, "steps": 8, "lr": 1e-3,
    }  # fmt: skip
    whole = fit(tmp_path / "whole", config, **settings)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", config, **settings, report=interrupt_at(5))
    with pytest.raises(SpecError, match=r"select loss:top:0.3 there, loss:top:0.4 here"):
        fit(tmp_path / "run", config, **settings | {"select": "loss:0.4"}, resume=True)
    result = fit(tmp_path / "run", config, **settings | {"select": "loss:top:0.3"}, resume=True)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert result["selected"] == whole["selected"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["selected"] == whole["selected"]


def test_a_large_store_is_looked_at_in_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.selection._MEASURED", 100)
    store = MemoryStore(blocks=40)
    rule = TargetRule.parse("entropy:top:0.2", flag="")
    found = measure_selection(store, rule, labels="all")
    assert 3 <= len(store.reads) <= 8
    assert store.reads == sorted(set(store.reads))
    assert store.reads[0] < 10 < 30 < store.reads[-1]
    assert found.cuts[0].targets == sum(store.blocks[one].targets for one in store.reads)
    assert measure_selection(MemoryStore(blocks=40), rule, labels="all") == found


def test_a_run_selects_by_the_entropy_of_its_own_draw(tmp_path: Path) -> None:
    spec = sparsifier_spec("unbiased", k=6, temperatures=(1.0, 2.0))
    store = MemoryStore(sparsifier=spec)
    result = fit(
        tmp_path / "run", tiny(), logits=store, temperature=2.0, select="entropy:top:0.25", steps=2,
        batch_tokens=64, micro_tokens=32,
    )  # fmt: skip
    warm_VV = torch.from_numpy(teacher_logprobs() / 2).log_softmax(-1)
    entropies = [
        float(-(warm_VV[ids].exp() * warm_VV[ids]).sum())
        for one in MemoryStore(sparsifier=spec)
        for ids in one.document.input_ids_L[np.flatnonzero(one.document.counted_L) - 1].tolist()
    ]
    [cut] = result["selected"]
    assert cut["share"] == pytest.approx(np.mean(np.array(entropies) >= cut["value"] - 1e-4))
    assert 0.1 < cut["share"] < 0.4


def test_the_public_loop_weighs_and_a_loop_of_ones_own_is_refused(tmp_path: Path) -> None:
    model = tiny()
    batches = trainer.training_batches(
        MemoryStore(), model=model, batch_tokens=64, micro_tokens=16, select="entropy:0.3"
    )
    with pytest.raises(SettingError, match="how many the step has is not known"):
        trainer.distillation_loss(model, next(iter(batches)))
    args = TrainingArguments(
        output_dir=str(tmp_path / "own"), max_steps=3, logging_steps=1, learning_rate=1e-3,
        lr_scheduler_type="constant", report_to=[], use_cpu=True, save_strategy="no",
        disable_tqdm=True, weight_decay=0.0, adam_beta2=0.95,
    )  # fmt: skip
    loop = trainer.DistillationTrainer(model=model, args=args, train_dataset=batches)
    loop.train()
    fit(
        tmp_path / "run", tiny(), **SETTINGS, select="entropy:0.3", steps=3, warmup=0.0,
        lr_schedule="constant", weight_decay=0.0,
    )  # fmt: skip
    theirs = load_file(tmp_path / "run" / "model.safetensors")
    for name, one in model.named_parameters():
        torch.testing.assert_close(one.detach(), theirs[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"select": "entropy:3"}, "select describes no choice of targets"),
        ({"select": "entropy:0.2", "loss": "alm"}, "select is not served for losses over spans"),
        ({"select": "entropy:0.2", "alpha": 0.0}, "select has no effect"),
        ({"select_labels": "selected"}, "has no effect without"),
        ({"select": "entropy:above:99"}, "no target of .* would be selected.*nats"),
        (
            {
                "select": "entropy:0.2",
                "logits": MemoryStore(sparsifier=SparsifierSpec(name="shares", k=6)),
                "loss": "renormalised",
            },
            "imported.*does not know the teacher's entropy",
        ),
    ],
)
def test_what_cannot_be_selected_is_refused_before_a_student_is_loaded(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        fit(tmp_path / "run", tmp_path / "no_such_student", **settings)
    assert not (tmp_path / "run").exists()
