"""Every loss of the table keeps the contract; the teacher's tail is right at any temperature."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from logitstore import EMPTY_TAIL, SettingError
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from tests.loss_settings import variants, variants_of
from trainer.losses import (
    LOSSES,
    DenseRows,
    HeadTail,
    Loss,
    LossInputs,
    View,
    bucketed,
    choose_view,
    draw_for,
    kl_terms,
    teacher_head_tail,
)

N, V, K = 32, 200, 16
NODES = (1.0, 0.75, 0.5, 0.25)
USED = torch.ones(N, K, dtype=torch.bool)
ALL = variants()


def rows(*, sharpness: float, seed: int = 0) -> torch.Tensor:
    """Log-probabilities [N, V], float64, falling along each row."""
    g = torch.Generator().manual_seed(seed)
    z = sharpness * torch.randn(N, V, generator=g, dtype=torch.float64)
    return z.log_softmax(-1).sort(-1, descending=True).values


def view(logp_NV: torch.Tensor, *, k: int = K) -> HeadTail:
    """What a loss sees of a whole distribution, in float32."""
    rest = logp_NV[:, k:].logsumexp(-1).clamp(min=EMPTY_TAIL).float()
    return bucketed(logp_NV[:, :k].float(), rest, torch.ones(len(logp_NV), k, dtype=torch.bool))


def inputs(student: HeadTail, teacher: HeadTail, used: torch.Tensor = USED) -> LossInputs:
    """What a loss is given; the true token is the last entry in use."""
    last_N1 = used.sum(-1, keepdim=True) - 1
    is_label = torch.zeros_like(used).scatter_(1, last_N1, True)
    log_label_N = student.log_head_NK.gather(1, last_N1).squeeze(1)
    return LossInputs(
        student=student,
        teacher=teacher,
        used_NK=used,
        is_label_NK=is_label,
        log_label_N=log_label_N,
    )


def divergence(name: str, *sides_and_used) -> torch.Tensor:
    return ALL[name].divergence(inputs(*sides_and_used))


# --- the table

DECLARED = {
    "name": "mine",
    "summary": "Mine.",
    "divergence": LOSSES["forward_kl"].divergence,
    "reference": LOSSES["forward_kl"].reference,
    "linear": True,
    "tail": "bucket",
    "bound": "lower",
    "times_temperature_squared": True,
}


def test_a_loss_stands_under_its_own_name_and_says_what_it_is():
    for name, loss in LOSSES.items():
        assert loss.name == name
        assert loss.summary[0].isupper()
    assert len({loss.summary for loss in LOSSES.values()}) == len(LOSSES)


@pytest.mark.parametrize("name", DECLARED)
def test_a_declaration_that_leaves_something_open_does_not_import(name):
    with pytest.raises(TypeError, match=name):
        Loss(**{field: value for field, value in DECLARED.items() if field != name})
    with pytest.raises(TypeError, match=f"{name} cannot be None"):
        Loss(**DECLARED | {name: None})


def test_a_loss_is_given_the_values_of_its_options():
    plain = LOSSES["jensen_shannon"]
    other = plain.with_options(beta=1)
    assert (plain.values, other.values) == ({"beta": 0.5}, {"beta": 1.0})
    assert other.with_options().values == other.values
    with pytest.raises(SettingError, match=r"^beta is out of range \(found 1.5; allowed: 0 to 1\)"):
        plain.with_options(beta=1.5)
    with pytest.raises(TypeError, match="'forward_kl' takes no option 'beta'"):
        LOSSES["forward_kl"].with_options(beta=0.5)
    with pytest.raises(TypeError, match="values cannot be"):
        replace(LOSSES["forward_kl"], values={"beta": 0.5})


def test_the_declarations_cost_no_torch():
    script = "import sys, trainer.losses as one; sys.exit('torch' in sys.modules or not one.LOSSES)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# --- every loss of the table


# From 5 nats down to 0.01: where the head holds all but 1e-9, differences of masses give NaN.
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sharpness", [0.5, 3.0, 30.0])
def test_a_loss_is_zero_against_itself_and_positive_elsewhere(name, sharpness):
    """A loss that does not compare the two buckets is zero only where they are empty."""
    k = K if ALL[name].tail == "bucket" else V
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
    )
    found = ALL[name].divergence(given)
    found.sum().backward()

    exact = z.clone().requires_grad_()
    dense = DenseRows(
        log_student_RV=(exact / temperature).log_softmax(-1),
        log_teacher_RV=p,
        kept_RV=kept,
        label_ids_R=labels,
    )
    expected = ALL[name].reference(dense)
    expected.sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(ours.grad, exact.grad, rtol=1e-3, atol=1e-6)


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


# --- what a loss declares is what it does


def shuffled(*, seed, sharpness):
    g = torch.Generator().manual_seed(seed)
    return rows(sharpness=sharpness, seed=seed)[:, torch.randperm(V, generator=g)]


def seen(p_NV, q_NV, *, kept_NV):
    """The divergence of each row by the plain formula, over whole distributions."""
    labels_N = torch.arange(N) + 2  # half of them are kept where K tokens are
    sides = {"log_student_RV": q_NV, "log_teacher_RV": p_NV}
    return DenseRows(**sides, kept_RV=kept_NV, label_ids_R=labels_N)


def fused_inputs(p_NV, q_NV):
    """The same rows as a loss is given them, the first K tokens as entries."""
    labels_N1 = torch.arange(N)[:, None] + 2
    return LossInputs(
        student=view(q_NV),
        teacher=view(p_NV),
        used_NK=USED,
        is_label_NK=torch.arange(K) == labels_N1,
        log_label_N=q_NV.gather(1, labels_N1).squeeze(1).float(),
    )


def misses_affinity(loss: Loss) -> tuple[float, float]:
    """By how much a loss of a mixture of teachers is not the mixture of its losses.

    Of the formula and of the divergence. Terms of the teacher alone, such as its entropy, cancel
    in the difference of two students.
    """
    # One teacher with its mass among the first K tokens, one with it anywhere.
    teachers = [rows(sharpness=3.0), shuffled(seed=6, sharpness=3.0)]
    students = [rows(sharpness=1.0), shuffled(seed=8, sharpness=1.0)]
    share = 0.3
    mixture = torch.logaddexp(teachers[0] + math.log(share), teachers[1] + math.log(1 - share))
    kept_NV = torch.zeros(N, V, dtype=torch.bool)
    kept_NV[:, :K] = True

    def difference(formula, given) -> list[torch.Tensor]:
        found = []
        for p_NV in (*teachers, mixture):
            first, second = (formula(given(p_NV, q_NV)).double() for q_NV in students)
            found.append(first - second)
        return found

    missed = []
    for formula, given in (
        (loss.reference, functools.partial(seen, kept_NV=kept_NV)),
        (loss.divergence, fused_inputs),
    ):
        first, second, both = difference(formula, given)
        missed.append(float((both - share * first - (1 - share) * second).abs().max()))
    return missed[0], missed[1]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_linear_in_the_teacher_if_and_only_if_it_says_so(name):
    missed = [misses_affinity(one) for one in variants_of(name)]
    formula, divergence = (max(column) for column in zip(*missed, strict=True))
    if LOSSES[name].linear:
        assert formula < 1e-9
        assert divergence < 1e-5
    else:
        assert formula > 0.05
        assert divergence > 0.05


def use_of_the_tail(loss: Loss) -> str:
    """The word for what a loss makes of the teacher's bucket, found by trying."""
    p_NV, q_NV = rows(sharpness=2.0).flip(-1), rows(sharpness=1.0, seed=1)
    given = fused_inputs(p_NV, q_NV)

    def gradients(inputs: LossInputs) -> dict[str, torch.Tensor]:
        """On what a student could change: its head, its bucket, its probability of the label."""
        leaves = {
            "head": inputs.student.log_head_NK,
            "tail": inputs.student.log_tail_N,
            "label": inputs.log_label_N,
        }
        leaves = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
        student = HeadTail(log_head_NK=leaves["head"], log_tail_N=leaves["tail"])
        value = loss.divergence(replace(inputs, student=student, log_label_N=leaves["label"]))
        found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if one is None else one
            for (name, leaf), one in zip(leaves.items(), found, strict=True)
        }

    # The same head but for its mass: the bucket takes half of what the entries had.
    halved_N = given.teacher.log_head_NK.exp().sum(1) / 2
    lighter = HeadTail(
        log_head_NK=given.teacher.log_head_NK - math.log(2),
        log_tail_N=(given.teacher.log_tail_N.exp() + halved_N).log(),
    )
    plain, changed = gradients(given), gradients(replace(given, teacher=lighter))
    outside_N = ~given.is_label_NK.any(1)
    assert outside_N.any()
    assert not outside_N.all()
    follows = any((plain[name] - changed[name]).abs().max() > 1e-5 for name in plain)
    by_bucket = bool((plain["tail"].abs() > 1e-6).all())
    by_label = bool((plain["label"][outside_N].abs() > 1e-6).all())
    assert by_bucket or not plain["tail"].any()
    assert by_label or not plain["label"].any()
    words = {(True, True, False): "bucket", (False, False, False): "dropped"}
    return (words | {(True, False, True): "label"})[follows, by_bucket, by_label]


@pytest.mark.parametrize("name", ALL)
def test_a_loss_makes_of_the_tail_what_it_says(name):
    assert use_of_the_tail(ALL[name]) == ALL[name].tail


def gradient_size(loss: Loss, *, temperature: float) -> float:
    """The length of the gradient on the logits, where nothing is left out."""
    z_NV = rows(sharpness=1.0, seed=1).flip(-1).requires_grad_()
    given = seen(
        (rows(sharpness=2.0) / temperature).log_softmax(-1),
        (z_NV / temperature).log_softmax(-1),
        kept_NV=torch.ones(N, V, dtype=torch.bool),
    )
    loss.reference(given).sum().backward()
    return float(z_NV.grad.norm())


@pytest.mark.parametrize("name", ALL)
def test_a_loss_is_weighed_by_what_its_gradient_falls_with(name):
    """Like 1 / T^2 where it is quadratic near the teacher, like 1 / T where it has a corner."""
    sizes = [gradient_size(ALL[name], temperature=one) for one in (20.0, 40.0)]
    power = math.log2(sizes[0] / sizes[1])
    assert power == pytest.approx(2.0 if ALL[name].times_temperature_squared else 1.0, abs=0.2)


def test_drawn_entries_serve_losses_that_are_linear_and_need_no_tail():
    for linear, tail, served in (
        (True, "bucket", True),
        (False, "bucket", False),
        (True, "label", False),
        (True, "dropped", False),
    ):
        assert Loss(**DECLARED | {"linear": linear, "tail": tail}).serves_drawn is served


def test_forward_kl_of_whole_rows_is_the_dense_one():
    p, q = rows(sharpness=2.0), rows(sharpness=1.0, seed=1)
    used = torch.ones(N, V, dtype=torch.bool)
    found = divergence("forward_kl", view(q, k=V), view(p, k=V), used)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


# Rows of several shapes: the kept tokens hold most of the mass of either side, or little of it.
SCENES = [
    (2.0, 1.0, False),
    (2.0, 1.0, True),
    (0.5, 3.0, False),
    (3.0, 3.0, True),
    (8.0, 1.0, True),
]


def gaps(loss: Loss) -> torch.Tensor:
    """By how much the value over K entries and a bucket is above that over all tokens."""
    all_kept = torch.ones(N, V, dtype=torch.bool)
    some_kept = all_kept & (torch.arange(V) < K)
    found = []
    for sharpness, other, turned in SCENES:
        p_NV, q_NV = rows(sharpness=sharpness), rows(sharpness=other, seed=1)
        q_NV = q_NV.flip(-1) if turned else q_NV
        bucketed_N, dense_N = (
            loss.reference(seen(p_NV, q_NV, kept_NV=kept)) for kept in (some_kept, all_kept)
        )
        found.append(bucketed_N - dense_N)
    return torch.cat(found)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_over_a_bucket_is_the_bound_that_it_says(name):
    gap = torch.cat([gaps(one) for one in variants_of(name)])
    below, above = bool((gap < -1e-3).any()), bool((gap > 1e-9).any())
    sides = {"lower": (True, False), "upper": (False, True), "none": (True, True)}
    assert (below, above) == sides[LOSSES[name].bound]


# --- values that others compute

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


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_jensen_shannon_ends_in_forward_and_reverse_kl(beta):
    student, teacher = view(rows(sharpness=1.0, seed=1)), view(rows(sharpness=2.0))
    found = divergence(f"jensen_shannon beta={beta:g}", student, teacher, USED)
    name = "reverse_kl" if beta else "forward_kl"
    assert torch.equal(found, divergence(name, student, teacher, USED))


# --- which targets serve which loss

SPECS = {name: sparsifier_spec(name) for name in ("topk", "topp", "hybrid")} | {
    name: sparsifier_spec(name, temperatures=(1.0, 2.0), repeats=3)
    for name in ("sample", "unbiased")
}


def test_what_a_message_offers_comes_from_the_table(monkeypatch):
    """A sparsifier that keeps a tail is offered, and one that is gone is not."""
    kept = replace(SPARSIFIERS["topk"], name="another")
    monkeypatch.delitem(SPARSIFIERS, "topp")
    monkeypatch.setitem(SPARSIFIERS, "another", kept)
    with pytest.raises(SettingError, match=r"with sparsify hybrid, topk or another$"):
        choose_view(SPECS["sample"], loss=LOSSES["reverse_kl"], temperature=1.0)
    with pytest.raises(SettingError, match=r"with sparsify hybrid, topk or another$"):
        choose_view(SPECS["sample"], loss=LOSSES["forward_kl"], temperature=10.0)
    with pytest.raises(SettingError, match=r"temperature 1,2,10\.5$"):
        choose_view(SPECS["sample"], loss=LOSSES["forward_kl"], temperature=10.5)


@pytest.mark.parametrize("loss", LOSSES)
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
            SettingError, match=r"^loss: .*forward_kl, or dump .*hybrid, topk or topp"
        ):
            choose_view(SPECS[name], loss=LOSSES[other], temperature=temperature)


@pytest.mark.parametrize(
    ("name", "temperature", "message"),
    [
        ("sample", 4.0, r"found 4; allowed: 1, 2\)\. Dump again with temperature 1,2,4, or with"),
        ("unbiased", 0.5, r"Dump again with temperature 0\.5,1,2$"),
        ("topk", 0.5, "allowed: 1 to 10"),
        ("hybrid", 11.0, "allowed: 1 to 10"),
    ],
)
def test_a_temperature_that_is_not_there_is_refused_with_the_way_out(name, temperature, message):
    with pytest.raises(SettingError, match=message):
        choose_view(SPECS[name], loss=LOSSES["forward_kl"], temperature=temperature)


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
