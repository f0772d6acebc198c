"""Every loss of the table keeps the contract, in values and in gradients."""

from __future__ import annotations

import math

import pytest
import torch

from logitstore import EMPTY_TAIL
from tests.loss_scene import USED, K, N, V, inputs, rows, sampler, view
from tests.loss_settings import variants
from trainer.losses import (
    LOSSES,
    DenseRows,
    LossInputs,
    SampledTokens,
    bucketed,
    kl_terms,
)

ALL = variants()


def divergence(name: str, *sides_and_used) -> torch.Tensor:
    return ALL[name].divergence(inputs(*sides_and_used))


def drawn(p_NV: torch.Tensor, labels_N: torch.Tensor) -> SampledTokens:
    """The true tokens as samples of some model."""
    log_p_N = p_NV.gather(1, labels_N[:, None]).squeeze(1)
    return SampledTokens(log_teacher_N=log_p_N.float(), log_sampler_N=sampler(labels_N).float())


# From 5 nats down to 0.01: where the head holds all but 1e-9, differences of masses give NaN.
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sharpness", [0.5, 3.0, 30.0])
def test_a_loss_is_zero_against_itself_and_positive_elsewhere(name, sharpness):
    """A loss that does not compare the two buckets is zero only where they are empty."""
    k = K if ALL[name].tail in ("bucket", "apart") else V
    used = torch.ones(N, k, dtype=torch.bool)
    same, other = view(rows(sharpness=sharpness), k=k), view(rows(sharpness=1.0, seed=1), k=k)
    assert divergence(name, same, same, used).abs().max() < 1e-6
    assert (divergence(name, other, same, used) > 0).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [K, V])
def test_a_loss_is_its_own_dense_reference_over_the_kept_tokens(name, temperature, k):
    """Value and gradient; at K = V and with a bucket, true tokens inside and outside."""
    p = (rows(sharpness=2.0) / temperature).log_softmax(-1)
    z = rows(sharpness=1.0, seed=1).flip(-1)
    kept = torch.zeros(N, V, dtype=torch.bool)
    kept[:, :k] = True
    labels = torch.arange(N)  # half of them are entries where K = 16

    ours = z.clone().requires_grad_()
    log_q = (ours / temperature).log_softmax(-1)
    given = LossInputs(
        student=view(log_q, k=k),
        teacher=view(p, k=k),
        used_NK=torch.ones(N, k, dtype=torch.bool),
        is_label_NK=torch.arange(k) == labels[:, None],
        log_label_N=log_q.gather(1, labels[:, None]).squeeze(1).float(),
        sampled=drawn(p, labels),
    )
    found = ALL[name].divergence(given)
    found.sum().backward()

    exact = z.clone().requires_grad_()
    dense = DenseRows(
        log_student_RV=(exact / temperature).log_softmax(-1),
        log_teacher_RV=p,
        kept_RV=kept,
        label_ids_R=labels,
        log_sampler_R=sampler(labels),
    )
    expected = ALL[name].reference(dense)
    expected.sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(ours.grad, exact.grad, rtol=1e-3, atol=1e-6)


def peaked(entropy: float, *, seed: int) -> torch.Tensor:
    """Log-probabilities [8, 1000], float64, falling, each row of about that many nats."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(8, 1000, generator=g, dtype=torch.float64).sort(-1, descending=True).values
    low, high = torch.zeros(8, 1, dtype=torch.float64), torch.full((8, 1), 1e4).double()
    for _ in range(60):
        middle = (low + high) / 2
        log_p = (middle * z).log_softmax(-1)
        flat = -(log_p.exp() * log_p).sum(-1, keepdim=True) > entropy
        low, high = torch.where(flat, middle, low), torch.where(flat, high, middle)
    return (high * z).log_softmax(-1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("entropies", [(0.01, 0.01), (0.01, 6.0), (6.0, 0.01), (2.0, 6.0)], ids=str)
def test_float32_is_right_from_a_hundredth_of_a_nat_to_six(name, entropies):
    """Of teacher and student, whose likeliest tokens are the same; the head holds 32 tokens."""
    kept, labels = torch.arange(1000) < 32, torch.arange(8)
    p, z = peaked(entropies[0], seed=2), peaked(entropies[1], seed=3)
    ours, exact = z.clone().requires_grad_(), z.clone().requires_grad_()
    log_q = ours.log_softmax(-1)
    given = LossInputs(
        student=view(log_q, k=32),
        teacher=view(p, k=32),
        used_NK=torch.ones(8, 32, dtype=torch.bool),
        is_label_NK=torch.arange(32) == labels[:, None],
        log_label_N=log_q.gather(1, labels[:, None]).squeeze(1).float(),
        sampled=drawn(p, labels),
    )
    found = ALL[name].divergence(given)
    found.sum().backward()
    dense = DenseRows(
        log_student_RV=exact.log_softmax(-1),
        log_teacher_RV=p,
        kept_RV=kept.expand(8, -1),
        label_ids_R=labels,
        log_sampler_R=sampler(labels),
    )
    expected = ALL[name].reference(dense)
    expected.sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(ours.grad, exact.grad, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("name", ALL)
def test_a_loss_ignores_entries_that_are_not_used(name):
    student, teacher = rows(sharpness=1.0, seed=1), rows(sharpness=2.0)
    rest = [side[:, K:].logsumexp(-1).float() for side in (student, teacher)]
    short = [
        bucketed(side[:, :K].float(), bucket, USED)
        for side, bucket in zip((student, teacher), rest, strict=True)
    ]
    padded = [
        bucketed(
            torch.cat((side[:, :K].float(), torch.full((N, 3), filler)), -1),
            bucket,
            torch.arange(K + 3).expand(N, -1) < K,
        )
        for side, bucket, filler in zip((student, teacher), rest, (5.0, EMPTY_TAIL), strict=True)
    ]
    used = torch.arange(K + 3).expand(N, -1) < K
    torch.testing.assert_close(divergence(name, *padded, used), divergence(name, *short, USED))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("empty", ["student", "teacher", "both", "neither"])
def test_values_and_gradients_stay_finite_at_the_edges(name, empty):
    """Heads that hold everything, tails that hold everything, 10,000 nats apart."""
    far = torch.tensor([[0.0, -1e4], [-1e4, 0.0], [1e4, -1e4], [0.0, 0.0]])
    tails = {True: torch.full((4,), EMPTY_TAIL), False: torch.tensor([0.0, 90.0, -90.0, 1e4])}
    used = torch.tensor([[True, True], [True, True], [True, False], [True, True]])
    logits = far.flip(0).clone().requires_grad_()
    rest = tails[empty in ("student", "both")].clone().requires_grad_()
    teacher = bucketed(far, tails[empty in ("teacher", "both")], used)
    value = divergence(name, bucketed(logits, rest, used), teacher, used)
    value.sum().backward()
    for found in (value, logits.grad, rest.grad):
        assert torch.isfinite(found).all()
    assert logits.grad[2, 1] == 0  # not used


@pytest.mark.parametrize("sharpness", [0.5, 3.0, 8.0])
def test_the_terms_are_those_of_the_divergence(sharpness):
    """Against masses and conditionals, formed in double precision from whole distributions."""
    p, q = rows(sharpness=sharpness), rows(sharpness=1.0, seed=1)
    found = kl_terms(view(q), view(p))
    tail_p, tail_q = (side[:, K:].exp().sum(-1) for side in (p, q))
    binary = tail_p * (tail_p / tail_q).log() + (1 - tail_p) * ((1 - tail_p) / (1 - tail_q)).log()
    inside_p, inside_q = (side[:, :K].log_softmax(-1) for side in (p, q))
    head = (1 - tail_p) * (inside_p.exp() * (inside_p - inside_q)).sum(-1)
    torch.testing.assert_close(found["kl_binary"].double(), binary, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["kl_head"].double(), head, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["kl"], divergence("forward_kl", view(q), view(p)))


# --- values that others compute


def test_forward_kl_of_whole_rows_is_the_dense_one():
    p, q = rows(sharpness=2.0), rows(sharpness=1.0, seed=1)
    used = torch.ones(N, V, dtype=torch.bool)
    found = divergence("forward_kl", view(q, k=V), view(p, k=V), used)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


# What TRL 1.16 gives for this student and teacher at T = 2: `generalized_jsd_loss`, its sum over
# three tokens, and its gradient on the student's first logit.
TRL_STUDENT = [[0.0, 1.0, -1.0, 2.5], [3.0, -2.0, 0.5, 0.5], [-4.0, 0.0, 4.0, 1.0]]
TRL_TEACHER = [[1.0, 1.0, 0.0, -1.0], [2.0, 2.0, -3.0, 0.0], [-6.0, 2.0, 5.0, -1.0]]
TRL_VALUES = {
    0.0: (1.09564094, -0.09397811),
    0.1: (0.09363724, -0.00819762),
    0.5: (0.24245612, -0.02148633),
    0.9: (0.09130262, -0.00820049),
    1.0: (1.04757648, -0.0953522),
}


@pytest.mark.parametrize("beta", TRL_VALUES)
def test_jensen_shannon_is_that_of_trl(beta):
    z = torch.tensor(TRL_STUDENT).requires_grad_()
    log_p, log_q = ((one / 2.0).log_softmax(-1) for one in (torch.tensor(TRL_TEACHER), z))
    used = torch.ones(3, 4, dtype=torch.bool)
    sides = [bucketed(one, torch.full((3,), EMPTY_TAIL), used) for one in (log_q, log_p)]
    found = LOSSES["jensen_shannon"].with_options(beta=beta).divergence(inputs(*sides, used))
    found.sum().backward()
    assert [float(found.sum().detach()), float(z.grad[0, 0])] == pytest.approx(
        TRL_VALUES[beta], rel=2e-5
    )


@pytest.mark.parametrize(
    ("end", "name"),
    [
        ("jensen_shannon beta=0", "forward_kl"),
        ("jensen_shannon beta=1", "reverse_kl"),
        ("skewed_forward_kl skew=0", "forward_kl"),
        ("skewed_reverse_kl skew=0", "reverse_kl"),
        ("tail_reweighted modes=1 tail_weight=1", "forward_kl"),
    ],
)
def test_at_its_ends_a_loss_is_forward_or_reverse_kl(end, name):
    student, teacher = view(rows(sharpness=1.0, seed=1)), view(rows(sharpness=2.0))
    assert torch.equal(
        divergence(end, student, teacher, USED), divergence(name, student, teacher, USED)
    )


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("jensen_shannon beta=0.5", math.log(2)),
        ("skewed_forward_kl skew=0.1", -math.log(0.1)),
        ("skewed_reverse_kl skew=0.1", -math.log(0.1)),
    ],
)
def test_what_is_bounded_reaches_its_bound_and_no_more(name, most):
    """Student and teacher 10,000 nats apart."""
    used = torch.ones(1, 2, dtype=torch.bool)
    far = torch.tensor([[0.0, -1e4]])
    sides = [bucketed(one, torch.tensor([EMPTY_TAIL]), used) for one in (far, far.flip(-1))]
    assert float(divergence(name, *sides, used)) == pytest.approx(most, rel=1e-6)


def test_acceptance_is_the_log_of_what_total_variation_leaves():
    student, teacher = view(rows(sharpness=1.0, seed=1)), view(rows(sharpness=2.0))
    left = 1 - divergence("total_variation", student, teacher, USED)
    found = divergence("acceptance", student, teacher, USED)
    torch.testing.assert_close(found, -left.log(), rtol=1e-5, atol=1e-6)


def test_acceptance_teaches_where_nothing_is_accepted():
    """Student and teacher 300 nats apart, where total variation has no gradient in float32."""
    used = torch.ones(1, 2, dtype=torch.bool)
    slopes = {}
    for name in ("acceptance", "total_variation"):
        z = torch.tensor([[0.0, -300.0]]).requires_grad_()
        empty = torch.tensor([EMPTY_TAIL])
        sides = [bucketed(one, empty, used) for one in (z, z.detach().flip(-1))]
        divergence(name, *sides, used).sum().backward()
        slopes[name] = z.grad[0].tolist()
    # Each of the two tokens is half of the little that is accepted; one is up to the student.
    assert slopes["acceptance"] == pytest.approx([0.5, -0.5], rel=1e-5)
    assert slopes["total_variation"] == [0.0, 0.0]


def test_decoupled_weighs_the_parts_of_forward_kl():
    student, teacher = view(rows(sharpness=1.0, seed=1)), view(rows(sharpness=2.0))
    parts = kl_terms(student, teacher)
    heavy = divergence("decoupled head_weight=1 tail_weight=4", student, teacher, USED)
    torch.testing.assert_close(heavy, parts["kl_head"] + 4 * parts["kl_binary"])
    plain = divergence("decoupled head_weight=1 tail_weight=1", student, teacher, USED)
    torch.testing.assert_close(plain, divergence("forward_kl", student, teacher, USED))


def test_the_rest_of_a_row_weighs_more_and_the_likeliest_token_as_before():
    """Two students that differ from the teacher inside the rest alone, and in its mass alone."""
    used, none = torch.ones(1, 4, dtype=torch.bool), torch.tensor([EMPTY_TAIL])
    teacher, inside, mass = (
        bucketed(torch.tensor([one]).log(), none, used)
        for one in ([0.6, 0.2, 0.1, 0.1], [0.6, 0.1, 0.1, 0.2], [0.2, 0.4, 0.2, 0.2])
    )
    for student, factor in ((inside, 2.0), (mass, 1.0)):
        found = divergence("tail_reweighted modes=1 tail_weight=2", student, teacher, used)
        plain = divergence("forward_kl", student, teacher, used)
        assert float(found) == pytest.approx(factor * float(plain), rel=1e-5)
