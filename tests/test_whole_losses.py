"""Losses from hidden states: every loss at every T beside dense float64, and runs on stores."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import logitstore
import trainer
from logitstore import SettingError, SparsifierSpec, SpecError
from logitstore.plumbing import LAST, SPARSIFIERS, LMHead
from logitstore.targets.states import States
from logitstore.targets.targets import SparseTargets, none_sampled
from tests.fused_scene import D, N, P, V, as_double, dense_logits, scene
from tests.hidden_stores import corpus_of, dense, dumped
from tests.tiny_models import tiny
from trainer.losses import LOSSES, choose_view
from trainer.losses.base import DenseRows
from trainer.losses.fused import TargetTensors, sparse_distillation_loss
from trainer.losses.whole import whole_targets

HIDDEN = SparsifierSpec(name="hidden", k=2, tail_nodes=(1.0, 0.5))
W = 6  # the teacher's width, which is another than the student's


def teacher_head(*, softcap: float | None = None) -> LMHead:
    generator = torch.Generator().manual_seed(3)
    return LMHead(
        weight_PD=torch.randn(V, W, generator=generator),
        bias_P=torch.randn(V, generator=generator),
        scale=0.7,
        softcap=softcap,
        vocab_size=V,
    )


def targets_of(dtype: str = "float32") -> TargetTensors:
    """Rows whose entries are wrong on purpose: nobody may look at them."""
    states_NW = torch.randn(N, W, generator=torch.Generator().manual_seed(4))
    return TargetTensors.of(
        SparseTargets(
            kind=SPARSIFIERS["hidden"].targets,
            ids_RK=np.zeros((N, 2), dtype=np.uint32),
            logprobs_RK=np.full((N, 2), -1.0, dtype=np.float32),
            sampled_RK=none_sampled(N, 2),
            count_R=np.ones(N, dtype=np.int32),
            tail_logmass_RB=np.full((N, 2), -0.5, dtype=np.float32),
            label_logprob_R=np.zeros(N, dtype=np.float32),
            entropy_R=np.zeros(N, dtype=np.float32),
            states={LAST: States.of(states_NW, dtype=dtype)},
        )
    )


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0, 25.0])
@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize(("softcap", "alpha"), [(None, 0.7), (4.0, 1.0)])
def test_every_loss_and_gradient_is_dense(
    name: str, temperature: float, softcap: float | None, alpha: float
) -> None:
    """A student with columns that are no token; the teacher's logits from its states in float64."""
    loss = LOSSES[name]
    hidden_ND, head, _, labels_N, _ = scene(softcap=softcap, scale=1.3)
    head = head.whole
    assert head.vocab_size == P > V
    targets, teacher = targets_of(), teacher_head(softcap=softcap)
    log_s_N = torch.linspace(-4.0, -0.1, N)
    if loss.of_samples and temperature != 1:
        with pytest.raises(SettingError, match="stored at T = 1"):
            choose_view(HIDDEN, loss=loss, temperature=temperature)
        return
    found = sparse_distillation_loss(
        hidden_ND,
        head,
        targets,
        labels_N,
        alpha=alpha,
        temperature=temperature,
        loss=loss,
        sparsifier=HIDDEN,
        vocab_size=V,
        chunk_rows=5,
        teacher=teacher,
        sampler_logprobs_N=log_s_N,
    )
    inputs = (hidden_ND, head.weight_PD, head.bias_P)
    grads = torch.autograd.grad(found.loss, inputs)

    own = as_double(head)
    double_ND = hidden_ND.detach().double().requires_grad_()
    z_NP = double_ND @ own.weight_PD.T + own.bias_P
    z_NP = z_NP * head.scale
    z_NP = z_NP if softcap is None else softcap * torch.tanh(z_NP / softcap)
    assert torch.equal(z_NP[:, :V].float(), dense_logits(double_ND, own).float())
    cold = as_double(teacher)
    t_NV = dense_logits(targets.state_NW.double(), cold).detach()
    scaled_NP = z_NP / temperature
    outside_N = scaled_NP.logsumexp(1) - scaled_NP[:, :V].logsumexp(1)
    rows = DenseRows(
        log_student_RV=scaled_NP[:, :V].log_softmax(1),
        log_teacher_RV=(t_NV / temperature).log_softmax(1),
        kept_RV=torch.ones(N, V, dtype=torch.bool),
        label_ids_R=labels_N,
        log_sampler_R=log_s_N.double(),
    )
    factor = temperature**2 if loss.times_temperature_squared else 1.0
    ce_N = -z_NP.log_softmax(1).gather(1, labels_N[:, None])[:, 0]
    divergence_N = loss.reference(rows) + outside_N
    wanted = ((1 - alpha) * ce_N + alpha * factor * divergence_N).sum()
    assert found.loss.item() == pytest.approx(wanted.item(), rel=2e-5, abs=2e-5)
    dense_grads = torch.autograd.grad(wanted, (double_ND, own.weight_PD, own.bias_P))
    for one, two in zip(grads, dense_grads, strict=True):
        assert float((one.double() - two).norm()) <= 3e-5 * float(two.norm())
    log_p, log_q = rows.log_teacher_RV, rows.log_student_RV
    kl = ((log_p.exp() * (log_p - log_q)).sum(1) + outside_N).sum()
    assert found.sums["kl"].item() == pytest.approx(kl.item(), rel=1e-4, abs=1e-5)
    agreed = (t_NV.argmax(1) == z_NP.argmax(1)).sum()
    assert (found.sums["agreement"], found.sums["judged"]) == (agreed, N)


def test_chunks_add_up_and_no_gradient_costs_none() -> None:
    hidden_ND, head, _, labels_N, _ = scene()
    settings = {
        "alpha": 0.5,
        "temperature": 2.0,
        "loss": LOSSES["forward_kl"],
        "sparsifier": HIDDEN,
        "vocab_size": V,
        "teacher": teacher_head(),
    }
    found = [
        sparse_distillation_loss(
            hidden_ND, head.whole, targets_of(), labels_N, chunk_rows=rows, **settings
        )
        for rows in (1, 4, N)
    ]
    with torch.no_grad():
        found.append(
            sparse_distillation_loss(hidden_ND, head.whole, targets_of(), labels_N, **settings)
        )
    for one in found[1:]:
        assert one.loss.item() == pytest.approx(found[0].loss.item(), rel=1e-6)
        assert one.sums.keys() == found[0].sums.keys()
    assert not found[-1].loss.requires_grad
    with pytest.raises(SettingError, match="output layer is not given"):
        sparse_distillation_loss(
            hidden_ND, head, targets_of(), labels_N, **settings | {"teacher": None}
        )
    with pytest.raises(SettingError, match="no hidden states"):
        whole_targets(replace(targets_of(), state_NW=None), teacher_head())


def test_widths_of_student_and_teacher_differ() -> None:
    assert W != D  # or a mistaken state would pass for the other one


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def store(teacher_folder: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hidden") / "store"
    dumped(out, teacher_folder, corpus, fidelity="exact")
    return out


@pytest.mark.parametrize("temperature", [1.0, 0.5, 12.0])
def test_a_batch_has_the_gradient_of_the_live_teacher(
    temperature: float, store: Path, teacher_folder: Path
) -> None:
    student = tiny(vocab_size=300, max_position_embeddings=64)
    opened = logitstore.open(store)
    batches = trainer.training_batches(
        opened, model=student, batch_tokens=256, temperature=temperature, epochs=1
    )
    batch = next(iter(batches))
    found = trainer.distillation_loss(student, batch, alpha=1.0, loss="reverse_kl")
    found.loss.backward()
    grad_VD = student.lm_head.weight.grad.clone()

    student.zero_grad()
    by_id = {tuple(one.document.input_ids_L.tolist()): one for one in opened}
    total = torch.zeros((), dtype=torch.float64)
    ids_BW, positions_BW = batch.input_ids_BW, batch.position_ids_BW
    starts = [
        (row, int(at)) for row in range(len(ids_BW)) for at in (positions_BW[row] == 0).nonzero()
    ]
    seen = 0
    for row, start in starts:
        rest = ids_BW[row, start:].tolist()
        key = next((one for one in by_id if tuple(rest[: len(one)]) == one), None)
        if key is None:
            continue  # padding
        stored = by_id[key]
        live_RV = torch.from_numpy(dense(teacher_folder, stored))
        logits_LV = student(torch.tensor(key)[None]).logits[0]
        at_R = np.flatnonzero(stored.document.counted_L) - 1
        log_q = (logits_LV[at_R].double() / temperature).log_softmax(1)
        log_p = (live_RV / temperature).log_softmax(1)
        total = total + (log_q.exp() * (log_q - log_p)).sum()
        seen += len(at_R)
    assert seen == len(batch.labels_R)
    total = total * temperature**2
    assert found.loss.item() == pytest.approx(total.item(), rel=1e-4)
    total.backward()
    wanted_VD = student.lm_head.weight.grad
    assert float((grad_VD - wanted_VD).norm()) <= 1e-3 * float(wanted_VD.norm())


def test_a_run_on_hidden_states_is_measured_exactly(
    store: Path, unpadded_teacher: Path, tmp_path: Path
) -> None:
    (tmp_path / "student.json").write_text(
        tiny(vocab_size=300, max_position_embeddings=64).config.to_json_string()
    )
    settings = {
        "logits": str(store),
        "student": tmp_path / "student.json",
        "loss": "jensen_shannon",
        "temperature": 15.0,  # which no tail serves
        "batch_tokens": 256,
        "save_steps": 2,
        "lr": 1e-2,
        "device": "cpu",
    }
    whole = trainer.fit(out=tmp_path / "whole", steps=4, **settings)
    assert whole["finished"]
    found = trainer.evaluate(tmp_path / "whole", logits=str(store), temperature=15.0)
    assert found["bounds"] == {}
    assert found["coding_errors"] == {}
    assert set(found["yardstick"]["coding_errors"].values()) == {0.0}
    # The teacher on its own store: exact figures, from its own distributions.
    own = trainer.evaluate(unpadded_teacher, logits=str(store), temperature=3.0)
    assert abs(own["kl"]) < 1e-6
    assert own["acceptance"] == pytest.approx(1, abs=1e-5)
    assert own["top1_agreement"] == 1
    assert own["teacher_loss"] == pytest.approx(own["loss"], abs=1e-6)
    live = [
        torch.from_numpy(dense(unpadded_teacher, one) / 3).log_softmax(1)
        for one in logitstore.open(store)
    ]
    entropy = sum(float(-(one.exp() * one).sum()) for one in live) / own["targets"]
    assert own["teacher_entropy"] == pytest.approx(entropy, abs=1e-5)


def test_a_diagnosis_of_hidden_states_is_exact(
    store: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    """Its KL and its product of gradients, beside those of dense distributions in float64."""
    student = tiny(vocab_size=300, max_position_embeddings=64)
    student.save_pretrained(tmp_path / "student")
    found = trainer.diagnose(tmp_path / "student", logits=str(store), temperature=2.0)
    assert (found["retained_mass"], found["tempered_mass"]) == (1.0, 1.0)
    assert found["support_mass"] == pytest.approx(1.0, abs=1e-5)
    kl = rows = 0.0
    products = torch.zeros(3, dtype=torch.float64)
    weight_VD = student.lm_head.weight.detach().double()
    for stored in logitstore.open(store):
        log_p = torch.from_numpy(dense(teacher_folder, stored) / 2).log_softmax(1)
        ids_L = torch.from_numpy(stored.document.input_ids_L.astype(np.int64))
        with torch.no_grad():
            logits_LV = student(ids_L[None]).logits[0].double()
        at_R = np.flatnonzero(stored.document.counted_L) - 1
        z_RV = logits_LV[at_R]
        log_q = (z_RV / 2).log_softmax(1)
        kl += float((log_p.exp() * (log_p - log_q)).sum())
        rows += len(at_R)
        y_RV = torch.nn.functional.one_hot(ids_L[at_R + 1], 300).double()
        ce_RD = (z_RV.softmax(1) - y_RV) @ weight_VD
        kd_RD = 2 * (log_q.exp() - log_p.exp()) @ weight_VD
        products += torch.stack(
            [(a * b).sum() for a, b in ((ce_RD, ce_RD), (kd_RD, kd_RD), (ce_RD, kd_RD))]
        )
    ce_ce, kd_kd, ce_kd = products.tolist()
    assert found["kl"] == pytest.approx(kl / rows, rel=1e-4)
    assert found["gradient_ratio"] == pytest.approx((kd_kd / ce_ce) ** 0.5, rel=1e-3)
    assert found["gradient_cosine"] == pytest.approx(ce_kd / (ce_ce * kd_kd) ** 0.5, rel=1e-3)


def test_a_students_figures_are_those_of_dense_distributions(
    store: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    student = tiny(vocab_size=300, max_position_embeddings=64)
    student.save_pretrained(tmp_path / "student")
    temperature = 0.5
    found = trainer.evaluate(
        tmp_path / "student", logits=str(store), temperature=temperature, tokenizer=None
    )
    kl = acceptance = agreed = rows = 0.0
    for stored in logitstore.open(store):
        log_p = torch.from_numpy(dense(teacher_folder, stored) / temperature).log_softmax(1)
        ids_L = torch.from_numpy(stored.document.input_ids_L.astype(np.int64))
        with torch.no_grad():
            logits_LV = student(ids_L[None]).logits[0].double()
        at_R = np.flatnonzero(stored.document.counted_L) - 1
        log_q = (logits_LV[at_R] / temperature).log_softmax(1)
        kl += float((log_p.exp() * (log_p - log_q)).sum())
        acceptance += float(torch.minimum(log_p, log_q).exp().sum())
        agreed += float((log_p.argmax(1) == log_q.argmax(1)).sum())
        rows += len(at_R)
    assert found["kl"] == pytest.approx(kl / rows, rel=1e-5)
    assert found["acceptance"] == pytest.approx(acceptance / rows, rel=1e-4)
    assert found["top1_agreement"] == pytest.approx(agreed / rows)
    assert found["yardstick"]["bounds"] == {}


def test_stores_of_different_layers_are_not_mixed(
    store: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher_folder)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.save_pretrained(tmp_path / "teacher")
    for name, data in logitstore.open(store).tokenizer_files().items():
        (tmp_path / "teacher" / name).write_bytes(data)
    more = corpus_of(tmp_path, first=70)
    dumped(tmp_path / "other", tmp_path / "teacher", more, fidelity="exact")
    with pytest.raises(SpecError, match="of different teachers"):
        trainer.mix([str(store), str(tmp_path / "other")])
    dumped(tmp_path / "same", teacher_folder, more, fidelity="exact")
    mixed = trainer.mix([str(store), str(tmp_path / "same")])
    student = tiny(vocab_size=300, max_position_embeddings=64)
    for batch in trainer.training_batches(mixed, model=student, batch_tokens=512, epochs=1):
        found = trainer.distillation_loss(student, batch, temperature=20.0)
        assert math.isfinite(found.loss.item())
    dumped(tmp_path / "topk", teacher_folder, more, sparsify="topk")
    with pytest.raises(SpecError, match=r"convert STORE OUT --sparsify topk"):
        trainer.mix([str(store), str(tmp_path / "topk")])
