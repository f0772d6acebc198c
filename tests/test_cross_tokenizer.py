"""Learning from a store of another tokenizer: the same bytes, whatever the tokens."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import logitstore
import trainer
from logitstore.errors import ModelError, SettingError, TokenizerError
from logitstore.plumbing import vocabulary_overlap
from tests.byte_chain import chain, saved, token_table, tokenizer_of, whole_texts
from tests.tiny_models import tiny


@pytest.fixture(scope="module")
def chained(tmp_path_factory):
    """A teacher and a student that are one model of bytes, and the teacher's store."""
    folder, logprobs = tmp_path_factory.mktemp("chain"), chain()
    for width in (2, 3):
        saved(folder / f"width{width}", width=width, logprobs=logprobs)
    texts = whole_texts(logprobs, count=24, widths=(2, 3))
    logitstore.dump(
        teacher=str(folder / "width2"),
        data=texts,
        out=folder / "store",
        sparsify="topk",
        k=8,
        fidelity="exact",
    )
    return SimpleNamespace(folder=folder, logprobs=logprobs, texts=texts)


@pytest.fixture(scope="module")
def crossed(chained):
    """The store in the student's tokens."""
    return trainer.retokenize(chained.folder / "store", tokenizer_of(3))


def _student(chained, crossed):
    return trainer.load_student(chained.folder / "width3", spec=crossed.spec)


def _sums(model, store, **objective):
    """The sums of a loss over one epoch, by name, and the number of targets."""
    sums, count = {}, 0
    for batch in trainer.training_batches(store, model=model, batch_tokens=512, epochs=1):
        result = trainer.distillation_loss(model, batch, **objective)
        count += result.count
        for name, value in result.sums.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums, count


def test_one_model_in_two_tokens_has_no_span_loss_and_equal_strings_alone_have(chained, crossed):
    """The criterion of it all: few shared tokens, one distribution over bytes."""
    overlap = vocabulary_overlap(tokenizer_of(2), tokenizer_of(3))
    assert overlap == pytest.approx(3 / 15)  # "a", begin and end, of "a", 12 pairs and those
    assert crossed.counts["left_out"] == {}
    assert crossed.counts["rows_in_spans"] == crossed.counts["targets"]
    model = _student(chained, crossed)
    for temperature in (1.0, 100.0):
        sums, count = _sums(model, crossed, alpha=1.0, loss="alm", temperature=temperature)
        assert abs(sums["divergence"]) / count < 1e-5
    with torch.no_grad():  # a student that says something else
        model.lm_head.weight.mul_(0.7)
    sums, _ = _sums(model, crossed, alpha=1.0, loss="alm", temperature=100.0)
    assert sums["divergence"] / count > 1e-2
    # The teacher's mass on equal strings, renormalised to all of it, against the exact student.
    own = token_table(chained.logprobs, 3)
    assert np.mean(-own[2:, 2]) > 0.5


def test_hard_labels_of_other_tokens_have_the_loss_of_the_bytes(chained, crossed):
    """Cross-entropy of a document in nats is that of its bytes, in either tokens."""
    sums, _ = _sums(_student(chained, crossed), crossed, alpha=0.0, loss="alm")
    store = logitstore.open(chained.folder / "store")
    exact = -sum(float(one.targets.label_logprob_R.sum(dtype=np.float64)) for one in store)
    assert sums["ce"] == pytest.approx(exact, rel=1e-4)
    assert crossed.counts["text_bytes"] == sum(map(len, chained.texts))


def test_evaluation_compares_bits_per_byte(chained, crossed, tmp_path):
    found = trainer.evaluate(
        str(chained.folder / "width3"), logits=str(chained.folder / "store"), out=tmp_path
    )
    assert found["bits_per_byte"] == pytest.approx(found["teacher_bits_per_byte"], rel=1e-4)
    assert found["bytes"] == crossed.counts["text_bytes"]
    assert abs(found["span_kl"]) < 1e-5
    nats = found["loss"] * found["targets"]
    assert found["bits_per_byte"] == pytest.approx(nats / found["bytes"] / np.log(2))
    assert json.loads((tmp_path / "eval.json").read_text())["store"] == crossed.source_fingerprint
    with pytest.raises(SettingError, match="at temperature 1"):
        trainer.evaluate(
            str(chained.folder / "width3"), logits=str(chained.folder / "store"), temperature=2.0
        )


@pytest.mark.parametrize("loss", ["alm", "uld"])
@pytest.mark.parametrize("chunk_rows", [None, 3])
def test_the_fused_loss_is_the_dense_one(chained, crossed, loss, chunk_rows, monkeypatch):
    """Value and gradients, against autograd over all logits in double precision."""
    if chunk_rows is not None:  # fewer than a span may have
        monkeypatch.setattr("trainer.losses.span_objective.chunk_rows_of", lambda _: chunk_rows)
    model = tiny("llama", vocab_size=51, hidden_size=16, max_position_embeddings=512)
    settings = {"alpha": 0.6, "loss": loss, "temperature": 5.0 if loss == "alm" else 1.0}
    batch = next(iter(trainer.training_batches(crossed, model=model, batch_tokens=300)))
    model.zero_grad()
    found = trainer.distillation_loss(model, batch, **settings)
    found.loss.backward()
    fused = {name: one.grad.clone() for name, one in model.named_parameters()}
    model.zero_grad()
    exact = _dense(model.double(), batch, **settings)
    exact.backward()
    assert float(found.loss.detach()) == pytest.approx(float(exact.detach()), rel=1e-4)
    for name, one in model.named_parameters():
        torch.testing.assert_close(fused[name].double(), one.grad, rtol=2e-3, atol=2e-4)


def _dense(model, batch, *, alpha, loss, temperature):
    logits = model(**batch.model_inputs, use_cache=False).logits.flatten(0, 1)[batch.at_R]
    logq_RV = logits.log_softmax(-1)
    label_R = logq_RV.gather(1, batch.labels_R[:, None])[:, 0]
    spans, divergence = batch.targets, torch.zeros((), dtype=torch.float64)
    if loss == "alm":
        for start, length, log_p in zip(
            spans.starts_S, spans.lengths_S, spans.teacher_S, strict=True
        ):
            p = torch.tensor(float(log_p), dtype=torch.float64).div(temperature).exp()
            q = (label_R[start : start + length].sum() / temperature).exp()
            kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
            divergence = divergence + temperature * kl
    else:
        sorted_q = logq_RV.exp().sort(dim=1, descending=True).values
        for row, at in enumerate(spans.aligned_A):
            count = int(spans.targets.count_R[row])
            p = np.sort(np.exp(spans.targets.logprobs_RK[row, :count].astype(np.float64)))[::-1]
            p = torch.from_numpy(p.copy())
            q = sorted_q[at, :count]
            rest = (1 - p.sum()) - (1 - q.sum())
            divergence = divergence + (p - q).abs().sum() + rest.abs()
    return -(1 - alpha) * label_R.sum() + alpha * divergence


def _fit(chained, out, **changes):
    config = out.parent / "student.json"
    config.write_text(
        json.dumps(
            {
                "model_type": "llama",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "max_position_embeddings": 64,
            }
        )
    )
    given = {
        "logits": str(chained.folder / "store"),
        "student": str(config),
        "student_tokenizer": str(chained.folder / "width3"),
        "out": out,
        "loss": "alm",
        "temperature": 100.0,
        "steps": 4,
        "batch_tokens": 128,
        "save_steps": 1,
        "lr": 1e-2,
    }
    return trainer.fit(**given | changes)


def test_a_run_of_another_tokenizer_resumes_bit_by_bit(chained, tmp_path):
    reports = []
    whole = _fit(chained, tmp_path / "whole", report=reports.append, log_steps=1)
    assert whole["crossed"]["documents"] == len(chained.texts)
    assert reports[-1]["divergence"] < reports[0]["divergence"]
    assert "kl" not in reports[-1]

    def stop(one):
        if one["step"] >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _fit(chained, tmp_path / "cut", report=stop, log_steps=1)
    again = _fit(chained, tmp_path / "cut", resume=True)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == two
    assert again["crossed"] == whole["crossed"]
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    assert student.config.vocab_size == 51  # of the student's tokenizer, whose files lie beside it
    saved_tokenizer = json.loads((tmp_path / "cut" / "tokenizer.json").read_text())
    assert len(saved_tokenizer["model"]["vocab"]) == 51


def test_ranks_share_the_steps_of_one(chained, crossed):
    model = _student(chained, crossed)
    settings = {"model": model, "batch_tokens": 256, "micro_tokens": 64, "epochs": 1}
    whole = list(trainer.training_batches(crossed, **settings))
    halves = [
        list(trainer.training_batches(crossed, **settings, rank=rank, ranks=2)) for rank in (0, 1)
    ]
    assert [one.step_targets for one in whole[::2]] == [one.step_targets for one in halves[0]]
    for batch, other in zip(
        whole, [one for pair in zip(*halves, strict=True) for one in pair], strict=True
    ):
        assert torch.equal(batch.input_ids_BW, other.input_ids_BW)


def test_what_cannot_be_is_refused_with_the_way_out(chained, crossed, tmp_path):
    with pytest.raises(TokenizerError, match="loss alm"):
        _fit(
            chained,
            tmp_path / "run",
            loss="forward_kl",
            temperature=1.0,
            student_tokenizer=None,
            student=str(chained.folder / "width3"),
        )
    with pytest.raises(SettingError, match="no effect with a loss over tokens"):
        _fit(chained, tmp_path / "run", loss="forward_kl")
    with pytest.raises(SettingError, match="no effect with a loss over tokens"):
        _fit(
            chained, tmp_path / "run", loss="forward_kl", student_tokenizer=None, span_ends="words"
        )
    with pytest.raises(SettingError, match="at temperature 1"):
        _fit(chained, tmp_path / "run", loss="uld", temperature=2.0)
    small = tmp_path / "small.json"
    small.write_text(json.dumps({"model_type": "llama", "vocab_size": 20}))
    with pytest.raises(ModelError, match="vocab_size is smaller"):
        _fit(chained, tmp_path / "run", student=str(small))
    assert not Path(tmp_path / "run").exists()
    with pytest.raises(SettingError, match="in its own tokens"):
        trainer.evaluate(str(chained.folder / "width3"), logits=crossed)
    model = _student(chained, crossed)
    batch = next(iter(trainer.training_batches(crossed, model=model, batch_tokens=256)))
    with pytest.raises(SettingError, match="in the tokens of another tokenizer"):
        trainer.distillation_loss(model, batch)
    store = logitstore.open(chained.folder / "store")
    teacher = AutoModelForCausalLM.from_pretrained(chained.folder / "width2")
    batch = next(iter(trainer.training_batches(store, model=teacher, batch_tokens=256)))
    with pytest.raises(SettingError, match=r"trainer\.retokenize"):
        trainer.distillation_loss(teacher, batch, loss="alm")
