"""Commands that show stores to people: `view`, `serve`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from logitstore.cli.console import announce_hub, quiet_libraries, say
from logitstore.cli.early import refuse_bad_model, refuse_bad_store
from logitstore.cli.interruption import AGAIN, Stopped
from logitstore.cli.program import command
from logitstore.cli.root import app
from logitstore.serving.options import SERVE_OPTIONS
from logitstore.viewing.options import VIEW_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__: list[str] = []


@command(app, options=VIEW_OPTIONS, again=AGAIN)
def view(**options: Any) -> None:
    """Look at the documents of a store. What the teacher gave each token, plots of the whole."""
    refuse_bad_store(options["store"])
    if options["student"] is not None:
        refuse_bad_model(options["student"])
        announce_hub(options["student"])
        quiet_libraries()
    from logitstore.serving.view import view as run

    _until_stopped(run, options)


@command(app, options=SERVE_OPTIONS, again=AGAIN)
def serve(**options: Any) -> None:
    """Serve stores to a team, read-only. A catalogue, a page of each, and their files."""
    from logitstore.serving.serve import serve as run

    _until_stopped(run, options)


def _until_stopped(run: Callable[..., object], options: dict[str, Any]) -> None:
    """Serve until a signal comes, which is how a server ends and no error."""
    told: list[str] = []

    def tell(line: str) -> None:
        """A line that is read while the server runs."""
        say(line)
        sys.stdout.flush()
        told.append(line)

    try:
        run(**options, tell=tell)
    except KeyboardInterrupt:
        if not told:
            raise
        say("stopped", err=True)
        raise Stopped from None
