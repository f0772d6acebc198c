"""What a person reads of each report of a run: small figures too, and at which T they are."""

import json
import re

import pytest
from accelerate import Accelerator

from tests.test_trainer_cli import fit, folder  # noqa: F401
from trainer.evaluation.signs import lines
from trainer.training.fit_options import fit_options
from trainer.training.metrics import MetricSums
from trainer.training.report_lines import report_words, shown_nats, temperature_note

FULL = {
    "loss": 6.3,
    "ce": 7.01234,
    "divergence": 0.0000071234,
    "kl": 0.0000071234,
    "kl_binary": 0.0000001234,
    "kl_head": 0.000007,
    "agreement": 0.25,
}
FIT = {"logits": ["store"], "student": "model", "out": "run"}


@pytest.mark.parametrize("value", [12.3456, 1.0, 0.1, 0.0999, 0.01234, 1.234e-4, 7.7e-9, -3.21e-7])
def test_a_value_is_shown_to_three_digits_however_small_it_is(value: float) -> None:
    assert float(shown_nats(value)) == pytest.approx(value, rel=5e-3)
    assert shown_nats(0.0) == "0.0000"


def test_figures_at_a_temperature_say_so_and_can_be_read() -> None:
    words = report_words(FULL, temperature=1000.0)
    assert words == (
        "loss 6.3000  ce 7.0123  kl(T=1000) 7.12e-06 (binary 1.23e-07, head 7e-06)  top-1 25.0%"
    )
    assert "kl(T=10) 7.12e-06  top" in report_words(FULL, temperature=10.0, parts=False)
    assert "kl 7.12e-06" in report_words(FULL)
    # The report of a step knows better where T changes.
    assert "kl(T=3)" in report_words(FULL | {"temperature": 3.0}, temperature=10.0)


def test_another_divergence_is_shown_however_small_it_is() -> None:
    other = FULL | {"divergence": 0.0000061}
    assert "divergence(T=10) 6.1e-06" in report_words(other, temperature=10.0)
    assert "divergence" not in report_words(FULL, temperature=10.0)
    unknown = {name: value for name, value in FULL.items() if not name.startswith("kl")}
    assert report_words(unknown) == "loss 6.3000  ce 7.0123  divergence 7.12e-06  top-1 25.0%"
    assert report_words({"loss": 2.0}) == "loss 2.0000"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, None),
        ({"temperature": 10.0}, "at T = 10; the loss holds its divergence times T^2 = 100"),
        ({"temperature": 2.0, "temperature_schedule": "linear:1"}, "the T of their step; the loss"),
        ({"temperature": 10.0, "loss": "total_variation"}, None),
        ({"temperature": 10.0, "loss": "alm"}, None),
        ({"temperature": 10.0, "alpha": 0.0}, None),
    ],
)
def test_a_note_says_where_the_loss_holds_t_squared(given: dict, said: str | None) -> None:
    note = temperature_note(fit_options(**FIT | given))
    assert note is None if said is None else note is not None and said in note


def test_the_loss_of_a_run_is_what_its_line_and_the_note_say(folder) -> None:  # noqa: F811
    done = fit(folder, "--temperature", "4", "--alpha", "1", "--log-steps", "1")
    assert done.exit_code == 0, done.stderr
    lines = done.stderr.splitlines()
    note = next(line for line in lines if line.startswith("note: "))
    first = next(line for line in lines if line.startswith("step 1 "))
    squared = float(re.search(r"T\^2 = ([\d.]+)$", note)[1])
    loss, kl = (float(one) for one in re.search(r"loss (\S+) .*kl\(T=4\) (\S+)", first).groups())
    assert squared == 16
    assert loss == pytest.approx(squared * kl, rel=1e-2)
    assert "kl(T=4)" in done.stdout
    history = json.loads((folder / "run" / "history.json").read_text())
    reports = history["reports"] if isinstance(history, dict) else history
    assert reports[0]["loss"] == pytest.approx(16 * reports[0]["kl"], rel=1e-4)  # keys are the same


def test_an_agreement_over_few_targets_is_left_out() -> None:
    """90 of 100 targets that tell the teacher's likeliest token are enough, 89 are too few."""
    for judged, expected in ((100.0, 0.45), (90.0, 0.5), (89.0, None), (0.0, None)):
        sums = {"loss": 200.0, "ce": 200.0, "agreement": 45.0, "judged": judged, "targets": 100.0}
        found = MetricSums(Accelerator(cpu=True), carried=sums).take_means()
        assert found.get("agreement") == expected
        assert found["loss"] == 2.0


def test_an_evaluation_says_what_few_targets_tell_and_at_which_temperature() -> None:
    result = {
        "targets": 8525,
        "temperature": 2.0,
        "kl": 0.0018,
        "top1_agreement": None,
        "judged": 4,
        "acceptance": None,
        "teacher_entropy": 3.5,
        "bounds": {"kl": "estimate"},
        "coding_errors": {},
        "standard_errors": {"kl": 0.0000123},
        "documents": 9,
    }
    told = list(lines(result))
    assert "kl                 ~ 0.0018  (standard error 1.23e-05, at T = 2)" in told
    assert "teacher_entropy    3.5000  (at T = 2)" in told
    few = "not known: 4 of 8,525 targets tell the teacher's most probable token"
    assert f"{'top1_agreement':18} {few}" in told
    assert any(one.startswith("acceptance         not known: ") for one in told)
    most = result | {
        "top1_agreement": 0.5,
        "judged": 8000,
        "bounds": {"top1_agreement": "estimate"},
    }
    assert any(
        one.startswith("top1_agreement     ~ 0.5000  (8,000 of 8,525 targets tell")
        for one in lines(most)
    )
    plain = result | {"judged": None, "kl": None, "temperature": None}
    assert not any("not known" in one for one in lines(plain))
