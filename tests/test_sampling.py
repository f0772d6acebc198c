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
from tests.sparsifier_settings import settings, small

V = 400
# Scales of normal logits, and the entropies that they give: 0.01 to 6 nats.
SHARPNESS = [0.1, 1.0, 3.0, 8.0, 20.0, 60.0]
SMALL_V = 60  # where the mean over many draws is compared token by token
DRAWN = [name for name, one in SPARSIFIERS.items() if one.targets.drawn]
KINDS = [(name, one) for name in DRAWN for one in settings(name, vocab_size=V)]
SMALL_KINDS = [(name, one) for name in DRAWN for one in settings(name, vocab_size=SMALL_V)]


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
def test_every_row_has_weights_of_distinct_ids(
    name: str, options: dict[str, Any], sharpness: float
) -> None:
    (targets,) = _draw(name, _logits(sharpness, rows=500), **options)
    if SPARSIFIERS[name].targets.weights_sum_to_one:
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


def _check_mean(targets: SparseTargets, p_V: np.ndarray) -> None:
    """The mean of the rows, all draws of `p_V`, is `p_V`: of each token and of groups of them.

    Groups are the likeliest 1, 2, ... tokens and the first 1, 2, ... ids: what is cut from a row
    for want of room shows in the mass of many tokens before it shows in one. By the empirical
    Bernstein inequality (Maurer and Pontil 2009) a mean is off by more than the bound with a chance
    below 1e-4 over all groups.
    """
    size, rows = len(p_V), len(targets)
    likeliest_VV = np.triu(np.ones((size, size)))[np.argsort(np.argsort(-p_V))]
    groups_VM = np.concatenate([np.eye(size), likeliest_VV, np.triu(np.ones((size, size)))], axis=1)
    mass_RM = _dense(targets, vocab_size=size) @ groups_VM
    nats = np.log(4 * groups_VM.shape[1] / 1e-4)
    bound_M = np.sqrt(2 * mass_RM.var(axis=0, ddof=1) * nats / rows)
    # A token too rare to be drawn in so few rows shows neither its variance nor its weight.
    drawn_RK = targets.used_RK() & targets.sampled_RK
    heaviest = targets.weights_RK.max(where=drawn_RK, initial=0)
    bound_M += 7 * np.maximum(np.ptp(mass_RM, axis=0), heaviest) * nats / (3 * (rows - 1))
    # float32 weights of a row sum to 1 within 1e-5.
    assert (np.abs(mass_RM.mean(axis=0) - p_V @ groups_VM) <= bound_M + 1e-5).all()


@pytest.mark.parametrize(("name", "options"), SMALL_KINDS)
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0, 8.0])
def test_the_mean_of_many_draws_is_the_dense_distribution(
    name: str, options: dict[str, Any], sharpness: float
) -> None:
    logits_1V = _logits(sharpness, rows=1, vocab_size=SMALL_V)
    (targets,) = _draw(name, logits_1V.expand(20_000, -1), **options)
    _check_mean(targets, logits_1V.double().softmax(-1)[0].numpy())


@pytest.mark.parametrize("name", DRAWN)
def test_so_is_that_of_every_draw_at_every_temperature(name: str) -> None:
    logits_1V = _logits(2.0, rows=1, vocab_size=SMALL_V)
    options = settings(name, vocab_size=SMALL_V)[0] | _all_draws(name)
    spec = sparsifier_spec(name, **options)
    draws = _draw(name, logits_1V.expand(10_000, -1), **options)
    assert len(draws) == spec.draw_count
    for number, targets in enumerate(draws):
        temperature = spec.drawn_at[number // spec.repeats]
        _check_mean(targets, (logits_1V.double() / temperature).softmax(-1)[0].numpy())


def _all_draws(name: str) -> dict[str, Any]:
    """Options for several draws, as far as the sparsifier takes them."""
    repeats = {"repeats": 3} if "repeats" in SPARSIFIERS[name].defaults else {}
    return repeats | ({} if SPARSIFIERS[name].targets.keeps_tail else {"temperatures": [1.0, 3.0]})


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


@pytest.mark.parametrize("name", [name for name in DRAWN if _all_draws(name)])
def test_temperatures_and_repeats_are_draws_of_their_own(name: str) -> None:
    logits_RV = _logits(2.0, rows=2000)
    options = settings(name, vocab_size=V)[0] | _all_draws(name)
    spec = sparsifier_spec(name, **options)
    draws = _draw(name, logits_RV, **options)
    dense = [_dense(one) for one in draws]
    for number, targets in enumerate(draws):
        logp_RV = (logits_RV.double() / spec.drawn_at[number // spec.repeats]).log_softmax(-1)
        entropy_R = -(logp_RV.exp() * logp_RV).sum(-1).numpy()
        np.testing.assert_allclose(targets.entropy_R, entropy_R, atol=1e-4)
        assert np.array_equal(targets.label_logprob_R, draws[0].label_logprob_R)
        # Rows as flat as these are hardly ever drawn alike.
        for other in range(number):
            alike_R = (dense[number] == dense[other]).all(axis=1)
            assert alike_R.mean() < 0.1


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_keys_give_the_same_draw(name: str) -> None:
    logits_RV, options = _logits(2.0, rows=100), settings(name, vocab_size=V)[0]
    one, two, other = (_draw(name, logits_RV, seed=seed, **options)[0] for seed in (0, 0, 1))
    assert np.array_equal(one.ids_RK, two.ids_RK)
    assert not np.array_equal(one.ids_RK, other.ids_RK)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("vocab_size", [2, 5, 128, 129, 50_257])
def test_any_size_of_vocabulary(name: str, vocab_size: int) -> None:
    logits_RV = _logits(3.0, rows=64, vocab_size=vocab_size)
    (targets,) = _draw(name, logits_RV, **small(name, vocab_size=min(9, vocab_size)))
    _check_rows(name, targets, vocab_size=vocab_size)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("gap", [50.0, 88.0, 100.0, 103.0, 200.0])
def test_a_tail_too_light_for_float32_gives_no_wrong_id(name: str, gap: float) -> None:
    for vocab_size in (3, 128, 300):
        logits_RV = torch.full((64, vocab_size), -gap)
        logits_RV[:, 0] = 0.0
        (targets,) = _draw(name, logits_RV, **small(name, vocab_size=2))
        _check_rows(name, targets, vocab_size=vocab_size)


def _check_rows(name: str, targets: SparseTargets, *, vocab_size: int) -> None:
    assert int(targets.ids_RK.max()) < vocab_size
    assert np.isfinite(targets.weights_RK).all()
    if SPARSIFIERS[name].targets.weights_sum_to_one:
        assert np.abs(targets.weights_RK.sum(axis=1) - 1).max() < 1e-5
