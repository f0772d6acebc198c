"""States behind layers: those of the live model, in every container and edit, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import logitstore
from logitstore.errors import ModelError, SettingError, SpecError
from logitstore.format.layers import LayerRule
from logitstore.store.verify import verify
from logitstore.teacher.layers import DecoderLayers
from logitstore.teacher.transformers import TransformersTeacher
from tests.hidden_stores import DEPTH, WIDTH, corpus_of, dumped, layered_teacher
from tests.memory_store import VOCAB
from tests.tiny_models import tiny
from tools.architectures import make_model
from tools.dict_storage import DictStorage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def teacher(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layered_teacher(tmp_path_factory.mktemp("teacher"), tokenizer)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def store(teacher: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("layers") / "store"
    dumped(out, teacher, corpus, sparsify="topk", k=4, hidden_layers="1,3", fidelity="exact")
    return out


def live(teacher: Path, stored: Any, *, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Name -> [R, W]: what the model gives as hidden states of its layers, the document alone."""
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=dtype).eval()
    ids_L = torch.from_numpy(stored.document.input_ids_L.astype(np.int64))
    last: list[torch.Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, given: last.append(given[0]))
    with torch.inference_mode():
        own = list(model(ids_L[None], output_hidden_states=True).hidden_states)
    own[-1] = last[0]  # transformers puts the normed one there
    at_R = np.flatnonzero(stored.document.counted_L) - 1
    return {f"layer_{number}": one[0, at_R] for number, one in enumerate(own) if number}


def layers_of(store: Any, name: str = "layer_3") -> np.ndarray:
    return np.concatenate([one.targets.states[name].bits_RD for one in store])


@pytest.mark.parametrize("container", ["zarr", "parquet"])
@pytest.mark.parametrize(
    ("sparsify", "options"),
    [("topk", {"k": 4}), ("hidden", {}), ("unbiased", {"temperature": [1, 2], "k": 6})],
)
def test_states_are_those_of_the_live_model(
    container: str,
    sparsify: str,
    options: dict[str, Any],
    teacher: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    """Alone and in a batch sums fall otherwise, by some 1e-6 of a state in float32."""
    options = options | {"sparsify": sparsify, "format": container, "fidelity": "exact"}
    store = dumped(tmp_path / "store", teacher, corpus, hidden_layers="every:2", **options)
    assert list(verify(tmp_path / "store")) == []
    states = store.spec.states
    assert (store.spec.format, states.layers, states.depth) == ("logitstore/5", (2, 4), DEPTH)
    assert (states.width, states.dtype) == (WIDTH, "float32")
    assert (states.head is not None) == (sparsify == "hidden")
    for stored in list(store)[:6]:
        assert set(stored.targets.states) == {*states.names}
        wanted = live(teacher, stored)
        for name in ("layer_2", "layer_4"):
            found_RW = stored.targets.states[name].tensor()
            torch.testing.assert_close(found_RW, wanted[name], rtol=1e-5, atol=2e-5)
            assert not torch.allclose(found_RW, wanted["layer_3"], rtol=1e-2, atol=1e-2)
    told = logitstore.inspect(tmp_path / "store")["states"]
    assert told["layers"] == list(states.names)
    assert "layer_2, layer_4: 32 numbers of float32" in (tmp_path / "store/README.md").read_text()


def test_targets_are_as_without_states(store: Path, teacher: Path, corpus: Path, tmp_path: Path):
    plain = dumped(tmp_path / "plain", teacher, corpus, sparsify="topk", k=4, fidelity="exact")
    assert plain.spec.format != "logitstore/5"
    assert plain.spec.states is None
    for one, two in zip(logitstore.open(store), plain, strict=True):
        assert np.array_equal(one.targets.ids_RK, two.targets.ids_RK)
        assert np.array_equal(one.targets.logprobs_RK, two.targets.logprobs_RK)


def test_half_precision_is_the_models_own_and_float32_is_rounded(
    teacher: Path, corpus: Path, tmp_path: Path
) -> None:
    half = dumped(
        tmp_path / "half",
        teacher,
        corpus,
        sparsify="topk",
        hidden_layers="middle",
        dtype="bfloat16",
    )
    assert (half.spec.states.dtype, half.spec.states.layers) == ("bfloat16", (2,))
    stored = half[0]
    wanted_RW = live(teacher, stored, dtype=torch.bfloat16)["layer_2"]
    found_RW = stored.targets.states["layer_2"].tensor()
    torch.testing.assert_close(found_RW, wanted_RW, rtol=2e-2, atol=2e-2)
    audited = logitstore.audit(tmp_path / "half", teacher=str(teacher), device="cpu")
    assert audited["ok"], audited
    assert audited["states"]["layer_2"]["stated"] == 0
    rounded = dumped(tmp_path / "rounded", teacher, corpus, sparsify="topk", hidden_layers="2")
    assert rounded.spec.states.dtype == "float16"
    stored = rounded[0]
    wanted_RW = live(teacher, stored)["layer_2"]
    found_RW = stored.targets.states["layer_2"].tensor().float()
    torch.testing.assert_close(found_RW, wanted_RW, rtol=2**-11 + 1e-5, atol=1e-5)


def test_positions_and_several_passes_keep_rows_in_line(
    teacher: Path, corpus: Path, tmp_path: Path
) -> None:
    """A model whose lengths do not share a pass: states and labels stay in their order."""
    few = dumped(
        tmp_path / "few",
        teacher,
        corpus,
        sparsify="topk",
        hidden_layers="1",
        positions="entropy:top:0.3",
        fidelity="exact",
    )
    folder = tmp_path / "dynamic"
    make_model("llama:dynamic-rope", folder)
    grouped = dumped(
        tmp_path / "grouped", folder, corpus, sparsify="topk", hidden_layers="1", fidelity="exact"
    )
    for store, model in ((few, teacher), (grouped, folder)):
        for stored in list(store)[:5]:
            found_RW = stored.targets.states["layer_1"].tensor()
            assert len(found_RW) == stored.document.targets > 0
            wanted_RW = live(model, stored)["layer_1"]
            torch.testing.assert_close(found_RW, wanted_RW, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("text", "depth", "layers"),
    [
        ("6,12", 12, (6, 12)),
        (" 1 , 3 ", 4, (1, 3)),
        ("every:4", 14, (4, 8, 12)),
        ("every:1", 3, (1, 2, 3)),
        ("middle", 12, (6,)),
        ("middle", 13, (7,)),
        ("middle", 1, (1,)),
    ],
)
def test_the_grammar_of_layers(text: str, depth: int, layers: tuple[int, ...]) -> None:
    assert LayerRule.parse(text).layers(depth) == layers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0,3",
        "3,1",
        "2,2",
        "every:0",
        "every",
        "last:2",
        "-1",
        "1.5",
        "middle,2",
        "1 2",
        "every: 1 2",
    ],
)
def test_other_texts_name_no_layers(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"names no layers|in their order, each once"):
        LayerRule.parse(text)
    with pytest.raises(SettingError, match=r"hidden_layers"):
        logitstore.dump(teacher="none", data=["a"], out=tmp_path / "store", hidden_layers=text)


def test_layers_that_are_not_there_are_refused_before_weights_are_read(
    teacher: Path, corpus: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "teacher"
    shutil.copytree(teacher, empty)
    (empty / "model.safetensors").write_bytes(b"no weights")
    for text in ("5", "every:5", "1,99"):
        with pytest.raises(SettingError, match=r"no such layer.*1 to 4, counted from 1"):
            dumped(tmp_path / "store", empty, corpus, sparsify="topk", hidden_layers=text)
    assert not (tmp_path / "store").exists()


def test_a_teacher_that_gives_none_is_refused(
    tokenizer: PreTrainedTokenizerFast, teacher: Path, corpus: Path, tmp_path: Path
) -> None:
    own = TransformersTeacher.load(str(teacher), vocab_size=300, device="cpu", dtype="float32")

    class Engine:
        spec, context, logits = own.spec, own.context, own.logits

    options: dict[str, Any] = {"data": str(corpus), "out": tmp_path / "store"}
    options |= {"tokenizer": tokenizer, "hidden_layers": "1"}
    with pytest.raises(ModelError, match=r"gives no hidden states.*hidden_layers"):
        logitstore.dump(teacher=Engine(), **options)
    make_model("gemma3n_text", tmp_path / "gemma")
    with pytest.raises(ModelError, match="states behind the layers of this model cannot be had"):
        logitstore.dump(teacher=str(tmp_path / "gemma"), **options)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba"])
def test_layers_that_give_other_states_than_the_class_says_are_refused(name: str) -> None:
    model = tiny(name)
    assert DecoderLayers.of(model).depth == 2
    body = model.base_model
    layers = getattr(body, "layers", None) or body.h
    layers[0], layers[1] = layers[1], layers[0]
    assert DecoderLayers.of(model).modules == (layers[0], layers[1])
    forward = layers[0].forward
    layers[0].forward = lambda *given, **named: forward(*given, **named)
    twice = layers[1].forward
    layers[1].forward = lambda *given, **named: (
        layers[0](*given, **named),
        twice(*given, **named),
    )[1]
    with pytest.raises(ModelError, match="layers that do not run one after another"):
        DecoderLayers.of(model)
    assert VOCAB > 8


def test_a_killed_dump_is_gone_on_with_to_the_same_bytes(
    store: Path, teacher: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "store"
    shutil.copytree(store, out)
    last = sorted((out / "commits").iterdir())[-1]
    last.unlink()
    for name in ("manifest.json", "README.md"):
        (out / name).unlink(missing_ok=True)
    options: dict[str, Any] = {"sparsify": "topk", "k": 4, "fidelity": "exact"}
    for layers, told in (("1,2", "1,2 here"), (None, "not given here"), ("every:2", "2,4 here")):
        with pytest.raises(SpecError, match=rf"hidden_layers 1,3 there, {told}"):
            dumped(out, teacher, corpus, hidden_layers=layers, **options)
    again = dumped(out, teacher, corpus, hidden_layers="1,3", **options)
    assert again.fingerprint == logitstore.open(store).fingerprint
    assert list(verify(out)) == []
    plain = tmp_path / "plain"
    dumped(plain, teacher, corpus, **options)
    with pytest.raises(SpecError, match="hidden_layers not given there, 1,3 here"):
        dumped(plain, teacher, corpus, hidden_layers="1,3", **options)
    # Where the configuration does not tell the depth, the teacher is loaded before it is refused.
    monkeypatch.setattr("logitstore.dumping.job.states_by_config", lambda _: None)
    with pytest.raises(SpecError, match="hidden_layers not given there, 2,4 here"):
        dumped(plain, teacher, corpus, hidden_layers="every:2", **options)
    again = dumped(out, teacher, corpus, hidden_layers="1,3", **options)
    assert again.fingerprint == logitstore.open(store).fingerprint


def test_edits_keep_the_states(store: Path, teacher: Path, tmp_path: Path) -> None:
    source = logitstore.open(store)
    logitstore.convert(store, tmp_path / "parquet", format="parquet")
    logitstore.convert(store, tmp_path / "k2", k=2)
    logitstore.convert(store, tmp_path / "coarse", fidelity="compact")
    logitstore.subset(store, tmp_path / "one", documents="0:5", rest=tmp_path / "two")
    logitstore.merge(tmp_path / "all", [tmp_path / "one", tmp_path / "two"])
    far = DictStorage()
    logitstore.push(store, far)
    logitstore.pull(far, tmp_path / "back")
    for name in ("parquet", "k2", "coarse", "all", "back"):
        made = logitstore.open(tmp_path / name)
        assert list(verify(tmp_path / name)) == []
        assert made.spec.states == source.spec.states
        for layer in ("layer_1", "layer_3"):
            assert np.array_equal(layers_of(made, layer), layers_of(source, layer))
    assert logitstore.open(tmp_path / "back").fingerprint == source.fingerprint
    more = corpus_of(tmp_path, times=1, first=50)
    logitstore.extend(
        store, tmp_path / "longer", teacher=str(teacher), data=str(more), device="cpu"
    )
    direct = dumped(
        tmp_path / "more", teacher, more, sparsify="topk", hidden_layers="1,3", fidelity="exact"
    )
    longer = logitstore.open(tmp_path / "longer")
    assert list(verify(tmp_path / "longer")) == []
    assert np.array_equal(layers_of(longer), np.concatenate([layers_of(source), layers_of(direct)]))


def test_targets_made_of_hidden_states_keep_those_of_other_layers(
    teacher: Path, corpus: Path, tmp_path: Path
) -> None:
    source = dumped(tmp_path / "hidden", teacher, corpus, hidden_layers="2")
    notes: list[str] = []
    logitstore.convert(
        tmp_path / "hidden", tmp_path / "made", sparsify="unbiased", on_note=notes.append
    )
    made = logitstore.open(tmp_path / "made")
    assert list(verify(tmp_path / "made")) == []
    assert made.spec.states.layers == (2,)
    assert made.spec.states.head is None
    assert np.array_equal(layers_of(made, "layer_2"), layers_of(source, "layer_2"))
    assert any("layer_2" in one and "stay" in one for one in notes)


def test_stores_of_different_layers_are_not_merged(
    store: Path, teacher: Path, tmp_path: Path
) -> None:
    more = corpus_of(tmp_path, times=1, first=70)
    options: dict[str, Any] = {"sparsify": "topk", "k": 4, "fidelity": "exact"}
    dumped(tmp_path / "other", teacher, more, hidden_layers="1,2", **options)
    dumped(tmp_path / "plain", teacher, more, **options)
    for name, told in (("other", r"states\.layers: \[1, 3\]"), ("plain", r"states\.layers")):
        with pytest.raises(SpecError, match=told):
            logitstore.merge(tmp_path / "all", [store, tmp_path / name])


def test_what_layers_cost_is_told_before(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    options: dict[str, Any] = {"sparsify": "topk", "hidden_layers": "1,3", "device": "cpu"}
    source = {"teacher": str(teacher), "data": str(corpus)}
    plain = logitstore.estimate(**source, device="cpu", sparsify="topk")
    found = logitstore.estimate(**source, on_note=notes.append, **options)
    assert any("layer_1, layer_3" in one and "128 bytes a target" in one for one in notes)
    store = dumped(tmp_path / "store", teacher, corpus, unit_tokens=1_000_000, **options)
    told = logitstore.inspect(tmp_path / "store")["bytes_per_target"]
    assert found.bytes_per_target == pytest.approx(told, rel=0.1)
    assert found.bytes_per_target > plain.bytes_per_target + 64
    rough = logitstore.estimate(**source, plan_only=True, **options)
    less = logitstore.estimate(**source, plan_only=True, sparsify="topk", device="cpu")
    assert rough.bytes_per_target - less.bytes_per_target == pytest.approx(2 * WIDTH * 1.7)
    assert store.spec.states.row_bytes == 128
    notes.clear()
    logitstore.tune(**source, device="cpu", seconds=1, on_note=notes.append)
    assert any("each layer of --hidden-layers takes some 54 bytes" in one for one in notes)


def test_an_audit_finds_states_of_another_layer_or_row(
    store: Path, teacher: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = logitstore.audit(store, teacher=str(teacher), device="cpu")
    assert found["ok"], found["faults"]
    assert found["states"]["layer_1"]["error"] < 1e-5
    assert found["states"]["layer_3"]["stated"] == 0
    dumped(tmp_path / "rounded", teacher, corpus, sparsify="topk", hidden_layers="3")
    rounded = logitstore.audit(tmp_path / "rounded", teacher=str(teacher), device="cpu")
    assert rounded["ok"]
    assert 1e-5 < rounded["states"]["layer_3"]["error"] < 2**-11
    own = TransformersTeacher.hidden_behind

    def shifted(self: Any, batch: Any, layers: Any) -> Any:
        hidden_RD, labels_R, behind = own(self, batch, layers)
        return hidden_RD, labels_R, {one: state.roll(1, 0) for one, state in behind.items()}

    def other(self: Any, batch: Any, layers: Any) -> Any:
        hidden_RD, labels_R, behind = own(self, batch, [one + 1 for one in layers])
        return hidden_RD, labels_R, {one - 1: state for one, state in behind.items()}

    for name, wrong in (("shifted", shifted), ("other", other)):
        with monkeypatch.context() as patch:
            patch.setattr(TransformersTeacher, "hidden_behind", wrong)
            dumped(tmp_path / name, teacher, corpus, sparsify="topk", hidden_layers="1,3")
        result = logitstore.audit(tmp_path / name, teacher=str(teacher), device="cpu")
        assert not result["ok"]
        assert len(result["faults"]) == 2
        assert all("layer_" in one and "of another layer, row" in one for one in result["faults"])


def test_an_audit_by_a_teacher_of_another_shape(
    store: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    result = logitstore.audit(store, teacher=str(teacher_folder), device="cpu", no_keep=True)
    assert not result["ok"]
    assert any("2 layers of width 32" in one for one in result["faults"])


def test_a_changed_spec_is_noticed(store: Path, tmp_path: Path) -> None:
    """Nobody can say that the states are those of another layer."""
    out = Path(shutil.copytree(store, tmp_path / "store"))
    place = out / "store.json"
    content = json.loads(place.read_text())
    content["states"]["layers"] = [1, 2]
    place.write_text(json.dumps(content))
    with pytest.raises(logitstore.LogitStoreError):
        logitstore.open(out)
