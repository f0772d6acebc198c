"""The command line `logitstore`: parse, call, print. A module for each group of commands."""
# ruff: noqa: F401, I001

# Each module adds its commands, which the help lists in this order.
from logitstore.cli import making
from logitstore.cli import checking
from logitstore.cli import sharing
from logitstore.cli import editing
from logitstore.cli import exchange
from logitstore.cli import viewing

from logitstore.cli.root import app

__all__ = ["app"]
