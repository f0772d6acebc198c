"""The command line `logitstore`. It is imported by `main`, so that Ctrl-C is clean then already."""

from typing import TYPE_CHECKING

from logitstore.cli.interruption import run_program
from logitstore.lazy import lazy_names

if TYPE_CHECKING:
    from logitstore.cli.commands import app

__all__ = ["app", "main"]

__getattr__, __dir__ = lazy_names(__name__, {"app": "logitstore.cli.commands"})


def main() -> None:
    """Entry point of the console script."""
    run_program("logitstore.cli.commands")
