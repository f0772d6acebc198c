"""Targets that do not know the whole distribution: what serves them, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

import logitstore
from logitstore import EMPTY_TAIL, CorruptionError, SettingError, StoreError
from logitstore.codec import new_codec
from logitstore.format.spec import SparsifierSpec
from logitstore.sparsify import SPARSIFIERS, sparsifier_of
from logitstore.sparsify.foreign import FOREIGN
from logitstore.targets.documents import DocumentBlock
from logitstore.targets.kinds import Entries, TargetKind
from tests.memory_store import VOCAB, MemoryStore
from tests.synthetic import store_spec, stored_documents, write_store
from tests.test_trainer_cli import call, fit, folder  # noqa: F401
from trainer import evaluate, retokenize
from trainer.losses import LOSSES, TargetTensors, View, choose_view, exact_teacher

HEAD = SparsifierSpec(name="head", k=6, tail_nodes=(1.0,))
SHARES = SparsifierSpec(name="shares", k=6)


def _targets(spec: SparsifierSpec) -> tuple[Any, torch.Tensor]:
    """Targets of 40 rows, and the whole log-probabilities."""
    logits_RV = 3 * torch.randn(40, VOCAB, generator=torch.Generator().manual_seed(0))
    labels_R = torch.zeros(40, dtype=torch.int64)
    keys_R = np.zeros(40, dtype=np.uint64)
    (targets,) = sparsifier_of(spec).draw(logits_RV.clone(), labels_R, keys_R, spec)
    return targets, logits_RV.double().log_softmax(-1)


@pytest.mark.parametrize("spec", [HEAD, SHARES], ids=lambda one: one.name)
def test_entries_are_the_most_probable_tokens(spec: SparsifierSpec) -> None:
    targets, logp_RV = _targets(spec)
    top_RK, ids_RK = logp_RV.topk(6)
    if spec is SHARES:
        top_RK = top_RK.log_softmax(-1)
    else:
        tail_R = (1 - top_RK.exp().sum(-1)).log()
        assert targets.tail_logmass_RB[:, 0] == pytest.approx(tail_R.numpy(), abs=1e-4)
    assert np.array_equal(targets.ids_RK, ids_RK.numpy())
    assert targets.logprobs_RK == pytest.approx(top_RK.numpy(), abs=1e-5)
    assert np.isnan(targets.label_logprob_R).all()
    assert np.isnan(targets.entropy_R).all()


@pytest.mark.parametrize("spec", [HEAD, SHARES], ids=lambda one: one.name)
def test_what_is_not_known_is_no_column(spec: SparsifierSpec, tmp_path: Path) -> None:
    targets, _ = _targets(spec)
    (document,) = stored_documents([41], vocab_size=VOCAB)
    stored = replace(document, targets=targets)
    codec = new_codec(spec, vocab_size=VOCAB, fidelity="exact")
    names = codec.scalar_names(sampler_logprobs=False)
    assert not {"entropy", "label_logprob"} & set(names)
    block = DocumentBlock.join([stored])
    tables = codec.tables([block])
    found = codec.decode(codec.encode(block, tables), tables).targets
    order_RK, own_RK = (np.argsort(one.ids_RK, axis=1) for one in (found, targets))
    values_RK, wanted_RK = (
        np.take_along_axis(one.logprobs_RK, order, axis=1)
        for one, order in ((found, order_RK), (targets, own_RK))
    )
    assert values_RK == pytest.approx(wanted_RK, abs=0.02)
    layout = write_store(
        tmp_path / "store", [[stored]], spec=store_spec(vocab_size=VOCAB, sparsifier=spec)
    )
    assert not list(logitstore.verify(tmp_path / "store"))
    told = logitstore.inspect(tmp_path / "store")
    assert told["teacher_entropy"] is None
    assert told["teacher_loss"] is None
    assert (told["retained_mass"] is None) == (spec is SHARES)
    card = layout.storage.read("README.md").decode()
    assert ("of the mass" in card) == (spec is HEAD)
    for unknown in ("entropy", "loss", *(["retained_mass"] if spec is SHARES else [])):
        with pytest.raises(SettingError, match="has no such column"):
            logitstore.subset(tmp_path / "store", tmp_path / "part", where=f"{unknown} > 0")


def test_spans_are_not_made_of_what_is_not_known() -> None:
    other = ByteLevelBPETokenizer()
    other.train_from_iterator(["some other words"], vocab_size=260)
    with pytest.raises(StoreError, match="log-probabilities of the true tokens"):
        retokenize(MemoryStore(sparsifier=HEAD), PreTrainedTokenizerFast(tokenizer_object=other))


def test_a_kind_says_whether_it_can_be_used_at_all() -> None:
    with pytest.raises(TypeError, match="shares have no tail"):
        TargetKind(entries=Entries.SHARES, keeps_tail=True, weights_sum_to_one=True)
    with pytest.raises(TypeError, match="entropy"):
        TargetKind(
            entries=Entries.WEIGHTED, keeps_tail=True, weights_sum_to_one=True, knows_whole=False
        )
    assert not set(FOREIGN) & set(SPARSIFIERS)
    for wrong in (replace(HEAD, tail_nodes=()), replace(SHARES, temperatures=(1.0,))):
        with pytest.raises(CorruptionError):
            sparsifier_of(wrong)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda one: one.name)
def test_losses_that_need_the_mass_are_refused(loss: Any) -> None:
    if loss.of_samples:
        for spec in (HEAD, SHARES):
            with pytest.raises(SettingError, match="the teacher's probability of the true token"):
                choose_view(spec, loss=loss, temperature=1.0)
        return
    assert choose_view(HEAD, loss=loss, temperature=1.0) is View.BUCKET
    with pytest.raises(SettingError, match="at one alone"):
        choose_view(HEAD, loss=loss, temperature=2.0)
    if loss.tail == "dropped":
        assert choose_view(SHARES, loss=loss, temperature=2.0) is View.SHARES
    else:
        with pytest.raises(SettingError, match="needs the mass of the kept tokens"):
            choose_view(SHARES, loss=loss, temperature=1.0)


def test_shares_at_a_temperature_are_those_of_the_teacher_at_it() -> None:
    targets, logp_RV = _targets(SHARES)
    view = exact_teacher(TargetTensors.of(targets), nodes=(), temperature=2.5, vocab_size=VOCAB)
    scaled_RV = (logp_RV / 2.5).log_softmax(-1)
    wanted_RK = scaled_RV.gather(1, torch.from_numpy(targets.ids_RK.astype(np.int64)))
    torch.testing.assert_close(
        view.log_head_NK.double(), wanted_RK.log_softmax(-1), atol=1e-5, rtol=0
    )
    assert (view.log_tail_N == EMPTY_TAIL).all()


def test_a_student_learns_from_shares_and_what_is_unknown_is_not_told(
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore(tokenizer=folder / "tokenizer", sparsifier=SHARES)
    monkeypatch.setattr(logitstore, "open", lambda _, **__: store, raising=False)
    refused = fit(folder)
    assert refused.exit_code == 1
    assert "--loss renormalised" in refused.stderr
    result = fit(folder, "--loss", "renormalised", "--temperature", "2")
    assert result.exit_code == 0, result.stderr
    assert "divergence" in result.stdout
    assert "kl" not in result.stdout
    history = json.loads((folder / "run" / "history.json").read_text())
    assert "kl" not in json.dumps(history)
    told = call("eval", folder / "run", "--logits", "S", "--device", "cpu", "--json")
    found = json.loads(told.stdout)
    unknown = ("kl", "acceptance", "teacher_loss", "teacher_entropy")
    assert [found[name] for name in unknown] == [None] * 4
    assert 0 <= found["top1_agreement"] <= 1


def test_a_head_gives_bounds_and_no_entropy(
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore(tokenizer=folder / "tokenizer", sparsifier=HEAD)
    monkeypatch.setattr(logitstore, "open", lambda _, **__: store, raising=False)
    assert fit(folder).exit_code == 0
    found = evaluate(model=folder / "run", logits="S", device="cpu")
    assert found["kl"] > 0
    assert found["bounds"]["kl"] == "lower"
    assert found["teacher_loss"] is None
    assert found["teacher_entropy"] is None
