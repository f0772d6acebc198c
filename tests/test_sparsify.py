"""Heads and tails against a float64 reference, from nearly one-hot to nearly uniform."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from logitstore.errors import ModelError, SettingError
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import TAIL_NODES, sparsifier_spec
from logitstore.targets.documents import Document
from logitstore.targets.draws import row_keys
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets
from tests.sparsifier_settings import other_values, small

V = 1000
LABELS = torch.arange(50) * 7
KEYS = np.arange(50, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
DTYPES = {
    "ids_RK": np.uint32,
    "logprobs_RK": np.float32,
    "sampled_RK": np.bool_,
    "count_R": np.int32,
    "tail_logmass_RB": np.float32,
    "label_logprob_R": np.float32,
    "entropy_R": np.float32,
}


def _logits(sharpness: float, *, rows: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return sharpness * torch.randn(rows, V, generator=generator) + 3.0


def _reference(logits_RV: torch.Tensor) -> np.ndarray:
    """float64 log-probabilities."""
    return torch.log_softmax(logits_RV.double(), dim=-1).numpy()


def _run(
    name: str, logits_RV: torch.Tensor, labels_R: torch.Tensor | None = None, **options: Any
) -> SparseTargets:
    rows = len(logits_RV)
    labels_R = LABELS[:rows] if labels_R is None else labels_R
    spec = sparsifier_spec(name, **options)
    return SPARSIFIERS[name].draw(logits_RV.clone(), labels_R, KEYS[:rows], spec)[0]


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
@pytest.mark.parametrize("sharpness", [0.05, 0.5, 1.0, 4.0, 20.0])
def test_everything_agrees_with_the_dense_distribution(name: str, sharpness: float) -> None:
    logits_RV = _logits(sharpness)
    logp_RV = _reference(logits_RV)
    found = _run(name, logits_RV, **small(name, vocab_size=V))
    entropy_R = -(np.exp(logp_RV) * logp_RV).sum(axis=1)
    assert np.abs(found.entropy_R - entropy_R).max() < 1e-4
    labels_R = logp_RV[np.arange(50), LABELS.numpy()]
    np.testing.assert_allclose(found.label_logprob_R, labels_R, rtol=1e-5, atol=1e-4)
    kept_RK = np.take_along_axis(logp_RV, found.ids_RK.astype(np.int64), axis=1)
    exact_RK = found.exact_RK()
    np.testing.assert_allclose(found.logprobs_RK[exact_RK], kept_RK[exact_RK], atol=1e-4, rtol=1e-5)
    for row in range(50):
        ids = found.ids_RK[row, : found.count_R[row]].tolist()
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_targets_are_what_the_sparsifier_declares(name: str) -> None:
    kind = SPARSIFIERS[name].targets
    options = small(name, vocab_size=V)
    if "repeats" in SPARSIFIERS[name].defaults:
        options |= {"repeats": 2}
    spec = sparsifier_spec(name, **options)
    draws = SPARSIFIERS[name].draw(_mixed(), LABELS, KEYS, spec)
    assert len(draws) == spec.draw_count
    for found in draws:
        assert found.kind == kind
        dtypes = {one: getattr(found, one).dtype for one in DTYPES}
        assert dtypes == DTYPES
        assert (found.k, len(found)) == (spec.k, len(LABELS))
        assert found.tail_logmass_RB.shape[1] == len(spec.tail_nodes)
        used_RK = found.used_RK()
        assert found.count_R.min() >= 1
        assert found.count_R.max() <= spec.k
        assert (found.ids_RK[~used_RK] == 0).all()
        assert (found.logprobs_RK[~used_RK] == EMPTY_TAIL).all()
        assert not found.sampled_RK[~used_RK].any()
        assert (found.weights_RK[used_RK] > 0).all()
        if kind.weights_sum_to_one:
            assert np.abs(found.weights_RK.sum(axis=1) - 1).max() < 1e-5
        assert kind.drawn or not found.sampled_RK.any()
        assert kind.has_exact or found.sampled_RK[used_RK].all()


def _mixed() -> torch.Tensor:
    """Rows from sharp to flat."""
    return _logits(1.0) * torch.linspace(0.2, 6.0, 50)[:, None]


def _drawn(name: str, options: dict[str, Any]) -> tuple[SparseTargets, ...]:
    """All draws, with the keys that a dump makes of the seed."""
    spec = sparsifier_spec(name, **options)
    document = Document(
        id=bytes(16),
        record=0,
        piece=0,
        input_ids_L=np.zeros(51, dtype=np.uint32),
        counted_L=np.arange(51) > 0,
    )
    keys_R = row_keys(document, seed=spec.seed)
    return SPARSIFIERS[name].draw(_mixed(), LABELS, keys_R, spec)


def _equal(one: tuple[SparseTargets, ...], other: tuple[SparseTargets, ...]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for left, right in zip(one, other, strict=True)
        for name in DTYPES
    )


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, one) for name in sorted(SPARSIFIERS) for one in SPARSIFIERS[name].defaults],
)
def test_an_option_that_is_changed_changes_the_targets(name: str, option: str) -> None:
    """Else it would be taken, checked, stored and shown in the help, and mean nothing."""
    usual = small(name, vocab_size=V)
    before = _drawn(name, usual)
    assert _equal(before, _drawn(name, usual))
    tried = [usual | {option: value} for value in other_values(name, option)]
    assert tried
    assert not all(_equal(before, _drawn(name, one)) for one in tried)


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_temperatures_change_the_targets(name: str) -> None:
    usual = small(name, vocab_size=V)
    assert not _equal(_drawn(name, usual), _drawn(name, usual | {"temperatures": [1.0, 3.0]}))
    assert not _equal(
        _drawn(name, usual | {"temperatures": [1.0, 2.0]}),
        _drawn(name, usual | {"temperatures": [1.0, 3.0]}),
    )


@pytest.mark.parametrize(
    "name", [name for name in sorted(SPARSIFIERS) if SPARSIFIERS[name].targets.keeps_tail]
)
@pytest.mark.parametrize("sharpness", [0.05, 0.5, 1.0, 4.0, 20.0])
def test_the_tails_mass_is_that_of_all_that_is_not_exact(name: str, sharpness: float) -> None:
    logits_RV = _logits(sharpness)
    found = _run(name, logits_RV, **small(name, vocab_size=V))
    tail_RV = _reference(logits_RV)
    for row in range(len(found)):
        tail_RV[row, found.ids_RK[row][found.exact_RK()[row]]] = -np.inf
    for column, node in enumerate(TAIL_NODES):
        # Nothing is lost to cancellation: the tail of a row this sharp holds e^-30.
        wanted_R = np.log(np.exp(node * tail_RV).sum(axis=1))
        np.testing.assert_allclose(found.tail_logmass_RB[:, column], wanted_R, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["topk", "topp", "hybrid"])
@pytest.mark.parametrize("sharpness", [0.05, 0.5, 1.0, 4.0, 20.0])
def test_a_head_keeps_the_largest(name: str, sharpness: float) -> None:
    logits_RV = _logits(sharpness)
    found = _run(name, logits_RV, **small(name, vocab_size=V))
    order_RV = np.argsort(-_reference(logits_RV), axis=1)
    for row, head in enumerate(found.exact_RK().sum(axis=1)):
        kept = found.ids_RK[row][found.exact_RK()[row]].tolist()
        assert set(kept) == set(order_RV[row, :head].tolist())


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9])
def test_topp_keeps_the_fewest_that_hold_the_mass(top_p: float) -> None:
    logits_RV = _logits(3.0)
    p_RV = np.exp(_reference(logits_RV))
    found = _run("topp", logits_RV, k=V, top_p=top_p)
    for row in range(50):
        cumulated = np.sort(p_RV[row])[::-1].cumsum()
        assert found.count_R[row] == np.searchsorted(cumulated, top_p) + 1


def test_topp_is_cut_at_k() -> None:
    found = _run("topp", _logits(0.5), k=10, top_p=0.99)
    assert (found.count_R == 10).all()


def test_nodes_of_chosen_temperatures() -> None:
    logits_RV = _logits(2.0)
    tail_RV = np.sort(_reference(logits_RV), axis=1)[:, :-16]
    spec = sparsifier_spec("topk", k=16, temperatures=[1.25, 10])
    assert spec.tail_nodes == (1.0, 0.8, 0.1)
    found = SPARSIFIERS["topk"].draw(logits_RV.clone(), LABELS, KEYS, spec)[0]
    for column, node in enumerate(spec.tail_nodes):
        wanted_R = np.log(np.exp(node * tail_RV).sum(axis=1))
        np.testing.assert_allclose(found.tail_logmass_RB[:, column], wanted_R, atol=2e-4)


def test_whole_vocabulary_has_an_empty_tail() -> None:
    found = _run("topk", _logits(1.0), k=V)
    assert (found.tail_logmass_RB == EMPTY_TAIL).all()
    assert np.abs(np.exp(found.logprobs_RK).sum(axis=1) - 1).max() < 1e-4


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
@pytest.mark.parametrize("impossible", [-torch.inf, torch.finfo(torch.float32).min, -1e30])
def test_tokens_that_cannot_occur_shorten_the_row(name: str, impossible: float) -> None:
    logits_RV = torch.full((2, V), impossible)
    logits_RV[0, :3] = torch.tensor([1.0, 2.0, 3.0])
    logits_RV[1] = 0.0
    found = _run(name, logits_RV, torch.tensor([2, 5]), **small(name, vocab_size=V))
    count = int(found.count_R[0])
    assert 1 <= count <= 3
    assert count == 3 or name not in ("topk", "unbiased", "hybrid")
    assert set(found.ids_RK[0, :count]) <= {0, 1, 2}
    assert (found.logprobs_RK[0, count:] == EMPTY_TAIL).all()
    if name in ("topk", "hybrid"):
        assert found.tail_logmass_RB[0].tolist() == [EMPTY_TAIL] * len(TAIL_NODES)
        left = V - int(found.exact_RK()[1].sum())
        assert found.tail_logmass_RB[1, 0] == pytest.approx(np.log(left / V), abs=1e-5)
    assert np.isfinite(found.entropy_R).all()


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
@pytest.mark.parametrize("shift", [-100.0, -90.0, 90.0])
def test_a_shift_of_all_logits_changes_nothing(name: str, shift: float) -> None:
    logits_RV = torch.full((1, V), -torch.inf)
    logits_RV[0, :3] = torch.tensor([1.0, 2.0, 3.0]) + shift
    found = _run(name, logits_RV, torch.tensor([2]), **small(name, vocab_size=V))
    assert found.entropy_R[0] == pytest.approx(0.8324, abs=1e-3)
    assert found.label_logprob_R[0] == pytest.approx(-0.4076, abs=1e-3)


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_an_impossible_label_stays_finite(name: str) -> None:
    logits_RV = torch.zeros(1, V)
    logits_RV[0, 9] = -torch.inf
    found = _run(name, logits_RV, torch.tensor([9]), **small(name, vocab_size=V))
    assert found.label_logprob_R[0] == EMPTY_TAIL
    assert 9 not in found.ids_RK[0, : found.count_R[0]]


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_enormous_logits_leave_the_highest(name: str) -> None:
    logits_RV = torch.randn(20, V, generator=torch.Generator().manual_seed(1)) * 1e30
    found = _run(name, logits_RV, **small(name, vocab_size=V))
    assert (found.count_R == 1).all()
    assert found.ids_RK[:, 0].tolist() == logits_RV.argmax(-1).tolist()
    assert (found.logprobs_RK[:, 0] == 0).all()
    assert (found.entropy_R == 0).all()


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_distribution_are_refused(name: str, value: float) -> None:
    logits_RV = torch.zeros(2, V)
    logits_RV[1, 3] = value
    with pytest.raises(ModelError, match="no distribution"):
        _run(name, logits_RV, **small(name, vocab_size=V))


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_rows_do_not_depend_on_their_neighbours(name: str) -> None:
    logits_RV = _logits(2.0)
    spec = sparsifier_spec(name, **small(name, vocab_size=V))
    whole = SPARSIFIERS[name].draw(logits_RV.clone(), LABELS, KEYS, spec)[0]
    chosen = torch.tensor([12, 3, 41])
    part = SPARSIFIERS[name].draw(logits_RV[chosen], LABELS[chosen], KEYS[chosen.numpy()], spec)[0]
    assert np.array_equal(whole.ids_RK[chosen.numpy()], part.ids_RK)
    np.testing.assert_allclose(whole.logprobs_RK[chosen.numpy()], part.logprobs_RK, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "nucleus"}, "nucleus"),
        ({"name": "topk", "k": 0}, "found 0"),
        ({"name": "topk", "draws": 5}, "means nothing to sparsify topk"),
        ({"name": "sample", "k": 5}, "means nothing to sparsify sample"),
        ({"name": "topk", "repeats": 2}, "means nothing to sparsify topk.*unbiased"),
        ({"name": "topp", "top_p": 1.5}, "found 1.5"),
        ({"name": "topp", "top_p": float("nan")}, "^top_p"),
        ({"name": "unbiased", "temperatures": [1.0, 1.0]}, "different values"),
        ({"name": "unbiased", "temperatures": [0.0]}, "^temperature"),
        ({"name": "topk", "temperatures": [0.5]}, "from 1 up"),
        ({"name": "unbiased", "repeats": 65}, "too many draws"),
        ({"name": "unbiased", "seed": -1}, "^seed"),
        ({"name": "unbiased", "k": 4.0}, "k must be a whole number"),
        ({"name": "unbiased", "seed": "1"}, "seed must be a whole number"),
        ({"name": "topp", "top_p": "0.9"}, "top_p must be a number"),
        ({"name": "unbiased", "temperatures": 2.0}, "list of numbers"),
        ({"name": "unbiased", "temperatures": "1,2"}, "list of numbers"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        sparsifier_spec(**options)


def _check(name: str, **options: Any) -> None:
    spec = sparsifier_spec(name, **options)
    SPARSIFIERS[name].check_vocabulary(spec, vocab_size=V)


def test_a_row_has_no_more_entries_than_there_are_tokens() -> None:
    _check("topk", k=V)
    _check("sample", draws=V + 1)
    for name, k in (("topk", V + 1), ("unbiased", V + 1), ("hybrid", V - 5)):
        with pytest.raises(SettingError, match=f"allowed: 1..{V}"):
            _check(name, k=k)


def test_options_of_any_library_make_one_spec() -> None:
    found = sparsifier_spec("unbiased", k=np.int64(4), seed=np.uint8(3), repeats=np.int32(1))
    assert found == sparsifier_spec("unbiased", k=4, seed=3, repeats=1)
    assert json.dumps(found.to_json()) == json.dumps(
        sparsifier_spec("unbiased", k=4, seed=3).to_json()
    )


@pytest.mark.parametrize(
    "name", [name for name in sorted(SPARSIFIERS) if not SPARSIFIERS[name].targets.keeps_tail]
)
@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_logits_far_from_zero_keep_their_digits(name: str, temperature: float) -> None:
    logits_RV = _logits(2.0) + 1000
    options = small(name, vocab_size=V) | {"temperatures": [temperature]}
    far, near = _run(name, logits_RV, **options), _run(name, logits_RV - 1000, **options)
    assert np.array_equal(far.ids_RK, near.ids_RK)
    np.testing.assert_allclose(far.logprobs_RK, near.logprobs_RK, atol=1e-6)
    np.testing.assert_allclose(far.label_logprob_R, near.label_logprob_R, atol=2e-6)


@pytest.mark.parametrize("name", ["topk", "topp", "hybrid"])
def test_an_empty_tail_is_empty_at_any_temperature(name: str) -> None:
    logits_RV = torch.full((1, V), -torch.inf)
    logits_RV[0, 4] = 1.0
    found = _run(
        name, logits_RV, torch.tensor([4]), **small(name, vocab_size=V), temperatures=[1, 39, 100]
    )
    assert found.tail_logmass_RB[0].tolist() == [EMPTY_TAIL] * 3
