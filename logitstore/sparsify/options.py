"""Options that several sparsifiers take. An option of one sparsifier is declared in its module."""

from __future__ import annotations

from logitstore.options import Option

__all__ = ["MOST_ENTRIES", "REPEATS", "SEED", "TEMPERATURE", "K"]

MOST_ENTRIES = 4096  # of a row

K = Option(
    name="k",
    kind=int,
    help="Keep this many entries of each target.",
    least=1,
    most=MOST_ENTRIES,
)
SEED = Option(name="seed", kind=int, help="Draw with this seed.", least=0, most=(1 << 53) - 1)
REPEATS = Option(
    name="repeats",
    kind=int,
    help="Draw each target this many times, so that as many epochs see different draws.",
    least=1,
    most=MOST_ENTRIES,
)
# For every sparsifier: one that keeps the tail stores its mass at these temperatures, the others
# draw at them.
TEMPERATURE = Option(
    name="temperature",
    kind=tuple,
    help="Serve these temperatures, as in 1,2,4.",
    default=None,
    nullable=True,
    least=0.1,
    most=100,
)
