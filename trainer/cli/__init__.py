"""The command line `trainer`. It is imported by `main`, so that Ctrl-C is clean then already."""

from typing import TYPE_CHECKING

from logitstore.plumbing import lazy_names, run_program

if TYPE_CHECKING:
    from trainer.cli.commands import app

__all__ = ["app", "main"]

__getattr__, __dir__ = lazy_names(__name__, {"app": "trainer.cli.commands"})


def main() -> None:
    """Entry point of the console script."""
    run_program("trainer.cli.commands")
