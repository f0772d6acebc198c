"""What a dump says that ends before its end: what is stored, and how much is missing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from logitstore.errors import CorruptionError, StorageError, no_room

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logitstore.format.manifest import Commit
    from logitstore.format.plan import Plan, WorkUnit
    from logitstore.store.layout import StoreLayout

__all__ = ["telling_what_is_kept"]


@contextmanager
def telling_what_is_kept(layout: StoreLayout, plan: Plan) -> Iterator[None]:
    """Add to an interruption which units are stored, to a full disk also what the others take.

    layout: of the store.
    plan: its units.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(_how_many(layout, plan))
        raise
    except StorageError as error:
        if not _is_full(error):
            raise
        raise StorageError(
            error.problem,
            place=error.place,
            found=error.found,
            allowed=error.allowed,
            remedy=f"{_missing(layout, plan)}. Make room and run the same command again: "
            "it resumes",
        ) from error


def _is_full(error: BaseException) -> bool:
    cause = error.__cause__
    while cause is not None:
        if no_room(cause) is not None:
            return True
        cause = cause.__cause__
    return False


def _missing(layout: StoreLayout, plan: Plan) -> str:
    """What is stored, and about how many bytes the other units take, judged by those."""
    stored = _stored(layout, plan)
    done = {unit.name for unit, _ in stored}
    records = sum(unit.records for unit, _ in stored)
    rest = sum(unit.records for unit in plan.units if unit.name not in done)
    kept = _kept(len(stored), plan)
    if not records or not rest:
        return kept.capitalize()
    size = sum(one.size for _, commit in stored for one in commit.objects)
    return f"{kept.capitalize()}; the others take about {round(size * rest / records):,} bytes"


def _how_many(layout: StoreLayout, plan: Plan) -> str:
    try:
        return _kept(len(_stored(layout, plan)), plan)
    except StorageError:
        return "the storage does not tell how many units are stored"


def _kept(stored: int, plan: Plan) -> str:
    return f"{stored} of {len(plan.units)} units are stored"


def _stored(layout: StoreLayout, plan: Plan) -> list[tuple[WorkUnit, Commit]]:
    """The units that are committed, and whose commits are sound."""
    found = []
    for unit in plan.units:
        try:
            commit = layout.read_commit(unit)
        except CorruptionError:
            continue
        if commit is not None:
            found.append((unit, commit))
    return found
