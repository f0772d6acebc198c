"""The command line `logitstore`."""

from logitstore.cli.main import app, main

__all__ = ["app", "main"]
