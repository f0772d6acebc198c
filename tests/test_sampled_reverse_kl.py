"""Reverse KL from sampled tokens: right in the mean, on every kind of store, refused elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import logitstore
import trainer
from logitstore import SettingError
from logitstore.sparsify.build import sparsifier_spec
from logitstore.targets.documents import DocumentBlock
from tests.fused_scene import N, P, V, as_double, fused, scene
from tests.memory_store import MemoryStore
from tests.test_fused_losses import sparse
from tests.tiny_models import CONFIGS, tiny
from trainer.cli import app
from trainer.losses import LOSSES, TargetTensors
from trainer.losses.samples import refuse_unsampled, told_of_sampler
from trainer.training.state_files import RunWarning

LOSS = LOSSES["sampled_reverse_kl"]
UNCUT = LOSS.with_options(max_weight=1e6)
KINDS = {
    "topk": sparsifier_spec("topk", k=6),
    "topp": sparsifier_spec("topp", k=6),
    "hybrid": sparsifier_spec("hybrid", k=2, tail_draws=4),
    "unbiased": sparsifier_spec("unbiased", k=5),
    "sample": sparsifier_spec("sample", draws=8),
}


# --- the estimate


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("padded", [False, True])
def test_it_is_the_formula_on_every_kind_of_store(kind, alpha, padded):
    """Value and gradient in float64 by whole distributions, weights cut and not, in chunks."""
    hidden, head, teacher, labels, _ = scene()
    head = head.whole if padded else head
    stored = sparse(teacher, labels, KINDS[kind], temperature=1.0)
    with torch.no_grad():
        own = (hidden @ head.weight_PD[:V].T + head.bias_P[:V]).log_softmax(-1)
    log_s = own[torch.arange(N), labels] + torch.linspace(-2.0, 1.0, N)
    found = fused(
        hidden,
        head,
        TargetTensors.of(stored),
        labels,
        loss=LOSS,
        alpha=alpha,
        sparsifier=KINDS[kind],
        sampler_logprobs_N=log_s,
        chunk_rows=5,
    )
    found.loss.backward()

    exact_hidden, exact = hidden.detach().double().requires_grad_(), as_double(head)
    z = (exact_hidden @ exact.weight_PD.T + exact.bias_P)[:, : P if padded else V]
    log_q = z[:, :V].log_softmax(-1)[torch.arange(N), labels]
    log_p = teacher.double().log_softmax(-1)[torch.arange(N), labels]
    w = (log_q - log_s.double()).exp()
    assert ((w < 2).any(), (w > 2).any()) == (True, True)
    cut = (2 / w.detach()).clamp(max=1.0)
    outside = -(1 - z.softmax(-1)[:, V:].sum(-1)).log()
    # E_s[w] is 1 for every student, so any multiple of w - 1 may be added: here -1.
    divergence = cut * (w * (log_q - log_p) - w + (log_p - log_s.double()).exp()) + outside
    ce = torch.nn.functional.cross_entropy(z, labels, reduction="sum")
    expected = (1 - alpha) * ce + alpha * divergence.sum()
    expected.backward()
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert float(found.sums["divergence"]) == pytest.approx(divergence.sum().item(), rel=1e-5)
    pairs = [(hidden, exact_hidden), (head.weight_PD, exact.weight_PD), (head.bias_P, exact.bias_P)]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=3e-5)


def means_over_samples(loss, log_s_V, *, draws=None, seed=0):
    """The value and the gradient on the hidden state of one row, over the tokens of a sampler.

    Over `draws` drawn tokens, with the gradient's standard error; without, over all tokens, each
    weighed by its probability, which is the mean itself.
    """
    hidden, head, teacher, _, _ = scene(seed=1)
    labels = torch.arange(V)
    if draws is not None:
        g = torch.Generator().manual_seed(seed)
        labels = torch.multinomial(log_s_V.exp(), draws, replacement=True, generator=g)
    rows = len(labels)
    repeated = hidden.detach()[:1].repeat(rows, 1).requires_grad_()
    targets = sparse(teacher[:1].repeat(rows, 1), labels, KINDS["topk"], temperature=1.0)
    found = fused(
        repeated,
        head,
        TargetTensors.of(targets),
        labels,
        loss=loss,
        sparsifier=KINDS["topk"],
        sampler_logprobs_N=log_s_V[labels].float(),
    )
    found.loss.backward()
    grad_ND = repeated.grad.double()
    if draws is None:
        return (log_s_V.exp()[:, None] * grad_ND).sum(0), None
    return grad_ND.mean(0), grad_ND.std(0) / draws**0.5


def one_row():
    """Teacher and student of the row above, whole and in float64; the student's hidden state."""
    hidden, head, teacher, _, _ = scene(seed=1)
    leaf = hidden.detach()[:1].double().requires_grad_()
    exact = as_double(head)
    log_q = (leaf @ exact.weight_PD[:V].T + exact.bias_P[:V]).log_softmax(-1)[0]
    return teacher[0].double().log_softmax(-1), log_q, leaf


SAMPLERS = {
    "the student itself": lambda log_q: log_q,
    "the student at another temperature": lambda log_q: (log_q / 1.5).log_softmax(-1),
    "another model": lambda log_q: torch.randn(
        V, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    ).log_softmax(-1),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_its_mean_gradient_is_that_of_dense_reverse_kl(name):
    """Of all tokens, to rounding; that of forward KL, and that without weights, are far from it."""
    log_p, log_q, leaf = one_row()
    (exact_D,) = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), leaf, retain_graph=True)
    (forward_D,) = torch.autograd.grad((log_p.exp() * (log_p - log_q)).sum(), leaf)
    log_s = SAMPLERS[name](log_q.detach())
    mean_D, _ = means_over_samples(UNCUT, log_s)
    torch.testing.assert_close(mean_D, exact_D[0], rtol=1e-4, atol=1e-5)
    assert (forward_D[0] - exact_D[0]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["the student itself", "the student at another temperature"])
def test_drawn_tokens_give_it_within_their_errors(name):
    """20,000 tokens; each coordinate within 5 standard errors."""
    log_p, log_q, leaf = one_row()
    (exact_D,) = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), leaf)
    mean_D, error_D = means_over_samples(UNCUT, SAMPLERS[name](log_q.detach()), draws=20_000)
    assert ((mean_D - exact_D[0]).abs() < 5 * error_D + 1e-6).all()
    assert error_D.max() < 0.2 * exact_D.abs().max()


def test_cutting_costs_a_bias_and_none_where_the_student_has_drawn():
    log_p, log_q, leaf = one_row()
    (exact_D,) = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), leaf)
    own, other = (
        SAMPLERS[name](log_q.detach()) for name in ("the student itself", "another model")
    )
    torch.testing.assert_close(means_over_samples(LOSS, own)[0], exact_D[0], rtol=1e-4, atol=1e-5)
    assert (means_over_samples(LOSS, other)[0] - exact_D[0]).abs().max() > 0.01


def test_what_it_needs_is_asked_for():
    hidden, head, teacher, labels, _ = scene()
    targets = TargetTensors.of(sparse(teacher, labels, KINDS["topk"], temperature=1.0))
    settings = {"loss": LOSS, "sparsifier": KINDS["topk"]}
    with pytest.raises(SettingError, match="needs the log-probabilities with which tokens were"):
        fused(hidden, head, targets, labels, **settings)
    settings["sampler_logprobs_N"] = torch.zeros(N)
    with pytest.raises(SettingError, match=r"^temperature: .* stored at T = 1 \(found 2; all"):
        fused(hidden, head, targets, labels, temperature=2.0, **settings)


# --- stores


class SampledStore(MemoryStore):
    """A store whose tokens were drawn by its teacher's distribution, which they say."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.spec.text.sampler_logprobs = True
        self.spec.corpus = SimpleNamespace(answers=())

    def _read(self, number):
        read = super()._read(number)
        return DocumentBlock.join(
            [
                replace(
                    one,
                    document=replace(
                        one.document, sampler_logprobs_R=one.targets.label_logprob_R - 0.25
                    ),
                )
                for one in read.split()
            ]
        )


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "student.json"
    path.write_text(CONFIGS["llama"].to_json_string())
    return path


PACKING = {"batch_tokens": 64, "micro_tokens": 16}
SETTINGS = {**PACKING, "log_steps": 1, "device": "cpu"}


def fit(out, config, **settings):
    chosen = {"logits": SampledStore(), "loss": LOSS.name, "alpha": 1.0, "student": config}
    return trainer.fit(**SETTINGS | chosen | {"out": out} | settings)


def test_a_batch_carries_with_which_probability_each_label_was_drawn():
    store = SampledStore()
    drawn = {}
    for stored in store:
        for value, label in zip(
            stored.document.sampler_logprobs_R,
            stored.document.input_ids_L[stored.document.counted_L],
            strict=True,
        ):
            drawn.setdefault(int(label), set()).add(float(value))
    seen = 0
    for batch in islice(trainer.training_batches(store, model=tiny(), **PACKING), 8):
        for value, label in zip(batch.sampler_logprobs_R, batch.labels_R, strict=True):
            assert float(value) in drawn[int(label)]
            seen += 1
    assert seen > 50


def test_a_student_learns_and_is_measured_on_a_held_out_store(tmp_path, config):
    result = fit(
        tmp_path / "run",
        config,
        epochs=8,
        lr=1e-2,
        max_weight=4.0,
        eval_logits=SampledStore(blocks=2, seed=1),
        best_by="kl",
        keep_best=True,
    )
    assert (result["settings"]["loss"], result["settings"]["max_weight"]) == (LOSS.name, 4.0)
    measured = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert measured[-1]["eval_divergence"] >= 0
    assert result["best"]["value"] < 0.8 * measured[0]["eval_kl"]


def test_several_stores_must_all_be_samples(tmp_path, config):
    both = [SampledStore(), SampledStore(seed=1)]
    assert fit(tmp_path / "both", config, logits=both, steps=2)["finished"]
    with pytest.raises(SettingError, match="does not hold them for all"):
        fit(tmp_path / "one", config, logits=[SampledStore(), MemoryStore(seed=1)], steps=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": MemoryStore()}, r"^loss: .* needs the log-probabilities .*or take loss rev"),
        ({"eval_logits": MemoryStore(seed=1)}, "needs the log-probabilities"),
        ({"temperature": 2.0}, r"^temperature: .* stored at T = 1"),
        ({"temperature_schedule": "linear:2"}, r"^temperature: .* stored at T = 1"),
        ({"max_weight": 0.5}, r"^max_weight: |^max_weight is out of range"),
        ({"loss": "reverse_kl", "max_weight": 3.0}, "max_weight has no effect with"),
    ],
)
def test_what_it_cannot_learn_from_is_refused_before_the_student_is_loaded(
    tmp_path, changes, message
):
    with pytest.raises(SettingError, match=message):
        fit(tmp_path / "run", tmp_path / "there-is-none.json", steps=2, **changes)


def answered(**settings):
    """The spec of a store of answers that were drawn so."""
    one = {"model": {"name": "student"}, "settings": {"temperature": 1.0, **settings}}
    return SimpleNamespace(
        text=SimpleNamespace(sampler_logprobs=True), corpus=SimpleNamespace(answers=(one,))
    )


def test_a_sampler_that_leaves_tokens_out_is_told_and_one_that_draws_none_refused():
    whole = answered(top_p=None, top_k=None, min_p=None)
    assert told_of_sampler(whole, loss=LOSS) is None
    assert told_of_sampler(answered(top_p=1.0, temperature=0.7), loss=LOSS) is None
    told = told_of_sampler(answered(top_p=0.9, top_k=5), loss=LOSS)
    assert told.startswith("student drew with top-p 0.9, top-k 5: the estimate of reverse KL lacks")
    assert told_of_sampler(answered(top_p=0.9), loss=LOSSES["reverse_kl"]) is None
    refuse_unsampled(whole, loss=LOSS)
    refuse_unsampled(answered(temperature=0.0), loss=LOSSES["reverse_kl"])
    with pytest.raises(SettingError, match="gave its likeliest token each time"):
        refuse_unsampled(answered(temperature=0.0), loss=LOSS)


# --- a round, by command lines


@pytest.fixture(scope="module")
def answers(teacher_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    prompts = folder / "prompts.jsonl"
    texts = ("The teacher", "A target is", "the next token")
    prompts.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    logitstore.generate(
        model=str(teacher_folder),
        data=str(prompts),
        out=folder / "own.parquet",
        n=4,
        max_new_tokens=12,
        top_p=0.9,
    )
    logitstore.dump(teacher=str(teacher_folder), data=str(folder / "own.parquet"), out=folder / "s")
    return folder / "s"


def test_a_round_learns_from_answers_that_the_student_gave(answers, teacher_folder, tmp_path):
    words = ["--logits", answers, "--student", teacher_folder, "--out", tmp_path / "run"]
    words += ["--loss", LOSS.name, "--alpha", 1, "--steps", 2, "--lr", "1e-9", "--device", "cpu"]
    done = CliRunner().invoke(app, ["fit", *map(str, words), "--json"])
    assert done.exit_code == 0, done.stderr
    assert "drew with top-p 0.9: the estimate of reverse KL lacks" in done.stderr
    # The student is the teacher: nothing is between them but the rounding of what is stored.
    metrics = json.loads(done.stdout)["metrics"]
    assert 0 <= metrics["divergence"] < 0.02
    with pytest.warns(RunWarning, match="drew with top-p"):
        trainer.fit(
            logits=str(answers),
            student=str(teacher_folder),
            out=tmp_path / "python",
            loss=LOSS.name,
            steps=1,
            device="cpu",
        )
    drawn = np.concatenate([one.document.sampler_logprobs_R for one in logitstore.open(answers)])
    assert (drawn <= 0).all()
