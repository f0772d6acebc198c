"""What commands show people of what was found: on standard output, faults on standard error."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from logitstore.cli.console import say
from logitstore.errors import printable

if TYPE_CHECKING:
    import typer

    from logitstore.dumping.run import DumpSummary
    from logitstore.forecast.estimate import Estimate
    from logitstore.forecast.plan import CorpusPlan
    from logitstore.forecast.tradeoff import MeasuredSparsifier, TradeOff
    from logitstore.options import Option

__all__ = [
    "given_options",
    "print_audit",
    "print_estimate",
    "print_faults",
    "print_plan",
    "print_summary",
    "print_table",
    "print_trade_off",
]


def print_summary(summary: DumpSummary) -> None:
    """What a dump left behind."""
    per_target = (summary.bytes - summary.layer_bytes) / max(1, summary.targets)
    once = f", and {summary.layer_bytes:,} once" if summary.layer_bytes else ""
    if summary.new_targets == 0:
        say(f"{summary.uri}: every unit was stored already; `logitstore verify` reads them again")
    say(
        f"{summary.uri}: {summary.documents:,} documents, {summary.targets:,} targets, "
        f"{summary.bytes:,} bytes ({per_target:.1f} per target{once})"
    )
    if summary.skipped:
        say(f"skipped {summary.skipped:,} records that could not be used")
    if summary.new_targets:
        rate = summary.new_targets / summary.seconds
        say(f"{summary.seconds:.1f} s, {rate:,.0f} targets/s")
    say(f"fingerprint {summary.fingerprint}")


def print_table(content: dict[str, Any]) -> None:
    """A JSON object as a table of its fields."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in content.items():
        table.add_row(Text(printable(name.replace("_", " "))), Text(_shown(value)))
    Console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{printable(name)} {_shown(one)}" for name, one in value.items())
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return "\n".join(map(_shown, value))
    if value is None or value == []:
        return "none"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) >= 0.1 or not value else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return printable(str(value))


def given_options(context: typer.Context, *, among: Iterable[Option]) -> str:
    """Those of the options `among` that the user gave, as the shell takes them."""
    words: list[str] = []
    for one in among:
        source = context.get_parameter_source(one.name)
        value = context.params.get(one.name)
        if source is None or source.name != "COMMANDLINE":
            continue
        if isinstance(value, bool):
            words.append(one.flag)
            continue
        for part in value if isinstance(value, list | tuple) else [value]:
            words += [one.flag, str(part)]
    return shlex.join(words)


def print_audit(result: dict[str, Any]) -> None:
    """An audit's numbers, one a line, each with what it means."""
    from logitstore.cli.audit_lines import audit_lines

    say(*audit_lines(result))
    if result["kept"]:
        say("kept in audit.json, beside the store")
    if result["teacher_matches"] is None:
        say("note: the store does not tell whether this is its teacher", err=True)
    elif not result["teacher_matches"]:
        say("note: the store was dumped from another teacher", err=True)


def print_faults(faults: Iterable[object]) -> None:
    """Each fault on a line of standard error."""
    for fault in faults:
        say(str(fault), err=True)


def print_estimate(estimate: Estimate) -> None:
    """What a dump would take."""
    hours, rest = divmod(round(estimate.seconds), 3600)
    say(
        f"{estimate.documents:,} documents, {estimate.targets:,} targets, "
        f"{estimate.bytes:,} bytes ({estimate.bytes_per_target:.1f} per target)"
    )
    say(f"{hours}:{rest // 60:02}:{rest % 60:02} (h:mm:ss), units of work: {estimate.units:,}")
    say(f"mass retained in exact entries: {estimate.retained_mass:.3f}")
    say(
        f"by a sample of {estimate.sample_documents:,} documents, "
        f"{estimate.sample_targets:,} targets"
    )


def print_plan(plan: CorpusPlan) -> None:
    """What is known of a dump without its teacher."""
    context = "not stated" if plan.context is None else f"{plan.context:,} tokens"
    say(f"teacher {plan.teacher}: vocabulary {plan.vocab_size:,}, context {context}")
    files = "1 file" if len(plan.files) == 1 else f"{len(plan.files):,} files"
    say(f"{plan.corpus}: {files}, {plan.corpus_bytes:,} bytes, {plan.records:,} records")
    if plan.unread:
        say(f"not read: {len(plan.unread):,} other files")
    shapes = ", ".join(f"{name} {count:,}" for name, count in plan.shapes.items())
    say(f"shapes of the records that were sampled: {shapes}")
    say(f"chat template: {plan.chat_template}; turns that count: {plan.turns}")
    say(
        f"about {plan.documents:,} documents of at most {plan.max_length:,} tokens, "
        f"{plan.tokens:,} tokens, {plan.targets:,} targets"
    )
    say(f"by a sample of {plan.sample_documents:,} documents; units of work: {plan.units:,}")
    if plan.bytes is not None:
        say(
            f"very roughly {plan.bytes:,} bytes: {plan.bytes_per_target:.0f} per target, as "
            "another teacher's took"
        )
    for one in plan.missing:
        say(f"not told: {one}")


def print_trade_off(found: TradeOff, *, command: str) -> None:
    """The table, the setting to take, and `command` with that setting's options."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="")
    for name in ("", "setting"):
        table.add_column(name, no_wrap=True)
    for name in ("bytes", "error", "angle", "norm", "mass"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found.measured:
        mark = ">" if one is found.recommended else ""
        table.add_row(mark, one.command.removeprefix("--sparsify "), *_figures(one))
    Console().print(table)
    say(
        "",
        "bytes: stored, a target. error: of a gradient over 2,048 targets. angle (degrees)",
        f"and norm (ratio): of the gradient over the sample of {found.sample_targets:,} targets.",
        "mass: of a target, in exact entries.",
    )
    say("", f"{found.reason}:", f"  {command} {found.recommended.command}")
    say(f"serves: {found.recommended.serves}")
    for lack in found.recommended.lacks:
        say(f"not: {lack.what}; for that {lack.options}")
    if found.picture is not None:
        say(f"picture: {found.picture}")


def _figures(one: MeasuredSparsifier) -> list[str]:
    return [
        f"{one.bytes_per_target:.1f}",
        f"{one.error:.1%}",
        f"{one.angle:.2f}",
        f"{one.norm_ratio:.3f}",
        f"{one.retained_mass:.3f}",
    ]
