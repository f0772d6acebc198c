"""What a loss declares is what it does: linearity, its tail, its bound, its weight, its options."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from logitstore import SettingError
from tests.loss_scene import USED, K, N, V, rows, sampler, view
from tests.loss_settings import variants, variants_of
from trainer.losses import LOSSES, DenseRows, HeadTail, Loss, LossInputs, SampledTokens

ALL = variants()


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


# --- what a loss declares is what it does


def shuffled(*, seed, sharpness):
    g = torch.Generator().manual_seed(seed)
    return rows(sharpness=sharpness, seed=seed)[:, torch.randperm(V, generator=g)]


def seen(p_NV, q_NV, *, kept_NV):
    """The divergence of each row by the plain formula, over whole distributions."""
    labels_N = torch.arange(N) + 2  # half of them are kept where K tokens are
    sides = {"log_student_RV": q_NV, "log_teacher_RV": p_NV}
    return DenseRows(
        **sides, kept_RV=kept_NV, label_ids_R=labels_N, log_sampler_R=sampler(labels_N)
    )


def fused_inputs(p_NV, q_NV):
    """The same rows as a loss is given them, the first K tokens as entries."""
    labels_N1 = torch.arange(N)[:, None] + 2
    return LossInputs(
        student=view(q_NV),
        teacher=view(p_NV),
        used_NK=USED,
        is_label_NK=torch.arange(K) == labels_N1,
        log_label_N=q_NV.gather(1, labels_N1).squeeze(1).float(),
        sampled=SampledTokens(
            log_teacher_N=p_NV.gather(1, labels_N1).squeeze(1).float(),
            log_sampler_N=sampler(labels_N1.squeeze(1)).float(),
        ),
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
    p_NV, q_NV = rows(sharpness=0.5).flip(-1), rows(sharpness=1.0, seed=1)
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

    # The same head but for its mass, which is now nearly all there is.
    log_mass_N1 = given.teacher.log_head_NK.logsumexp(1, keepdim=True)
    heavier = HeadTail(
        log_head_NK=given.teacher.log_head_NK - log_mass_N1 + math.log(0.99),
        log_tail_N=torch.full_like(given.teacher.log_tail_N, math.log(0.01)),
    )
    plain, changed = gradients(given), gradients(replace(given, teacher=heavier))
    outside_N = ~given.is_label_NK.any(1)
    assert outside_N.any()
    assert not outside_N.all()
    follows = any((plain[name] - changed[name]).abs().max() > 1e-5 for name in plain)
    by_bucket = bool((plain["tail"].abs() > 1e-6).all())
    by_label = bool((plain["label"][outside_N].abs() > 1e-6).all())
    assert by_bucket or not plain["tail"].any()
    assert by_label or not plain["label"].any()
    words = {(True, True, False): "bucket", (False, False, False): "dropped"}
    words |= {(True, False, True): "label", (False, False, True): "unseen"}
    return words[follows, by_bucket, by_label]


def weighs_apart(loss: Loss) -> bool:
    """Whether it matters which of two tokens is an entry, where q / p is the same for both."""
    log_p_NV = rows(sharpness=1.0)
    log_q_NV = rows(sharpness=1.0, seed=1)
    shift_N1 = log_q_NV[:, K - 1 :].logsumexp(1) - log_p_NV[:, K - 1 :].logsumexp(1)
    log_q_NV[:, K - 1 :] = log_p_NV[:, K - 1 :] + shift_N1[:, None]
    more, fewer = (
        loss.reference(seen(log_p_NV, log_q_NV, kept_NV=(torch.arange(V) < k).expand(N, V)))
        for k in (K, K - 1)
    )
    return bool((more - fewer).abs().max() > 1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_makes_of_the_tail_what_it_says(name):
    (found,) = {use_of_the_tail(one) for one in variants_of(name)}
    if found == "bucket" and any(weighs_apart(one) for one in variants_of(name)):
        found = "apart"
    assert found == LOSSES[name].tail


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
        (True, "apart", False),
    ):
        assert Loss(**DECLARED | {"linear": linear, "tail": tail}).serves_drawn is served
    of_samples = {"linear": False, "tail": "unseen", "of_samples": True}
    assert Loss(**DECLARED | of_samples).serves_drawn  # which looks at no entries


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
    sides = {
        "lower": (True, False),
        "upper": (False, True),
        "none": (True, True),
        "same": (False, False),
    }
    assert (below, above) == sides[LOSSES[name].bound]
