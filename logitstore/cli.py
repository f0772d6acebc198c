"""The command line `logitstore`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from logitstore.console import print_json, quiet_libraries, reporting_errors

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task

    from logitstore.dumping import DumpSummary
    from logitstore.progress import DumpProgress

__all__ = ["app", "main"]

app = typer.Typer(
    name="logitstore",
    help="Run a teacher once, keep its next-token distributions, share them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="Folder of the store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]


@app.command()
def dump(
    teacher: Annotated[str, typer.Option(help="Transformers folder or Hub id.")],
    data: Annotated[
        str,
        typer.Option(
            help=".txt, .jsonl, .jsonl.gz, .parquet, a folder of them, or a Hub data set."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the store; new, or one to take up again.")],
    text_field: Annotated[
        str | None, typer.Option(help="Field of the text. Default: 'text' where there is one.")
    ] = None,
    messages_field: Annotated[
        str | None, typer.Option(help="Field of a chat. Default: 'messages' where there is one.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Tokens of a document; longer ones are split. Default: the teacher's context, "
            "1024 at most."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use the first N records only.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count broken records and go on.")
    ] = False,
    sparsify: Annotated[
        str, typer.Option(help="How a distribution becomes entries: topk.")
    ] = "topk",
    k: Annotated[int, typer.Option(help="Entries kept of each distribution.")] = 64,
    container: Annotated[
        str, typer.Option("--format", help="How shards lie in files: zarr or parquet.")
    ] = "zarr",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto.")] = "auto",
    batch_tokens: Annotated[
        int, typer.Option(help="Tokens of one teacher batch, padding included.")
    ] = 16_384,
    unit_tokens: Annotated[
        int, typer.Option(help="Tokens, about, of a unit of work: what a crash can cost.")
    ] = 1_000_000,
) -> None:
    """Run a teacher over a corpus and store its distributions. The same command again resumes."""
    settings = dict(locals())
    with reporting_errors(json=False):
        quiet_libraries()
        from logitstore.dumping import dump as run

        with _progress_bar() as bar:
            task = bar.add_task("loading the teacher", total=1.0, targets=0, bytes_per_target=0.0)
            summary = run(**settings, on_progress=lambda now: _show(bar, task, now))
        _print_summary(summary)


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
        from logitstore.verify import verify as check

        if fast and hashes:
            raise typer.BadParameter("--fast and --hashes exclude each other")
        faults = list(check(store, depth="fast" if fast else "hashes" if hashes else "full"))
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
def inspect(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Show what a store holds, from which teacher and corpus, and what each column costs."""
    with reporting_errors(json=as_json):
        from logitstore.summary import inspect as look

        content = look(store)
        if as_json:
            print_json(content)
        else:
            _print_table(content)


def main() -> None:
    """Entry point of the console script."""
    app()


def _progress_bar() -> Progress:
    """Targets a second, bytes a target, time left; on standard error, and silent when piped."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        _rate_column(),
        TextColumn("{task.fields[bytes_per_target]:.1f} bytes/target"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _rate_column() -> ProgressColumn:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Targets of this run over its elapsed time."""

        def render(self, task: Task) -> Text:
            rate = task.fields["targets"] / max(task.elapsed or 0.0, 1e-3)
            return Text(f"{rate:,.0f} targets/s")

    return RateColumn()


def _show(bar: Progress, task: Any, now: DumpProgress) -> None:
    bar.update(
        task,
        completed=now.fraction,
        description=f"unit {min(now.units_done + 1, now.units)} of {now.units}",
        targets=now.targets,
        bytes_per_target=now.stored_bytes / max(1, now.stored_targets),
    )


def _print_summary(summary: DumpSummary) -> None:
    per_target = summary.bytes / max(1, summary.targets)
    if summary.new_targets == 0:
        typer.echo(f"{summary.folder}: finished already, left as it is")
    typer.echo(
        f"{summary.folder}: {summary.documents:,} documents, {summary.targets:,} targets, "
        f"{summary.bytes:,} bytes ({per_target:.1f} per target)"
    )
    if summary.skipped:
        typer.echo(f"skipped {summary.skipped:,} records that could not be used")
    if summary.new_targets:
        rate = summary.new_targets / summary.seconds
        typer.echo(f"{summary.seconds:.1f} s, {rate:,.0f} targets/s")
    typer.echo(f"fingerprint {summary.fingerprint}")


def _print_table(content: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in content.items():
        table.add_row(name.replace("_", " "), _shown(value))
    Console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name} {_shown(one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
