"""Options that several sparsifiers take. An option of one sparsifier is declared in its module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.errors import SettingError
from logitstore.options import Option

if TYPE_CHECKING:
    from logitstore.format.spec import SparsifierSpec

__all__ = ["MOST_ENTRIES", "REPEATS", "SEED", "TEMPERATURE", "K", "check_temperatures"]

MOST_ENTRIES = 4096  # of a row
_MOST_DRAWS = 64  # of one target, over temperatures and repeats; and nodes of a tail

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


def check_temperatures(spec: SparsifierSpec) -> None:
    """Refuse, by a SettingError, temperatures, nodes and draws that no store may have.

    spec: one that options ask for, or that a store was read with; the same holds for both.
    """
    if spec.temperatures:
        TEMPERATURE.check(spec.temperatures)
    if spec.tail_nodes:
        nodes, most = spec.tail_nodes, TEMPERATURE.most or 0.0
        asked = [1 / one for one in nodes]
        if min(nodes) < 1 / most or max(nodes) != 1.0:
            raise SettingError(
                "a tail's mass is kept for temperatures from 1 up",
                place="--temperature",
                found=", ".join(f"{one:g}" for one in asked if not 1 <= one <= most),
                allowed=f"1 to {most:g}",
                remedy="Dump with --sparsify unbiased for lower ones",
            )
    count = max(spec.draw_count, len(spec.tail_nodes))
    if not 1 <= count <= _MOST_DRAWS:
        raise SettingError(
            "too many draws of one target, or temperatures of its tail",
            found=f"{count}, temperatures times --repeats",
            allowed=f"up to {_MOST_DRAWS}",
        )
