"""A student with more columns than the store has ids: part of its softmax, and no token."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import logitstore
import trainer
from logitstore.sparsify.build import sparsifier_spec
from tests.fused_scene import N, P, V, as_double, fused, make_targets, scene
from tests.loss_settings import OF_ENTRIES
from tests.memory_store import VOCAB, MemoryStore
from tests.tiny_models import CONFIGS, tiny
from trainer.losses import LOSSES, DenseRows

MORE = 24  # columns that hold no token: as many as a vocabulary rounded up may have


def all_columns(hidden, head):
    return (hidden @ head.weight_PD.T + head.bias_P) * head.scale


@pytest.mark.parametrize("name", OF_ENTRIES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_the_softmax_runs_over_all_columns_and_the_teacher_gives_none_to_the_others(
    name, temperature, alpha
):
    hidden, head, teacher, labels, counts = scene()
    found = fused(
        hidden,
        head.whole,
        make_targets(teacher, counts=counts),
        labels,
        loss=LOSSES[name],
        alpha=alpha,
        temperature=temperature,
        chunk_rows=5,
    )
    (found.loss / 7).backward()

    exact_hidden, exact = hidden.detach().double().requires_grad_(), as_double(head)
    z_NP = all_columns(exact_hidden, exact)
    kept = torch.zeros(N, V, dtype=torch.bool)
    for row, count in enumerate(counts.tolist()):
        kept[row, teacher[row].topk(count).indices] = True
    rows = DenseRows(
        log_student_RV=(z_NP[:, :V] / temperature).log_softmax(-1),
        log_teacher_RV=(teacher.double().log_softmax(-1) / temperature).log_softmax(-1),
        kept_RV=kept,
        label_ids_R=labels,
    )
    q_NP = (z_NP / temperature).softmax(-1)
    divergence = (LOSSES[name].reference(rows) - (1 - q_NP[:, V:].sum(-1)).log()).sum()
    ce = torch.nn.functional.cross_entropy(z_NP, labels, reduction="sum")
    factor = temperature**2 if LOSSES[name].times_temperature_squared else 1.0
    expected = (1 - alpha) * ce + alpha * factor * divergence
    (expected / 7).backward()

    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert float(found.sums["ce"]) == pytest.approx(ce.item(), rel=1e-5)
    parts = found.sums["kl_binary"] + found.sums["kl_head"]
    assert float(parts) == pytest.approx(float(found.sums["kl"]), rel=1e-5)
    pairs = [(hidden, exact_hidden), (head.weight_PD, exact.weight_PD), (head.bias_P, exact.bias_P)]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=3e-5)
    assert (head.bias_P.grad[V:] > 0).all()  # each step takes mass away from what is no token


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_forward_kl_is_that_over_all_columns_where_the_whole_teacher_is_kept(temperature):
    hidden, head, teacher, labels, _ = scene()
    found = fused(hidden, head.whole, make_targets(teacher, k=V), labels, temperature=temperature)
    log_q_NP = (all_columns(hidden, head).double() / temperature).log_softmax(-1)
    p_NP = torch.zeros(N, P, dtype=torch.float64)
    p_NP[:, :V] = (teacher.double() / temperature).softmax(-1)
    expected = (p_NP.xlogy(p_NP) - p_NP * log_q_NP).sum()
    assert float(found.sums["kl"]) == pytest.approx(expected.item(), rel=1e-5)
    assert found.loss.item() == pytest.approx(temperature**2 * expected.item(), rel=1e-5)


def test_columns_with_no_mass_at_all_give_finite_gradients():
    hidden, head, teacher, labels, counts = scene()
    with torch.no_grad():
        head.bias_P[V:] = -1e4
    with_them = fused(hidden, head.whole, make_targets(teacher, counts=counts), labels, alpha=0.5)
    with_them.loss.backward()
    gradient = hidden.grad.clone()
    hidden.grad = None
    without = fused(hidden, head, make_targets(teacher, counts=counts), labels, alpha=0.5)
    without.loss.backward()
    assert with_them.loss.item() == pytest.approx(without.loss.item(), rel=1e-6)
    torch.testing.assert_close(hidden.grad, gradient, rtol=1e-5, atol=1e-6)


@pytest.fixture
def use_store(monkeypatch):
    def use(store):
        monkeypatch.setattr(logitstore, "open", lambda _, **__: store, raising=False)
        return store

    return use


STORES = {
    "topk": sparsifier_spec("topk", k=4),
    "sample": sparsifier_spec("sample", draws=12, temperatures=(1.0,), seed=0),
}


@pytest.mark.parametrize("kind", STORES)
def test_an_evaluation_gives_the_loss_of_the_saved_model(use_store, kind, tmp_path):
    """Its loss is `model(input_ids, labels)`'s, and KL counts the mass that no token has."""
    store = use_store(MemoryStore(sparsifier=STORES[kind]))
    model = tiny(vocab_size=VOCAB + MORE)
    model.save_pretrained(tmp_path / "model")
    result = trainer.evaluate(tmp_path / "model", logits="memory")
    loss = targets = 0.0
    for stored in store:
        document = stored.document
        ids_1L = torch.from_numpy(document.input_ids_L.astype(np.int64))[None]
        labels_1L = ids_1L.masked_fill(~torch.from_numpy(document.counted_L)[None], -100)
        counted = int((labels_1L[:, 1:] != -100).sum())
        if counted:
            with torch.no_grad():
                loss += float(model(ids_1L, labels=labels_1L).loss) * counted
            targets += counted
    assert result["loss"] == pytest.approx(loss / targets, rel=1e-5)
    narrow = trainer.evaluate(_cut(model), logits="memory")
    assert result["loss"] - narrow["loss"] > 0.2  # what an evaluation over the ids alone would hide
    assert result["kl"] - narrow["kl"] == pytest.approx(
        result["loss"] - narrow["loss"], rel=0.05
    )  # both are the mean of -log(1 - m), up to the weights of draws


def _cut(model):
    """The same model without the columns that hold no token."""
    other = tiny(vocab_size=VOCAB)
    state = model.state_dict()
    other.load_state_dict(
        {name: value[: len(other.state_dict()[name])] for name, value in state.items()}
    )
    return other


def test_a_trained_student_gives_its_other_columns_nothing(use_store, tmp_path):
    use_store(MemoryStore(blocks=8))
    config = tmp_path / "student.json"
    config.write_text(json.dumps(CONFIGS["llama"].to_dict() | {"vocab_size": VOCAB + MORE}))
    run = tmp_path / "run"
    trainer.fit(logits="memory", student=config, out=run, steps=150, batch_tokens=64, lr=2e-2)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(run)
    with torch.no_grad():
        q = model(torch.arange(VOCAB)[None]).logits.softmax(-1)
    assert float(q[..., VOCAB:].sum(-1).mean()) < 0.02  # it began with half
