"""The command line `logitstore`: parse, call, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from logitstore.cli.console import print_json, quiet_libraries, reporting_errors
from logitstore.cli.options import (
    BatchTokensOption,
    DataOption,
    DeviceOption,
    DrawsOption,
    DtypeOption,
    FidelityOption,
    FormatOption,
    JsonOption,
    KOption,
    LimitOption,
    MaxLengthOption,
    MessagesFieldOption,
    RepeatsOption,
    SecondsOption,
    SeedOption,
    SkipBadOption,
    SparsifyOption,
    StoreArgument,
    TailDrawsOption,
    TeacherOption,
    TemperatureOption,
    TextFieldOption,
    TopPOption,
    UnitTokensOption,
)
from logitstore.cli.terminal import (
    dump_bar,
    given_options,
    print_estimate,
    print_summary,
    print_table,
    print_trade_off,
    sample_bar,
    show_progress,
)

__all__ = ["app", "main"]

_AGAIN = "Run the same command again"

app = typer.Typer(
    name="logitstore",
    help="Run a teacher once, keep its next-token distributions, share them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def dump(
    teacher: TeacherOption,
    data: DataOption,
    out: Annotated[str, typer.Option(help="Folder of the store; new, or one to take up again.")],
    text_field: TextFieldOption = None,
    messages_field: MessagesFieldOption = None,
    max_length: MaxLengthOption = None,
    limit: LimitOption = None,
    skip_bad: SkipBadOption = False,
    sparsify: SparsifyOption = "hybrid",
    k: KOption = None,
    top_p: TopPOption = None,
    draws: DrawsOption = None,
    tail_draws: TailDrawsOption = None,
    temperature: TemperatureOption = None,
    repeats: RepeatsOption = None,
    seed: SeedOption = None,
    fidelity: FidelityOption = "balanced",
    container: FormatOption = "zarr",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_tokens: BatchTokensOption = 16_384,
    unit_tokens: UnitTokensOption = 1_000_000,
) -> None:
    """Run a teacher over a corpus and store its distributions. The same command again resumes."""
    settings = dict(locals())
    with reporting_errors(json=False):
        settings["temperature"] = _numbers(temperature, option="--temperature")
        quiet_libraries()
        from logitstore.dumping.run import dump as run

        with dump_bar() as bar:
            task = bar.add_task("loading the teacher", total=1.0, targets=0, bytes_per_target=0.0)
            summary = run(**settings, on_progress=lambda now: show_progress(bar, task, now))
        print_summary(summary)


@app.command()
def estimate(
    teacher: TeacherOption,
    data: DataOption,
    text_field: TextFieldOption = None,
    messages_field: MessagesFieldOption = None,
    max_length: MaxLengthOption = None,
    limit: LimitOption = None,
    skip_bad: SkipBadOption = False,
    sparsify: SparsifyOption = "hybrid",
    k: KOption = None,
    top_p: TopPOption = None,
    draws: DrawsOption = None,
    tail_draws: TailDrawsOption = None,
    temperature: TemperatureOption = None,
    repeats: RepeatsOption = None,
    seed: SeedOption = None,
    fidelity: FidelityOption = "balanced",
    container: FormatOption = "zarr",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_tokens: BatchTokensOption = 16_384,
    unit_tokens: UnitTokensOption = 1_000_000,
    seconds: SecondsOption = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Dump a sample and say what the whole would take: targets, bytes, time. Leaves nothing."""
    settings = {name: value for name, value in locals().items() if name != "as_json"}
    with reporting_errors(json=as_json, again=_AGAIN):
        settings["temperature"] = _numbers(temperature, option="--temperature")
        quiet_libraries()
        from logitstore.forecast.estimate import estimate as run

        with sample_bar() as on_fraction:
            found = run(**settings, on_fraction=on_fraction)
        if as_json:
            print_json(asdict(found))
        else:
            print_estimate(found)


@app.command()
def tune(
    context: typer.Context,
    teacher: TeacherOption,
    data: DataOption,
    text_field: TextFieldOption = None,
    messages_field: MessagesFieldOption = None,
    max_length: MaxLengthOption = None,
    limit: LimitOption = None,
    skip_bad: SkipBadOption = False,
    fidelity: FidelityOption = "balanced",
    container: FormatOption = "zarr",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_tokens: BatchTokensOption = 16_384,
    unit_tokens: UnitTokensOption = 1_000_000,
    seconds: SecondsOption = 60.0,
    max_bytes: Annotated[
        float | None, typer.Option(help="Choose the least error within so many bytes a target.")
    ] = None,
    max_error: Annotated[
        float | None, typer.Option(help="Choose the fewest bytes within this error, as in 0.05.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Picture of the trade-off: .png, .svg or .pdf.")] = Path(
        "tune.png"
    ),
    as_json: JsonOption = False,
) -> None:
    """Compare sparsifiers on a sample: bytes a target against error of the gradient."""
    own = ("context", "out", "as_json", "own")
    settings = {name: value for name, value in locals().items() if name not in own}
    with reporting_errors(json=as_json, again=_AGAIN):
        quiet_libraries()
        from logitstore.forecast.tune import tune as run

        with sample_bar() as on_fraction:
            found = run(**settings, picture=out, on_fraction=on_fraction)
        if as_json:
            print_json(found.to_json())
        else:
            given = given_options(context, but=("seconds", "max_bytes", "max_error", *own))
            print_trade_off(found, command=f"logitstore dump {given} --out STORE")
        if found.unmet is not None:
            typer.echo(f"error: {found.unmet}", err=True)
            raise typer.Exit(1)


@app.command()
def verify(
    store: StoreArgument,
    fast: Annotated[bool, typer.Option("--fast", help="Names, sizes and manifest only.")] = False,
    hashes: Annotated[
        bool, typer.Option("--hashes", help="Also every object's hash; decode nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a store: every object, every hash, every row. Names each fault; exit 1 if any."""
    with reporting_errors(json=as_json):
        from logitstore.store.verify import verify as check

        if fast and hashes:
            raise typer.BadParameter("--fast and --hashes exclude each other")
        found = check(store, depth="fast" if fast else "hashes" if hashes else "full")
        faults = [str(fault) for fault in found]
        if as_json:
            print_json({"store": store, "ok": not faults, "faults": faults})
        for fault in faults:
            typer.echo(fault, err=True)
        if faults:
            typer.echo(f"{store}: faults found: {len(faults)}", err=True)
            raise typer.Exit(1)
        if not as_json:
            typer.echo(f"{store}: sound")


@app.command()
def audit(
    store: StoreArgument,
    teacher: Annotated[str, typer.Option(help="Transformers folder or Hub id.")],
    documents: Annotated[int, typer.Option(help="Documents to audit, spread over the store.")] = 32,
    student: Annotated[
        str | None, typer.Option(help="Whose gradients to compare. Default: a uniform one's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of documents.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16, or auto: that of the dump.")
    ] = "auto",
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens of one teacher batch. Default: that of the dump.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a store with its live teacher. Names each judgement that failed; exit 1 if any."""
    settings = {name: value for name, value in locals().items() if name != "as_json"}
    with reporting_errors(json=as_json, again=_AGAIN):
        quiet_libraries()
        from logitstore.cli.audit_lines import audit_lines
        from logitstore.fidelity.audit import audit as run

        result = run(**settings)
        if as_json:
            print_json(result)
        else:
            typer.echo("\n".join(audit_lines(result)))
            if not result["teacher_matches"]:
                typer.echo("note: the store was dumped from another teacher", err=True)
        for fault in result["faults"]:
            typer.echo(fault, err=True)
        if result["faults"]:
            raise typer.Exit(1)
        if not as_json:
            typer.echo(f"{store}: ok")


@app.command()
def inspect(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Show what a store holds, from which teacher and corpus, and what each column costs."""
    with reporting_errors(json=as_json):
        from logitstore.store.inspect import inspect as look

        content = look(store)
        if as_json:
            print_json(content)
        else:
            print_table(content)


def _numbers(listed: str | None, *, option: str) -> list[float] | None:
    if listed is None:
        return None
    try:
        return [float(one) for one in listed.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{option} is a list like 1,2,4, found {listed!r}") from error


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
