"""Gradients of sparse and dense distillation, against autograd of the losses themselves."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from logitstore.fidelity.gradients import GradientComparison
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.targets.targets import SparseTargets

ROWS, VOCAB, WIDTH = 40, 50, 6


def _sparse(logits_RV: Tensor, sparsify: str, **options: Any) -> SparseTargets:
    keys_R = np.arange(len(logits_RV), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    labels_R = torch.zeros(len(logits_RV), dtype=torch.long)
    spec = sparsifier_spec(sparsify, **options)
    return SPARSIFIERS[sparsify].draw(logits_RV.clone(), labels_R, keys_R, spec)[0]


def _sparse_loss(targets: SparseTargets, logq_RV: Tensor) -> Tensor:
    """Soft cross-entropy under the weights; with a bucket, also its mass times log of q's."""
    loss = logq_RV.new_zeros(())
    for row, count in enumerate(targets.count_R):
        ids_K = torch.from_numpy(targets.ids_RK[row, :count].astype(np.int64))
        p_K = torch.from_numpy(np.exp(targets.logprobs_RK[row, :count].astype(np.float64)))
        loss = loss - (p_K * logq_RV[row, ids_K]).sum()
        rest_V = torch.ones(VOCAB, dtype=torch.bool)
        rest_V[ids_K] = False
        if not targets.kind.drawn and rest_V.any():
            mass = math.exp(targets.tail_logmass_RB[row, 0])
            loss = loss - mass * logq_RV[row, rest_V].logsumexp(0)
    return loss


def _angle(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten().numpy(), b.flatten().numpy()
    return math.degrees(math.acos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))


@pytest.fixture
def scene() -> tuple[Tensor, Tensor, Tensor]:
    """A teacher's logits, a student's hidden states and its output layer."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(ROWS, VOCAB, generator=generator) * 3,
        torch.randn(ROWS, WIDTH, generator=generator),
        torch.randn(VOCAB, WIDTH, generator=generator),
    )


CASES = [
    ("topk", {"k": 5}),
    ("topp", {"k": 20, "top_p": 0.8}),
    ("unbiased", {"k": 6}),
    ("sample", {"draws": 20}),
    ("hybrid", {"k": 3, "tail_draws": 4}),
]


@pytest.mark.parametrize(("sparsify", "options"), CASES)
@pytest.mark.parametrize("uniform", [True, False])
def test_angle_and_ratio_are_those_of_the_losses(
    scene: tuple[Tensor, Tensor, Tensor], sparsify: str, options: dict[str, Any], uniform: bool
) -> None:
    logits_RV, hidden_RD, weight_VD = scene
    targets = _sparse(logits_RV, sparsify, **options)
    logp_RV = logits_RV.double().log_softmax(-1)
    if uniform:
        leaf = torch.zeros(VOCAB, dtype=torch.float64, requires_grad=True)
        logq_RV = leaf.expand(ROWS, -1).log_softmax(-1)
    else:
        leaf = weight_VD.double().requires_grad_()
        logq_RV = (hidden_RD.double() @ leaf.T).log_softmax(-1)
    (dense,) = torch.autograd.grad(-(logp_RV.exp() * logq_RV).sum(), leaf, retain_graph=True)
    (sparse,) = torch.autograd.grad(_sparse_loss(targets, logq_RV), leaf)

    compared = GradientComparison(VOCAB)
    for chunk in (slice(0, 7), slice(7, ROWS)):
        student: dict[str, Tensor] = {}
        if not uniform:
            student = {
                "hidden_RD": hidden_RD[chunk],
                "student_logprobs_RV": logq_RV[chunk].detach(),
            }
        compared.add(logp_RV[chunk], targets.rows(chunk), **student)
    assert compared.angle == pytest.approx(_angle(dense, sparse), abs=1e-3)
    assert compared.norm_ratio == pytest.approx(float(sparse.norm() / dense.norm()), rel=1e-4)
    assert compared.angle > 0.1


def test_the_whole_vocabulary_pulls_as_the_dense_distribution(
    scene: tuple[Tensor, Tensor, Tensor],
) -> None:
    logits_RV = scene[0]
    compared = GradientComparison(VOCAB)
    compared.add(logits_RV.double().log_softmax(-1), _sparse(logits_RV, "topk", k=VOCAB))
    assert compared.angle < 1e-3
    assert compared.norm_ratio == pytest.approx(1, abs=1e-6)


def test_where_nothing_pulls_there_is_no_angle(scene: tuple[Tensor, Tensor, Tensor]) -> None:
    logits_RV, hidden_RD, _ = scene
    assert math.isnan(GradientComparison(VOCAB).angle)
    compared = GradientComparison(VOCAB)
    logp_RV = logits_RV.double().log_softmax(-1)
    compared.add(
        logp_RV,
        _sparse(logits_RV, "topk", k=5),
        hidden_RD=hidden_RD,
        student_logprobs_RV=logp_RV,
    )
    assert math.isnan(compared.angle)
    assert math.isnan(compared.norm_ratio)
    with pytest.raises(ValueError, match="together"):
        compared.add(logp_RV, _sparse(logits_RV, "topk", k=5), hidden_RD=hidden_RD)
