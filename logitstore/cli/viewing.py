"""Commands that show stores to people: `view`, `serve`."""

from __future__ import annotations

import sys
from typing import Any

from logitstore.cli.app import app
from logitstore.cli.console import announce_hub, quiet_libraries, say
from logitstore.cli.early import refuse_bad_model, refuse_bad_store
from logitstore.cli.interruption import AGAIN
from logitstore.cli.program import command
from logitstore.serving.options import SERVE_OPTIONS
from logitstore.viewing.options import VIEW_OPTIONS

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

    run(**options, tell=_tell)


@command(app, options=SERVE_OPTIONS, again=AGAIN)
def serve(**options: Any) -> None:
    """Serve stores to a team, read-only. A catalogue, a page of each, and their files."""
    from logitstore.serving.serve import serve as run

    run(**options, tell=_tell)


def _tell(line: str) -> None:
    """A line that is read while the server runs."""
    say(line)
    sys.stdout.flush()
