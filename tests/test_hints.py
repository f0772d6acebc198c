"""Hints from the teacher's layers: value and gradients beside dense float64, runs, and refusals."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import logitstore
import trainer
from logitstore import ModelError, SettingError, SpecError
from logitstore.plumbing import DecoderLayers, layer_name
from tests.hidden_stores import WIDTH, corpus_of, dumped, layered_teacher
from tests.test_sharded import two_processes
from tests.tiny_models import tiny
from trainer.data.rows import Batch, RowLayout, lay_out
from trainer.losses.distillation import loss_from_forward, loss_inside_forward
from trainer.losses.hint_pairs import HintPair, pairs_at_equal_depth, parse_pairs
from trainer.losses.hints import Hints, HintScale, hint_maps
from trainer.training.fit_loop import FitLoop

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NARROW = 16  # of most students
RATE = 1000.0  # of one step of SGD: against that change the weights themselves are rounding
COMMON: dict[str, Any] = {"device": "cpu", "log_steps": 1, "batch_tokens": 128}


@pytest.fixture(scope="module")
def teacher(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layered_teacher(tmp_path_factory.mktemp("teacher"), tokenizer)


@pytest.fixture(scope="module")
def store(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In several units; float16 states of two of four layers."""
    folder = tmp_path_factory.mktemp("store")
    dumped(folder / "store", teacher, corpus_of(folder), sparsify="topk", k=8, hidden_layers="2,4")
    return folder / "store"


def student(name: str = "llama", **changes: Any) -> Any:
    return tiny(name, vocab_size=304, **{"max_position_embeddings": 64} | changes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    student().save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def hints_for(model: Any, pairs: tuple[HintPair, ...], *, weight: float = 0.7) -> Hints:
    layers = DecoderLayers.of(model)
    maps = hint_maps(pairs, student_width=layers.width, teacher_width=WIDTH, seed=3)
    for number, one in enumerate(maps.values()):  # nothing special about them
        generator = torch.Generator().manual_seed(number)
        one.weight.data += 0.1 * torch.randn(one.weight.shape, generator=generator)
    scales = tuple(
        HintScale(student=0.3 + number, teacher=0.5 + number) for number in range(len(pairs))
    )
    return Hints(weight=weight, pairs=pairs, scales=scales, layers=layers, maps=maps)


def batch_of(documents: list[Any], spec: Any, layout: RowLayout, border: int | None) -> Batch:
    batch = lay_out(
        [one.document for one in documents],
        layout=layout,
        targets=[one.targets for one in documents],
        border=border,
    )
    return replace(batch, spec=spec)


def dense_hint(model: Any, documents: list[Any], hints: Hints) -> Any:
    """In float64, each document by itself through the model."""
    double = copy.deepcopy(model).double().eval()
    maps = copy.deepcopy(hints.maps).double()
    total: Any = 0.0
    heard: list[Any] = []
    layers = getattr(double.base_model, "layers", None) or double.base_model.h
    for one in layers:
        one.register_forward_hook(
            lambda _m, _i, out: heard.append(out[0] if isinstance(out, tuple) else out)
        )
    for stored in documents:
        ids_1L = torch.from_numpy(stored.document.input_ids_L.astype("int64"))[None]
        heard.clear()
        double.base_model(input_ids=ids_1L, use_cache=False)
        at_R = torch.from_numpy(stored.document.counted_L).nonzero()[:, 0] - 1
        for pair, scale, one in zip(hints.pairs, hints.scales, maps.values(), strict=True):
            mapped_RW = heard[pair.student - 1][0, at_R] @ one.weight.T / scale.student**0.5
            state = stored.targets.states[layer_name(pair.teacher)]
            teacher_RW = state.tensor().double() / scale.teacher**0.5
            total = total + ((mapped_RW - teacher_RW) ** 2).mean(1).sum()
    total = total / len(hints.pairs)
    parameters = [*double.named_parameters(), *maps.named_parameters(prefix="hint_maps")]
    grads = torch.autograd.grad(total, [one for _, one in parameters], allow_unused=True)
    return total, {name: one for (name, _), one in zip(parameters, grads, strict=True)}


@pytest.mark.parametrize(
    ("name", "layout", "border", "changes"),
    [
        ("llama", RowLayout.ROWS, None, {}),
        ("llama", RowLayout.ROWS, None, {"hidden_size": WIDTH}),
        ("llama", RowLayout.ROWS, 20, {}),
        ("gpt2", RowLayout.ROWS, None, {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
        ("mamba", RowLayout.PADDED, 20, {}),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_value_and_every_gradient_are_dense(
    name: str,
    layout: RowLayout,
    border: int | None,
    changes: dict[str, Any],
    checkpointing: bool,
    store: Path,
) -> None:
    if name == "gpt2":
        changes = changes | {"n_positions": 64}
    model = tiny(name, vocab_size=304, **{"max_position_embeddings": 64} | changes)
    if checkpointing:
        if not model.supports_gradient_checkpointing:
            pytest.skip("the class computes no activations a second time")
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    model.train()
    pairs = (HintPair(student=1, teacher=2), HintPair(student=2, teacher=4))
    opened = logitstore.open(store)
    hints = hints_for(model, pairs)
    documents = list(opened)[:7]
    batch = batch_of(documents, opened.spec, layout, border)
    assert len(batch.passes) == (0 if border is None else 2)
    plain = gradients(model, hints, batch, with_hints=False)
    found = gradients(model, hints, batch, with_hints=True)
    wanted, expected = dense_hint(model, documents, hints)
    assert found.sums["hint"].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert found.loss == pytest.approx(plain.loss + 0.7 * wanted.item(), rel=1e-5)
    assert found.sums["loss"].item() == pytest.approx(found.loss, rel=1e-6)
    assert found.sums["kl"] == plain.sums["kl"]
    for key, gradient in expected.items():
        own = found.grads[key].double() - plain.grads[key].double()
        other = torch.zeros_like(own) if gradient is None else 0.7 * gradient
        assert float((own - other).norm()) <= 1e-5 * float(other.norm()) + 2e-4, key


class Found:
    def __init__(self, result: Any, model: Any) -> None:
        model.zero_grad()
        result.loss.backward()
        self.loss, self.sums = result.loss.item(), result.sums
        self.grads = {
            name: torch.zeros_like(one) if one.grad is None else one.grad.clone()
            for name, one in model.named_parameters()
        }


def gradients(model: Any, hints: Hints, batch: Any, *, with_hints: bool) -> Found:
    with hints.attached(model), loss_inside_forward(model):
        result = loss_from_forward(
            model,
            batch,
            alpha=0.9,
            temperature=None,
            loss="forward_kl",
            hints=hints if with_hints else None,
        )
        return Found(result, model)


def test_a_map_between_equal_widths_begins_as_the_identity() -> None:
    pairs = (HintPair(student=1, teacher=2),)
    build = partial(hint_maps, pairs, teacher_width=WIDTH, seed=1)
    (same,) = build(student_width=WIDTH).values()
    assert torch.equal(same.weight, torch.eye(WIDTH))
    (wide,) = build(student_width=NARROW).values()
    torch.testing.assert_close(wide.weight.T @ wide.weight, torch.eye(NARROW))
    (again,) = build(student_width=NARROW).values()
    assert torch.equal(wide.weight, again.weight)


@pytest.mark.parametrize(
    ("layers", "depths", "students"),
    [
        ((2, 4), (4, 2), (1, 2)),
        ((6, 12), (12, 4), (2, 4)),
        ((1, 12), (12, 2), (1, 2)),
        ((3,), (4, 6), (5,)),
        ((7,), (14, 3), (2,)),
    ],
)
def test_pairs_at_the_same_depth(
    layers: tuple[int, ...], depths: tuple[int, int], students: tuple[int, ...]
) -> None:
    found = pairs_at_equal_depth(layers, teacher_depth=depths[0], student_depth=depths[1])
    assert tuple(one.student for one in found) == students
    assert tuple(one.teacher for one in found) == layers


@pytest.mark.parametrize("text", ["", "2", "0:1", "1:0", "1:2,1:2", "a:b", "1:2;2:3", "every:2"])
def test_other_texts_name_no_pairs(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"no pairs of layers|named twice"):
        parse_pairs(text)
    with pytest.raises(SettingError, match="hint_layers"):
        trainer.fit(logits="s", student="s", out=tmp_path, hint_weight=1.0, hint_layers=text)


def run(out: Path, store: Any, saved: Any, **settings: Any) -> dict[str, Any]:
    return trainer.fit(logits=store, student=saved, out=out, **COMMON | settings)


def history(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "history.json").read_text())


def test_a_run_learns_the_hint_and_leaves_a_plain_student(
    store: Path, saved: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    model = AutoModelForCausalLM.from_pretrained(saved)
    settings: dict[str, Any] = {"steps": 40, "lr": 3e-3, "hint_weight": 2.0}
    result = run(tmp_path / "run", store, model, on_note=notes.append, **settings)
    lines = history(tmp_path / "run")
    assert lines[-1]["hint"] < 0.6 * lines[0]["hint"]
    for one in lines:
        expected = 0.1 * one["ce"] + 0.9 * one["kl"] + 2.0 * one["hint"]
        assert one["loss"] == pytest.approx(expected, rel=1e-5)
    assert result["hints"]["pairs"] == [[1, 2], [2, 4]]
    assert result["hints"]["parameters"] == 2 * WIDTH * NARROW
    assert result["parameters"] == sum(one.numel() for one in model.parameters())
    (line,) = notes
    assert "1:2, 2:4" in line
    assert f"{2 * WIDTH * NARROW:,} parameters, {24 * WIDTH * NARROW:,} bytes" in line
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert weights.keys() == load_file(saved / "model.safetensors").keys()
    assert not hasattr(model, "hint_maps")
    AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    run(tmp_path / "plain", store, saved, **settings | {"hint_weight": 0.0})
    assert "hint" not in history(tmp_path / "plain")[0]
    assert "hints" not in json.loads((tmp_path / "plain" / "run.json").read_text())


def test_what_a_difference_is_divided_by_is_that_of_the_store(
    store: Path, saved: Path, tmp_path: Path
) -> None:
    """Equal for all batches, and near to the mean square over the whole store."""
    result = run(tmp_path / "run", store, saved, steps=1, hint_weight=1.0, hint_layers="2:2,1:2")
    opened = logitstore.open(store)
    states = [one.targets.states["layer_2"].float32() for one in opened]
    square = sum(float((one**2).sum()) for one in states) / sum(one.size for one in states)
    assert result["hints"]["pairs"] == [[1, 2], [2, 2]]
    (own_1, found), (own_2, again) = result["hints"]["scales"]
    assert found == again == pytest.approx(square, rel=1e-5)
    model = AutoModelForCausalLM.from_pretrained(saved).eval()
    squares: list[torch.Tensor] = []
    for stored in list(opened)[:32]:
        ids_L = torch.from_numpy(stored.document.input_ids_L.astype("int64"))
        at_R = torch.from_numpy(stored.document.counted_L).nonzero()[:, 0] - 1
        with torch.no_grad():
            states_LD = model(ids_L[None], output_hidden_states=True).hidden_states[1][0]
        squares.append(states_LD[at_R].square().flatten())
    block = opened.blocks[0].targets * NARROW  # the first block alone is read
    assert own_1 == pytest.approx(float(torch.cat(squares)[:block].mean()), rel=1e-4)
    assert own_2 > own_1


def map_weights(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(folder / "model.safetensors")
    return {name: one for name, one in found.items() if name.startswith("hint_maps.")}


def step_gradient(start: dict[str, torch.Tensor], out: Path) -> torch.Tensor:
    """float64: of all weights and maps, by the only step of SGD, from its checkpoint."""
    found = load_file(out / "checkpoint-1" / "model.safetensors")
    assert found.keys() == start.keys()
    changes = [(start[one].double() - found[one].double()).flatten() for one in sorted(start)]
    return torch.cat(changes) / RATE


STEP: dict[str, Any] = {
    "steps": 1,
    "hint_weight": 3.0,
    "warmup_steps": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "save_steps": 1,
    "keep_checkpoints": True,
    "set": ["optim=sgd"],
}


@pytest.mark.parametrize("select", [None, "entropy:top:0.4"])
def test_one_four_and_eight_micro_batches_give_one_gradient(
    select: str | None, store: Path, saved: Path, tmp_path: Path
) -> None:
    room = 2 * sum(one.tokens for one in logitstore.open(store).blocks)
    settings = STEP | {"batch_tokens": room, "select": select}
    run(tmp_path / "start", store, saved, **settings | {"lr": 1e-30})
    start = load_file(tmp_path / "start" / "checkpoint-1" / "model.safetensors")
    assert sum("hint_maps" in name for name in start) == 2
    found = {}
    for passes in (1, 4, 8):
        out = tmp_path / f"{passes}"
        settings |= {"micro_tokens": -(-room // passes), "lr": RATE}
        result = run(out, store, saved, **settings)
        assert result["packing"]["bins"] == passes
        found[passes] = step_gradient(start, out), history(out)[0]["hint"]
    for passes in (4, 8):
        one, other = found[1], found[passes]
        assert float((one[0] - other[0]).norm()) <= 1e-6 * float(one[0].norm())
        if select is None:
            assert one[1] == pytest.approx(other[1], rel=1e-6)


def test_selected_targets_alone_give_hints(store: Path, saved: Path, tmp_path: Path) -> None:
    """Of a bottom share by entropy the hint is another one; all of it is that of no selection."""
    room = 2 * sum(one.tokens for one in logitstore.open(store).blocks)
    settings = STEP | {"batch_tokens": room, "lr": 1e-30}
    hints = {}
    for select in (None, "entropy:top:1.0", "entropy:top:0.3", "entropy:bottom:0.3"):
        out = tmp_path / f"run-{select}".replace(":", "-")
        run(out, store, saved, **settings, select=select)
        hints[select] = history(out)[0]["hint"]
    assert hints["entropy:top:1.0"] == pytest.approx(hints[None], rel=1e-6)
    assert len({round(one, 4) for one in hints.values()}) == 3


def test_a_resumed_run_has_the_same_bits(store: Path, saved: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 6, "save_steps": 3, "hint_weight": 1.0}
    settings |= {"keep_checkpoints": True}
    run(tmp_path / "straight", store, saved, **settings)

    def stop(one: dict[str, float]) -> None:
        if one["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", store, saved, **settings, report=stop)
    with pytest.raises(SpecError, match=r"hint.weight"):
        run(tmp_path / "stopped", store, saved, **settings | {"hint_weight": 2.0}, resume=True)
    run(tmp_path / "stopped", store, saved, **settings, resume=True)
    for place in ("model.safetensors", "checkpoint-6/model.safetensors"):
        one, other = (load_file(tmp_path / name / place) for name in ("straight", "stopped"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(map_weights(tmp_path / "stopped" / "checkpoint-6")) == 2
    started = hint_maps(
        (HintPair(student=1, teacher=2),), student_width=NARROW, teacher_width=WIDTH, seed=0
    )
    learnt = map_weights(tmp_path / "stopped" / "checkpoint-6")["hint_maps.1_2.weight"]
    assert not torch.equal(learnt, started["1_2"].weight)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_too_large_stops_the_run_before_its_step(
    store: Path, saved: Path, tmp_path: Path, clip: float
) -> None:
    """The norm overflows where the loss does not; clipping by it would make the gradient 0."""
    settings: dict[str, Any] = {"steps": 3, "save_steps": 1, "max_grad_norm": clip}
    with pytest.raises(ModelError, match=r"step 1: the norm .* no finite number.*found (inf|nan)"):
        run(tmp_path / "run", store, saved, **settings, hint_weight=1e19)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_checkpoints_before_a_gradient_that_is_not_finite_stay(
    store: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"steps": 4, "save_steps": 1, "keep_checkpoints": True}
    run(tmp_path / "straight", store, saved, **settings)
    own = FitLoop._get_grad_norm

    def overflow(loop: FitLoop, model: Any, grad_norm: Any = None) -> Any:
        found = own(loop, model, grad_norm=grad_norm)
        if loop.state.global_step == 2:
            loop._step_norm = float("inf")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(FitLoop, "_get_grad_norm", overflow)
        with pytest.raises(ModelError, match="step 3: the norm"):
            run(tmp_path / "stopped", store, saved, **settings)
    names = {one.name for one in (tmp_path / "stopped").glob("checkpoint-*")}
    assert "checkpoint-2" in names
    assert "checkpoint-3" not in names
    run(tmp_path / "stopped", store, saved, **settings, resume=True)
    one, other = (load_file(tmp_path / n / "model.safetensors") for n in ("straight", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_was_killed_after_its_last_step_is_finished(
    store: Path, saved: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"steps": 2, "save_steps": 2, "hint_weight": 1.0}
    settings |= {"keep_checkpoints": True}
    run(tmp_path / "run", store, saved, **settings)
    before = load_file(tmp_path / "run" / "model.safetensors")
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="written anew"):
        run(tmp_path / "run", store, saved, **settings, resume=True)
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_best_measured_step_is_kept_without_maps(
    store: Path, saved: Path, teacher: Path, tmp_path: Path
) -> None:
    held = dumped(
        tmp_path / "held", teacher, corpus_of(tmp_path, times=1, first=60), sparsify="topk", k=8
    )
    run(
        tmp_path / "run",
        store,
        saved,
        steps=4,
        hint_weight=1.0,
        eval_logits=held,
        eval_steps=2,
        keep_best=True,
    )
    measured = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert not any("eval_hint" in one for one in measured)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert weights.keys() == load_file(saved / "model.safetensors").keys()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_processes_give_the_gradient_of_one(
    checkpointing: bool, store: Path, saved: Path, tmp_path: Path
) -> None:
    """Maps and student: DDP exchanges the gradients of both."""
    config = saved
    settings: dict[str, Any] = STEP | {"batch_tokens": 256, "micro_tokens": 64}
    settings |= {"gradient_checkpointing": checkpointing}
    run(tmp_path / "start", store, config, **settings | {"lr": 1e-30})
    start = load_file(tmp_path / "start" / "checkpoint-1" / "model.safetensors")
    run(tmp_path / "one", store, config, **settings, lr=RATE)
    status, told = two_processes(
        tmp_path / "two",
        config,
        COMMON_OF_TWO | settings | {"folder": str(store), "lr": RATE},
        worker="fit_worker",
    )
    assert status == 0, told
    one, two = (step_gradient(start, tmp_path / name) for name in ("one", "two"))
    maps = sum(value.numel() for name, value in start.items() if "hint_maps" in name)
    assert maps == 2 * WIDTH * NARROW
    assert float(one.norm()) > 0.1
    assert float((one - two).norm()) <= 1e-6 * float(one.norm())
    first, second = history(tmp_path / "one")[0], history(tmp_path / "two")[0]
    assert second["hint"] == pytest.approx(first["hint"], rel=1e-6)
    assert second["targets"] == first["targets"]


COMMON_OF_TWO: dict[str, Any] = {"log_steps": 1}


def test_stores_that_keep_the_same_layers_are_mixed(
    store: Path, teacher: Path, saved: Path, tmp_path: Path
) -> None:
    more = corpus_of(tmp_path, times=1, first=40)
    options: dict[str, Any] = {"sparsify": "topk", "k": 8}
    for name, layers in (("same", "2,4"), ("other", "1,4"), ("plain", None)):
        dumped(tmp_path / name, teacher, more, hidden_layers=layers, **options)
    run(tmp_path / "run", [store, tmp_path / "same"], saved, steps=2, hint_weight=1.0)
    assert history(tmp_path / "run")[0]["hint"] > 0
    for name, told in (("other", "one map cannot serve them all"), ("plain", "no hidden states")):
        with pytest.raises(SpecError, match=told):
            run(tmp_path / "no", [store, tmp_path / name], saved, steps=1, hint_weight=1.0)
        run(tmp_path / f"run-{name}", [store, tmp_path / name], saved, steps=2)
    assert not (tmp_path / "no").exists()


def test_hidden_states_as_the_record_serve_hints_too(
    teacher: Path, saved: Path, tmp_path: Path
) -> None:
    dumped(tmp_path / "hidden", teacher, corpus_of(tmp_path), hidden_layers="2")
    run(tmp_path / "run", tmp_path / "hidden", saved, steps=2, hint_weight=1.0)
    first = history(tmp_path / "run")[0]
    assert first["loss"] == pytest.approx(
        0.1 * first["ce"] + 0.9 * first["kl"] + first["hint"], rel=1e-5
    )


def test_what_is_not_served_is_refused(
    store: Path, teacher: Path, saved: Path, tmp_path: Path
) -> None:
    plain = dumped(tmp_path / "plain", teacher, corpus_of(tmp_path), sparsify="topk", k=8)
    hinted = {"steps": 1, "hint_weight": 1.0}
    for given, told in (
        ({"lora": "r=2"}, "hints are not served with lora"),
        ({"compile": True}, "hints are not served with compile"),
        ({"loss": "uld"}, "hints are not served with loss"),
        ({"hint_weight": -1.0}, "hint_weight"),
        ({"hint_weight": 0.0, "hint_layers": "1:2"}, "hint_layers"),
    ):
        with pytest.raises(SettingError, match=told):
            run(tmp_path / "no", store, saved, **hinted | given)
    with pytest.raises(SettingError, match="hints are not served with average"):
        run(tmp_path / "no", [store, plain], saved, **hinted, average="all")
    with pytest.raises(SettingError, match=r"hint.weight with FSDP"):
        run(tmp_path / "no", store, saved, **hinted, set=["fsdp=true"])
    with pytest.raises(SpecError, match=r"keeps no hidden states.*Dump again with"):
        run(tmp_path / "no", plain, saved, **hinted)
    with pytest.raises(SpecError, match=r"no hidden states behind this layer.*2, 4"):
        run(tmp_path / "no", store, saved, **hinted, hint_layers="1:3")
    with pytest.raises(ModelError, match=r"the student has no such layer.*to 2:4"):
        run(tmp_path / "no", store, saved, **hinted, hint_layers="3:4")
    assert not (tmp_path / "no" / "run.json").exists()


def test_a_student_that_is_an_adapter_is_refused(store: Path, saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    run(tmp_path / "adapted", store, saved, steps=1, lora="r=2", lora_result="adapter")
    with pytest.raises(SettingError, match="a student that is an adapter"):
        run(tmp_path / "no", store, tmp_path / "adapted", steps=1, hint_weight=1.0)


def test_the_record_of_a_run_is_checked(store: Path, saved: Path, tmp_path: Path) -> None:
    from trainer.training.run_record import read_record, write_record

    run(tmp_path / "run", store, saved, steps=1, hint_weight=1.0)
    record = read_record(tmp_path / "run")
    assert record is not None
    for hints in ({}, {"pairs": [], "scales": [], "parameters": 1}, None):
        out = Path(shutil.copytree(tmp_path / "run", tmp_path / "changed", dirs_exist_ok=True))
        write_record(out, record | {"hints": hints})
        with pytest.raises(logitstore.StoreError, match="hints"):
            read_record(out)
