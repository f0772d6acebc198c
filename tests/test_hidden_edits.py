"""Edits of stores of hidden states: any sparse store without the teacher; the layer goes along."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import logitstore
from logitstore.errors import SettingError, SpecError
from logitstore.sparsify import SPARSIFIERS
from logitstore.store.verify import verify
from tests.hidden_stores import corpus_of, dumped, states_of
from tests.sparsifier_settings import small
from tools.dict_storage import DictStorage

HEAD = "head/head.safetensors"
SPARSE = sorted(name for name in SPARSIFIERS if not SPARSIFIERS[name].targets.keeps_state)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def store(teacher_folder: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a float32 teacher, with nothing rounded."""
    out = tmp_path_factory.mktemp("hidden") / "store"
    dumped(out, teacher_folder, corpus, fidelity="exact")
    return out


@pytest.mark.parametrize("name", SPARSE)
def test_any_sparse_store_is_that_of_a_dump(
    name: str, store: Path, teacher_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    """The same spec, draws and ids; values differ by a step where float32 sums fall otherwise."""
    options: dict[str, Any] = small(name, vocab_size=300) | {"fidelity": "exact"}
    if not SPARSIFIERS[name].targets.keeps_tail:
        options |= {"temperature": [1.0, 3.0], "repeats": 2}
    if SPARSIFIERS[name].targets.drawn:
        options |= {"seed": 7}
    logitstore.convert(store, tmp_path / "made", sparsify=name, device="cpu", **options)
    made = logitstore.open(tmp_path / "made")
    direct = dumped(tmp_path / "direct", teacher_folder, corpus, sparsify=name, **options)
    assert list(verify(tmp_path / "made")) == []
    assert made.spec.identity() == direct.spec.identity()
    assert not (tmp_path / "made" / HEAD).exists()
    steps = made.spec.codec.parameters
    same = 0
    for draw in range(made.spec.sparsifier.draw_count):
        for one, two in zip(made.with_draw(draw), direct.with_draw(draw), strict=True):
            assert one.document.id == two.document.id
            assert np.array_equal(one.document.input_ids_L, two.document.input_ids_L)
            mine, theirs = one.targets, two.targets
            assert np.abs(mine.entropy_R - theirs.entropy_R).max() <= 1.5 / steps["scalar_steps"]
            own, its = (
                np.sort(np.where(part.used_RK(), part.ids_RK.astype(np.int64), -1), axis=1)
                for part in (mine, theirs)
            )
            equal_R = (own == its).all(axis=1)
            same += equal_R.sum()
    assert same >= 0.98 * made.targets * made.spec.sparsifier.draw_count


def test_convert_resumes_takes_a_container_and_refuses_what_it_cannot(
    store: Path, teacher_folder: Path, corpus: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    found = logitstore.convert(
        store, tmp_path / "o", sparsify="topk", k=5, format="parquet", on_note=notes.append
    )
    assert found.recoded_units == found.units > 1
    assert notes == ["hidden states become topk, 5 entries a target"]
    again = logitstore.convert(store, tmp_path / "o", sparsify="topk", k=5, format="parquet")
    assert again.found_finished
    with pytest.raises(SpecError):
        logitstore.convert(store, tmp_path / "o", sparsify="topk", k=6, format="parquet")
    with pytest.raises(SettingError, match="Give sparsify"):
        logitstore.convert(store, tmp_path / "p", top_p=0.9)
    with pytest.raises(SettingError, match=r"draws means nothing"):
        logitstore.convert(store, tmp_path / "p", sparsify="topk", draws=3)
    dumped(tmp_path / "hybrid", teacher_folder, corpus, sparsify="hybrid")
    for name in ("hidden", "unbiased"):
        with pytest.raises(SettingError, match=f"Dump with sparsify {name}"):
            logitstore.convert(tmp_path / "hybrid", tmp_path / "p", sparsify=name)
    with pytest.raises(SettingError, match="only of hidden states"):
        logitstore.convert(tmp_path / "hybrid", tmp_path / "p", sparsify="topk", seed=3)


def test_other_containers_and_smaller_heads_keep_the_states(store: Path, tmp_path: Path) -> None:
    source = logitstore.open(store)
    logitstore.convert(store, tmp_path / "parquet", format="parquet")
    logitstore.convert(store, tmp_path / "k3", k=3)
    for name in ("parquet", "k3"):
        made = logitstore.open(tmp_path / name)
        assert list(verify(tmp_path / name)) == []
        assert np.array_equal(states_of(made), states_of(source))
        assert (tmp_path / name / HEAD).read_bytes() == (store / HEAD).read_bytes()
    assert logitstore.open(tmp_path / "k3").spec.sparsifier.k == 3


def test_parts_put_together_again_are_the_whole(store: Path, tmp_path: Path) -> None:
    source = logitstore.open(store)
    logitstore.subset(store, tmp_path / "one", documents="0:5", rest=tmp_path / "two")
    logitstore.merge(tmp_path / "all", [tmp_path / "one", tmp_path / "two"])
    for name in ("one", "two", "all"):
        assert list(verify(tmp_path / name)) == []
        assert (tmp_path / name / HEAD).read_bytes() == (store / HEAD).read_bytes()
    made = logitstore.open(tmp_path / "all")
    assert np.array_equal(states_of(made), states_of(source))
    for mine, theirs in zip(made, source, strict=True):
        for one, two in zip(made.log_probs(mine), source.log_probs(theirs), strict=True):
            assert np.array_equal(one, two)


def test_stores_of_different_layers_are_not_merged(
    store: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    """The same teacher by its fingerprint, as far as anybody says, with another output layer."""
    model = AutoModelForCausalLM.from_pretrained(teacher_folder)
    tokenizer = logitstore.open(store).tokenizer_files()
    for name, data in tokenizer.items():
        (tmp_path / "teacher").mkdir(exist_ok=True)
        (tmp_path / "teacher" / name).write_bytes(data)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.save_pretrained(tmp_path / "teacher")
    dumped(
        tmp_path / "other", tmp_path / "teacher", corpus_of(tmp_path, first=100), fidelity="exact"
    )
    with pytest.raises(SpecError, match=r"states\.head\.sha256"):
        logitstore.merge(tmp_path / "all", [store, tmp_path / "other"])


def test_a_store_is_extended_by_its_teacher(
    store: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    more = corpus_of(tmp_path, times=1, first=50)
    logitstore.extend(
        store, tmp_path / "longer", teacher=str(teacher_folder), data=str(more), device="cpu"
    )
    direct = dumped(tmp_path / "more", teacher_folder, more, fidelity="exact")
    longer, source = logitstore.open(tmp_path / "longer"), logitstore.open(store)
    assert list(verify(tmp_path / "longer")) == []
    assert np.array_equal(states_of(longer), np.concatenate([states_of(source), states_of(direct)]))


def test_a_store_goes_elsewhere_and_comes_back_with_its_layer(store: Path, tmp_path: Path) -> None:
    far = DictStorage()
    logitstore.push(store, far)
    assert far.read(HEAD) == (store / HEAD).read_bytes()
    logitstore.pull(far, tmp_path / "back")
    assert list(verify(tmp_path / "back")) == []
    back = logitstore.open(tmp_path / "back")
    assert back.fingerprint == logitstore.open(store).fingerprint
    assert len(list(back.log_probs(back[0]))) > 0
