"""What helps where a file of a store has rotted, in the words of an error's remedy."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from logitstore.errors import CorruptionError, LogitStoreError, StoreError
from logitstore.store.layout import COMMITS, MANIFEST, PLAN, SPEC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logitstore.store.layout import StoreLayout

__all__ = ["DAMAGED", "LOST_SPEC", "name_damage", "no_memory", "telling_the_way_out"]

_AGAIN = "Delete it and run the same command again"
LOST_SPEC = "Put a copy of it back, or dump into a new folder: nothing else says what the rows mean"
# Of data and commits of a sealed store.
DAMAGED = (
    "Put a copy of the file back; `logitstore verify` lists all damage, and --skip-damaged of "
    "`trainer fit` and `trainer eval` leaves the damaged blocks out"
)
_RESTORE = "Put a copy of the file back"
_SEAL_ANEW = f"{_RESTORE}, or delete it and run the same `logitstore dump`, which seals anew"


def name_damage(error: CorruptionError, place: str, *, block: int | None = None) -> None:
    """Give what was raised while a shard was read its place, and a way out if it has none.

    error: what was raised.
    place: of the shard. What lies in it, and says so, keeps its own name.
    block: its number in the shard, where it is known.
    """
    within = "" if block is None else f", block {block}"
    own = "" if error.place is None else str(error.place)
    if own.startswith(place):
        error.place = f"{own}{within}"
    else:
        error.place = f"{place}{within}, {own}" if own else f"{place}{within}"
    error.remedy = error.remedy or DAMAGED


def no_memory(place: str) -> StoreError:
    """What is said where memory runs out while a shard is read: that is no damage.

    place: of the shard.
    """
    return StoreError(
        "there is not enough memory to read it", place=place, remedy="Make room, and try again"
    )


@contextmanager
def telling_the_way_out(layout: StoreLayout) -> Iterator[None]:
    """A CorruptionError about a file of a store says what to do, if it does not yet.

    layout: of the store.
    """
    try:
        yield
    except CorruptionError as error:
        error.remedy = error.remedy or _remedy(layout, str(error.place))
        raise


def _remedy(layout: StoreLayout, place: str) -> str | None:
    """What helps where the file at `place` has rotted."""
    if _sealed(layout):
        inside = place.startswith(layout.place(""))
        return _SEAL_ANEW if place == layout.place(MANIFEST) else _RESTORE if inside else None
    if place == layout.place(SPEC):
        return LOST_SPEC
    if place == layout.place(PLAN):
        return f"{_AGAIN}: it is written anew"
    if place.startswith(layout.place(COMMITS)) and place.endswith(".json"):
        return f"{_AGAIN}: it dumps that unit anew"
    return None


def _sealed(layout: StoreLayout) -> bool:
    try:
        return layout.sealed()
    except LogitStoreError:
        return False
