"""Which targets serve which loss; the teacher's tail is right at any temperature."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from logitstore import EMPTY_TAIL, SettingError
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from tests.loss_scene import USED, K, N, V, rows, view
from tests.loss_settings import OF_ENTRIES
from trainer.losses import LOSSES, HeadTail, View, choose_view, draw_for, teacher_head_tail

NODES = (1.0, 0.75, 0.5, 0.25)

# --- which targets serve which loss

SPECS = {name: sparsifier_spec(name) for name in ("topk", "topp", "hybrid")} | {
    name: sparsifier_spec(name, temperatures=(1.0, 2.0), repeats=3)
    for name in ("sample", "unbiased")
}


def test_what_a_message_offers_comes_from_the_table(monkeypatch):
    """A sparsifier that keeps a tail is offered, and one that is gone is not."""
    kept = replace(SPARSIFIERS["topk"], name="another")
    monkeypatch.delitem(SPARSIFIERS, "hidden")
    monkeypatch.setitem(SPARSIFIERS, "another", kept)
    with pytest.raises(SettingError, match=r"with sparsify hybrid, topk, topp or another$"):
        choose_view(SPECS["sample"], loss=LOSSES["reverse_kl"], temperature=1.0)
    with pytest.raises(SettingError, match=r"with sparsify hybrid, topk, topp or another$"):
        choose_view(SPECS["sample"], loss=LOSSES["forward_kl"], temperature=10.0)
    with pytest.raises(SettingError, match=r"temperature 1,2,10\.5$"):
        choose_view(SPECS["sample"], loss=LOSSES["forward_kl"], temperature=10.5)


@pytest.mark.parametrize("loss", OF_ENTRIES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", ["topk", "topp", "hybrid"])
def test_exact_heads_serve_every_loss(name, temperature, loss):
    weighted = (name, temperature) == ("hybrid", 1.0) and LOSSES[loss].serves_drawn
    found = choose_view(SPECS[name], loss=LOSSES[loss], temperature=temperature)
    assert found is (View.WEIGHTS if weighted else View.BUCKET)


@pytest.mark.parametrize("name", ["sample", "unbiased"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_drawn_targets_serve_linear_losses_by_their_weights(name, temperature):
    found = choose_view(SPECS[name], loss=LOSSES["forward_kl"], temperature=temperature)
    assert found is View.WEIGHTS
    for other in (one.name for one in LOSSES.values() if not one.serves_drawn):
        with pytest.raises(
            SettingError, match=r"^loss: .*forward_kl, or dump .*hybrid, topk, topp or hidden"
        ):
            choose_view(SPECS[name], loss=LOSSES[other], temperature=temperature)


@pytest.mark.parametrize("name", SPECS)
def test_losses_of_sampled_tokens_are_served_by_all_targets_at_1_alone(name):
    """Entries are seen as forward KL sees them, for what is reported beside the loss."""
    for loss in (one for one in LOSSES.values() if one.of_samples):
        found = choose_view(SPECS[name], loss=loss, temperature=1.0)
        assert found is choose_view(SPECS[name], loss=LOSSES["forward_kl"], temperature=1.0)
        with pytest.raises(SettingError, match=r"^temperature: .* stored at T = 1 \(found 2; al"):
            choose_view(SPECS[name], loss=loss, temperature=2.0)


@pytest.mark.parametrize(
    ("name", "temperature", "message"),
    [
        ("sample", 4.0, r"found 4; allowed: 1, 2\)\. Dump again with temperature 1,2,4, or with"),
        ("unbiased", 0.5, r"again with temperature 0\.5,1,2, or with sparsify hidden$"),
        ("topk", 0.5, "allowed: 1 to 10"),
        ("hybrid", 11.0, "allowed: 1 to 10"),
    ],
)
def test_a_temperature_that_is_not_there_is_refused_with_the_way_out(name, temperature, message):
    with pytest.raises(SettingError, match=message):
        choose_view(SPECS[name], loss=LOSSES["forward_kl"], temperature=temperature)


@pytest.mark.parametrize(
    ("spec", "modes", "served"),
    [
        (sparsifier_spec("topk", k=4), 3, True),
        (sparsifier_spec("topk", k=4), 4, False),
        (sparsifier_spec("hybrid", k=2, tail_draws=8), 1, True),
        (sparsifier_spec("hybrid", k=2, tail_draws=8), 2, False),  # drawn entries do not count
    ],
)
def test_a_store_must_keep_more_than_a_loss_sets_apart(spec, modes, served):
    loss = LOSSES["tail_reweighted"].with_options(modes=modes)
    if served:
        assert choose_view(spec, loss=loss, temperature=1.0) is View.BUCKET
    else:
        with pytest.raises(SettingError, match=rf"^modes: .*found {modes}; allowed: less than .*k"):
            choose_view(spec, loss=loss, temperature=1.0)


def test_repeats_take_turns_from_epoch_to_epoch():
    found = [draw_for(SPECS["sample"], temperature=2.0, epoch=epoch) for epoch in range(5)]
    assert found == [3, 4, 5, 3, 4]
    assert draw_for(SPECS["topk"], temperature=2.0, epoch=1) == 0


# --- the teacher's tail at a temperature


def tails_at(logp_NV: torch.Tensor, nodes: tuple[float, ...], *, k: int = K) -> torch.Tensor:
    tails = [(logp_NV[:, k:] * b).logsumexp(-1).clamp(min=EMPTY_TAIL) for b in nodes]
    return torch.stack(tails, -1).float()


def at_temperature(logp_NV: torch.Tensor, temperature: float, **changed: object) -> HeadTail:
    settings = {
        "logprobs_NK": logp_NV[:, :K].float(),
        "used_NK": USED,
        "tail_logmass_NB": tails_at(logp_NV, NODES),
        "nodes": NODES,
        "vocab_size": V,
        "count_N": torch.full((N,), K),
    }
    return teacher_head_tail(temperature=temperature, **(settings | changed))


@pytest.mark.parametrize("temperature", [1.0, 4 / 3, 2.0, 4.0])
def test_a_stored_temperature_is_exact(temperature):
    p = rows(sharpness=3.0)
    found, expected = at_temperature(p, temperature), view((p / temperature).log_softmax(-1))
    torch.testing.assert_close(found.log_head_NK, expected.log_head_NK, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.log_tail_N, expected.log_tail_N, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sharpness", [0.5, 1.5, 3.0])
@pytest.mark.parametrize("temperature", [1.25, 1.5, 3.0, 5.0, 10.0])
def test_other_temperatures_are_interpolated(sharpness, temperature):
    p = rows(sharpness=sharpness)
    found = at_temperature(p, temperature).log_tail_N.exp()
    error = (found - view((p / temperature).log_softmax(-1)).log_tail_N.exp()).abs()
    assert error.mean() < 4e-4
    assert error.max() < 4e-3


def test_many_stored_temperatures_do_not_swing():
    """Ten nodes with errors of 1e-4, which a polynomial through all or the nearest magnifies."""
    p = rows(sharpness=1.5)
    nodes = tuple(1.0 / t for t in range(1, 11))
    noise = 1e-4 * torch.randn(N, 10, generator=torch.Generator().manual_seed(0))
    stored = {"nodes": nodes, "tail_logmass_NB": tails_at(p, nodes) + noise}
    for temperature in (1.25, 1.5, 2.5, 5.5, 8.5):
        found = at_temperature(p, temperature, **stored).log_tail_N.exp()
        error = (found - view((p / temperature).log_softmax(-1)).log_tail_N.exp()).abs()
        assert error.max() < 4e-3


@pytest.mark.parametrize("temperature", [1.0, 1.7, 10.0])
def test_an_empty_tail_stays_empty(temperature):
    p = rows(sharpness=1.0)[:, :K].log_softmax(-1)
    found = at_temperature(
        p, temperature, vocab_size=K, tail_logmass_NB=torch.full((N, len(NODES)), EMPTY_TAIL)
    )
    assert (found.log_tail_N == EMPTY_TAIL).all()
    torch.testing.assert_close(
        found.log_head_NK.double(), (p / temperature).log_softmax(-1), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("temperature", "nodes", "allowed"),
    [
        (0.5, (1.0, 0.5), "1 to 10"),
        (11.0, (1.0, 0.5), "1 to 10"),
        (1.0, (0.5,), "2 to 10"),  # below the largest stored b there is nothing to lean on
    ],
)
def test_a_temperature_out_of_reach_is_refused(temperature, nodes, allowed):
    p = rows(sharpness=1.0)
    with pytest.raises(SettingError, match=allowed):
        at_temperature(p, temperature, nodes=nodes, tail_logmass_NB=tails_at(p, nodes))


def test_a_stored_temperature_out_of_range_is_served():
    p, nodes = rows(sharpness=1.0), (2.0, 1.0, 0.05)
    for temperature in (0.5, 20.0):
        found = at_temperature(p, temperature, nodes=nodes, tail_logmass_NB=tails_at(p, nodes))
        tail = (p / temperature).log_softmax(-1)[:, K:].logsumexp(-1)
        assert math.isclose(found.log_tail_N.exp().sum(), tail.exp().sum(), rel_tol=1e-5)
