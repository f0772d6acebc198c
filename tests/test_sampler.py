"""The sampler draws from the warped softmax, and each draw depends on its own key alone."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from logitstore.generation.noise import gumbel_noise, uniforms_on
from logitstore.generation.sampler import Drawing, Sampler, answer_key
from logitstore.targets.draws import uniforms

V = 40
ROWS = 40_000


def _law(logits_V: np.ndarray, *, temperature: float, top_p: Any, top_k: Any, min_p: Any) -> Any:
    """float64 [V]: softmax at a temperature, of the k likeliest, of those of mass p, and so on."""
    p_V = np.exp(logits_V / temperature)
    p_V /= p_V.sum()
    order_V = np.argsort(-p_V)
    kept_V = np.zeros(V, dtype=bool)
    kept_V[order_V[: top_k or V]] = True
    p_V = np.where(kept_V, p_V, 0)
    p_V /= p_V.sum()
    if top_p is not None:
        before_V = np.cumsum(p_V[order_V]) - p_V[order_V]
        kept_V[order_V[before_V >= top_p]] = False
        p_V = np.where(kept_V, p_V, 0)
        p_V /= p_V.sum()
    if min_p is not None:
        p_V = np.where(p_V >= min_p * p_V.max(), p_V, 0)
    return p_V / p_V.sum()


SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.0, "top_p": None, "top_k": None, "min_p": None},
    {"temperature": 0.7, "top_p": 0.8, "top_k": None, "min_p": None},
    {"temperature": 2.5, "top_p": None, "top_k": 7, "min_p": None},
    {"temperature": 1.3, "top_p": None, "top_k": None, "min_p": 0.2},
    {"temperature": 0.9, "top_p": 0.9, "top_k": 12, "min_p": 0.05},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("step", [0, 3])
def test_tokens_are_drawn_from_the_warped_softmax(settings: dict[str, Any], step: int) -> None:
    logits_V = 1.5 * np.random.default_rng(0).standard_normal(V)
    keys = [answer_key(seed=2, prompt=b"p" * 16, answer=n, turn=0) for n in range(ROWS)]
    sampler = Sampler(drawing=Drawing(**settings), keys=keys, vocab_size=V)
    padded_V = np.append(logits_V, [99.0, 99.0]).astype(np.float32)  # columns that are no tokens
    scores_BP = torch.from_numpy(padded_V).expand(ROWS, -1)
    for _ in range(step + 1):
        chosen_BP = sampler(torch.zeros(ROWS, 1, dtype=torch.long), scores_BP)
    token_B = sampler.tokens[step].numpy()
    assert (chosen_BP.argmax(dim=1).numpy() == token_B).all()
    assert (chosen_BP.isfinite().sum(dim=1) == 1).all()
    law_V = _law(logits_V, **settings)
    np.testing.assert_allclose(sampler.sampled_logprobs[step], np.log(law_V[token_B]), atol=2e-5)
    plain_V = _law(logits_V, temperature=1.0, top_p=None, top_k=None, min_p=None)
    np.testing.assert_allclose(sampler.model_logprobs[step], np.log(plain_V[token_B]), atol=2e-5)
    counts_V = np.bincount(token_B, minlength=V)
    assert counts_V[law_V == 0].sum() == 0
    rare_V = (law_V > 0) & (law_V * ROWS < 5)  # joined, for the test is one of large counts
    found = np.append(counts_V[(law_V > 0) & ~rare_V], counts_V[rare_V].sum() + 1e-9)
    wanted = np.append(law_V[(law_V > 0) & ~rare_V], law_V[rare_V].sum() + 1e-12)
    assert stats.chisquare(found, wanted / wanted.sum() * found.sum()).pvalue > 1e-3


def test_noise_is_of_the_numbers_that_all_draws_are_made_of() -> None:
    keys_B = np.array([0, 1, 2**63, 2**64 - 1, 12345678901234567890], dtype=np.uint64)
    for draw in (0, 1, 77):
        wanted_BV = uniforms(keys_B, count=50, draw=draw)
        found_BV = uniforms_on(keys_B, count=50, draw=draw, device=torch.device("cpu"))
        np.testing.assert_array_equal(found_BV.numpy(), wanted_BV)
        noise_BV = gumbel_noise(keys_B, count=50, draw=draw, device=torch.device("cpu"))
        np.testing.assert_allclose(noise_BV, -np.log(-np.log(wanted_BV)), rtol=1e-12)


def test_a_draw_depends_on_its_own_key_and_step_alone() -> None:
    logits_BV = torch.randn(6, V, generator=torch.Generator().manual_seed(0))
    drawing = Drawing(temperature=1.0, top_p=0.9, top_k=None, min_p=None)
    keys = [answer_key(seed=0, prompt=b"q" * 16, answer=n, turn=0) for n in range(6)]
    whole = Sampler(drawing=drawing, keys=keys, vocab_size=V)
    for _ in range(4):
        whole(torch.zeros(6, 1, dtype=torch.long), logits_BV)
    for row in range(6):
        alone = Sampler(drawing=drawing, keys=[keys[row]], vocab_size=V)
        for step in range(4):
            alone(torch.zeros(1, 1, dtype=torch.long), logits_BV[row : row + 1])
            assert alone.tokens[step].item() == whole.tokens[step][row].item()
    assert len({key for seed in (0, 1) for key in _keys(seed)}) == 16


def _keys(seed: int) -> list[int]:
    return [
        answer_key(seed=seed, prompt=bytes([prompt]) * 16, answer=answer, turn=turn)
        for prompt in (1, 2)
        for answer in (0, 1)
        for turn in (0, 1)
    ]


def test_greedy_takes_the_likeliest_and_rows_of_no_numbers_are_noted() -> None:
    scores_BP = torch.tensor([[0.0, 2.0, 1.0], [float("nan"), 0.0, 0.0]])
    drawing = Drawing(temperature=0.0, top_p=None, top_k=None, min_p=None)
    sampler = Sampler(drawing=drawing, keys=[0, 1], vocab_size=3)
    sampler(torch.zeros(2, 1, dtype=torch.long), scores_BP)
    assert sampler.tokens[0][0].item() == 1
    assert sampler.sampled_logprobs[0].tolist() == [0.0, 0.0]
    assert sampler.finite_B is not None
    assert sampler.finite_B.tolist() == [True, False]
