"""What targets of a sparsifier serve and what they cannot, as their declared kind says it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from logitstore.sparsify import SPARSIFIERS

if TYPE_CHECKING:
    from logitstore.targets.sparsifier import Sparsifier

__all__ = ["Lack", "lacks"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lack:
    """Something that a store cannot serve, and the options of a dump that can."""

    what: str
    options: str


def lacks(sparsifier: Sparsifier) -> tuple[Lack, ...]:
    """What a store of `sparsifier` with its default temperatures cannot serve.

    Args:
        sparsifier: The declaration; only the kind of its targets is asked.
    """
    return tuple(_lacks(sparsifier))


def _lacks(sparsifier: Sparsifier) -> Iterator[Lack]:
    kind = sparsifier.targets
    only_drawn = _names(one for one in SPARSIFIERS.values() if not one.targets.keeps_tail)
    if not kind.keeps_tail:
        keeping = _names(one for one in SPARSIFIERS.values() if one.targets.keeps_tail)
        yield Lack(what="temperatures but 1", options="--temperature 1,2,4, one draw for each")
        yield Lack(
            what="losses that are not linear in the teacher, as reverse KL is not",
            options=f"--sparsify {keeping}",
        )
        return
    if kind.drawn:
        what = "losses without bias at T other than 1"
        yield Lack(what=what, options=f"--sparsify {only_drawn} --temperature 1,2,4")
    else:
        drawing = _names(one for one in SPARSIFIERS.values() if one.targets.drawn)
        yield Lack(what="any loss but as a bound", options=f"--sparsify {drawing}")
    what = "temperatures below 1"
    yield Lack(what=what, options=f"--sparsify {only_drawn} --temperature 0.5")


def _names(declared: Iterable[Sparsifier]) -> str:
    names = [one.name for one in declared]
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
