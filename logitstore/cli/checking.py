"""Commands that look at a store: `verify`, `gc`, `audit`, `inspect`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from logitstore.cli.console import announce_hub, note, print_json, quiet_libraries, say
from logitstore.cli.early import refuse_bad_model, refuse_bad_store
from logitstore.cli.interruption import AGAIN
from logitstore.cli.program import JSON, command
from logitstore.cli.progress import show_progress
from logitstore.cli.root import app
from logitstore.cli.terminal import print_audit, print_faults, print_table
from logitstore.fidelity.options import AUDIT_OPTIONS
from logitstore.store.options import GC_OPTIONS, INSPECT_OPTIONS, VERIFY_OPTIONS

if TYPE_CHECKING:
    from logitstore.store.reader import Store

__all__: list[str] = []

# What a check without faults has shown, by how far it went.
_SHOWN = {
    "fast": "names, sizes and the seal agree; the contents were not read",
    "hashes": "every hash agrees; the contents were not decoded",
    "full": "sound",
}


@command(app, options=(*VERIFY_OPTIONS, JSON), again=AGAIN)
def verify(*, store: str, json: bool, **depth: Any) -> None:
    """Check a store: every object, every hash, every row. Names each fault; exit 1 if any."""
    with show_progress("starting") as on_progress:
        from logitstore.store.reader import load_store
        from logitstore.store.verify import verify as check

        faults = [str(fault) for fault in check(store, **depth, on_progress=on_progress)]
        odd = [] if faults else _strays(load_store(store, allow_partial=True))
    checked = next((name for name in ("fast", "hashes") if depth[name]), "full")
    if json:
        found = {"store": store, "ok": not faults, "checked": checked, "faults": faults}
        print_json(found | {"strays": odd})
    print_faults(faults)
    for name in odd:
        note(f"{store}: the store does not name {name}")
    if faults:
        say(f"{store}: faults found: {len(faults)}", err=True)
        raise typer.Exit(1)
    if not json:
        say(f"{store}: {_SHOWN[checked]}")


def _strays(store: Store) -> list[str]:
    """What the store does not name; nothing where its storage cannot list what lies there."""
    from logitstore.store.strays import strays

    if store.uri.lower().startswith(("http://", "https://")):
        note(f"{store.uri}: a web server lists no files, so strays are not looked for")
        return []
    return list(strays(store))


@command(app, options=(*GC_OPTIONS, JSON), again=AGAIN)
def gc(*, store: str, json: bool, yes: bool, grace: float) -> None:
    """List or remove what killed dumps left in a store. No commit names it; --yes removes it."""
    from logitstore.store.strays import gc as run

    found = run(store, yes=yes, grace=grace)
    if json:
        print_json(asdict(found))
        return
    for name in found.names:
        say(name)
    done = "removed" if found.removed else "to be removed by --yes"
    say(f"{store}: {_files(len(found.names))}, {found.bytes:,} bytes {done}")
    if found.kept:
        say(f"{store}: {_files(found.kept)} younger than {grace:g} s kept")


def _files(number: int) -> str:
    return f"{number:,} {'file' if number == 1 else 'files'}"


@command(app, options=(*AUDIT_OPTIONS, JSON), again=AGAIN)
def audit(*, json: bool, **options: Any) -> None:
    """Compare a store with its live teacher. Names each check that failed; exit 1 if any."""
    refuse_bad_store(options["store"])
    refuse_bad_model(options["teacher"])
    refuse_bad_model(options["student"])
    announce_hub(options["teacher"], options["student"])
    with show_progress("starting") as on_progress:
        quiet_libraries()
        from logitstore.fidelity.audit import audit as run

        result = run(**options, on_progress=on_progress)
    if json:
        print_json(result)
    else:
        print_audit(result)
    print_faults(result["faults"])
    if result["faults"]:
        raise typer.Exit(1)
    if not json:
        say(f"{options['store']}: ok")


@command(app, options=(*INSPECT_OPTIONS, JSON), again=AGAIN)
def inspect(*, store: str, json: bool) -> None:
    """Show what a store holds. Also from which teacher and corpus, and what each column costs."""
    from logitstore.store.inspect import inspect as look

    content = look(store)
    if json:
        print_json(content)
    else:
        print_table(content)
