"""Commands that make stores of stores: `convert`, `merge`, `subset`, `extend`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from logitstore.cli.console import announce_hub, note, print_json, quiet_libraries, say
from logitstore.cli.early import refuse_bad_model, refuse_bad_store
from logitstore.cli.program import JSON, command
from logitstore.cli.progress import show_progress
from logitstore.cli.root import app
from logitstore.editing.options import (
    CONVERT_OPTIONS,
    EXTEND_OPTIONS,
    MERGE_OPTIONS,
    SUBSET_OPTIONS,
    check_choice,
)

if TYPE_CHECKING:
    from logitstore.editing.work import Edited

__all__: list[str] = []


@command(app, options=(*CONVERT_OPTIONS, JSON))
def convert(*, json: bool, **options: Any) -> None:
    """Write a store in another format: container, precision, heads. What stays is copied."""
    with show_progress("starting") as on_progress:
        from logitstore.editing.convert import convert as run

        edited = run(**options, on_progress=on_progress, on_note=note)
    _print(edited, json=json)


@command(app, options=(*MERGE_OPTIONS, JSON))
def merge(*, json: bool, **options: Any) -> None:
    """Join stores of one teacher and tokenizer, store after store. Units are copied."""
    with show_progress("starting") as on_progress:
        from logitstore.editing.merge import merge as run

        edited = run(**options, on_progress=on_progress, on_note=note)
    _print(edited, json=json)


@command(app, options=(*SUBSET_OPTIONS, JSON), check=check_choice)
def subset(*, json: bool, **options: Any) -> None:
    """Cut documents out of a store. --rest writes the others to a second one."""
    with show_progress("starting") as on_progress:
        from logitstore.editing.subset import subset as run

        edited = run(**options, on_progress=on_progress, on_note=note)
    _print(*edited, json=json)


@command(app, options=(*EXTEND_OPTIONS, JSON))
def extend(*, json: bool, **options: Any) -> None:
    """Add documents to a store, dumped as it was. The result is a new store."""
    refuse_bad_store(options["store"])
    refuse_bad_model(options["teacher"])
    announce_hub(options["teacher"], options["data"])
    with show_progress("starting") as on_progress:
        quiet_libraries()
        from logitstore.editing.extend import extend as run

        edited = run(**options, on_progress=on_progress, on_note=note)
    _print(edited, json=json)


def _print(*edited: Edited, json: bool) -> None:
    if json:
        print_json(asdict(edited[0]) | ({"rest": asdict(edited[1])} if edited[1:] else {}))
        return
    for one in edited:
        per_target = one.bytes / max(1, one.targets)
        say(
            f"{one.uri}: {one.documents:,} documents, {one.targets:,} targets, "
            f"{one.bytes:,} bytes ({per_target:.1f} per target)"
        )
        if one.found_finished:
            say(f"{one.uri}: every unit was stored already; `logitstore verify` reads them again")
        else:
            say(
                f"{one.seconds:.1f} s; of {one.units:,} units {one.copied_units:,} copied "
                f"({one.copied_bytes:,} bytes), {one.recoded_units:,} written anew"
            )
        if one.new_targets:
            say(f"{one.new_targets:,} targets dumped")
        say(f"fingerprint {one.fingerprint}")
