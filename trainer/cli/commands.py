"""The command line `trainer`: parse, call, print."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore import ModelError
from logitstore.plumbing import (
    AGAIN,
    JSON,
    announce_hub,
    command,
    new_program,
    options_of,
    print_json,
    quiet_libraries,
    refuse_bad_model,
    refuse_bad_store,
    say,
    show_progress,
)
from trainer.data.sources import sources_of
from trainer.diagnosis.lines import diagnosis_lines
from trainer.diagnosis.options import DiagnoseOptions
from trainer.evaluation.options import EvalOptions
from trainer.evaluation.signs import lines
from trainer.evaluation.task_lines import task_lines
from trainer.evaluation.yardstick_lines import yardstick_lines
from trainer.pruning.options import StudentOptions
from trainer.reporting.options import ReportOptions
from trainer.sweeping.lines import as_object, sweep_lines
from trainer.sweeping.options import NAMES, PASSED, SweepOptions
from trainer.training.adaptation import base_of
from trainer.training.fit_options import FIT_OPTIONS, FIT_SECTIONS, fit_options
from trainer.training.model_folders import refuse_no_model_yet
from trainer.training.report_lines import report_words, shown_nats, temperature_note
from trainer.training.state_files import RunWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["app"]

app = new_program("trainer", summary="Distil students from a store of a teacher's distributions.")


@command(
    app,
    options=(*FIT_OPTIONS, JSON),
    sections=FIT_SECTIONS,
    check=fit_options,
    again="Run the same command with --resume to go on",
)
def fit(*, json: bool, **options: Any) -> None:
    """Distil a student from a store, or from several together.

    \b
        trainer fit --logits store --student student.json --out run

    docs/students.md says what a student.json needs, docs/losses.md which loss does what, and
    docs/fitting.md what the other options do together.

    Each report holds means over the targets since the last one: loss; ce, the cross-entropy with
    the true tokens; kl, the forward KL from the teacher at T, whatever the loss is; divergence,
    that of the loss, where it is another; top-1, how often the most probable token is the
    teacher's; hint, with --hint-weight, the part of the teacher's hidden states that the
    student's do not give. A store keeps some tokens of each distribution, the head, and the mass
    of all others, the bucket. kl is over these: a lower bound, but for the store's rounding. In
    brackets are its two parts: binary, that of the mass of the head against the bucket's, and
    head, that inside the head. Where tokens were drawn at T, kl is an estimate and has no parts.
    With hidden states kl is exact, over all tokens.
    """
    _refuse_early(options)
    announce_hub(options["student"])
    reports: list[dict[str, float]] = []
    with show_progress("starting") as on_progress, _telling_warnings():
        quiet_libraries()
        from trainer.training.fit import fit as run

        result = run(
            **options,
            report=_reporting(options, reports),
            on_note=lambda line: say(line, err=True),
            on_progress=on_progress,
        )
    if not _is_first_rank():
        return
    if json:
        print_json(result)
    elif not reports:
        say(f"{options['out']}: finished before; no step was left")
    else:
        steps = result["settings"]["steps"]
        words = report_words(result["metrics"], temperature=options["temperature"])
        say(f"{options['out']}: {steps} steps, {words}{_left_out(result)}")
        best = result.get("best")
        if best is not None:
            kept = "the result" if options["keep_best"] else "the last step is the result"
            value = shown_nats(best["value"])
            say(f"best {best['by']} held out: {value} after step {best['step']}; {kept}")


@command(app, name="eval", options=(*options_of(EvalOptions), JSON), check=EvalOptions, again=AGAIN)
def evaluate(*, json: bool, **options: Any) -> None:
    """Measure a model on held-out text, or by tasks. A store also tells how near the teacher it is.

    `--tasks` asks tasks of lm-evaluation-harness, by its own definitions, names and metrics.
    """
    refuse_bad_store(options["logits"])
    _refuse_bad_model(str(options["model"]))
    announce_hub(options["model"], options["data"])
    with show_progress("starting") as on_progress, _telling_warnings():
        quiet_libraries()
        from trainer.evaluation.measure import evaluate as run

        result = run(**options, on_progress=on_progress)
    if json:
        print_json(result)
    else:
        shown = task_lines(result) if "tasks" in result else lines(result)
        for line in (*shown, *yardstick_lines(result)):
            say(line)


@command(app, options=(*options_of(DiagnoseOptions), JSON), check=DiagnoseOptions, again=AGAIN)
def diagnose(*, json: bool, **options: Any) -> None:
    """Say what is likely wrong with a run, and what to do about it.

    A sample of the store's documents is measured. Findings come first, the most serious at the
    top; a run in which nothing is found may still be short, or too small a model.
    """
    refuse_bad_store(options["logits"])
    _refuse_bad_model(str(options["model"]))
    announce_hub(options["model"])
    with show_progress("starting") as on_progress, _telling_warnings():
        quiet_libraries()
        from trainer.diagnosis.diagnose import diagnose as run

        result = run(**options, on_progress=on_progress)
    if json:
        print_json(result)
    else:
        for line in diagnosis_lines(result):
            say(line)


@command(app, options=(*options_of(StudentOptions), JSON), check=StudentOptions, again=AGAIN)
def student(*, json: bool, **options: Any) -> None:
    """Make a student of a part of its teacher's weights.

    It starts with the teacher's own weights, for `trainer fit --student`. Its folder is there only
    once it has been loaded and compared with the teacher without what was left out.
    """
    from trainer.pruning.places import refuse_bad_teacher, refuse_used

    refuse_used(options["out"])
    refuse_bad_teacher(options["teacher"])
    _refuse_bad_model(str(options["teacher"]))
    announce_hub(options["teacher"])
    with show_progress("starting") as on_progress:
        quiet_libraries()
        from trainer.pruning.making import make_student

        made = make_student(**options, on_progress=on_progress)
    if json:
        print_json(made)
        return
    layers = ",".join(map(str, made["layers"]))
    say(f"{made['out']}: layers {layers} of {made['teacher_layers']}")
    if "width" in made:
        energy = f"{made['kept_energy']:.1%} of the energy of the residual stream"
        say(f"{made['width']:,} of {made['teacher_width']:,} channels, {energy}")
    if "intermediate" in made:
        say(f"{made['intermediate']:,} of {made['teacher_intermediate']:,} neurons of each MLP")
    for name in ("parameters", "bytes"):
        say(f"{made[name]:,} of {made[f'teacher_{name}']:,} {name}")


@command(
    app,
    options=(*options_of(SweepOptions), *PASSED, JSON),
    check=lambda **given: SweepOptions(**{name: given[name] for name in NAMES}),
    again="Run the same command to go on: runs that are done are skipped",
)
def sweep(*, json: bool, **options: Any) -> None:
    """Run a grid of settings with several seeds; say what that shows.

    Each value of an axis (store, student, alpha, temperature, divergence, learning rate) is
    combined with each of the others. Settings are compared by the held-out loss, seed by seed.
    """
    for store in (*options["logits"], options["eval_logits"]):
        refuse_bad_store(store)
    for student in options["student"]:
        _refuse_bad_student(student)
    with show_progress("starting") as on_progress, _telling_warnings():
        quiet_libraries()
        from trainer.sweeping.sweep import sweep as run

        swept = run(**options, on_progress=on_progress)
    if json:
        print_json(as_object(swept))
    else:
        for line in sweep_lines(swept):
            say(line)


@command(app, options=(*options_of(ReportOptions), JSON), check=ReportOptions, again=AGAIN)
def report(*, json: bool, **options: Any) -> None:
    """Compare runs on one page."""
    from trainer.reporting.page import print_table
    from trainer.reporting.page import report as run

    page = run(**options)
    if json:
        tasks = [row.as_dict() for row in page.tasks]
        found = {"rows": page.rows, "others": page.others, "tasks": tasks, "notes": page.notes}
        print_json({"report": str(page.path)} | found)
    else:
        print_table(page)


def _refuse_early(options: dict[str, Any]) -> None:
    """Refuse, before transformers is imported, a store, a student or a folder that cannot be."""
    for one in sources_of(options["logits"]):
        refuse_bad_store(one.store)
    refuse_bad_store(options["eval_logits"])
    if _is_first_rank():  # another rank might see what the first one tries out
        from trainer.training import run_folder

        run_folder.refuse_no_place(options["out"])
    _refuse_bad_student(str(options["student"]))


def _refuse_bad_model(name: str) -> None:
    refuse_no_model_yet(name)
    refuse_bad_model(base_of(name)[0])


def _refuse_bad_student(name: str) -> None:
    student, _ = base_of(name)
    if not student.endswith(".json"):
        _refuse_bad_model(name)
    elif not Path(student).is_file():
        raise ModelError(
            "there is no such file",
            place=student,
            allowed="a transformers configuration",
            remedy="Name a file that is there, a model folder or a Hub id",
        )


def _is_first_rank() -> bool:
    """Whether we are the process of a run that speaks: launchers number them in RANK."""
    return os.environ.get("RANK", "0") == "0"


def _left_out(result: dict[str, Any]) -> str:
    """What the last line of a run says of damaged blocks that it did not learn from."""
    blocks = len(result.get("damaged", ()))
    return f"  (without {blocks} damaged {'block' if blocks == 1 else 'blocks'})" if blocks else ""


def _reporting(
    options: dict[str, Any], reports: list[dict[str, float]]
) -> Callable[[dict[str, float]], None]:
    """What says a line on standard error for each report, which is added to `reports`."""
    words = partial(report_words, temperature=options["temperature"])
    notes = [temperature_note(fit_options(**options))]

    def report(one: dict[str, float]) -> None:
        for note in filter(None, notes):
            say(f"note: {note}", err=True)
        notes.clear()
        if "eval_loss" in one:
            named = {name.removeprefix("eval_"): value for name, value in one.items()}
            shown = words(named, parts=False)
            say(f"step {one['step']}  held out: {shown}{_changing(one)}", err=True)
            return
        reports.append(one)
        rest = f"{_changing(one)}  {one['seconds']:.0f} s"
        line = f"step {one['step']}  {words(one)}{rest}"
        if sys.stderr.isatty() and len(line) >= shutil.get_terminal_size().columns:
            line = f"step {one['step']}  {words(one, parts=False)}{rest}"
        say(line, err=True)

    return report


def _changing(one: dict[str, float]) -> str:
    """Alpha and the temperature of a step, where they change: its loss is another one then."""
    named = (("alpha", "alpha"), ("T", "temperature"))
    return "".join(f"  {short} {one[name]:.3g}" for short, name in named if name in one)


@contextmanager
def _telling_warnings() -> Iterator[None]:
    """One line on standard error for each warning of a run; those of libraries are as they were."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            if issubclass(category, RunWarning):
                say(f"warning: {message}", err=True)
            else:
                others(message, category, *rest, **named)

        warnings.simplefilter("always", RunWarning)
        warnings.showwarning = show
        yield
