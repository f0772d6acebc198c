"""The k largest of a row, against torch.topk over the whole row."""

from __future__ import annotations

import pytest
import torch

from logitstore.sparsify.split import Split, largest


@pytest.mark.parametrize("vocab_size", [1, 7, 64, 1000, 2049, 8192, 20_011])
@pytest.mark.parametrize("k", [1, 3, 17, 65])
def test_the_largest_are_those_of_topk(vocab_size: int, k: int) -> None:
    k = min(k, vocab_size)
    values_RV = torch.randn(9, vocab_size, generator=torch.Generator().manual_seed(k))
    found, expected = largest(values_RV, k), values_RV.topk(k, dim=-1)
    assert torch.equal(found.values_RK, expected.values)
    assert torch.equal(found.ids_RK, expected.indices)


@pytest.mark.parametrize("k", [1, 8, 24])
def test_ties_and_impossible_tokens_give_distinct_places(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    values_RV = torch.randint(4, (50, 5003), generator=generator).float()
    values_RV[values_RV == 0] = -torch.inf
    values_RV[7] = -torch.inf
    values_RV[7, :5] = torch.arange(5.0)
    found = largest(values_RV, k)
    assert torch.equal(found.values_RK, values_RV.topk(k, dim=-1).values)
    assert torch.equal(values_RV.gather(1, found.ids_RK), found.values_RK)
    assert all(len(set(row)) == k for row in found.ids_RK.tolist())


def test_what_is_no_number_is_found() -> None:
    values_RV = torch.zeros(3, 5000)
    values_RV[1, 4321] = torch.nan
    assert torch.isnan(largest(values_RV, 4).values_RK[1, 0])


@pytest.mark.parametrize("k", [0, 1, 16])
@pytest.mark.parametrize("offset", [-3000.0, 0.0, 3000.0])
def test_both_parts_add_up_to_the_row(k: int, offset: float) -> None:
    generator = torch.Generator().manual_seed(k)
    logits_RV = (torch.randn(40, 3001, generator=generator) * 4 + offset).float()
    split = Split.of(logits_RV.clone(), k)
    exact_RV = logits_RV.double()
    log_z_R = exact_RV.logsumexp(-1)
    found_R = split.top_R.double() + split.log_z_R.double()
    # Where the offset is large, float32 itself holds the logits no closer than 1e-4.
    assert (found_R - log_z_R).abs().max() < 1e-5 + 2e-7 * abs(offset)
    p_RV = exact_RV.softmax(-1)
    entropy_R = torch.special.entr(p_RV).sum(-1)
    assert (split.entropy_R(split.log_z_R) - entropy_R).abs().max() < 1e-4
    of_rest_RV = p_RV.scatter(1, split.ids_RK, 0.0)
    weights_RV = split.weights_RV.double()
    shares_RV = weights_RV / weights_RV.sum(-1, keepdim=True)
    assert (shares_RV - of_rest_RV / of_rest_RV.sum(-1, keepdim=True)).abs().max() < 1e-6
