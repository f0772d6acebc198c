"""What an edit will write: work units, each the copy of one or made of blocks of some.

A plan is made of the counts that manifests have and of which documents are chosen, so the same
command plans the same units, however often it is taken up again.

Shapes: D documents of a store.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from logitstore.errors import StoreError
from logitstore.format.json import fingerprint
from logitstore.format.plan import Plan, WorkUnit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

    from logitstore.store.reader import Store

__all__ = [
    "Part",
    "Planned",
    "chosen_units",
    "numbered",
    "plan_of",
    "refuse_nothing",
    "whole_units",
]

_OWN_SHARE = 0.5  # of a unit's targets: with fewer it is joined to others
# Entries of a unit that is laid out anew. At 3 bytes each they are held twice, as what is written
# and as what is compressed; where they are encoded or ranked anew, they are held wider for a while.
_MOST_ENTRIES, _ENTRY_BYTES = 1 << 26, 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """A block of a source, or some of its documents."""

    source: int  # number of the store
    block: int  # its number there, damaged ones left out
    chosen_D: np.ndarray | None = None  # bool, of the block's documents; None for all


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Planned:
    """A work unit of the new store, and what it is made of."""

    unit: WorkUnit
    targets: int  # about
    copied: tuple[int, int] | None = None  # a store and its unit, taken over as it is
    parts: tuple[Part, ...] = ()  # else
    skipped: int = 0  # records that the dump left out


def plan_of(planned: Sequence[Planned]) -> Plan:
    """The plan of a store of these units."""
    return Plan(units=tuple(one.unit for one in planned))


def whole_units(
    store: Store, number: int, *, copies: bool, encoded: bool = False
) -> Iterator[Planned]:
    """Every unit of a source by itself, in order.

    store: the source.
    number: of the source.
    copies: whether a unit can be taken over as it is; none is that has a damaged block.
    encoded: whether what is not is encoded anew.

    A unit of more entries than are held at once becomes several.
    """
    blocks = _blocks_by_unit(store)
    units = _units_of(store)
    damaged = _damaged_units(store)
    for place, unit in enumerate(units):
        own = blocks.get(place, [])
        targets = int(store.blocks.targets_B[own].sum()) if own else 0
        if copies and place not in damaged:
            yield Planned(unit=unit, targets=targets, copied=(number, place))
            continue
        if not own:
            yield Planned(unit=unit, targets=0, skipped=_skipped(store, place))
            continue
        most = _MOST_ENTRIES // 2 if encoded else _MOST_ENTRIES
        for turn, run in enumerate(_bounded(store, own, most=most)):
            yield Planned(
                unit=unit,
                targets=int(store.blocks.targets_B[run].sum()),
                parts=tuple(Part(source=number, block=one) for one in run),
                skipped=0 if turn else _skipped(store, place),
            )


def _bounded(store: Store, blocks: Sequence[int], *, most: int) -> Iterator[list[int]]:
    """Runs of blocks that are held in memory together."""
    width = _width(store)
    run: list[int] = []
    entries = 0
    for block in blocks:
        more = int(store.blocks.targets_B[block]) * width
        if run and entries + more > most:
            yield run
            run, entries = [], 0
        run.append(block)
        entries += more
    yield run


def chosen_units(store: Store, number: int, chosen_D: np.ndarray) -> Iterator[Planned]:
    """The units of a source that hold chosen documents: whole, cut, or cut and joined.

    store: the source.
    number: of the source.
    chosen_D: bool, which of its documents are chosen.

    What is chosen of a unit stays a unit if it is half of it or more; less is joined to the next,
    up to as many targets as a unit of the source has on the average, so that few documents of many
    units are few units.
    """
    blocks, units, damaged = _blocks_by_unit(store), _units_of(store), _damaged_units(store)
    room = min(_MOST_ENTRIES // 2 // _width(store), max(1, store.targets // max(1, len(blocks))))
    stops_B = store.blocks.documents_B.cumsum()
    joined: list[Planned] = []
    for place, unit in enumerate(units):
        own = {
            block: chosen_D[stops_B[block] - store.blocks.documents_B[block] : stops_B[block]]
            for block in blocks.get(place, [])
        }
        parts = [
            Part(source=number, block=block, chosen_D=None if own_D.all() else own_D)
            for block, own_D in own.items()
            if own_D.any()
        ]
        if not parts:
            continue
        targets = sum(_about(store, part) for part in parts)
        whole = int(store.blocks.targets_B[blocks[place]].sum())
        alone = targets >= _OWN_SHARE * whole
        if joined and (alone or targets + sum(one.targets for one in joined) > room):
            yield _joined(joined)
            joined = []
        if (
            targets == whole
            and all(part.chosen_D is None for part in parts)
            and (len(parts) == len(own) and place not in damaged)
        ):
            yield Planned(unit=unit, targets=targets, copied=(number, place))
            continue
        runs = [
            Planned(unit=unit, targets=sum(_about(store, part) for part in run), parts=tuple(run))
            for run in _bounded_parts(store, parts)
        ]
        if alone or len(runs) > 1:
            yield from runs
        else:
            joined += runs
    if joined:
        yield _joined(joined)


def _about(store: Store, part: Part) -> int:
    """The targets of a part, as if all documents of a block had as many."""
    targets = int(store.blocks.targets_B[part.block])
    if part.chosen_D is None:
        return targets
    return max(1, targets * int(part.chosen_D.sum()) // len(part.chosen_D))


def _width(store: Store) -> int:
    """Entries of a target, over all its draws, and hidden states as if they were some."""
    states = 0 if store.spec.states is None else store.spec.states.row_bytes // _ENTRY_BYTES
    return store.spec.sparsifier.k * store.spec.sparsifier.draw_count + states


def _bounded_parts(store: Store, parts: Sequence[Part]) -> Iterator[list[Part]]:
    by_block = {part.block: part for part in parts}
    for run in _bounded(store, list(by_block), most=_MOST_ENTRIES):
        yield [by_block[block] for block in run]


def _joined(of: Sequence[Planned]) -> Planned:
    """One unit of the documents that were chosen of several."""
    unit = of[0].unit
    if len(of) > 1:
        unit = WorkUnit(
            name=unit.name,
            source="",
            start=0,
            stop=0,
            first_record=0,
            first_line=0,
            records=0,
            sha256=fingerprint([one.unit.sha256 for one in of]),
        )
    parts = tuple(part for one in of for part in one.parts)
    return Planned(unit=unit, targets=sum(one.targets for one in of), parts=parts)


def numbered(planned: Sequence[Planned]) -> list[Planned]:
    """The same units with the names of their places."""
    return [
        replace(one, unit=replace(one.unit, name=f"{number:06d}"))
        for number, one in enumerate(planned)
    ]


def refuse_nothing(planned: Sequence[Planned], *, place: str, problem: str) -> None:
    """Raise StoreError where no unit holds anything.

    planned: the units.
    place: of the source.
    problem: what is said then.
    """
    if not any(one.targets for one in planned):
        raise StoreError(problem, place=place)


def _units_of(store: Store) -> tuple[WorkUnit, ...]:
    """The work units in the order of the store's commits."""
    return store.layout.read_plan().units


def _blocks_by_unit(store: Store) -> Mapping[int, list[int]]:
    """Place of a unit -> the numbers of its blocks."""
    found: dict[int, list[int]] = {}
    for block in range(len(store.blocks)):
        found.setdefault(store.unit_of(block), []).append(block)
    return found


def _damaged_units(store: Store) -> set[int]:
    whole = store.without(())
    return {whole.unit_of(one.number) for one in store.damaged}


def _skipped(store: Store, place: int) -> int:
    return store.commits[place].skipped
