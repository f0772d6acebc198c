"""`trainer.evaluate` against a dense computation in float64, and against itself."""

import json
import math

import numpy as np
import pytest
import torch

import logitstore
import trainer
from logitstore.errors import ModelError, SettingError, StoreError, TokenizerError
from logitstore.sparsify.build import sparsifier_spec
from tests.memory_store import VOCAB, MemoryStore, teacher_logprobs
from tests.tiny_models import tiny
from trainer.evaluation.comparison import Comparison
from trainer.evaluation.signs import lines

NEEDED = {
    "parameters",
    "targets",
    "loss",
    "perplexity",
    "kl",
    "top1_agreement",
    "ece",
    "acceptance",
    "tokens_per_second",
}


@pytest.fixture
def use_store(monkeypatch):
    def use(store):
        monkeypatch.setattr(logitstore, "open", lambda _, **__: store, raising=False)
        return store

    return use


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    tiny().save_pretrained(folder)
    return folder


def dense(store, *, temperature=1.0):
    """Teacher's and student's log-probabilities at every target, and the labels, in float64."""
    model = tiny().double()
    teacher_VV = teacher_logprobs()
    p, q, q_plain, labels = [], [], [], []
    for stored in store:
        ids_L = stored.document.input_ids_L.astype(np.int64)
        at = np.flatnonzero(stored.document.counted_L)
        with torch.no_grad():
            logits_LV = model(torch.from_numpy(ids_L)[None]).logits[0]
        q.append((logits_LV[at - 1] / temperature).log_softmax(-1))
        q_plain.append(logits_LV[at - 1].log_softmax(-1))
        p.append((torch.from_numpy(teacher_VV[ids_L[at - 1]]) / temperature).log_softmax(-1))
        labels.append(ids_L[at])
    return torch.cat(p), torch.cat(q), torch.cat(q_plain), np.concatenate(labels)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_all_figures_equal_the_dense_ones_where_nothing_is_left_out(use_store, model, temperature):
    store = use_store(MemoryStore())
    p, q, plain, labels = dense(store, temperature=temperature)
    rows = np.arange(len(labels))
    result = trainer.evaluate(model, logits="memory", temperature=temperature, batch_tokens=30)
    assert set(result) >= NEEDED
    assert result["targets"] == len(labels)
    # Nothing is left out, but a codec rounds what it keeps.
    assert result["bounds"] == {"kl": "estimate", "acceptance": "estimate"}
    assert result["loss"] == pytest.approx(float(-plain[rows, labels].mean()), rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))
    assert result["kl"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    shared = torch.minimum(p.exp(), q.exp()).sum(-1).mean()
    assert result["acceptance"] == pytest.approx(float(shared), rel=1e-5)
    agreement = (plain.argmax(-1) == p.argmax(-1)).double().mean()
    assert result["top1_agreement"] == pytest.approx(float(agreement))
    teacher = teacher_logprobs()
    entropy = -(np.exp(teacher) * teacher).sum(1)
    if temperature == 1:
        assert entropy.min() <= result["teacher_entropy"] <= entropy.max()
    else:
        assert result["teacher_entropy"] is None  # these targets keep the one at 1
    assert result["temperature"] == temperature
    assert result["store"] == store.fingerprint


def test_calibration_error_is_that_of_fifteen_bins(use_store, model):
    store = use_store(MemoryStore())
    _, _, plain, labels = dense(store)
    confidence, top = plain.exp().max(-1)
    correct = (top.numpy() == labels).astype(float)
    bins = np.minimum((confidence.numpy() * 15).astype(int), 14)
    expected = sum(
        abs(confidence.numpy()[bins == b].mean() - correct[bins == b].mean()) * (bins == b).mean()
        for b in set(bins)
    )
    result = trainer.evaluate(model, logits="memory")
    assert result["ece"] == pytest.approx(expected, abs=1e-6)
    assert sum(one["count"] for one in result["reliability"]) == result["targets"]
    assert len(result["reliability"]) == len(set(bins))


def test_a_bucket_makes_bounds(use_store, model):
    use_store(MemoryStore())
    exact = trainer.evaluate(model, logits="memory")
    use_store(MemoryStore(k=6))
    bounded = trainer.evaluate(model, logits="memory")
    assert bounded["bounds"] == {"kl": "lower", "acceptance": "upper"}
    assert 0.2 * exact["kl"] < bounded["kl"] < exact["kl"]
    assert exact["acceptance"] < bounded["acceptance"] < 1
    assert bounded["loss"] == exact["loss"]


DRAWN = {
    "sample": {"draws": 60, "temperatures": (1.0, 2.0)},
    "unbiased": {"k": 10, "temperatures": (1.0, 2.0)},
    "hybrid": {"k": 6, "tail_draws": 4},
}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", DRAWN)
def test_drawn_targets_estimate_the_divergence(use_store, model, name, temperature):
    """Right on the average: within 4 standard errors, as the spread over 12 stores tells them."""
    values = []
    for seed in range(12):
        spec = sparsifier_spec(name, **DRAWN[name])
        store = use_store(MemoryStore(sparsifier=spec, blocks=4, seed=seed))
        p, q, _, _ = dense(store, temperature=temperature)
        exact = float((p.exp() * (p - q)).sum(-1).mean())
        result = trainer.evaluate(model, logits="memory", temperature=temperature)
        values.append(result["kl"] - exact)
        known = {} if name == "sample" else {"acceptance": "upper"}
        weighted = name != "hybrid" or temperature == 1.0
        assert result["bounds"] == {"kl": "estimate" if weighted else "lower"} | known
        shared = float(torch.minimum(p.exp(), q.exp()).sum(-1).mean())
        if name == "sample":
            assert result["acceptance"] is result["top1_agreement"] is None
        else:
            assert shared < result["acceptance"] < 1
    error = np.std(values, ddof=1) / len(values) ** 0.5
    if weighted:
        assert abs(np.mean(values)) < 4 * error
    else:
        assert max(values) < 0


def test_an_agreement_that_few_rows_tell_is_not_given(use_store, model):
    """A teacher so flat at T = 100 that three entries are all drawn; at T = 0.1 hardly any is."""
    spec = sparsifier_spec("unbiased", k=3, temperatures=(100.0, 1.0, 0.1, 0.5))
    store = use_store(MemoryStore(sparsifier=spec))
    flat = trainer.evaluate(model, logits="memory", temperature=100.0)
    assert flat["top1_agreement"] is flat["acceptance"] is None
    assert flat["bounds"] == {"kl": "estimate"}
    assert flat["judged"] == 0
    assert not {"top1_agreement", "acceptance"} & {*flat["standard_errors"], *flat["coding_errors"]}
    shares = []
    for temperature, draw in ((1.0, 1), (0.5, 3), (0.1, 2)):
        p, _, plain, _ = dense(store, temperature=temperature)
        known = np.concatenate(
            [one.targets.exact_RK().any(1) for one in store.with_draw(draw) if len(one.targets)]
        )
        agreed = (plain.argmax(-1) == p.argmax(-1)).numpy()[known]
        found = trainer.evaluate(model, logits="memory", temperature=temperature)
        shares.append(float(known.mean()))
        assert found["judged"] == known.sum()
        bound = found["bounds"].get("top1_agreement")
        if shares[-1] < 0.9:
            assert (found["top1_agreement"], bound) == (None, None)
            assert "top1_agreement" not in found["standard_errors"]
        else:
            assert found["top1_agreement"] == pytest.approx(agreed.mean())
            assert bound == (None if known.all() else "estimate")
        told = {line.split()[0]: line for line in lines(found)}["top1_agreement"]
        counts = f"{known.sum()} of {len(known)} targets tell the teacher's most probable token"
        assert (counts in told) == (not known.all())
        assert ("not known: " in told) == (shares[-1] < 0.9)
    assert shares[0] < 0.9 < shares[1] < 1 == shares[2]


def test_an_acceptance_of_which_the_bound_says_nothing_is_not_given(use_store):
    """Two tokens that the store keeps are shared; the others may be, or not."""
    store = use_store(MemoryStore(sparsifier=sparsifier_spec("topk", k=2)))
    comparison = Comparison.of(store.spec, temperature=1.0)
    for bucket, shared, known in ((0.9, 0.999, False), (0.9, 0.99, True), (0.4, 0.999, True)):
        sums = {"acceptance": 50 * shared, "bucket": 50 * bucket, "kl": 1.0, "agreed": 9.0}
        sums |= {"judged": 50.0, "tied": 0.0}
        found = comparison.means(sums, targets=50)["acceptance"]
        assert found == (pytest.approx(shared) if known else None)
        assert ("acceptance" in comparison.bounds(sums, targets=50)) is known


def test_standard_errors_are_those_over_documents(use_store, model):
    """As the spread of the mean over stores of other documents tells them."""
    spec = sparsifier_spec("unbiased", k=10)
    results = []
    for seed in range(24):
        use_store(MemoryStore(sparsifier=spec, blocks=6, seed=seed))
        results.append(trainer.evaluate(model, logits="memory", batch_tokens=40))
    for name in ("loss", "kl", "top1_agreement", "acceptance"):
        spread = np.std([one[name] for one in results], ddof=1)
        told = np.mean([one["standard_errors"][name] for one in results])
        assert 0.6 < told / spread < 1.6, name  # of 24 values a spread is known to a seventh
    use_store(MemoryStore(sparsifier=spec, blocks=1, documents=1, longest=12, seed=3))
    assert trainer.evaluate(model, logits="memory")["standard_errors"] == {}


def test_standard_errors_are_the_formula(use_store, model):
    store = use_store(MemoryStore())
    _, _, plain, labels = dense(store)
    loss_R = -plain[np.arange(len(labels)), labels].numpy()
    counts_D = np.array([len(one.targets) for one in store])
    sums_D = np.add.reduceat(np.append(loss_R, 0), np.cumsum(counts_D) - counts_D) * (counts_D > 0)
    counted, mean = (counts_D > 0).sum(), loss_R.mean()
    squares = ((sums_D - mean * counts_D) ** 2).sum()
    expected = math.sqrt(squares * counted / (counted - 1)) / counts_D.sum()
    for tokens in (1, 30, 10**6):
        found = trainer.evaluate(model, logits="memory", batch_tokens=tokens)
        assert found["documents"] == counted
        assert found["standard_errors"]["loss"] == pytest.approx(expected, rel=1e-4)


def test_a_model_that_has_diverged_is_an_expected_error(use_store, tmp_path):
    use_store(MemoryStore())
    broken = tiny()
    broken.model.embed_tokens.weight.data[20:] = math.nan  # beyond the ids that are probed
    broken.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="finite"):
        trainer.evaluate(tmp_path / "model", logits="memory", out=tmp_path)


def test_a_perplexity_beyond_a_float_is_none_and_can_be_written(use_store, tmp_path):
    use_store(MemoryStore())
    wild = tiny()
    wild.lm_head.weight.data.mul_(1e5)
    wild.save_pretrained(tmp_path / "model")
    result = trainer.evaluate(tmp_path / "model", logits="memory", out=tmp_path)
    assert result["loss"] > 700
    assert result["perplexity"] is None
    assert json.loads((tmp_path / "eval.json").read_text())["perplexity"] is None


def test_a_temperature_that_was_not_drawn_is_refused_first(use_store, tmp_path):
    use_store(MemoryStore(sparsifier=sparsifier_spec("unbiased")))
    with pytest.raises(SettingError, match="Dump again with temperature 1,3"):
        trainer.evaluate(tmp_path, logits="memory", temperature=3.0)


def test_the_size_of_a_forward_pass_changes_nothing(use_store, model):
    use_store(MemoryStore(k=6))
    small = trainer.evaluate(model, logits="memory", batch_tokens=1)
    large = trainer.evaluate(model, logits="memory", batch_tokens=10**6)
    for name in NEEDED - {"tokens_per_second"}:
        assert small[name] == pytest.approx(large[name], rel=1e-5)


def test_a_result_is_written_where_it_is_asked_for_or_into_a_run(use_store, model, tmp_path):
    use_store(MemoryStore())
    result = trainer.evaluate(model, logits="memory")
    assert not (model / "eval.json").exists()
    trainer.evaluate(model, logits="memory", out=tmp_path)
    assert json.loads((tmp_path / "eval.json").read_text())["loss"] == result["loss"]
    (model / "run.json").write_text("{}")
    trainer.evaluate(model, logits="memory")
    assert json.loads((model / "eval.json").read_text())["kl"] == result["kl"]


def test_plain_text_needs_no_teacher(tmp_path, tokenizer_folder, tokenizer):
    folder = tmp_path / "model"
    tiny(vocab_size=len(tokenizer), max_position_embeddings=64).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (tmp_path / "held_out.txt").write_text("The student reads what the teacher wrote.\n" * 5)
    data = str(tmp_path / "held_out.txt")
    result = trainer.evaluate(folder, data=data)
    assert result["kl"] is result["acceptance"] is result["top1_agreement"] is None
    assert result["bounds"] == {}
    assert result["targets"] > 50
    # Fresh weights know nothing: the loss is that of a guess among all ids.
    assert result["loss"] == pytest.approx(math.log(len(tokenizer)), rel=0.02)


def test_what_does_not_fit_is_refused(use_store, model, tmp_path, tokenizer):
    store = use_store(MemoryStore())
    with pytest.raises(SettingError, match="logits, data and tasks"):
        trainer.evaluate(model)
    with pytest.raises(SettingError, match="logits and data"):
        trainer.evaluate(model, logits="memory", data="text.txt")
    with pytest.raises(SettingError, match="temperature"):
        trainer.evaluate(model, logits="memory", temperature=0.0)
    with pytest.raises(SettingError, match="device"):
        trainer.evaluate(model, logits="memory", device="abacus")
    with pytest.raises(ModelError, match="no such"):
        trainer.evaluate(tmp_path / "nowhere", logits="memory")
    tokenizer.save_pretrained(model)
    with pytest.raises(TokenizerError, match="keeps no tokenizer"):
        trainer.evaluate(model, logits="memory")
    use_store(MemoryStore(longest=1))
    with pytest.raises(StoreError, match="no targets"):
        trainer.evaluate(model, logits="memory")
    assert store.spec.tokenizer.vocab_size == VOCAB


FIGURES = ("targets", "loss", "kl", "top1_agreement", "acceptance", "parameters")


def test_a_loaded_model_is_measured_as_its_folder_is_and_left_in_its_mode(model):
    store, loaded = MemoryStore(), tiny()
    loaded.train()
    loaded.lm_head.eval()
    found = trainer.evaluate(loaded, logits=store)
    expected = trainer.evaluate(model, logits=store)
    assert [found[name] for name in FIGURES] == [expected[name] for name in FIGURES]
    assert found["model"] == "LlamaForCausalLM"
    assert loaded.training
    assert not loaded.lm_head.training
    half = trainer.evaluate(tiny().bfloat16(), logits=store)
    assert half["loss"] == pytest.approx(expected["loss"], rel=1e-2)


def test_a_loaded_model_on_plain_text_needs_a_tokenizer(tmp_path, tokenizer, tokenizer_folder):
    path = tmp_path / "corpus.txt"
    path.write_text("The teacher reads the text once.\n\nThe student reads it too.\n")
    loaded = tiny(vocab_size=300)
    for given in (tokenizer, tokenizer_folder, str(tokenizer_folder)):
        assert trainer.evaluate(loaded, data=str(path), tokenizer=given)["targets"] > 0
    with pytest.raises(SettingError, match=r"a loaded model needs a tokenizer.*tokenizer="):
        trainer.evaluate(loaded, data=str(path))
    with pytest.raises(SettingError, match="no transformers tokenizer"):
        trainer.evaluate(loaded, data=str(path), tokenizer=3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": 3}, SettingError, "model is neither a name nor"),
        ({"model": torch.nn.Linear(2, 2)}, SettingError, "model is neither a name nor"),
        ({"device": "cpu"}, SettingError, "device means nothing to a model that is loaded"),
        ({"model": tiny(vocab_size=12)}, ModelError, "fewer input embeddings"),
        ({"logits": 3}, SettingError, "a store is"),
    ],
)
def test_a_loaded_model_that_does_not_fit_is_told(change, error, message):
    with pytest.raises(error, match=message):
        trainer.evaluate(**{"model": tiny(), "logits": MemoryStore()} | change)


def test_a_tokenizer_of_other_ids_is_refused(tokenizer):
    with pytest.raises(TokenizerError, match="keeps no tokenizer"):
        trainer.evaluate(tiny(), logits=MemoryStore(), tokenizer=tokenizer)
