"""Stores of hidden states: exact against the live teacher, resumed, verified, refused."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import logitstore
import trainer
from logitstore.cli.terminal import print_summary
from logitstore.errors import (
    CorruptionError,
    LogitStoreError,
    ModelError,
    SettingError,
    SpecError,
    StoreError,
)
from logitstore.format.json import fingerprint, with_check
from logitstore.store.containers import CONTAINERS
from logitstore.store.head import head_file
from logitstore.store.layout import StoreLayout
from logitstore.store.verify import verify
from logitstore.targets.states import States
from logitstore.teacher.lm_head import LMHead
from tests.hidden_stores import corpus_of, dense, dumped, states_of
from tests.tiny_models import tiny
from tools.reseal import read_json, reseal, write_json

HEAD = "head/head.safetensors"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def store(teacher_folder: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the float32 teacher, whose states are rounded to float16."""
    out = tmp_path_factory.mktemp("hidden") / "store"
    dumped(out, teacher_folder, corpus)
    return out


@pytest.fixture
def copied(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "copied"))


def whole(store: logitstore.Store, stored: logitstore.StoredDocument, **options: object):
    chunks = list(store.log_probs(stored, **options))  # type: ignore[arg-type]
    return np.concatenate(chunks).astype(np.float64), chunks


@pytest.mark.parametrize(
    ("fidelity", "most"), [("exact", 1e-12), ("balanced", 1e-6), ("compact", 1e-4)]
)
def test_whole_distributions_are_those_of_the_live_teacher(
    fidelity: str, most: float, teacher_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    """KL from the live teacher in nats: 0 but for float32 sums, and what half precision costs."""
    store = dumped(tmp_path / "store", teacher_folder, corpus, fidelity=fidelity)
    assert list(verify(tmp_path / "store")) == []
    worst = 0.0
    for stored in list(store)[:4]:
        live_RV = dense(teacher_folder, stored)
        found_RV, chunks = whole(store, stored, rows=3)
        assert max(map(len, chunks)) <= 3
        # Each term is 0 or more, so that no rounding of a sum shows.
        p_RV, q_RV = np.exp(live_RV), np.exp(found_RV)
        kl_R = (p_RV * (live_RV - found_RV) - p_RV + q_RV).sum(axis=1)
        worst = max(worst, float(kl_R.max()))
        at_5, _ = whole(store, stored, temperature=5.0)
        wanted = torch.from_numpy(live_RV / 5).log_softmax(-1).numpy()
        assert np.abs(at_5 - wanted).max() < 3 * np.sqrt(most) + 1e-5
    assert worst <= most
    assert fidelity == "exact" or worst > 1e-12  # something is rounded


def test_a_teacher_in_half_precision_keeps_its_own_numbers(
    teacher_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    store = dumped(tmp_path / "store", teacher_folder, corpus, dtype="bfloat16")
    states = store.spec.states
    assert (states.dtype, states.head.dtype, states.head.runs_in) == ("bfloat16",) * 3
    model = AutoModelForCausalLM.from_pretrained(teacher_folder, dtype=torch.bfloat16).eval()
    stored = store[0]
    ids_L = torch.from_numpy(stored.document.input_ids_L.astype(np.int64))
    with torch.inference_mode():
        hidden_LD = model.model(ids_L[None]).last_hidden_state[0, :-1]
        logits_LV = model(ids_L[None]).logits[0, :-1, :300]
    assert torch.equal(stored.targets.states["last"].tensor(), hidden_LD)
    found_RV, _ = whole(store, stored)
    assert np.abs(found_RV - logits_LV.float().log_softmax(-1).numpy()).max() < 1e-6


def test_containers_hold_the_same_and_entries_are_those_of_the_stored_state(
    teacher_folder: Path, corpus: Path, store: Path, tmp_path: Path
) -> None:
    assert {"zarr", "parquet"} == set(CONTAINERS)
    zarr = logitstore.open(store)
    parquet = dumped(tmp_path / "parquet", teacher_folder, corpus, format="parquet")
    assert np.array_equal(states_of(zarr), states_of(parquet))
    for stored in list(parquet)[:3]:
        log_RV, _ = whole(parquet, stored)
        own_RK = np.take_along_axis(log_RV, stored.targets.ids_RK.astype(np.int64), axis=1)
        assert np.abs(own_RK - stored.targets.logprobs_RK).max() < 0.2  # a step of the least entry
        assert np.allclose(np.exp(log_RV).sum(axis=1), 1, atol=1e-5)
        highest_R = log_RV.argmax(axis=1)
        assert (stored.targets.ids_RK == highest_R[:, None]).any(axis=1).all()


def test_the_format_is_newer_only_where_there_are_states(
    teacher_folder: Path, corpus: Path, store: Path, tmp_path: Path
) -> None:
    spec = logitstore.open(store).spec
    assert spec.format == "logitstore/5"
    assert dumped(tmp_path / "topk", teacher_folder, corpus, sparsify="topk").spec.format == (
        "logitstore/4"
    )
    # What a reader of the format before says of it: it compares with the formats that it knows.
    content = json.loads((store / "store.json").read_bytes())
    content.pop("sha256")
    del content["text"]["positions"]
    with pytest.raises(CorruptionError, match="states"):
        type(spec).from_json(content | {"format": "logitstore/4"}, place="store.json")


def test_a_dump_resumes_to_the_same_bytes(
    store: Path, copied: Path, teacher_folder: Path, corpus: Path
) -> None:
    """As if it had been killed behind its second unit, before the output layer was written."""
    (copied / "manifest.json").unlink()
    (copied / HEAD).unlink()
    for path in sorted((copied / "commits").iterdir())[2:]:
        path.unlink()
    again = dumped(copied, teacher_folder, corpus)
    assert again.fingerprint == logitstore.open(store).fingerprint
    assert (copied / HEAD).read_bytes() == (store / HEAD).read_bytes()
    assert list(verify(copied)) == []
    with pytest.raises(SpecError, match="fidelity"):
        dumped(copied, teacher_folder, corpus, fidelity="exact")


def test_the_layer_is_told_apart_where_a_dump_ends(
    teacher_folder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = logitstore.dump(
        teacher=str(teacher_folder),
        data=str(corpus),
        out=tmp_path / "store",
        sparsify="hidden",
        device="cpu",
    )
    layer = (tmp_path / "store" / HEAD).stat().st_size
    assert summary.layer_bytes == layer
    print_summary(summary)
    each = (summary.bytes - layer) / summary.targets
    assert f"({each:.1f} per target, and {layer:,} once)" in capsys.readouterr().out


def test_bytes_are_told_and_the_layer_is_among_them(store: Path) -> None:
    found = logitstore.inspect(str(store))
    assert found["bytes"] > (store / HEAD).stat().st_size > 300 * 32 * 2
    width = logitstore.open(store).spec.states.width
    assert 0 < found["column_bytes_per_target"]["state_last"] <= 2 * width + 40
    assert found["states"] == {
        "layers": ["last"],
        "width": 32,
        "dtype": "float16",
        "head_bytes": (store / HEAD).stat().st_size,
        "head_dtype": "float32",
    }
    assert "hidden" in (store / "README.md").read_text()


def test_an_estimate_tells_the_bytes_of_a_dump(
    teacher_folder: Path, corpus: Path, store: Path
) -> None:
    notes: list[str] = []
    found = logitstore.estimate(
        teacher=str(teacher_folder),
        data=str(corpus),
        sparsify="hidden",
        unit_tokens=150,
        device="cpu",
        seconds=2.0,
        on_note=notes.append,
    )
    assert found.bytes == pytest.approx(logitstore.inspect(str(store))["bytes"], rel=0.1)
    assert any("64 bytes a target" in one and "once" in one for one in notes)
    rough = logitstore.estimate(
        teacher=str(teacher_folder), data=str(corpus), sparsify="hidden", plan_only=True
    )
    assert rough.bytes_per_target > 32 * 1.7  # type: ignore[operator]
    assert any("output layer" in one for one in rough.missing)


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("gpt2", {}),
        ("gemma2", {"final_logit_softcapping": 3.0, "head_dim": 8}),
        ("cohere", {"logit_scale": 0.25}),
        ("phi", {}),  # an output layer with a bias
    ],
)
def test_scale_bias_and_soft_cap_are_kept(
    architecture: str,
    changes: dict[str, object],
    tokenizer: PreTrainedTokenizerFast,
    corpus: Path,
    tmp_path: Path,
) -> None:
    config = AutoConfig.for_model(
        architecture,
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=0,
        **changes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        model.get_output_embeddings().weight.data.mul_(20)
        if model.get_output_embeddings().bias is not None:
            model.get_output_embeddings().bias.data.normal_()
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    store = dumped(tmp_path / "store", tmp_path / "teacher", corpus, fidelity="exact", limit=3)
    head = store.spec.states.head
    assert head.bias == (architecture == "phi")
    assert (head.softcap is not None) == (architecture == "gemma2")
    assert (head.scale != 1) == (architecture == "cohere")
    for stored in store:
        found_RV, _ = whole(store, stored)
        assert np.abs(found_RV - dense(tmp_path / "teacher", stored)).max() < 1e-4


def test_a_layer_lies_in_the_narrowest_type_that_holds_it_as_it_is() -> None:
    weight_VD = torch.randn(5, 4)
    heads = {
        "float32": weight_VD,
        "bfloat16": weight_VD.bfloat16().float(),
        "float16": weight_VD.half().float(),
    }
    for dtype, weight in heads.items():
        head = LMHead(weight_PD=weight, bias_P=None, scale=1.0, softcap=None, vocab_size=5)
        spec, data = head_file(head)
        assert (spec.dtype, spec.runs_in, spec.size) == (dtype, "float32", len(data))


# --- refused


def test_a_state_too_large_for_half_precision_is_refused(
    teacher_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher_folder)
    model.model.norm.weight.data.mul_(1e5)
    model.lm_head.weight.data.div_(1e5)
    teacher = Path(shutil.copytree(teacher_folder, tmp_path / "teacher"))
    model.save_pretrained(teacher)
    with pytest.raises(SettingError, match=r"too large for float16.*fidelity exact"):
        dumped(tmp_path / "store", teacher, corpus)
    store = dumped(tmp_path / "store", teacher, corpus, fidelity="exact")
    found_RV, _ = whole(store, store[0])
    assert np.abs(found_RV - dense(teacher, store[0])).max() < 1e-4


def test_a_teacher_without_states_is_refused(
    teacher_folder: Path, tokenizer: PreTrainedTokenizerFast, corpus: Path, tmp_path: Path
) -> None:
    from logitstore.teacher.transformers import TransformersTeacher

    inner = TransformersTeacher.load(
        str(teacher_folder), vocab_size=300, device="cpu", dtype="float32"
    )

    class Logits:
        spec, context = replace(inner.spec, fingerprint="own"), inner.context

        def logits(self, batch):
            return inner.logits(batch)

    with pytest.raises(ModelError, match="gives no hidden states"):
        logitstore.dump(
            teacher=Logits(),
            tokenizer=tokenizer,
            data=str(corpus),
            out=tmp_path / "store",
            sparsify="hidden",
        )


def test_a_store_without_states_gives_no_whole_distributions(
    teacher_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    store = dumped(tmp_path / "store", teacher_folder, corpus, sparsify="topk")
    with pytest.raises(StoreError, match="sparsify hidden"):
        store.log_probs(store[0])


@pytest.mark.parametrize("place", [8, 200, -1])
def test_a_layer_that_has_rotted_is_found_before_it_is_used(copied: Path, place: int) -> None:
    data = bytearray((copied / HEAD).read_bytes())
    data[place] ^= 4
    (copied / HEAD).write_bytes(data)
    (fault,) = verify(copied)
    assert HEAD in str(fault)
    opened = logitstore.open(copied)  # it is hashed when it is loaded
    with pytest.raises(CorruptionError, match=r"head\.safetensors.*has changed"):
        list(opened.log_probs(opened[0]))


@pytest.mark.parametrize("kept", [0, 1000, None])
def test_a_layer_that_is_short_or_gone_is_found_when_the_store_is_opened(
    copied: Path, kept: int | None
) -> None:
    data = (copied / HEAD).read_bytes()
    if kept is None:
        (copied / HEAD).unlink()
    else:
        (copied / HEAD).write_bytes(data[:kept])
    with pytest.raises(CorruptionError, match=r"head\.safetensors"):
        logitstore.open(copied)
    assert any(HEAD in str(one) for one in verify(copied))


@pytest.mark.parametrize(
    "change",
    [
        {"width": 1 << 30},
        {"width": 31},
        {"dtype": "float64"},
        {"layers": [1]},  # of a teacher of no layers
        {"depth": -1},
        {"head": None},
        {"head.size": 1 << 50},
        {"head.scale": "1"},
        {"head.scale": 0},
        {"head.scale": 1e39},
        {"head.scale": 10**400},
        {"head.softcap": 1e308},
        {"head.softcap": -3.0},
        {"head.runs_in": "int8"},
        {"head.sha256": "../../etc"},
        {"head.bias": 1},
        {"extra": 1},
    ],
)
def test_a_spec_that_no_store_can_have_is_refused(copied: Path, change: dict[str, object]) -> None:
    content = json.loads((copied / "store.json").read_bytes())
    content.pop("sha256")
    for name, value in change.items():
        place, _, own = name.rpartition(".")
        (content["states"]["head"] if place else content["states"])[own] = value
    (copied / "store.json").write_bytes(with_check(content))
    with pytest.raises(CorruptionError):
        logitstore.open(copied)


def reseal_head(store: Path, tensors: dict[str, torch.Tensor], **states: object) -> None:
    """Another output layer, and other fields of `states`, under hashes that are right."""
    save_file(tensors, store / HEAD)
    content = read_json(store / "store.json")
    data = (store / HEAD).read_bytes()
    content["states"] |= states
    content["states"]["head"] |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    write_json(store / "store.json", content)
    spec = StoreLayout.at(store).read_spec()
    for path in (store / "commits").glob("*.json"):
        write_json(path, read_json(path) | {"settings": fingerprint(spec.identity())})
    reseal(store, container="zarr", objects=False)


@pytest.mark.parametrize(
    ("forged", "told"),
    [
        ("overflow", "no finite number"),
        ("other layer", "another entropy than is stored"),
        ("other type", "another entropy than is stored"),
    ],
)
def test_what_states_and_layer_give_together_is_looked_at(
    forged: str, told: str, copied: Path, tmp_path: Path
) -> None:
    """Each is well-formed by itself, and resealed; nothing else would tell it."""
    tensors, states = load_file(copied / HEAD), {}
    if forged == "overflow":
        tensors["weight"][7] = 1e38
        states = {}
    elif forged == "other layer":
        tensors["weight"] = tensors["weight"].roll(1, dims=1)
    else:
        states = {"dtype": "bfloat16"}
    reseal_head(copied, tensors, **states)
    faults = [str(one) for one in verify(copied)]
    assert faults
    assert all(told in one for one in faults), faults
    if forged == "overflow":
        store = logitstore.open(copied)
        with pytest.raises(CorruptionError, match="no finite number"):
            list(store.log_probs(store[0]))
        student = tiny(vocab_size=300, max_position_embeddings=64)
        student.save_pretrained(tmp_path / "student")
        for call in (trainer.evaluate, trainer.diagnose):
            with pytest.raises(CorruptionError, match="output layer makes of the store's hidden"):
                call(tmp_path / "student", logits=str(copied))


@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_numbers_that_are_not_finite_are_refused(
    container: str, teacher_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    """Written below the codec, as nobody would: each row of the file has its right checksum."""
    from logitstore.codec.with_states import StatesCodec
    from logitstore.store.writer import UnitWriter

    source = dumped(tmp_path / "sound", teacher_folder, corpus, format=container, unit_tokens=10**6)
    written = UnitWriter.write_columns

    def spoilt(self, unit, columns, tables, **rest):
        bits_RD = columns[0].states["last"].copy()
        bits_RD[3, 5] = 0x7C00  # infinite
        states = {"last": bits_RD}
        return written(self, unit, [replace(columns[0], states=states)], tables, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnitWriter, "write_columns", spoilt)
        dumped(tmp_path / "bad", teacher_folder, corpus, format=container, unit_tokens=10**6)
    (fault,) = verify(tmp_path / "bad")
    assert "no finite number" in str(fault)
    assert "target 3" in str(fault)
    with pytest.raises(LogitStoreError, match="no finite number"):
        list(logitstore.open(tmp_path / "bad"))
    assert isinstance(source.shards.codec, StatesCodec)


def test_states_know_their_bits() -> None:
    values_RD = torch.tensor([[1.5, -0.25, 3e-5], [1e4, 0.0, -2.0]])
    for dtype in ("float32", "float16", "bfloat16"):
        states = States.of(values_RD, dtype=dtype)
        exact = values_RD.to(getattr(torch, dtype))
        assert torch.equal(states.tensor(), exact)
        assert np.array_equal(states.float32(), exact.float().numpy())
        assert states.finite_R().all()
        assert np.array_equal(states.rows(slice(1, 2)).bits_RD, states.bits_RD[1:])
        joined = States.concatenate([states, states])
        assert np.array_equal(joined.bits_RD, np.tile(states.bits_RD, (2, 1)))
        odd = States.of(torch.tensor([[1.0], [torch.inf], [torch.nan]]), dtype=dtype)
        assert odd.finite_R().tolist() == [True, False, False]
    with pytest.raises(CorruptionError):
        States(dtype="float32", bits_RD=np.zeros((2, 2), dtype=np.uint16))
