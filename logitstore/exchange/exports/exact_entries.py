"""What formats of exact entries alone leave out of a store, and which stores they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.errors import SettingError
from logitstore.sparsify import sparsifier_of

if TYPE_CHECKING:
    from logitstore.format.spec import StoreSpec

__all__ = ["lacks_of_entries", "refuse_drawn"]


def refuse_drawn(spec: StoreSpec) -> None:
    """Raise SettingError for a store of whose rows some may have no exact entry.

    spec: of the store.
    """
    declared = sparsifier_of(spec.sparsifier)
    kind = declared.targets
    if kind.drawn and not kind.keeps_tail:
        raise SettingError(
            "the entries were drawn, and have weights that are no probabilities",
            place="--to",
            found=f"a store of --sparsify {declared.name}",
            remedy="Take --to parquet or --to datasets, which write the weights",
        )


def lacks_of_entries(spec: StoreSpec) -> tuple[str, ...]:
    """What is left out of any store. spec: of the store."""
    drawn = sparsifier_of(spec.sparsifier).targets.drawn
    return (
        *(("drawn entries",) if drawn else ()),
        "the tail's mass, the entropy and the true token's log-probability outside the entries",
        "ids of documents",
    )
