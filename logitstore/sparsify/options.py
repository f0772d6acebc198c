"""Options that several sparsifiers take. What one alone takes stands with it."""

from __future__ import annotations

from logitstore.options import Option

__all__ = ["MOST_ENTRIES", "REPEATS", "SEED", "TEMPERATURE", "K"]

MOST_ENTRIES = 4096  # of a row

K = Option(
    name="k", kind=int, help="Entries of a target; of a hybrid's head.", least=1, most=MOST_ENTRIES
)
SEED = Option(name="seed", kind=int, help="Seed of the draws.", least=0, most=(1 << 53) - 1)
REPEATS = Option(
    name="repeats",
    kind=int,
    help="Number of draws of each target, of which each epoch reads another.",
    least=1,
    most=MOST_ENTRIES,
)
# Every sparsifier takes it: one that keeps a tail keeps its mass there, the others draw there.
TEMPERATURE = Option(
    name="temperature",
    kind=tuple,
    help="Temperatures to serve, as in 1,2,4: sparsifiers without a tail draw once for each, the "
    "others keep the tail's mass at each. Default: 1; with a tail, all from 1 to 10.",
    default=None,
    nullable=True,
    least=0.1,
    most=100,
)
