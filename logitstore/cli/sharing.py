"""Commands that carry a store: `push`, `pull`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from logitstore.cli.console import note, print_json, say
from logitstore.cli.early import refuse_bad_store
from logitstore.cli.program import JSON, command
from logitstore.cli.progress import show_progress
from logitstore.cli.root import app
from logitstore.sharing.options import PULL_OPTIONS, PUSH_OPTIONS

if TYPE_CHECKING:
    from logitstore.sharing.push import Shared

__all__: list[str] = []

_AGAIN = "Run the same command again: what is there is not sent again"


@command(app, options=(*PUSH_OPTIONS, JSON), again=_AGAIN)
def push(*, json: bool, **options: Any) -> None:
    """Send a sealed store to the Hub or a storage. The same command goes on after a kill."""
    refuse_bad_store(options["store"])
    with show_progress("starting") as on_progress:
        _quiet_hub()
        from logitstore.sharing.push import push as run

        shared = run(**options, on_progress=on_progress)
    _tell(shared, json=json, verb="sent")


@command(app, options=(*PULL_OPTIONS, JSON), again=_AGAIN)
def pull(*, json: bool, **options: Any) -> None:
    """Fetch a sealed store into a folder. Each file is checked; the same command goes on."""
    with show_progress("starting") as on_progress:
        _quiet_hub()
        from logitstore.sharing.pull import pull as run

        shared = run(**options, on_progress=on_progress)
    _tell(shared, json=json, verb="fetched")


def _quiet_hub() -> None:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()


def _tell(shared: Shared, *, json: bool, verb: str) -> None:
    for warning in shared.warnings:
        note(f"warning: {warning}")
    if json:
        print_json(asdict(shared))
        return
    say(
        f"{shared.uri}: {shared.objects:,} objects, {shared.bytes:,} bytes; {verb} "
        f"{shared.sent_objects:,} of them now, {shared.sent_bytes:,} bytes"
    )
    say(f"fingerprint {shared.fingerprint}")
    if shared.pinned is not None:
        say(f"pinned {shared.pinned}")
