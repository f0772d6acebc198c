"""Subset: some documents of a store, and the others too where they are wanted.

Their integers are those of the store. What is all of a unit is copied.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.codec import codec_for
from logitstore.editing.options import SUBSET_OPTIONS, check_choice
from logitstore.editing.planning import chosen_units, numbered, refuse_nothing
from logitstore.editing.selection import Choice, parse_span, parse_where
from logitstore.editing.sources import all_edits, open_source, out_layout, telling_of_sources
from logitstore.editing.work import Edited, NewStore, as_they_are
from logitstore.errors import StoreError
from logitstore.format.json import fingerprint
from logitstore.format.spec import written_format
from logitstore.options import takes
from logitstore.progress import OnProgress
from logitstore.store.reader import Store, StoreLike
from logitstore.store.storage import StorageLike, open_storage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logitstore.store.layout import StoreLayout

__all__ = ["subset"]


@takes(SUBSET_OPTIONS, check=check_choice)
@telling_of_sources()
def subset(
    store: StoreLike,
    out: StorageLike,
    *,
    rest: StorageLike | None,
    skip_damaged: object,
    on_note: Any,
    on_progress: OnProgress | None,
    **wanted: Any,
) -> tuple[Edited, ...]:
    """Write some documents of a sealed store to a new one, and all others to a second one.

    What came of it: of `out`, and of `rest` where it is given. The same call again takes up
    unfinished stores where they stopped, and leaves finished ones as they are. Raises StoreError,
    SpecError, SettingError, CorruptionError or StorageError.
    """
    source = open_source(store, skip_damaged=skip_damaged, on_progress=on_progress)
    places = [open_storage(one) for one in (out, rest) if one is not None]
    layouts = [out_layout(one, [source], others=places[:turn]) for turn, one in enumerate(places)]
    chosen_D = _choice(wanted).of(source, on_progress=on_progress)
    if rest is not None and chosen_D.all():
        raise StoreError("no document is left for --rest: all are chosen", place=source.uri)
    if callable(on_note):
        on_note(f"{source.uri}: {int(chosen_D.sum()):,} of {len(chosen_D):,} documents are chosen")
    arguments = {name: value for name, value in wanted.items() if value is not None}
    if wanted["sample"] is None:
        arguments.pop("seed")
    new = [_new_store(source, layouts[0], chosen_D, arguments)]
    if rest is not None:
        new.append(_new_store(source, layouts[1], ~chosen_D, arguments | {"rest": True}))
    return tuple(one.write(on_progress=on_progress) for one in new)


def _choice(wanted: Mapping[str, Any]) -> Choice:
    documents, where = wanted["documents"], wanted["where"]
    return Choice(
        documents=None if documents is None else parse_span(documents),
        ids=wanted["ids"],
        where=None if where is None else parse_where(where),
        sample=wanted["sample"],
        seed=wanted["seed"],
    )


def _new_store(
    source: Store, layout: StoreLayout, chosen_D: np.ndarray, arguments: Mapping[str, Any]
) -> NewStore:
    """The store of the chosen documents. The file of ids may change, so they are hashed too."""
    planned = numbered(list(chosen_units(source, 0, chosen_D)))
    refuse_nothing(planned, place=source.uri, problem="no document is chosen that has a target")
    edits = all_edits("subset", arguments, [source])
    chosen = hashlib.sha256(np.packbits(chosen_D).tobytes()).hexdigest()
    which = fingerprint([edits[-1].to_json(), chosen])
    spec = replace(
        source.spec,
        format=written_format(source.spec.text, source.spec.states),
        corpus=replace(source.spec.corpus, fingerprint=which),
    )
    return NewStore(
        layout=layout,
        spec=spec,
        planned=planned,
        sources=[source],
        edits=edits,
        recode=as_they_are(codec_for(source.spec)),
    )
