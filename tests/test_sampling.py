"""Sampled targets: what every draw holds, and what the mean of many draws is.

The keys are fixed, so a test passes always or never. The error level says how likely a correct
sampler would fail with another choice of keys.
"""

from typing import Any

import numpy as np
import pytest
import torch

from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.targets.targets import SparseTargets

V = 400
# Scales of normal logits, and the entropies that they give: 0.01 to 6 nats.
SHARPNESS = [0.1, 1.0, 3.0, 8.0, 20.0, 60.0]
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("sample", {"draws": 30}),
    ("unbiased", {"k": 8}),
    ("unbiased", {"k": 16}),
    ("hybrid", {"k": 6, "tail_draws": 6}),
]


def _keys(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1 << 63, size=count, dtype=np.uint64)


def _logits(sharpness: float, *, rows: int, vocab_size: int = V) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return sharpness * torch.randn(rows, vocab_size, generator=generator)


def _draw(
    name: str, logits_RV: torch.Tensor, *, seed: int = 0, **options: Any
) -> tuple[SparseTargets, ...]:
    labels_R = torch.zeros(len(logits_RV), dtype=torch.int64)
    spec = sparsifier_spec(name, **options)
    return SPARSIFIERS[name].draw(
        logits_RV.clone(), labels_R, _keys(len(logits_RV), seed=seed), spec
    )


def _dense(targets: SparseTargets, *, vocab_size: int = V) -> np.ndarray:
    """float64 [R, V] weights."""
    dense_RV = np.zeros((len(targets), vocab_size))
    rows_RK = np.broadcast_to(np.arange(len(targets))[:, None], targets.ids_RK.shape)
    used_RK = targets.used_RK()
    np.add.at(dense_RV, (rows_RK[used_RK], targets.ids_RK[used_RK]), targets.weights_RK[used_RK])
    return dense_RV


@pytest.mark.parametrize(("name", "options"), KINDS)
@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_every_row_is_a_distribution_over_distinct_ids(
    name: str, options: dict[str, Any], sharpness: float
) -> None:
    (targets,) = _draw(name, _logits(sharpness, rows=500), **options)
    assert np.abs(targets.weights_RK.sum(axis=1) - 1).max() < 1e-5
    used_RK = targets.used_RK()
    assert (targets.weights_RK[used_RK] > 0).all()
    for row in range(500):
        ids = targets.ids_RK[row, used_RK[row]].tolist()
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_unbiased_rows_have_one_size_and_one_threshold(sharpness: float) -> None:
    logits_RV = _logits(sharpness, rows=300)
    (targets,) = _draw("unbiased", logits_RV, k=12)
    p_RV = logits_RV.softmax(-1).numpy()
    for row in range(300):
        exact, drawn = targets.exact_RK()[row], targets.used_RK()[row] & targets.sampled_RK[row]
        if int((p_RV[row] > 1e-30).sum()) >= 12:
            assert targets.count_R[row] == 12
        if drawn.any():
            step = targets.weights_RK[row, drawn]
            assert np.ptp(step) <= 1e-5 * step[0]
            kept = set(targets.ids_RK[row, exact].tolist())
            # At or above the step everything is exact; below it nothing, but for rounding.
            assert set(np.flatnonzero(p_RV[row] > step[0] * 1.001)) <= kept
            assert all(p_RV[row, one] > step[0] * 0.998 for one in kept)


@pytest.mark.parametrize(("name", "options"), KINDS)
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0, 8.0])
def test_the_mean_of_many_draws_is_the_dense_distribution(
    name: str, options: dict[str, Any], sharpness: float
) -> None:
    draws = 20_000
    logits_1V = _logits(sharpness, rows=1, vocab_size=60)
    p_V = logits_1V.double().softmax(-1)[0].numpy()
    (targets,) = _draw(name, logits_1V.expand(draws, -1), **options)
    dense_RV = _dense(targets, vocab_size=60)
    # A drawn weight is at most `step`, its variance at most `step` p. By Bernstein's inequality a
    # mean is off by more than the bound with a chance below 1e-7, and any of the 960 below 1e-4.
    drawn_RK = targets.used_RK() & targets.sampled_RK
    step = 1.0 if name == "sample" else targets.weights_RK.max(where=drawn_RK, initial=0)
    nats = np.log(2 / 1e-7) / draws
    bound_V = np.sqrt(2 * step * p_V * nats) + step * nats + 1e-6
    assert (np.abs(dense_RV.mean(axis=0) - p_V) < bound_V).all()


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_unbiased_has_no_more_variance_than_sample_with_as_many_ids(sharpness: float) -> None:
    logits_1V = _logits(sharpness, rows=1)
    p_V = logits_1V.double().softmax(-1)[0].numpy()
    (sampled,) = _draw("sample", logits_1V.expand(4000, -1), draws=50)
    ids = int(np.floor(sampled.count_R.mean()))
    (unbiased,) = _draw("unbiased", logits_1V.expand(4000, -1), k=ids)
    error_sampled, error_unbiased = (
        ((_dense(one) - p_V) ** 2).sum(axis=1).mean() for one in (sampled, unbiased)
    )
    # 0.88 where 50 draws have 43 distinct ids, 0.37 where they have 24.
    assert error_unbiased < 0.9 * error_sampled


@pytest.mark.parametrize("name", ["unbiased", "hybrid"])
@pytest.mark.parametrize("sharpness", [0.1, 3.0, 20.0])
def test_the_whole_vocabulary_is_the_dense_distribution(name: str, sharpness: float) -> None:
    logits_RV = _logits(sharpness, rows=20)
    options = {"k": V} if name == "unbiased" else {"k": V - 4, "tail_draws": 4}
    (targets,) = _draw(name, logits_RV, **options)
    p_RV = logits_RV.double().softmax(-1).numpy()
    np.testing.assert_allclose(_dense(targets), p_RV, atol=2e-6)
    if name == "unbiased":
        assert not targets.sampled_RK.any()


@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_hybrid_keeps_a_guaranteed_head(sharpness: float) -> None:
    logits_RV = _logits(sharpness, rows=200)
    (targets,) = _draw("hybrid", logits_RV, k=6, tail_draws=6)
    top_RK = logits_RV.topk(6, dim=-1).indices.numpy()
    likely_RK = np.take_along_axis(logits_RV.softmax(-1).numpy(), top_RK, axis=1) > 1e-30
    for row in range(200):
        exact = set(targets.ids_RK[row, targets.exact_RK()[row]].tolist())
        assert set(top_RK[row, likely_RK[row]].tolist()) <= exact


def test_a_row_of_one_token_is_that_token() -> None:
    logits_RV = torch.full((3, V), -torch.inf)
    logits_RV[:, 7] = 0.0
    for name, options in KINDS:
        (targets,) = _draw(name, logits_RV, **options)
        assert targets.count_R.tolist() == [1, 1, 1]
        assert targets.ids_RK[:, 0].tolist() == [7, 7, 7]
        assert targets.weights_RK[:, 0].tolist() == [1, 1, 1]
        assert targets.entropy_R.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["sample", "unbiased"])
def test_temperatures_and_repeats_are_draws_of_their_own(name: str) -> None:
    logits_RV = _logits(2.0, rows=2000)
    spec = sparsifier_spec(name, temperatures=[1, 3], repeats=2)
    draws = _draw(name, logits_RV, temperatures=[1, 3], repeats=2)
    assert len(draws) == spec.draw_count == 4
    for temperature in (1.0, 3.0):
        first = draws[spec.draw_number(temperature=temperature, repeat=0)]
        second = draws[spec.draw_number(temperature=temperature, repeat=3)]
        logp_RV = (logits_RV.double() / temperature).log_softmax(-1)
        entropy_R = -(logp_RV.exp() * logp_RV).sum(-1).numpy()
        np.testing.assert_allclose(first.entropy_R, entropy_R, atol=1e-4)
        assert not np.array_equal(first.ids_RK, second.ids_RK)
        # One standard deviation of the mean over 2,000 rows of weights below 0.3 is below 0.007.
        mean_V = _dense(first).mean(axis=0)
        assert np.abs(mean_V - logp_RV.exp().numpy().mean(axis=0)).max() < 0.02
    assert np.array_equal(draws[0].label_logprob_R, draws[3].label_logprob_R)


def test_the_same_keys_give_the_same_draw() -> None:
    logits_RV = _logits(2.0, rows=100)
    one, two, other = (_draw("unbiased", logits_RV, seed=seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(one.ids_RK, two.ids_RK)
    assert not np.array_equal(one.ids_RK, other.ids_RK)


@pytest.mark.parametrize("vocab_size", [2, 5, 128, 129, 50_257])
def test_any_size_of_vocabulary(vocab_size: int) -> None:
    logits_RV = _logits(3.0, rows=64, vocab_size=vocab_size)
    for name, options in (("sample", {"draws": 9}), ("unbiased", {"k": min(9, vocab_size)})):
        (targets,) = _draw(name, logits_RV, **options)
        assert int(targets.ids_RK.max()) < vocab_size
        assert np.abs(targets.weights_RK.sum(axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize("gap", [50.0, 88.0, 100.0, 103.0, 200.0])
def test_a_tail_too_light_for_float32_gives_no_wrong_id(gap: float) -> None:
    for vocab_size in (3, 128, 300):
        logits_RV = torch.full((64, vocab_size), -gap)
        logits_RV[:, 0] = 0.0
        for name, options in (("unbiased", {"k": 2}), ("hybrid", {"k": 1, "tail_draws": 1})):
            (targets,) = _draw(name, logits_RV, **options)
            assert int(targets.ids_RK.max()) < vocab_size
            assert np.abs(targets.weights_RK.sum(axis=1) - 1).max() < 1e-5
