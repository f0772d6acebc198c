"""Sparsifiers against a float64 reference, from nearly one-hot to nearly uniform."""

import numpy as np
import pytest
import torch

from logitstore.errors import ModelError, SettingError
from logitstore.sparsify import SPARSIFIERS, TAIL_NODES, topk
from logitstore.targets import EMPTY_TAIL

V = 1000


def _logits(sharpness: float, *, rows: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return sharpness * torch.randn(rows, V, generator=generator) + 3.0


def _reference(logits_RV: torch.Tensor) -> np.ndarray:
    """float64 log-probabilities."""
    return torch.log_softmax(logits_RV.double(), dim=-1).numpy()


LABELS = torch.arange(50) * 7


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
@pytest.mark.parametrize("sharpness", [0.05, 0.5, 1.0, 4.0, 20.0])
def test_everything_agrees_with_the_dense_distribution(name: str, sharpness: float) -> None:
    logits_RV = _logits(sharpness)
    logp_RV = _reference(logits_RV)
    found = SPARSIFIERS[name](logits_RV.clone(), LABELS, k=16, tail_nodes=TAIL_NODES)
    entropy_R = -(np.exp(logp_RV) * logp_RV).sum(axis=1)
    assert np.abs(found.entropy_R - entropy_R).max() < 1e-4
    labels_R = logp_RV[np.arange(50), LABELS.numpy()]
    np.testing.assert_allclose(found.label_logprob_R, labels_R, rtol=1e-5, atol=1e-4)
    kept_RK = np.take_along_axis(logp_RV, found.ids_RK.astype(np.int64), axis=1)
    np.testing.assert_allclose(found.logprobs_RK, kept_RK, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sharpness", [0.05, 0.5, 1.0, 4.0, 20.0])
def test_topk_keeps_the_largest_and_the_tails_mass(sharpness: float) -> None:
    logits_RV = _logits(sharpness)
    logp_RV = _reference(logits_RV)
    found = topk(logits_RV.clone(), LABELS, k=16, tail_nodes=TAIL_NODES)
    order_RV = np.argsort(-logp_RV, axis=1)
    for row in range(50):
        assert set(found.ids_RK[row].tolist()) == set(order_RV[row, :16].tolist())
    tail_RV = np.take_along_axis(logp_RV, order_RV[:, 16:], axis=1)
    for column, node in enumerate(TAIL_NODES):
        # Nothing is lost to cancellation: the tail of a row this sharp holds e^-30.
        wanted_R = np.log(np.exp(node * tail_RV).sum(axis=1))
        np.testing.assert_allclose(found.tail_logmass_RB[:, column], wanted_R, atol=2e-4, rtol=1e-5)


def test_nodes_that_are_no_eighths() -> None:
    nodes = (1.0, 0.8, 0.1)
    logits_RV = _logits(2.0)
    tail_RV = np.sort(_reference(logits_RV), axis=1)[:, :-16]
    found = topk(logits_RV.clone(), LABELS, k=16, tail_nodes=nodes)
    for column, node in enumerate(nodes):
        wanted_R = np.log(np.exp(node * tail_RV).sum(axis=1))
        np.testing.assert_allclose(found.tail_logmass_RB[:, column], wanted_R, atol=2e-4)


def test_whole_vocabulary_has_an_empty_tail() -> None:
    found = topk(_logits(1.0), LABELS, k=V, tail_nodes=TAIL_NODES)
    assert (found.tail_logmass_RB == EMPTY_TAIL).all()
    assert np.abs(np.exp(found.logprobs_RK).sum(axis=1) - 1).max() < 1e-4


def test_tokens_that_cannot_occur_shorten_the_row() -> None:
    logits_RV = torch.full((2, V), -torch.inf)
    logits_RV[0, :3] = torch.tensor([1.0, 2.0, 3.0])
    logits_RV[1] = 0.0
    found = topk(logits_RV, torch.tensor([2, 5]), k=8, tail_nodes=TAIL_NODES)
    assert found.count_R.tolist() == [3, 8]
    assert set(found.ids_RK[0, :3].tolist()) == {0, 1, 2}
    assert (found.logprobs_RK[0, 3:] == EMPTY_TAIL).all()
    assert found.tail_logmass_RB[0].tolist() == [EMPTY_TAIL] * len(TAIL_NODES)
    assert found.tail_logmass_RB[1, 0] == pytest.approx(np.log((V - 8) / V), abs=1e-5)
    assert np.isfinite(found.entropy_R).all()


def test_an_impossible_label_stays_finite() -> None:
    logits_RV = torch.zeros(1, V)
    logits_RV[0, 9] = -torch.inf
    found = topk(logits_RV, torch.tensor([9]), k=4, tail_nodes=TAIL_NODES)
    assert found.label_logprob_R[0] == EMPTY_TAIL


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_distribution_are_refused(value: float) -> None:
    logits_RV = torch.zeros(2, V)
    logits_RV[1, 3] = value
    with pytest.raises(ModelError, match="no distribution"):
        topk(logits_RV, torch.tensor([0, 0]), k=4, tail_nodes=TAIL_NODES)


@pytest.mark.parametrize("k", [0, V + 1])
def test_k_must_fit_the_vocabulary(k: int) -> None:
    with pytest.raises(SettingError, match=f"found {k}"):
        topk(_logits(1.0), LABELS, k=k, tail_nodes=TAIL_NODES)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    logits_RV = _logits(2.0)
    whole = topk(logits_RV.clone(), LABELS, k=16, tail_nodes=TAIL_NODES)
    part = topk(logits_RV[10:13].clone(), LABELS[10:13], k=16, tail_nodes=TAIL_NODES)
    assert np.array_equal(whole.ids_RK[10:13], part.ids_RK)
    np.testing.assert_allclose(whole.logprobs_RK[10:13], part.logprobs_RK, rtol=1e-6)
