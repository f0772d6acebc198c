"""The stores that an edit reads, and the place that it may write to."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from logitstore.errors import CorruptionError, SettingError, SpecError, StoreError
from logitstore.format.edits import Edit, EditSource, edits_of, with_edit
from logitstore.store.begin import holds_rows
from logitstore.store.commit import refuse_foreign_storage
from logitstore.store.layout import SPEC, StoreLayout
from logitstore.store.local import LocalStorage
from logitstore.store.reader import Store, as_store
from logitstore.store.sound import most_damaged
from logitstore.store.storage import Storage, base_name
from logitstore.store.way_out import DAMAGED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from logitstore.format.spec import StoreSpec
    from logitstore.progress import OnProgress
    from logitstore.store.reader import StoreLike

__all__ = [
    "all_edits",
    "is_made",
    "open_source",
    "out_layout",
    "refuse_other_edit",
    "telling_of_sources",
]

_DAMAGED_SOURCE = (
    "Put a copy of the file back; `logitstore verify` lists all damage, and --skip-damaged of "
    "`convert`, `merge` and `subset` leaves the damaged blocks out"
)


@contextmanager
def telling_of_sources() -> Iterator[None]:
    """Of a damaged source, what a command that edits can do about it."""
    try:
        yield
    except CorruptionError as error:
        error.remedy = _DAMAGED_SOURCE if error.remedy == DAMAGED else error.remedy
        raise


def open_source(
    store: StoreLike, *, skip_damaged: object = None, on_progress: OnProgress | None = None
) -> Store:
    """A sealed store, without its damaged blocks where these may be left out.

    store: as a command or a function takes it.
    skip_damaged: the option of that name.
    on_progress: told how far the search for damage is.

    Raises what `open_store` raises, and StoreError for one without any document.
    """
    opened = as_store(store)
    if opened.draw:
        opened = opened.with_draw(0)
    if skip_damaged is not None and not opened.damaged:
        opened = opened.sound(most_damaged(skip_damaged), on_progress=on_progress)
    return opened


def out_layout(
    out: Storage, sources: Sequence[Store], *, others: Sequence[Storage] = ()
) -> StoreLayout:
    """Where an edit writes its store.

    out: as it was given.
    sources: what it reads.
    others: where it writes other stores.

    Raises SettingError for a place within one of them, or around it, and StoreError where something
    lies that is no store.
    """
    for one in (*(source.layout.storage for source in sources), *others):
        if (within := _within(out, one)) is not None:
            raise SettingError(
                f"the new store cannot lie {within} another one of the same command",
                place=out.uri,
                found=one.uri,
                remedy="Name a new folder beside it",
            )
    try:
        refuse_foreign_storage(out)
    except StoreError as error:
        error.problem = error.problem.replace("--out holds", "OUT holds")
        raise
    return StoreLayout(out)


def _within(out: Storage, other: Storage) -> str | None:
    """How one place is within another, in words; None where they are apart."""
    if out is other:
        return "at the place of"
    if isinstance(out, LocalStorage) and isinstance(other, LocalStorage):
        own, its = out.folder.resolve().parts, other.folder.resolve().parts
    elif isinstance(out, LocalStorage) or isinstance(other, LocalStorage):
        return None
    else:
        own, its = (tuple(one.uri.rstrip("/").split("/")) for one in (out, other))
    if own == its:
        return "at the place of"
    if own[: len(its)] == its:
        return "within"
    return "around" if its[: len(own)] == own else None


def all_edits(
    command: str, arguments: Mapping[str, Any], sources: Sequence[Store]
) -> tuple[Edit, ...]:
    """How the new store is made: what its sources tell of themselves, and this command.

    command: its name.
    arguments: those that were given, as JSON has them.
    sources: the stores that it reads.
    """
    edit = Edit(
        command=command,
        arguments=dict(arguments),
        sources=tuple(
            EditSource(
                name=base_name(one.layout.storage),
                fingerprint=one.fingerprint,
                corpus=one.spec.corpus.name,
                documents=len(one),
                targets=one.targets,
                damaged=tuple(block.number for block in one.damaged),
            )
            for one in sources
        ),
    )
    before = [
        (edits_of(one.spec, place=one.layout.place(SPEC)), one.fingerprint) for one in sources
    ]
    return with_edit(edit, before)


def is_made(layout: StoreLayout, spec: StoreSpec, edits: Sequence[Edit]) -> bool:
    """Whether the new store is finished already. Raises what `refuse_other_edit` raises.

    layout: where the new store lies or will lie.
    spec: of the new store.
    edits: how it is made.
    """
    if not (layout.exists() and (layout.sealed() or holds_rows(layout))):
        return False
    refuse_other_edit(layout, spec, edits)
    return layout.sealed()


def refuse_other_edit(layout: StoreLayout, spec: StoreSpec, edits: Sequence[Edit]) -> None:
    """Raise SpecError where a store with rows lies there that another command made.

    layout: where the new store lies or will lie.
    spec: of the new store.
    edits: how it is made.
    """
    found = layout.read_spec()
    place = layout.place(SPEC)
    there = edits_of(found, place=place)
    if there == tuple(edits) and found.identity() == spec.identity():
        return
    told = str(there[-1]) if there else f"a dump of {found.corpus.name}"
    if told == str(edits[-1]):
        raise SpecError(
            "the same command made the store that lies there, of a source, a file or settings that "
            "have changed since",
            place=place,
            found=told,
            remedy="Name another folder",
        )
    raise SpecError(
        "another command made the store that lies there",
        place=place,
        found=told,
        allowed=str(edits[-1]),
        remedy="Repeat that command, or name another folder",
    )
