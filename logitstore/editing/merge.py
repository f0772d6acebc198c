"""Merge: the documents of several stores in one, store after store. Units are copied."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.codec import codec_for
from logitstore.editing.compatible import merged_spec
from logitstore.editing.duplicates import find_duplicates
from logitstore.editing.options import MERGE_OPTIONS
from logitstore.editing.planning import chosen_units, numbered, refuse_nothing, whole_units
from logitstore.editing.sources import all_edits, open_source, out_layout, telling_of_sources
from logitstore.editing.work import Edited, NewStore, as_they_are
from logitstore.errors import SettingError, StoreError
from logitstore.format.json import fingerprint
from logitstore.options import takes
from logitstore.progress import OnProgress
from logitstore.store.reader import Store, StoreLike
from logitstore.store.storage import StorageLike, open_storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.editing.duplicates import Duplicates
    from logitstore.editing.planning import Planned

__all__ = ["merge"]


@takes(MERGE_OPTIONS)
@telling_of_sources()
def merge(
    out: StorageLike,
    stores: Sequence[StoreLike],
    *,
    duplicates: str,
    skip_damaged: object,
    on_note: Any,
    on_progress: OnProgress | None,
) -> Edited:
    """Write the documents of several sealed stores to a new one, store after store.

    They must have one teacher, one tokenizer, and targets, codec and container alike: what differs
    is listed. The same call again takes up an unfinished store where it stopped, and leaves a
    finished one as it is. Raises StoreError, SpecError, SettingError, CorruptionError or
    StorageError.
    """
    sources = [
        open_source(one, skip_damaged=skip_damaged, on_progress=on_progress) for one in stores
    ]
    layout = out_layout(open_storage(out), sources)
    if len(sources) < 2:
        raise SettingError("one store cannot be merged", place="STORE", found=len(sources))
    spec = merged_spec(sources)
    found = find_duplicates(sources, on_progress=on_progress)
    if duplicates == "refuse" and found.documents:
        raise StoreError(
            "documents have the id and the tokens of others",
            place=found.first,
            found=f"{found.documents:,} documents",
            remedy="Give --duplicates drop or keep",
        )
    if callable(on_note):
        for line in found.notes(kept=duplicates == "keep"):
            on_note(line)
    planned = numbered(_planned(sources, found if duplicates == "drop" else None))
    refuse_nothing(planned, place=layout.uri, problem="the stores hold nothing")
    edits = all_edits("merge", {"duplicates": duplicates}, sources)
    corpus = replace(spec.corpus, fingerprint=fingerprint(edits[-1].to_json()))
    return NewStore(
        layout=layout,
        spec=replace(spec, corpus=corpus),
        planned=planned,
        sources=sources,
        edits=edits,
        recode=as_they_are(codec_for(spec)),
    ).write(on_progress=on_progress)


def _planned(sources: Sequence[Store], found: Duplicates | None) -> list[Planned]:
    planned: list[Planned] = []
    for number, source in enumerate(sources):
        dropped_D = None if found is None else found.repeated.get(number)
        if dropped_D is None or not dropped_D.any():
            planned += whole_units(source, number, copies=True)
        else:
            planned += chosen_units(source, number, np.logical_not(dropped_D))
    return planned
