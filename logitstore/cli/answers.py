"""What `generate` shows people: a bar on standard error, the summary on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, Task

    from logitstore.generation.run import GenerateProgress, GenerateSummary

__all__ = ["answer_bar", "print_answers"]


@contextmanager
def answer_bar() -> Iterator[Callable[[GenerateProgress], None]]:
    """Parts done, tokens a second, time left, on standard error; what it gives moves it on."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        _rate_column(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )

    def show(now: GenerateProgress) -> None:
        bar.update(
            task,
            completed=now.fraction,
            description=f"part {min(now.parts_done + 1, now.parts)} of {now.parts}",
            tokens=now.tokens,
        )

    with bar:
        task = bar.add_task("loading the model", total=1.0, tokens=0)
        yield show


def _rate_column() -> ProgressColumn:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Tokens of this run over its elapsed time."""

        def render(self, task: Task) -> Text:
            rate = task.fields["tokens"] / max(task.elapsed or 0.0, 1e-3)
            return Text(f"{rate:,.0f} tokens/s")

    return RateColumn()


def print_answers(summary: GenerateSummary) -> None:
    """What a run left behind."""
    if summary.new_answers == 0:
        typer.echo(f"{summary.out}: finished already, left as it is")
    typer.echo(
        f"{summary.out}: {summary.answers:,} answers to {summary.prompts:,} prompts, "
        f"{summary.tokens:,} tokens; the longest row has {summary.longest:,}"
    )
    for line in _warnings(summary):
        typer.echo(line)
    if summary.new_answers:
        rate: Any = summary.new_tokens / max(summary.seconds, 1e-3)
        typer.echo(f"{summary.seconds:.1f} s, {rate:,.0f} tokens/s")


def _warnings(summary: GenerateSummary) -> Iterator[str]:
    if summary.cut:
        yield f"cut at --max-new-tokens, without an end: {summary.cut:,} answers"
    if summary.empty:
        yield f"empty, an end token alone: {summary.empty:,} answers"
    if summary.skipped:
        yield f"skipped {summary.skipped:,} records that could not be used"
    if summary.left_out:
        yield f"left out: {summary.left_out:,} answers"
