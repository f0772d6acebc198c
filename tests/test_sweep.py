"""`trainer.sweep`: the grid, its runs, the intervals, and what is said of them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats
from transformers.utils import logging

import logitstore
import trainer
from logitstore.errors import SettingError
from logitstore.sparsify.build import sparsifier_spec
from tests.memory_store import MemoryStore
from tests.tiny_models import CONFIGS
from trainer.sweeping.findings import Pair, Sweep, sentences
from trainer.sweeping.grid import settings_of
from trainer.sweeping.lines import sweep_lines
from trainer.sweeping.options import SweepOptions, presets
from trainer.sweeping.results import Results
from trainer.sweeping.statistics import difference, mean_of
from trainer.training.report_lines import shown_nats

SETTINGS = {"steps": 3, "batch_tokens": 64, "micro_tokens": 16, "device": "cpu"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with two students, and stores in memory by their names."""
    stores = {"train": MemoryStore(), "held": MemoryStore(blocks=2, seed=1)}
    monkeypatch.setattr(logitstore, "open", lambda name, **__: stores[str(name)], raising=False)
    for name, layers in (("small", 1), ("large", 2)):
        content = CONFIGS["llama"].to_dict() | {"num_hidden_layers": layers}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def sweep(place, **changes):
    given = {
        "logits": ["train"],
        "student": [str(place / "small.json")],
        "out": place / "sweep",
        "eval_logits": "held",
    }
    return trainer.sweep(**SETTINGS | given | changes)


def grid(**changes):
    given = {"logits": ["a"], "student": ["s.json"], "out": "o", "eval_logits": "h"} | changes
    return settings_of(SweepOptions(**given))


# --- the grid


def test_every_value_meets_every_other_and_hard_labels_are_one_setting():
    found = grid(alpha=(0, 0.5, 1), temperature=(1, 2, 5), student=["a.json", "b.json"])
    assert len(found) == 2 * (1 + 2 * 3)
    assert [one.hard for one in found] == [True, True] + [False] * 12
    assert len({one.name for one in found}) == len(found)
    assert {one.name for one in found if one.hard} == {"a_alpha-0", "b_alpha-0"}
    assert "b_alpha-0.5_temperature-2" in {one.name for one in found}


def test_presets_are_the_experiments_and_what_is_given_goes_before():
    assert {*presets()} == {"ablation", "temperature", "ratio"}
    assert [one.alpha for one in grid(preset="ablation")] == [0, 0.5, 1]
    found = grid(preset="temperature")
    assert {(one.alpha, one.temperature) for one in found} == {
        (0, 1),
        *((0.9, one) for one in (1, 2, 5, 10)),
    }
    assert {one.temperature for one in grid(preset="temperature", temperature=(3,))} == {3}


def test_paths_of_one_name_are_told_apart():
    found = grid(student=["a/config.json", "b/config.json"])
    assert [one.name for one in found] == ["config-0", "config-1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": (0, 2)}, "alpha is out of range"),
        ({"student": ["a.json", "a.json"]}, "given twice"),
        ({"loss": ["abacus"]}, "loss is unknown"),
        ({"preset": "abacus"}, "preset is unknown"),
        ({"seeds": 0}, "seeds is out of range"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(place, changes, message):
    with pytest.raises(SettingError, match=message):
        sweep(place, **changes)


def test_a_store_that_does_not_serve_the_grid_is_refused_before_anything_is_run(place, monkeypatch):
    drawn = MemoryStore(sparsifier=sparsifier_spec("unbiased", k=4))
    monkeypatch.setattr(logitstore, "open", lambda name, **__: drawn, raising=False)
    with pytest.raises(SettingError, match="not drawn at this temperature"):
        sweep(place, temperature=(1, 2))
    assert not (place / "sweep").exists()


# --- the runs


def test_a_sweep_runs_measures_and_answers(place):
    found = sweep(place, alpha=(0, 1), temperature=(1, 2), seeds=2)
    names = {"alpha-0", "alpha-1_temperature-1", "alpha-1_temperature-2"}
    assert {row["setting"] for row in found.rows} == names
    assert len(found.runs) == 6
    for row in found.rows:
        losses = [
            trainer.evaluate(
                place / "sweep" / "runs" / f"{row['setting']}_seed-{seed}", logits="held"
            )
            for seed in (0, 1)
        ]
        values = [one["loss"] for one in losses]
        assert row["loss"]["mean"] == pytest.approx(np.mean(values), rel=1e-9)
        low, high = stats.t.interval(0.95, 1, np.mean(values), stats.sem(values))
        assert row["loss"]["half"] == pytest.approx((high - low) / 2, rel=1e-6)
    assert any("soft labels" in one for one in found.answers)
    page = found.page.read_text()
    assert "<svg" in page
    for name in names:
        assert name in page
    student, teacher = found.models
    assert (
        student["parameters"]
        == trainer.evaluate(place / "sweep" / "runs" / "alpha-0_seed-0", logits="held")[
            "parameters"
        ]
    )
    assert teacher["tokens_per_second"] is None
    assert "not measured" in page


def test_bounds_are_marked_as_an_evaluation_marks_them(place, monkeypatch):
    """Of a store that keeps three tokens of each row: KL from below, acceptance from above."""
    stores = {"train": MemoryStore(), "held": MemoryStore(blocks=2, seed=1, k=3)}
    monkeypatch.setattr(logitstore, "open", lambda name, **__: stores[str(name)], raising=False)
    found = sweep(place, alpha=(0, 1), seeds=1)
    page, lines = found.page.read_text(), "\n".join(sweep_lines(found))
    for row in found.rows:
        one = trainer.evaluate(place / "sweep" / "runs" / f"{row['setting']}_seed-0", logits="held")
        assert "bound" not in row["loss"]
        for name in ("kl", "acceptance"):
            assert row[name]["bound"] == one["bounds"][name]
            assert row[name]["coding_error"] == one["coding_errors"][name]
        least = max(0.0, one["kl"] - one["coding_errors"]["kl"])
        most = min(1.0, one["acceptance"] + one["coding_errors"]["acceptance"])
        assert f">= {shown_nats(least, decimals=3)}" in lines
        assert f"<td>≥ {shown_nats(least, decimals=3)}</td>" in page.replace(' class="best"', "")
        assert f"<td>≤ {most:.1%}</td>" in page.replace(' class="best"', "")
    assert ">= means: the exact value is at least this" in lines
    assert "≤ means: the exact value is at most this" in page
    assert "KL to the teacher (lower bounds" in page
    teacher = found.models[-1]
    assert teacher["loss_of_store"] is True
    assert teacher["loss"] == one["teacher_loss"]
    assert f"<td>{one['teacher_loss']:.3f} (as the store tells)</td>" in page


def test_what_is_done_is_skipped_and_a_larger_grid_extends_it(place):
    sweep(place, alpha=(0, 1), seeds=1)
    runs = place / "sweep" / "runs"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    again = sweep(place, alpha=(0, 0.5, 1), seeds=2)
    assert len(again.runs) == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(row["loss"]["seeds"] == 2 for row in again.rows)


@pytest.fixture
def no_bars():
    """What a command line does: transformers prints no progress bars."""
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def test_runs_at_the_same_time_give_the_same_weights(tmp_path, capfd, no_bars):
    """In processes of their own, which open the stores by their names and print no bars."""
    for name, seed in (("train", 0), ("held", 1)):
        texts = tmp_path / f"{name}.jsonl"
        words = np.random.default_rng(seed).choice(["cat", "dog", "sat", "mat", "the"], (8, 12))
        texts.write_text("".join(json.dumps({"text": " ".join(one)}) + "\n" for one in words))
    # A teacher of its own: the fixture's is not needed here.
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from tests.tiny_models import tiny

    core = Tokenizer(
        models.WordLevel({"<e>": 0, "cat": 1, "dog": 2, "sat": 3, "mat": 4, "the": 5}, "<e>")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<e>", unk_token="<e>")
    teacher = tmp_path / "teacher"
    tiny(vocab_size=6).save_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    for name in ("train", "held"):
        logitstore.dump(
            teacher=teacher,
            data=tmp_path / f"{name}.jsonl",
            out=tmp_path / f"{name}-store",
            sparsify="topk",
            k=3,
        )
    student = tmp_path / "student.json"
    student.write_text(json.dumps(CONFIGS["llama"].to_dict() | {"vocab_size": 6}))
    found = [
        trainer.sweep(
            **SETTINGS,
            logits=[str(tmp_path / "train-store")],
            eval_logits=str(tmp_path / "held-store"),
            student=[str(student)],
            out=tmp_path / f"jobs-{jobs}",
            alpha=(0, 1),
            seeds=2,
            jobs=jobs,
        )
        for jobs in (1, 2)
    ]
    assert "it/s" not in capfd.readouterr().err
    for one, other in zip(*(sweep.rows for sweep in found), strict=True):
        assert one["loss"]["mean"] == pytest.approx(other["loss"]["mean"], rel=1e-6)


def test_runs_that_are_skipped_give_no_pace(place):
    told = []
    settings = {"alpha": (0, 1), "seeds": 2}
    sweep(place, **settings)
    sweep(place, **settings, on_progress=told.append)
    counted = [one for one in told if one.stage == "sweeping"]
    assert [one.done for one in counted] == [0, 4]
    assert counted[-1].fraction == 1


def test_a_run_that_diverges_is_told_and_the_others_go_on(place):
    found = sweep(place, alpha=(0, 1), lr=(1e-3, 1e30), seeds=1)
    assert any("gave no model" in one for one in found.answers)
    measured = {row["setting"] for row in found.rows if "loss" in row}
    assert measured == {"lr-0.001_alpha-0", "lr-0.001_alpha-1"}


def test_a_dry_run_says_what_there_would_be_and_runs_nothing(place):
    found = sweep(place, alpha=(0, 1), seeds=2, dry_run=True)
    assert len(found.runs) == 4
    assert found.seconds > 0
    assert found.page is None
    assert not (place / "sweep").exists()


def test_the_teacher_is_measured_where_it_is_named(place):
    from tests.tiny_models import tiny

    tiny().save_pretrained(place / "teacher")
    found = sweep(place, alpha=(0, 1), seeds=1, teacher=str(place / "teacher"))
    teacher = found.models[-1]
    assert teacher["loss"] == trainer.evaluate(place / "teacher", logits="held")["loss"]
    assert teacher["tokens_per_second"] > 0
    assert teacher["mib"] > 0


def test_options_of_one_loss_go_to_its_runs_alone(place):
    found = sweep(place, loss=["forward_kl", "jensen_shannon"], beta=0.1, alpha=(0.9,), seeds=1)
    assert len(found.rows) == 2
    runs = place / "sweep" / "runs"
    settings = {
        path.name: json.loads((path / "run.json").read_text())["settings"]
        for path in runs.iterdir()
    }
    assert settings["jensen_shannon_seed-0"]["beta"] == 0.1
    assert "beta" not in settings["forward_kl_seed-0"]
    with pytest.raises(SettingError, match="beta has no effect with loss forward_kl"):
        sweep(place, beta=0.1)


# --- intervals and sentences


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("asked", [1, 4])
def test_intervals_are_students_t(count, asked):
    values = np.random.default_rng(count).normal(size=count)
    found = mean_of(values.tolist(), asked=asked)
    level = 1 - 0.05 / asked
    low, high = stats.t.interval(level, count - 1, values.mean(), stats.sem(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.half == pytest.approx((high - low) / 2)


def test_one_value_has_no_interval_and_shows_nothing():
    found = mean_of([1.0])
    assert math.isnan(found.half)
    assert not found.shown


def test_differences_are_paired_by_the_seed():
    one, other = {0: 5.0, 1: 7.0, 2: 9.0}, {0: 4.0, 1: 6.1, 2: 7.9, 3: 0.0}
    found = difference(one, other)
    assert found.mean == pytest.approx(1.0)
    assert found.count == 3
    assert found.shown  # though the values of both overlap by far
    assert difference({0: 1.0}, {1: 1.0}) is None


def told(tmp_path, losses, *, teacher=3.0, ratios=(None,), **options):
    """The sentences of a sweep with these losses: setting -> a list over the seeds."""
    results = Results(tmp_path, held_out="h" * 64)
    for name, values in losses.items():
        for seed, value in enumerate(values):
            results.note(name, seed, {"measured": {"loss": value, "teacher_loss": teacher}})
    settings = grid(**options)
    students = sorted({one.student for one in settings})
    pairs = tuple(
        Pair(
            label=f"student {number}" if len(students) > 1 else "",
            settings=tuple(one for one in settings if one.student == number),
            ratio=ratio,
        )
        for number, ratio in zip(students, ratios, strict=True)
    )
    seeds = max(map(len, losses.values()))
    return sentences(Sweep(pairs=pairs, results=results, seeds=seeds))


def test_help_that_is_beyond_chance_is_told_with_its_share_of_the_gap(tmp_path):
    losses = {"alpha-0": [5.0, 5.1, 5.2], "alpha-0.9": [4.0, 4.1, 4.21]}
    first, second = told(tmp_path, losses, alpha=(0, 0.9))
    assert first.startswith("soft labels help here: alpha 0.9 is 0.997")
    assert "47% of the gap to the teacher" in first
    assert second.startswith("alpha 0.9 does best, beyond chance")


def test_what_chance_may_do_is_nothing_shown(tmp_path):
    losses = {"alpha-0": [5.0, 5.1, 5.2], "alpha-0.9": [4.0, 5.6, 5.3]}
    first, second = told(tmp_path, losses, alpha=(0, 0.9))
    assert first.startswith("nothing shown: soft labels")
    assert second.startswith("nothing shown of alpha")


def test_harm_is_told_too(tmp_path):
    losses = {"alpha-0": [5.0, 5.1, 5.2], "alpha-0.9": [6.0, 6.1, 6.21]}
    first, *_ = told(tmp_path, losses, alpha=(0, 0.9))
    assert first.startswith("soft labels hurt here: alpha 0.9 is 1.003")


def test_one_seed_shows_nothing(tmp_path):
    losses = {"alpha-0": [5.0], "alpha-0.9": [4.0]}
    first, *_ = told(tmp_path, losses, alpha=(0, 0.9))
    assert first.startswith("nothing shown: one seed says nothing of chance")


def test_the_luckiest_of_many_settings_is_no_finding(tmp_path):
    """A difference that alone would be shown is not where it is the best of nine."""
    hard, lucky = [5.0, 5.1, 5.2], [4.7, 4.85, 4.8]
    alone = told(tmp_path / "a", {"alpha-0": hard, "alpha-1": lucky}, alpha=(0, 1))
    assert alone[0].startswith("soft labels help here")
    alphas = (0, *(one / 10 for one in range(2, 11)))
    losses = {f"alpha-{one:g}": [5.3, 5.3, 5.3] for one in alphas[1:]}
    many = told(tmp_path / "b", losses | {"alpha-0": hard, "alpha-1": lucky}, alpha=alphas)
    assert many[0].startswith("nothing shown: soft labels (alpha 1, the best of 9 settings)")


def test_without_hard_labels_nobody_asked(tmp_path):
    first, *_ = told(tmp_path, {"run": [4.0, 4.1]}, alpha=(0.9,))
    assert "no run has hard labels alone" in first


def test_the_ratio_that_breaks_is_named(tmp_path):
    losses = {
        "a_alpha-0": [5.0, 5.1, 5.2],
        "a_alpha-0.9": [4.0, 4.1, 4.21],
        "b_alpha-0": [6.0, 6.1, 6.2],
        "b_alpha-0.9": [5.9, 6.3, 6.15],
    }
    found = told(tmp_path, losses, alpha=(0, 0.9), student=["a.json", "b.json"], ratios=(2.0, 40.0))
    assert found[-1].startswith("soft labels help at some ratios, and at 40.0 that is not shown")
    assert found[0].startswith("student 0: soft labels help here")
