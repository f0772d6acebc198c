"""The way out for who goes on with an unfinished store, a small file of which has rotted."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from logitstore.errors import CorruptionError, LogitStoreError
from logitstore.store.layout import COMMITS, PLAN, SPEC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logitstore.store.layout import StoreLayout

__all__ = ["LOST_SPEC", "telling_the_way_out"]

_AGAIN = "Delete it and run the same command again"
LOST_SPEC = "Put a copy of it back, or dump into a new folder: nothing else says what the rows mean"


@contextmanager
def telling_the_way_out(layout: StoreLayout) -> Iterator[None]:
    """A CorruptionError about a file of an unfinished store says what to do, if it does not yet.

    layout: of the store.
    """
    try:
        yield
    except CorruptionError as error:
        remedy = _remedy(layout, str(error.place))
        if error.remedy is not None or remedy is None or _sealed(layout):
            raise
        raise CorruptionError(
            error.problem,
            place=error.place,
            found=error.found,
            allowed=error.allowed,
            remedy=remedy,
        ) from error


def _remedy(layout: StoreLayout, place: str) -> str | None:
    """What helps where the file at `place` has rotted."""
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
