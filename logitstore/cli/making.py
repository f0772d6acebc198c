"""Commands that run a model: `dump`, `generate`, `estimate`, `tune`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import typer

from logitstore.cli.answers import print_answers
from logitstore.cli.console import announce_hub, note, print_json, quiet_libraries, say
from logitstore.cli.early import refuse_early
from logitstore.cli.interruption import AGAIN
from logitstore.cli.program import JSON, command
from logitstore.cli.progress import show_progress
from logitstore.cli.root import app
from logitstore.cli.terminal import (
    given_options,
    print_estimate,
    print_plan,
    print_summary,
    print_trade_off,
)
from logitstore.dumping.options import DUMP_OPTIONS, check_targets
from logitstore.forecast.options import ESTIMATE_OPTIONS, TUNE_OPTIONS
from logitstore.generation.options import GENERATE_OPTIONS, check_generate

__all__: list[str] = []

# A picture is drawn on the command line unless another place is named for it.
_TUNE_OPTIONS = tuple(
    replace(one, default=Path("tune.png"), nullable=False) if one.name == "out" else one
    for one in TUNE_OPTIONS
)


@command(app, options=DUMP_OPTIONS, check=check_targets)
def dump(**options: Any) -> None:
    """Run a teacher over a corpus and store its distributions. The same command resumes a dump."""
    refuse_early(options)
    announce_hub(options["teacher"], options["data"])
    with show_progress("starting") as on_progress:
        quiet_libraries()
        from logitstore.dumping.run import dump as run

        summary = run(**options, on_progress=on_progress, on_note=note)
    print_summary(summary)


@command(app, options=(*GENERATE_OPTIONS, JSON), check=check_generate)
def generate(*, json: bool, **options: Any) -> None:
    """Let a model answer prompts, for dump or fit to read. The same command resumes a run."""
    announce_hub(options["model"], options["data"])
    with show_progress("starting") as on_progress:
        quiet_libraries()
        from logitstore.generation.run import generate as run

        summary = run(**options, on_progress=on_progress, on_note=note)
    if json:
        print_json(asdict(summary))
    else:
        print_answers(summary)


@command(app, options=(*ESTIMATE_OPTIONS, JSON), check=check_targets, again=AGAIN)
def estimate(*, json: bool, **options: Any) -> None:
    """Estimate targets, bytes and time of a dump. Dumps a sample, and leaves no files."""
    refuse_early(options)
    announce_hub(options["teacher"], options["data"])
    with show_progress("starting") as on_progress:
        quiet_libraries()
        from logitstore.forecast.estimate import estimate as run
        from logitstore.forecast.plan import CorpusPlan

        found = run(**options, on_progress=on_progress, on_note=note)
    if json:
        print_json(asdict(found))
    elif isinstance(found, CorpusPlan):
        print_plan(found)
    else:
        print_estimate(found)


@command(app, options=(*_TUNE_OPTIONS, JSON), again=AGAIN)
def tune(*, context: typer.Context, json: bool, **options: Any) -> None:
    """Compare sparsifiers, and recommend one. By bytes and error of the gradient, on a sample."""
    refuse_early(options)
    announce_hub(options["teacher"], options["data"])
    with show_progress("starting") as on_progress:
        quiet_libraries()
        from logitstore.forecast.tune import tune as run

        found = run(**options, on_progress=on_progress, on_note=note)
    if json:
        print_json(found.to_json())
    else:
        given = given_options(context, among=[one for one in DUMP_OPTIONS if one.name != "out"])
        print_trade_off(found, command=f"logitstore dump {given} --out STORE")
    if found.unmet is not None:
        say(f"error: {found.unmet}", err=True)
        raise typer.Exit(1)
