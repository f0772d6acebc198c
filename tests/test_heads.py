"""Heads that are lowered, against those that a sparsifier makes of the same logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from logitstore.editing.heads import lowered
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets

ROWS, VOCAB = 60, 97


def _drawn(name: str, sharpness: float, **options: object) -> tuple[SparseTargets, tuple]:
    """Targets of random rows, the last of which have few tokens of any probability."""
    generator = np.random.default_rng(5)
    logits_RV = sharpness * generator.normal(size=(ROWS, VOCAB)).astype(np.float32)
    logits_RV[-5:, 6:] = -np.inf
    spec = sparsifier_spec(name, **options)
    (targets,) = SPARSIFIERS[name].draw(
        torch.from_numpy(logits_RV),
        torch.from_numpy(generator.integers(6, size=ROWS)),
        np.arange(ROWS, dtype=np.uint64),
        spec,
    )
    return targets, spec.tail_nodes


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
@pytest.mark.parametrize(
    ("name", "options", "head"),
    [
        ("topk", {"k": 32}, {"k": 8}),
        ("topk", {"k": VOCAB}, {"k": 40}),
        ("topp", {"k": 64, "top_p": 0.8}, {"k": 5, "top_p": 0.8}),
        ("hybrid", {"k": 8, "tail_draws": 6}, {"k": 8}),
        ("hybrid", {"k": 8, "tail_draws": 6}, {"k": 3}),
    ],
)
def test_a_lowered_head_is_that_of_a_smaller_k(
    name: str, options: dict, head: dict, sharpness: float
) -> None:
    targets, nodes = _drawn(name, sharpness, **options)
    kind = "topk" if name == "hybrid" else name
    wanted, _ = _drawn(kind, sharpness, **head)
    found = lowered(targets, head["k"], nodes=nodes, kind=SPARSIFIERS[kind].targets)
    assert found.k == head["k"]
    assert found.kind == wanted.kind
    assert np.array_equal(found.count_R, wanted.count_R)
    assert np.array_equal(found.ids_RK, wanted.ids_RK)
    np.testing.assert_allclose(found.logprobs_RK, wanted.logprobs_RK, atol=2e-6)
    np.testing.assert_allclose(found.tail_logmass_RB, wanted.tail_logmass_RB, atol=2e-5)
    assert (found.tail_logmass_RB == EMPTY_TAIL).any() == (wanted.tail_logmass_RB < -1e3).any()
    assert np.array_equal(found.entropy_R, targets.entropy_R)


def test_of_equal_entries_the_first_are_kept_and_fewer_stay_as_they_are() -> None:
    targets, nodes = _drawn("topk", 1.0, k=4)
    same = replace(targets, logprobs_RK=np.full((ROWS, 4), -2.0, dtype=np.float32))
    found = lowered(same, 2, nodes=nodes, kind=targets.kind)
    assert np.array_equal(found.ids_RK, targets.ids_RK[:, :2])
    wider = lowered(targets, 6, nodes=nodes, kind=targets.kind)
    assert np.array_equal(wider.ids_RK[:, :4], targets.ids_RK)
    assert np.array_equal(wider.count_R, targets.count_R)
