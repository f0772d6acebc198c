"""The program `logitstore`, to which the modules of its commands add them."""

from logitstore.cli.program import new_program

__all__ = ["app"]

app = new_program(
    "logitstore",
    summary="Run a teacher once and store its next-token distributions, to train students from.",
)
