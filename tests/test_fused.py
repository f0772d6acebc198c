"""The fused loss against a dense one in double precision that autograd differentiates."""

from __future__ import annotations

import pytest
import torch

from logitstore import SettingError
from logitstore.plumbing import LMHead
from tests.fused_scene import D, K, N, P, V, as_double, dense_logits, fused, make_targets, scene
from tests.loss_settings import OF_ENTRIES, variants
from trainer.losses import DenseRows

ALL = variants(OF_ENTRIES)
BY_BUCKET = ("bucket", "apart")


def dense_loss(
    z_NV: torch.Tensor,
    teacher_NV: torch.Tensor,
    labels_N: torch.Tensor,
    counts_N: torch.Tensor,
    *,
    alpha: float,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and bucketed KL, row by row over whole distributions: slow and plain."""
    logq_NV = (z_NV / temperature).log_softmax(-1)
    p_NV = (teacher_NV.double().log_softmax(-1) / temperature).softmax(-1)
    kl = z_NV.new_zeros(())
    for row, count in enumerate(counts_N.tolist()):
        order = teacher_NV[row].double().argsort(descending=True)
        head, tail = order[:count], order[count:]
        p = p_NV[row]
        kl = kl + (p[head] * (p[head].log() - logq_NV[row, head])).sum()
        if len(tail):
            mass = p[tail].sum()
            kl = kl + mass * (mass.log() - logq_NV[row, tail].logsumexp(0))
    ce = torch.nn.functional.cross_entropy(z_NV, labels_N, reduction="sum")
    return (1 - alpha) * ce + alpha * temperature**2 * kl, kl


@pytest.mark.parametrize(
    "layer",
    [{}, {"bias": False}, {"scale": 0.25}, {"softcap": 3.0}, {"scale": 1.5, "softcap": 5.0}],
    ids=str,
)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_it_equals_the_dense_loss_and_its_gradients(layer, alpha, temperature):
    hidden, head, teacher, labels, counts = scene(**layer)
    found = fused(
        hidden,
        head,
        make_targets(teacher, counts=counts),
        labels,
        alpha=alpha,
        temperature=temperature,
        chunk_rows=5,
    )
    (found.loss / 7).backward()

    exact_hidden, exact = hidden.detach().double().requires_grad_(), as_double(head)
    logits = dense_logits(exact_hidden, exact)
    expected, kl = dense_loss(logits, teacher, labels, counts, alpha=alpha, temperature=temperature)
    (expected / 7).backward()

    assert found.count == N
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert float(found.sums["kl"]) == pytest.approx(kl.item(), rel=1e-5)
    assert float(found.sums["kl_binary"] + found.sums["kl_head"]) == pytest.approx(
        kl.item(), rel=1e-5
    )
    agreement = (logits.argmax(-1) == teacher.argmax(-1)).sum().item()
    assert float(found.sums["agreement"]) == agreement
    pairs = [(hidden, exact_hidden), (head.weight_PD, exact.weight_PD), (head.bias_P, exact.bias_P)]
    for ours, theirs in pairs:
        if ours is not None:
            assert ours.grad is not None
            torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=2e-5)
    assert head.weight_PD.grad[V:].abs().max() == 0


def test_bucket_gradient_is_the_formula_of_head_and_tail():
    """`q_i - p_i` on the head, `q_j (1 - M/Q)` on the tail."""
    _, _, teacher, labels, _ = scene()
    identity = LMHead(weight_PD=torch.eye(V), bias_P=None, scale=1.0, softcap=None, vocab_size=V)
    z = torch.randn(N, V, generator=torch.Generator().manual_seed(3)).requires_grad_()
    fused(z, identity, make_targets(teacher), labels).loss.backward()
    q, p = z.detach().softmax(-1), teacher.softmax(-1)
    head = torch.zeros(N, V, dtype=torch.bool).scatter_(1, teacher.topk(K).indices, True)
    tail_p = p.masked_fill(head, 0).sum(-1, keepdim=True)
    tail_q = q.masked_fill(head, 0).sum(-1, keepdim=True)
    torch.testing.assert_close(
        z.grad, torch.where(head, q - p, q * (1 - tail_p / tail_q)), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_tied_weight_gets_the_gradient_of_both_its_uses(temperature):
    g = torch.Generator().manual_seed(5)
    weight = torch.randn(P, D, generator=g)
    ids = torch.randint(0, V, (N,), generator=g)
    _, _, teacher, labels, counts = scene()

    ours = weight.clone().requires_grad_()
    head = LMHead(weight_PD=ours, bias_P=None, scale=1.0, softcap=None, vocab_size=V)
    settings = {"alpha": 0.7, "temperature": temperature}
    hidden = torch.tanh(torch.nn.functional.embedding(ids, ours))
    fused(hidden, head, make_targets(teacher, counts=counts), labels, **settings).loss.backward()

    theirs = weight.double().requires_grad_()
    exact_hidden = torch.tanh(torch.nn.functional.embedding(ids, theirs))
    dense_loss(exact_hidden @ theirs[:V].T, teacher, labels, counts, **settings)[0].backward()
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("name", [name for name, one in ALL.items() if one.tail in BY_BUCKET])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_nothing_is_lost_against_itself(name, temperature):
    hidden, head, _, labels, counts = scene()
    own = dense_logits(hidden, head).detach()
    targets = make_targets(own, counts=counts)
    found = fused(hidden, head, targets, labels, loss=ALL[name], temperature=temperature)
    found.loss.backward()
    assert abs(float(found.sums["divergence"])) < 1e-5
    assert float(found.sums["agreement"]) == N
    if ALL[name].times_temperature_squared:  # else it has a corner there: rounding gives a slope
        assert hidden.grad.abs().max() < 1e-4


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_with_all_entries_kept_it_is_the_dense_divergence(name, temperature):
    hidden, head, teacher, labels, _ = scene()
    targets = make_targets(teacher, k=V)
    found = fused(hidden, head, targets, labels, loss=ALL[name], temperature=temperature)
    found.loss.backward()
    exact = hidden.detach().double().requires_grad_()
    rows = DenseRows(
        log_student_RV=(dense_logits(exact, as_double(head)) / temperature).log_softmax(-1),
        log_teacher_RV=(teacher.double() / temperature).log_softmax(-1),
        kept_RV=torch.ones(N, V, dtype=torch.bool),
        label_ids_R=labels,
    )
    factor = temperature**2 if ALL[name].times_temperature_squared else 1.0
    expected = ALL[name].reference(rows).sum() * factor
    expected.backward()
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(hidden.grad.double(), exact.grad, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ALL)
def test_the_chunk_size_changes_nothing(name):
    results = []
    for chunk_rows in (1, 4, N, None):
        hidden, head, teacher, labels, counts = scene()
        targets = make_targets(teacher, counts=counts)
        settings = {"loss": ALL[name], "alpha": 0.6, "temperature": 2.0}
        found = fused(hidden, head, targets, labels, chunk_rows=chunk_rows, **settings)
        found.loss.backward()
        results.append((found.loss.detach(), hidden.grad, head.weight_PD.grad, head.bias_P.grad))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_halves_add_up_to_the_whole(name):
    hidden, head, teacher, labels, counts = scene()
    targets = make_targets(teacher, counts=counts)
    settings = {"loss": ALL[name], "alpha": 0.6}
    whole = fused(hidden, head, targets, labels, **settings)
    halves = [
        fused(hidden[part], head, targets.rows(part), labels[part], **settings)
        for part in (slice(0, 4), slice(4, None))
    ]
    assert sum(half.count for half in halves) == whole.count
    for key, value in whole.sums.items():
        assert float(sum(half.sums[key] for half in halves)) == pytest.approx(
            float(value), rel=1e-5
        )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [K, V])
def test_magnified_logits_give_finite_values(temperature, k):
    hidden, head, teacher, labels, _ = scene(scale=50.0)
    targets = make_targets(50.0 * teacher, k=k)
    found = fused(hidden, head, targets, labels, alpha=0.5, temperature=temperature)
    found.loss.backward()
    for value in (found.loss, *found.sums.values(), hidden.grad, head.weight_PD.grad):
        assert torch.isfinite(value).all()


def test_padding_is_never_looked_at():
    results = []
    for filler in (0, 17):
        hidden, head, teacher, labels, counts = scene()
        targets = make_targets(teacher, counts=counts)
        targets.ids_NK.masked_fill_(~targets.used_NK, filler)
        targets.logprobs_NK.masked_fill_(~targets.used_NK, -3.0 * filler)
        found = fused(hidden, head, targets, labels, alpha=0.5)
        found.loss.backward()
        results.append((found.loss.detach(), hidden.grad, found.sums["agreement"]))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_no_rows_give_a_zero_with_a_gradient():
    hidden, head, teacher, labels, _ = scene()
    targets = make_targets(teacher).rows(slice(0, 0))
    found = fused(hidden[:0], head, targets, labels[:0], alpha=0.5)
    found.loss.backward()
    assert (found.loss.item(), found.count) == (0.0, 0)
    assert head.weight_PD.grad.abs().max() == 0
    assert hidden.grad.abs().max() == 0


def test_evaluation_computes_the_same_values_and_no_gradient():
    hidden, head, teacher, labels, counts = scene(softcap=4.0)
    targets = make_targets(teacher, counts=counts)
    learning = fused(hidden, head, targets, labels, alpha=0.3, temperature=2.0)
    for guard in (torch.no_grad(), torch.inference_mode()):
        with guard:
            evaluating = fused(hidden, head, targets, labels, alpha=0.3, temperature=2.0)
        assert not evaluating.loss.requires_grad
        assert evaluating.sums == learning.sums


def test_a_frozen_head_gets_no_gradient():
    hidden, head, teacher, labels, _ = scene()
    trained = fused(hidden, head, make_targets(teacher), labels)
    trained.loss.backward()
    expected = hidden.grad.clone()
    hidden.grad = None
    head.weight_PD.requires_grad_(False)
    head.bias_P.requires_grad_(False)
    head.weight_PD.grad = None
    fused(hidden, head, make_targets(teacher), labels).loss.backward()
    torch.testing.assert_close(hidden.grad, expected, rtol=0, atol=0)
    assert head.weight_PD.grad is None


@pytest.mark.parametrize("how", ["bfloat16", "autocast"])
def test_low_precision_comes_near(how, monkeypatch):
    # Outer products in several parts.
    monkeypatch.setattr("trainer.losses.chunked._CHUNK_BYTES", 4 * D * 7)
    hidden, head, teacher, labels, counts = scene()
    targets = make_targets(teacher, counts=counts)
    settings = {"alpha": 0.5, "temperature": 2.0, "chunk_rows": 5}
    exact = fused(hidden, head, targets, labels, **settings)
    exact.loss.backward()

    dtype = torch.bfloat16 if how == "bfloat16" else torch.float32
    low_hidden = hidden.detach().to(dtype).requires_grad_()
    low = LMHead(
        weight_PD=head.weight_PD.detach().to(dtype).requires_grad_(),
        bias_P=head.bias_P.detach().to(dtype).requires_grad_(),
        scale=1.0,
        softcap=None,
        vocab_size=V,
    )
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
        found = fused(low_hidden, low, targets, labels, **settings)
    found.loss.backward()
    assert found.loss.dtype == torch.float32
    assert found.loss.item() == pytest.approx(exact.loss.item(), rel=2e-2)
    for ours, theirs in ((low_hidden, hidden), (low.weight_PD, head.weight_PD)):
        assert ours.grad.dtype == dtype
        error = (ours.grad.float() - theirs.grad).norm() / theirs.grad.norm()
        assert 1e-5 < error < 3e-2  # near, and really computed in bfloat16


def test_a_second_gradient_is_refused():
    hidden, head, teacher, labels, _ = scene()
    loss = fused(hidden, head, make_targets(teacher), labels).loss
    loss.backward(retain_graph=True)
    with pytest.raises(SettingError, match="taken twice"):
        loss.backward()


def test_targets_move_whole():
    _, _, teacher, _, _ = scene()
    moved = make_targets(teacher).to("meta")
    assert {moved.ids_NK.device.type, moved.entropy_N.device.type} == {"meta"}
    assert moved.sampled_NK.device.type == "meta"
    assert len(moved) == N
