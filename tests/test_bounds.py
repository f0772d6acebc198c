"""What an evaluation calls a bound is one, whatever the codec's rounding has done.

Stores are coded as coarsely as they can be; students are the teacher itself, one near it, one far.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from logitstore.codec import FIDELITIES
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from tests.memory_store import NODES, MemoryStore, teacher_logprobs
from trainer.evaluation.comparison import Comparison
from trainer.evaluation.signs import SIGNS, shown
from trainer.losses import TargetTensors

STANDARD_ERRORS = 4
FLOAT32 = 5e-6
# Those whose figures are bounds or estimates: of a hidden state they are exact.
BOUNDED = sorted(name for name, one in SPARSIFIERS.items() if not one.targets.keeps_state)
SMALL = {
    "topk": {"k": 6},
    "topp": {"k": 12, "top_p": 0.9},
    "hybrid": {"k": 6, "tail_draws": 4},
    "unbiased": {"k": 8},
    "sample": {"draws": 40},
}


def store_of(name, **settings):
    """A store of that sparsifier, which serves T = 1 and T = 2 as stored."""
    drawn = not SPARSIFIERS[name].targets.keeps_tail
    options = SMALL.get(name) or {SPARSIFIERS[name].room[0]: 8}
    spec = sparsifier_spec(name, temperatures=(1.0, 2.0) if drawn else None, **options)
    if name == "topk":  # whose tails the store in memory sums at nodes of its own
        spec = replace(spec, tail_nodes=NODES)
    return MemoryStore(sparsifier=spec, **settings)


def figures(store, *, temperature, noise):
    """Of a student `noise` away: what is shown of each figure, the exact one, and its error."""
    comparison = Comparison.of(store.spec, temperature=temperature)
    generator = torch.Generator().manual_seed(7)
    teacher_VV = torch.from_numpy(teacher_logprobs())
    drift_VV = torch.randn(teacher_VV.shape, generator=generator, dtype=torch.float64)
    student_VV = teacher_VV + noise * drift_VV
    rows, kls, shared = [], [], []
    for stored in store:
        at = np.flatnonzero(stored.document.counted_L) - 1
        if not len(at):
            continue
        before_R = torch.from_numpy(stored.document.input_ids_L[at].astype(np.int64))
        p_RV = (teacher_VV[before_R] / temperature).log_softmax(-1)
        q_RV = (student_VV[before_R] / temperature).log_softmax(-1)
        kls.append((p_RV.exp() * (p_RV - q_RV)).sum(-1))
        shared.append(torch.minimum(p_RV, q_RV).exp().sum(-1))
        targets = TargetTensors.of(stored.targets)
        rows.append(comparison.rows(student_VV[before_R].float(), targets))
    sums = {name: float(torch.cat([one[name] for one in rows]).sum()) for name in rows[0]}
    exact = {"kl": torch.cat(kls), "acceptance": torch.cat(shared)}
    count = len(exact["kl"])
    means = comparison.means(sums, targets=count)
    bounds, coding = (
        comparison.bounds(sums, targets=count),
        comparison.coding_errors(sums, targets=count),
    )
    found = {}
    for name, exact_R in exact.items():
        if means[name] is None:
            continue
        missed_R = torch.cat([one[name] for one in rows]) - exact_R
        sign, value = shown(
            name, means[name], bound=bounds.get(name), coding_error=coding.get(name)
        )
        error = float(missed_R.std()) / math.sqrt(count)
        found[name] = (sign, value, float(exact_R.mean()), error, coding.get(name))
    return found


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("fidelity", FIDELITIES)
@pytest.mark.parametrize("name", BOUNDED)
def test_the_exact_value_lies_where_the_sign_says(name, fidelity, noise):
    for temperature in (1.0, 2.0):
        store = store_of(name, fidelity=fidelity, blocks=8)
        draw = store.spec.sparsifier.draw_number(temperature=temperature, repeat=0)
        store = store.with_draw(draw)
        found = figures(store, temperature=temperature, noise=noise)
        has_exact = SPARSIFIERS[name].targets.has_exact
        # Of the teacher itself a bound of 1 may say nothing, and is then none.
        assert ("acceptance" in found) == has_exact or (has_exact and not noise)
        for figure, (sign, value, exact, error, coding) in found.items():
            where = (figure, sign, value, exact, temperature)
            if sign == "lower":
                assert value <= exact + FLOAT32, where
            elif sign == "upper":
                assert value >= exact - FLOAT32, where
            else:
                assert sign == "estimate", where
                assert abs(value - exact) <= coding + STANDARD_ERRORS * error + FLOAT32, where


@pytest.mark.parametrize("name", BOUNDED)
def test_a_bound_without_rounding_would_be_wrong_and_with_it_is_near(name):
    """Of the teacher itself: coarse values show more than 0 and less than 1."""
    found = figures(store_of(name, fidelity="compact"), temperature=1.0, noise=0.0)
    sign, value, exact, _, coding = found["kl"]
    if sign == "lower":
        assert value == 0.0 < coding
    if "acceptance" in found:
        sign, value, exact, _, coding = found["acceptance"]
        assert value == 1.0 == pytest.approx(exact)
    fine = figures(store_of(name, fidelity="exact"), temperature=1.0, noise=0.5)
    for figure, (sign, value, exact, _, coding) in fine.items():
        assert coding < 0.02, (figure, sign, value, exact)


@pytest.mark.parametrize("stated", [1e-5, 3e-4, 3e-3])
@pytest.mark.parametrize("distance", [0.2, 1.0])
def test_the_bound_of_kl_holds_for_the_worst_rounding(stated, distance):
    """The true teacher is moved towards the student until the stated KL is spent."""
    generator = torch.Generator().manual_seed(1)
    s_RV, drift_RV = torch.randn(2, 50, 24, generator=generator, dtype=torch.float64)
    s_RV = s_RV.log_softmax(-1)
    q_RV = (s_RV + distance * drift_RV).log_softmax(-1)

    def moved(share):
        p_RV = ((1 - share) * s_RV + share * q_RV).log_softmax(-1)
        return p_RV, float((p_RV.exp() * (p_RV - s_RV)).sum(-1).mean())

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if moved(middle)[1] > stated else (middle, high)
    p_RV, spent = moved(low)
    assert spent == pytest.approx(stated, rel=1e-6)
    exact = float((p_RV.exp() * (p_RV - q_RV)).sum(-1).mean())
    measured = float((s_RV.exp() * (s_RV - q_RV)).sum(-1).mean())
    assert measured > exact

    store = MemoryStore(blocks=1)
    comparison = Comparison(
        sparsifier=store.spec.sparsifier,
        temperature=1.0,
        vocab_size=24,
        stated_kl=stated,
        stated_drawn_kl=0.0,
    )
    targets = store.read_block(0).targets.rows(np.zeros(50, dtype=np.int64))
    # All ids in their order, with the stored distribution in place of the table's.
    tensors = replace(
        TargetTensors.of(targets),
        ids_NK=torch.arange(24).expand(50, -1),
        logprobs_NK=s_RV.float(),
    )
    sums = {
        name: float(value_R.sum())
        for name, value_R in comparison.rows(q_RV.float(), tensors).items()
    }
    coding = comparison.coding_errors(sums, targets=50)["kl"]
    assert measured - coding <= exact + FLOAT32
    assert coding < 1.5 * (measured - exact)  # of the worst there is, so hardly too wide


def test_at_a_temperature_in_between_a_bound_is_about_one():
    found = figures(store_of("topk"), temperature=3.0, noise=0.5)
    assert found["kl"][0] == "lower, about"
    assert found["acceptance"][0] == "upper, about"
    for one in SIGNS.values():
        assert one.meaning
    assert len({one.ascii for one in SIGNS.values()}) == len(SIGNS)


def test_likeliest_tokens_that_rounding_makes_equal_are_an_upper_bound():
    for fidelity, expected in (("compact", "upper"), (None, None)):
        store = store_of("topk", fidelity=fidelity, blocks=20)
        comparison = Comparison.of(store.spec, temperature=1.0)
        sums, count = {"bucket": 1.0, "judged": 0.0, "tied": 0.0}, 0
        for number in range(20):
            targets = TargetTensors.of(store.read_block(number).targets)
            logits_RV = torch.from_numpy(teacher_logprobs())[
                torch.zeros(len(targets), dtype=torch.long)
            ].float()
            # A student that says the first of the entries stored as likeliest, in every row.
            best_R = targets.logprobs_NK.argmax(-1)
            logits_RV.scatter_(1, targets.ids_NK.gather(1, best_R[:, None]), 9.0)
            rows = comparison.rows(logits_RV, targets)
            sums["tied"] += float(rows["tied"].sum())
            sums["judged"] += float(rows["judged"].sum())
            count += len(logits_RV)
        assert comparison.bounds(sums, targets=count).get("top1_agreement") == expected
