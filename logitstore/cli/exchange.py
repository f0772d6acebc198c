"""Commands that meet other systems' files: `import`, `export`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from logitstore.cli.console import note, print_json, quiet_libraries, say
from logitstore.cli.interruption import AGAIN
from logitstore.cli.program import JSON, command
from logitstore.cli.progress import show_progress
from logitstore.cli.root import app
from logitstore.exchange.options import EXPORT_OPTIONS, IMPORT_OPTIONS

__all__: list[str] = []


@command(app, name="import", options=(*IMPORT_OPTIONS, JSON))
def import_store(*, json: bool, **options: Any) -> None:
    """Make a store of what another system wrote. The same command resumes an import."""
    with show_progress("starting") as on_progress:
        quiet_libraries()
        from logitstore.exchange.importing import import_store as run

        summary = run(**options, on_progress=on_progress, on_note=note)
    if json:
        print_json(asdict(summary))
    else:
        say(
            f"{summary.uri}: {summary.documents:,} documents, {summary.targets:,} targets, "
            f"{summary.bytes:,} bytes, read again and found sound"
        )
        say(f"fingerprint {summary.fingerprint}")


@command(app, name="export", options=(*EXPORT_OPTIONS, JSON), again=AGAIN)
def export_store(*, json: bool, **options: Any) -> None:
    """Write a store for other systems to read. The store stays as it is."""
    with show_progress("starting") as on_progress:
        quiet_libraries()
        from logitstore.exchange.exporting import export_store as run

        summary = run(**options, on_progress=on_progress, on_note=note)
    if json:
        print_json(asdict(summary))
    else:
        say(
            f"{summary.path}: {summary.documents:,} documents, {summary.targets:,} targets, "
            f"{summary.bytes:,} bytes"
        )
