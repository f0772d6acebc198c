"""The figures of a yardstick against a dense computation with numpy; quantiles by themselves."""

import math

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import trainer
from logitstore.corpus.gguf import refuse_other_tokens
from logitstore.errors import TokenizerError
from logitstore.sparsify.build import sparsifier_spec
from tests.memory_store import MemoryStore, teacher_logprobs
from tests.test_gguf import dumped, write
from tests.test_gguf import folder as folder  # the fixture: a Llama in whole blocks
from tests.tiny_models import tiny
from trainer.evaluation.quantiles import LEVELS, Quantiles
from trainer.evaluation.yardstick_lines import yardstick_lines


def dense(store):
    """Log-probabilities of teacher and student, the labels, and how many each document has."""
    model, teacher_VV = tiny().double(), teacher_logprobs()
    p, q, labels, lengths = [], [], [], []
    for stored in store:
        ids_L = stored.document.input_ids_L.astype(np.int64)
        at = np.flatnonzero(stored.document.counted_L)
        with torch.no_grad():
            logits_LV = model(torch.from_numpy(ids_L)[None]).logits[0]
        q.append(logits_LV[at - 1].log_softmax(-1).numpy())
        p.append(teacher_VV[ids_L[at - 1]])
        labels.append(ids_L[at])
        lengths.append(len(at))
    return np.concatenate(p), np.concatenate(q), np.concatenate(labels), np.array(lengths)


def bucketed_kl(log_p_RV, log_q_RV, k):
    """KL of each row over its k likeliest tokens and one bucket, in float64."""
    kept = np.argsort(-log_p_RV, axis=1)[:, :k]
    p, q = (np.exp(np.take_along_axis(one, kept, axis=1)) for one in (log_p_RV, log_q_RV))
    p, q = (np.concatenate([one, 1 - one.sum(1, keepdims=True)], axis=1) for one in (p, q))
    return (p * np.log(p / q)).sum(1)


def clustered(values_R, lengths_D):
    """The standard error of a mean over rows, by the spread over documents."""
    lengths_D = lengths_D[lengths_D > 0]
    sums_D = np.add.reduceat(values_R, np.cumsum(lengths_D) - lengths_D)
    rest_D, count = sums_D - values_R.mean() * lengths_D, len(lengths_D)
    return math.sqrt((rest_D**2).sum() * count / (count - 1)) / len(values_R)


def test_every_figure_is_the_dense_one_where_nothing_is_left_out():
    store = MemoryStore(blocks=20)
    log_p_RV, log_q_RV, labels_R, lengths_D = dense(store)
    rows = np.arange(len(labels_R))
    log_p_R, log_q_R = log_p_RV[rows, labels_R], log_q_RV[rows, labels_R]
    kl_R = (np.exp(log_p_RV) * (log_p_RV - log_q_RV)).sum(1)
    change_R, excess_R = np.exp(log_q_R) - np.exp(log_p_R), log_p_R - log_q_R
    for tokens in (30, 10**6):
        result = trainer.evaluate(tiny(), logits=store, batch_tokens=tokens)
        found, errors = result["yardstick"], result["yardstick"]["standard_errors"]
        # The codec is one that rounds.
        assert found["bounds"] == dict.fromkeys(("kl_quantiles", "bucketed_kl"), "estimate")
        assert found["quantiles_exact"]
        for name, values_R, rel in (("kl", kl_R, 1e-4), ("p_change", change_R, 1e-4)):
            wanted = np.quantile(values_R, list(LEVELS.values()))
            quantiles = list(found[f"{name}_quantiles"].values())
            np.testing.assert_allclose(quantiles, wanted, rtol=rel, atol=1e-6)
        rms = math.sqrt((change_R**2).mean())
        ratio = math.exp(excess_R.mean())
        wanted = {
            "teacher_perplexity": math.exp(-log_p_R.mean()),
            "log_perplexity_ratio": excess_R.mean(),
            "perplexity_ratio": ratio,
            "p_change": change_R.mean(),
            "p_change_rms": rms,
        }
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, rel=1e-4), name
        assert found["perplexity_ratio"] == pytest.approx(
            result["perplexity"] / found["teacher_perplexity"]
        )
        excess = clustered(excess_R, lengths_D)
        for name, value in {
            "teacher_perplexity": wanted["teacher_perplexity"] * clustered(log_p_R, lengths_D),
            "log_perplexity_ratio": excess,
            "perplexity_ratio": ratio * excess,
            "p_change": clustered(change_R, lengths_D),
            "p_change_rms": clustered(change_R**2, lengths_D) / (2 * rms),
        }.items():
            assert errors[name] == pytest.approx(value, rel=1e-3), name
        assert result["standard_errors"]["perplexity"] == pytest.approx(
            result["perplexity"] * clustered(log_q_R, lengths_D), rel=1e-3
        )


@pytest.mark.parametrize("name", ["topk", "unbiased", "hybrid", "sample"])
def test_quantiles_of_kl_are_bounds_and_what_is_stored_of_the_label_is_exact(name):
    options = {"sample": {"draws": 20}, "hybrid": {"k": 6, "tail_draws": 4}}
    spec = None if name == "topk" else sparsifier_spec(name, **options.get(name, {"k": 10}))
    store = MemoryStore(sparsifier=spec, k=6, blocks=20, fidelity="exact")
    log_p_RV, log_q_RV, labels_R, _ = dense(store)
    exact = np.quantile((np.exp(log_p_RV) * (log_p_RV - log_q_RV)).sum(1), list(LEVELS.values()))
    result = trainer.evaluate(tiny(), logits=store)
    found = result["yardstick"]
    rows = np.arange(len(labels_R))
    p_R, q_R = (np.exp(one[rows, labels_R]) for one in (log_p_RV, log_q_RV))
    off = abs(found["p_change_rms"] - math.sqrt(((q_R - p_R) ** 2).mean()))
    assert off <= found["coding_errors"]["p_change_rms"] < 3e-4
    assert (
        abs(found["log_perplexity_ratio"] - np.log(p_R / q_R).mean())
        <= (found["coding_errors"]["log_perplexity_ratio"])
    )
    wanted = np.quantile(q_R - p_R, list(LEVELS.values()))
    quantiles = np.array(list(found["p_change_quantiles"].values()))
    assert (np.abs(quantiles - wanted) <= found["coding_errors"]["p_change_quantiles"]).all()
    if name == "sample":
        assert found["kl_quantiles"] is None
        assert found["bucketed_kl"] is None
        assert found["bounds"] == {}
        return
    assert found["bounds"] == {"kl_quantiles": "lower", "bucketed_kl": "lower"}
    least = np.array(list(found["kl_quantiles"].values()))
    assert (least <= exact + 1e-3).all()
    assert least[-1] > exact[-1] / 3
    # The mean is that of the quantiles' own quantity, which kl is but for drawn stores.
    whole = (np.exp(log_p_RV) * (log_p_RV - log_q_RV)).sum(1).mean()
    assert whole / 3 < found["bucketed_kl"] <= whole + 1e-3
    if name == "topk":
        bucketed = bucketed_kl(log_p_RV, log_q_RV, 6).mean()
        assert found["bucketed_kl"] == pytest.approx(bucketed, rel=2e-3)
    drawn = result["bounds"]["kl"] == "estimate"
    assert drawn == (name != "topk")
    assert (result["kl"] == pytest.approx(found["bucketed_kl"], rel=1e-9)) is not drawn
    said = "\n".join(yardstick_lines(result))
    assert " bucketed KL >~" in said
    assert f"\n{'mean':14}{found['bucketed_kl']:14.6f}\n" in said
    assert ("kl above is another quantity, estimated from draws" in said) is drawn


def test_a_quantised_file_is_judged_by_the_store_of_its_original(folder, tmp_path):
    store = dumped(folder, tmp_path / "store", k=300, sparsify="topk")
    kls = {}
    for kind in (GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0):
        file = write(tmp_path / f"{kind.name}.gguf", folder, kind=kind)
        result = trainer.evaluate(file, logits=store)
        found, original = result["yardstick"], LlamaForCausalLM.from_pretrained(folder)
        kls[kind.name] = dense_kl(store, original, file)
        quantiles = found["kl_quantiles"]
        np.testing.assert_allclose(
            list(quantiles.values()),
            np.quantile(kls[kind.name], list(LEVELS.values())),
            rtol=1e-2,
            atol=2e-4,
        )
        assert result["kl"] == pytest.approx(kls[kind.name].mean(), rel=1e-2, abs=1e-4)
        lines = "\n".join(yardstick_lines(result))
        assert f"{quantiles['99.9%']:.6f}" in lines
        sign = " <=" if "top1_agreement" in result["bounds"] else ""  # of ties
        assert f"\n{f'same top token{sign}':22}{100 * result['top1_agreement']:11.4f} %" in lines
    vocabulary = {**AutoTokenizer.from_pretrained(folder).get_vocab(), "another": 7}
    with pytest.raises(TokenizerError, match=r"Q4_0\.gguf: id 7 .*allowed: another"):
        refuse_other_tokens(file, vocabulary)
    assert kls["Q4_0"].mean() > 10 * kls["Q8_0"].mean()


def dense_kl(store, original, file):
    """KL of every target in float64, from the weights that the file's blocks stand for."""
    other = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    rows = []
    for stored in store:
        ids_1L = torch.from_numpy(stored.document.input_ids_L.astype(np.int64))[None]
        at = np.flatnonzero(stored.document.counted_L) - 1
        with torch.no_grad():
            p, q = (one(ids_1L).logits[0, at].double().log_softmax(-1) for one in (original, other))
        rows.append((p.exp() * (p - q)).sum(-1).numpy())
    return np.concatenate(rows)


def test_many_values_are_counted_and_quantiles_stay_near_whatever_their_order():
    generator = np.random.default_rng(0)
    values_N = np.concatenate(
        [generator.normal(size=40_000) ** 3, np.zeros(500), [-1e-30, 1e-40, 3e37]]
    ).astype(np.float32)
    wanted = np.quantile(values_N, list(LEVELS.values()))
    found = []
    for order_N in (np.arange(len(values_N)), generator.permutation(len(values_N))):
        some = Quantiles(most_kept=10_000)
        for part_N in np.array_split(values_N[order_N], 9):
            some.add(part_N, np.array([len(part_N)]))
        assert not some.exact
        assert some.standard_errors() == {}
        found.append(some.values())
    assert found[0] == found[1]
    np.testing.assert_allclose(list(found[0].values()), wanted, rtol=1e-3, atol=1e-6)
    assert (found[0]["minimum"], found[0]["maximum"]) == (wanted[0], wanted[-1])


def test_standard_errors_of_quantiles_are_those_that_many_samples_tell():
    """Values are alike within a document: the spread over targets would make them too small."""
    generator, found, told = np.random.default_rng(1), [], []
    for _ in range(200):
        lengths_D = generator.integers(1, 30, size=150)
        shared_N = np.repeat(generator.normal(size=150), lengths_D)
        some = Quantiles()
        some.add(shared_N + 0.5 * generator.normal(size=len(shared_N)), lengths_D)
        found.append([some.values()[name] for name in ("10%", "median", "95%")])
        told.append([some.standard_errors()[name] for name in ("10%", "median", "95%")])
    ratio = np.mean(told, axis=0) / np.std(found, axis=0, ddof=1)
    assert (np.abs(np.log(ratio)) < 0.25).all()
    assert "maximum" not in some.standard_errors()
