"""The rules: each finds what it is for, and says nothing of what is sound or not known."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from logitstore.sparsify.build import sparsifier_spec
from tests.fused_scene import TOPK, V, make_targets, scene
from tests.memory_store import VOCAB, MemoryStore, teacher_logprobs
from trainer.advice.counting import counting_loss
from trainer.advice.facts import Course, Facts, Recipe, chosen_by_loss
from trainer.advice.kept import kept_of
from trainer.advice.rules import RULES, findings
from trainer.diagnosis.groups import groups_of
from trainer.losses import LOSSES, TargetTensors

RECIPE = Recipe(
    alpha=0.9,
    temperature=1.0,
    loss="forward_kl",
    tail="bucket",
    times_temperature_squared=True,
    view="bucket",
    repeats=1,
    redrawn=True,
    epochs=3.0,
)
SOUND = Facts(
    recipe=RECIPE,
    vocab_size=8192,
    columns=8192,
    student_loss=3.4,
    teacher_loss=3.1,
    loss_error=0.02,
    counting_loss=7.0,
    retained_mass=0.93,
    tempered_mass=0.93,
    evenness=0.6,
    tempered_evenness=0.6,
    support_mass=0.9,
    no_token_mass=0.0,
    kl=0.3,
    gradient_ratio=0.4,
    training=Course(first=9.0, least=3.2, last=3.3, least_step=90, last_step=100, reports=10),
    held_out=Course(first=5.0, least=3.40, last=3.41, least_step=90, last_step=100, reports=10),
)
HOT = replace(RECIPE, temperature=5.0)
SOFT = replace(RECIPE, alpha=1.0)
DRAWN = replace(RECIPE, view="weights")
SPOILT = {  # rule -> what is wrong, each in every way that it tells
    "foreign_ids": [{"foreign": "id 7 is 'a' to the student, 'b' in the store"}],
    "diverged": [
        {"training": replace(SOUND.training, last=9.2)},
        {"training": replace(SOUND.training, last=3.8)},
    ],
    "no_better_than_counting": [{"student_loss": 6.9}, {"student_loss": 20.0}],
    "padded_head": [{"columns": 8448, "no_token_mass": 0.03}],
    "teacher_no_better_than_counting": [
        {"teacher_loss": 6.9},
        {"teacher_loss": 7.5, "student_loss": 6.9},
    ],
    "teacher_worse": [{"teacher_loss": 3.5}],
    "weak_divergence": [
        {
            "recipe": replace(HOT, loss="total_variation", times_temperature_squared=False),
            "gradient_ratio": 0.02,
        }
    ],
    "temperature_too_high": [
        {"recipe": HOT, "tempered_mass": 0.2},
        {"recipe": HOT, "tempered_evenness": 0.97},
        {
            "recipe": replace(HOT, view="weights", repeats=4),
            "drawn_evenness": 0.95,
            "tempered_mass": None,
            "tempered_evenness": None,
        },
    ],
    "biased_targets": [
        {"recipe": replace(SOFT, tail="dropped", loss="renormalised")},
        {"recipe": replace(SOFT, tail="label", loss="residual_to_label"), "tempered_mass": 0.8},
        {"recipe": SOFT, "tempered_mass": 0.7},
        {"recipe": replace(SOFT, tail="dropped", loss="renormalised", view="shares")}
        | dict.fromkeys(("retained_mass", "tempered_mass", "kl", "teacher_loss")),
    ],
    "small_head": [{"retained_mass": 0.4, "tempered_mass": 0.4}],
    "one_draw": [
        {"recipe": replace(DRAWN, epochs=3.0)},
        {"recipe": replace(DRAWN, epochs=6.0, repeats=4)},
        {"recipe": replace(DRAWN, epochs=6.0, redrawn=False), "retained_mass": 0.4},
    ],
    "past_best": [{"held_out": replace(SOUND.held_out, last=3.5)}],
}


def test_a_sound_run_has_no_finding():
    assert findings(SOUND) == []
    assert findings(replace(SOUND, recipe=replace(DRAWN, epochs=4.0, repeats=4))) == []
    mixed = replace(DRAWN, epochs=6.0, redrawn=False)  # hybrid, most of it in exact entries
    assert findings(replace(SOUND, recipe=mixed)) == []
    assert findings(replace(SOUND, recipe=replace(RECIPE, temperature=2.0))) == []
    assert findings(replace(SOUND, recipe=SOFT)) == []


def test_a_small_head_does_not_hide_a_temperature_that_empties_it():
    facts = replace(SOUND, recipe=HOT, retained_mass=0.27, tempered_mass=0.002)
    assert [one.name for one in findings(facts)] == ["temperature_too_high", "small_head"]
    assert [one.name for one in findings(replace(facts, tempered_mass=0.2))] == ["small_head"]


def test_every_rule_is_tried():
    assert [rule.name for rule in RULES] == list(SPOILT)


def test_the_docs_list_every_rule_in_its_order():
    page = (Path(__file__).parent.parent / "docs" / "diagnosis.md").read_text()
    listed = re.findall(r"^\| `(\w+)`( †)? \|", page, flags=re.MULTILINE)
    assert listed == [(rule.name, " †" if rule.early else "") for rule in RULES]


@pytest.mark.parametrize(
    ("name", "changes"), [(name, one) for name, ways in SPOILT.items() for one in ways]
)
def test_what_is_spoilt_is_found_first_and_alone(name, changes):
    found = findings(replace(SOUND, **changes))
    assert [one.name for one in found] == [name]
    assert found[0].evidence or name == "foreign_ids"
    assert not found[0].says.endswith(".")
    assert not found[0].remedy.endswith(".")
    for value in found[0].evidence.values():
        assert math.isfinite(value)


def test_nothing_is_said_of_what_is_not_known():
    for recipe in (SOFT, HOT, replace(DRAWN, epochs=None)):
        assert findings(Facts(recipe=recipe, vocab_size=100)) == []


@pytest.mark.parametrize("changes", [one for ways in SPOILT.values() for one in ways])
def test_without_a_teacher_in_the_loss_nothing_is_said_of_it(changes):
    recipe = replace(changes.get("recipe", RECIPE), alpha=0.0)
    found = {one.name for one in findings(replace(SOUND, **changes | {"recipe": recipe}))}
    assert found <= {
        *("foreign_ids", "diverged", "no_better_than_counting", "padded_head", "past_best"),
    }


def test_a_difference_that_chance_may_do_is_no_finding():
    worse = {"teacher_loss": 3.5, "student_loss": 3.4}
    assert findings(replace(SOUND, **worse, loss_error=0.04)) == []
    assert findings(replace(SOUND, **worse, loss_error=0.03))[0].name == "teacher_worse"


def test_the_rules_speak_most_serious_first():
    """All at once, in the order of the table."""
    both = replace(SOUND, foreign="id 1", teacher_loss=3.6, no_token_mass=0.5, columns=9000)
    assert [one.name for one in findings(both)] == ["foreign_ids", "padded_head", "teacher_worse"]


@pytest.mark.parametrize("loss", [3.5, 7.5])
def test_a_teachers_loss_says_nothing_where_targets_were_chosen_by_it(loss):
    bad = replace(SOUND, teacher_loss=loss)
    assert findings(bad) != []
    assert findings(replace(bad, chosen_by_loss=True)) == []
    assert findings(replace(bad, recipe=replace(RECIPE, view="samples"))) == []


@pytest.mark.parametrize(
    ("positions", "chosen"),
    [
        (None, False),
        ("loss:top:0.2", True),
        ("loss:above:3.0", True),
        ("loss:bottom:0.5", False),
        ("entropy:top:0.2", False),
    ],
)
def test_a_store_of_badly_guessed_targets_is_known_by_its_rule(positions, chosen):
    spec = SimpleNamespace(text=SimpleNamespace(positions=positions))
    assert chosen_by_loss(spec) is chosen
    assert not chosen_by_loss(SimpleNamespace(text=SimpleNamespace()))


# --- what is asked about


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_masses_and_evenness_are_those_of_the_dense_teacher(temperature):
    _, _, teacher, _, counts = scene()
    found = kept_of(
        make_targets(teacher, counts=counts),
        sparsifier=TOPK,
        temperature=temperature,
        vocab_size=V,
    )
    for before, at in (("", 1.0), ("tempered_", temperature)):
        p_NV = (teacher.double() / at).softmax(-1)
        for row, count in enumerate(counts.tolist()):
            kept = p_NV[row].topk(count).values
            name = "tempered_mass" if before else "retained_mass"
            # At T = 5 the node is stored, at 2 too: both are exact but for float32.
            assert float(found[name][row]) == pytest.approx(float(kept.sum()), rel=1e-5)
            share = kept / kept.sum()
            entropy = float(-(share * share.log()).sum())
            if count == 1:
                assert math.isnan(float(found[f"{before}evenness"][row]))
            else:
                expected = entropy / math.log(count)
                assert float(found[f"{before}evenness"][row]) == pytest.approx(expected, rel=1e-5)


def test_of_draws_the_teachers_own_entropy_tells():
    spec = sparsifier_spec("sample", draws=8, temperatures=(1.0, 4.0))
    store = MemoryStore(sparsifier=spec, blocks=1)
    draw = spec.draw_number(temperature=4.0, repeat=0)
    for stored in store.with_draw(draw):
        found = kept_of(
            TargetTensors.of(stored.targets), sparsifier=spec, temperature=4.0, vocab_size=VOCAB
        )
        assert set(found) == {"drawn_evenness"}  # no probability is known
        before = stored.document.input_ids_L[np.flatnonzero(stored.document.counted_L) - 1]
        p_RV = torch.from_numpy(teacher_logprobs()[before] / 4).softmax(-1)
        entropy_R = -(p_RV * p_RV.log()).sum(-1)
        torch.testing.assert_close(
            found["drawn_evenness"], entropy_R / math.log(VOCAB), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("name", LOSSES)
def test_a_recipe_says_what_the_loss_declares(name):
    spec = sparsifier_spec("topk", k=8)
    loss = LOSSES[name].with_options(modes=2) if name == "tail_reweighted" else LOSSES[name]
    recipe = Recipe.of(loss, spec, alpha=1.0, temperature=1.0)
    assert (recipe.loss, recipe.tail, recipe.repeats) == (name, loss.tail, 1)
    assert recipe.view == ("samples" if loss.of_samples else "bucket")
    # Every rule has an answer for it.
    findings(replace(SOUND, recipe=recipe, retained_mass=0.3, tempered_mass=0.3))
    drawn = sparsifier_spec("unbiased", k=8, repeats=3)
    if loss.serves_drawn and not loss.of_samples:
        recipe = Recipe.of(loss, drawn, alpha=0.5, temperature=1.0)
        assert (recipe.view, recipe.repeats) == ("weights", 3)


def test_a_loss_of_sampled_tokens_asks_nothing_of_the_entries():
    """And a student's own answers are likelier to it than to its teacher: that is no finding."""
    recipe = replace(SOFT, view="samples", tail="unseen", loss="sampled_reverse_kl")
    low = {"retained_mass": 0.1, "tempered_mass": 0.1, "teacher_loss": 5.0}
    assert findings(replace(SOUND, recipe=recipe, **low)) == []


def test_counting_knows_of_a_target_what_all_others_say():
    labels = np.array([3, 3, 3, 5, 5, 7], dtype=np.float64)
    unseen = 1 / 6
    seen = [(1 - unseen) * 2 / 5 + unseen / 10] * 3 + [(1 - unseen) * 1 / 5 + unseen / 10] * 2
    expected = -np.log([*seen, unseen / 10]).mean()
    assert counting_loss(labels, vocab_size=10) == pytest.approx(expected, rel=1e-12)
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.25, 0.125, 0.125])
    drawn = rng.choice(4, p=p, size=4000)
    assert counting_loss(drawn, vocab_size=4) == pytest.approx(-(p * np.log(p)).sum(), abs=0.02)


def test_groups_are_parts_of_the_sample():
    rng = np.random.default_rng(0)
    figures = {
        "label": rng.integers(0, 30, size=500).astype(float),
        "entropy": rng.random(500) * 4,
        "position": rng.integers(1, 700, size=500).astype(float),
        "kl": rng.random(500),
        "student_loss": rng.random(500),
        "teacher_loss": np.full(500, np.nan),
    }
    found = groups_of(figures)
    for parts in found.values():
        assert sum(one["targets"] for one in parts) == 500
        mean = sum(one["targets"] * one["kl"] for one in parts) / 500
        assert mean == pytest.approx(figures["kl"].mean())
        assert all(one["teacher_loss"] is None for one in parts)
    assert [one["targets"] for one in found["by_entropy"]] == [125] * 4
    middle = (figures["position"] >= 32) & (figures["position"] < 128)
    one = next(one for one in found["by_position"] if one["from"] == 32)
    assert one["kl"] == pytest.approx(figures["kl"][middle].mean())
    assert one["targets"] == middle.sum()
    times = np.array([(figures["label"] == label).sum() for label in figures["label"]])
    often = (times >= 10) & (times < 100)
    one = next(one for one in found["by_frequency"] if one["from"] == 10)
    assert one["targets"] == often.sum()
    assert one["student_loss"] == pytest.approx(figures["student_loss"][often].mean())
