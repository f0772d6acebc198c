"""The stores below a folder or a URI: which there are, what each is, each opened when asked for.

A store is known by its path below the folder. Folders that are hidden or links are not looked into,
and nothing is looked for inside a store.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from logitstore.errors import LogitStoreError, ObjectMissing, StoreError
from logitstore.store.inspect import inspect
from logitstore.store.layout import AUDIT, MANIFEST, SPEC, StoreLayout
from logitstore.store.local import LocalStorage
from logitstore.store.reader import load_store, open_store
from logitstore.store.storage import base_name, open_storage
from logitstore.viewing.documents import StoreView
from logitstore.viewing.survey import Survey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from logitstore.store.storage import Storage, StorageLike

__all__ = ["Catalogue", "Opened"]

_FRESH_SECONDS = 10.0  # for which a listing of folders is taken for true
_MOST_STORES = 2000
_MOST_FOLDERS = 20_000  # looked into
_MOST_DEPTH = 6
_MOST_OPEN = 8  # stores that keep blocks and shards in memory
# Of what `inspect` tells, what a catalogue shows.
_SHOWN = (
    "documents",
    "targets",
    "bytes",
    "bytes_per_target",
    "k",
    "sparsifier",
    "format",
    "fingerprint",
    "retained_mass",
    "sealed",
    "created",
)


@dataclass(frozen=True, eq=False)
class Opened:
    """A store in use: its page's data, and what was seen of the whole of it."""

    view: StoreView
    survey: Survey


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where a store lies, and by what a later one in the same place is told from it."""

    storage: Storage
    stamp: tuple[int | float | None, ...]


@dataclass(eq=False)
class Catalogue:
    """All stores below one place.

    root: that place. A store there is the only one.
    max_memory: what a block may take while it is read.
    fixed: a store that is open already, with what is shown beside it: the only one.
    """

    root: Storage
    max_memory: Any = None
    fixed: StoreView | None = None
    _places: dict[str, _Place] = field(default_factory=dict)
    _listed_at: float = -_FRESH_SECONDS
    _summaries: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    _open: OrderedDict[tuple[str, int], tuple[Any, Opened]] = field(default_factory=OrderedDict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @staticmethod
    def below(where: StorageLike, *, max_memory: Any = None) -> Catalogue:
        """The stores at or below a place.

        where: a folder, a URI or a `Storage`.
        max_memory: the option of that name.

        Raises StoreError where there is none.
        """
        catalogue = Catalogue(open_storage(where), max_memory)
        if not catalogue.names():
            raise StoreError(
                "no store here, nor below",
                place=catalogue.root.uri,
                remedy="Name a folder with stores that `logitstore dump --out` wrote, or one store",
            )
        return catalogue

    @staticmethod
    def of(view: StoreView) -> Catalogue:
        """A catalogue of one store, open already."""
        return Catalogue(view.store.layout.storage, fixed=view)

    @property
    def single(self) -> bool:
        """Whether there is one store, at the place itself."""
        return self.fixed is not None or self.root.size(SPEC) is not None

    def names(self) -> list[str]:
        """The names of all stores, sorted; looked for anew after ten seconds."""
        with self._lock:
            if time.monotonic() - self._listed_at >= _FRESH_SECONDS:
                self._places = dict(self._found())
                self._listed_at = time.monotonic()
            return sorted(self._places)

    def named_in(self, path: str) -> tuple[str, str] | None:
        """The store that a path begins with, and the rest of it; None where there is none.

        path: such as `team/store/manifest.json`.
        """
        known, parts = set(self.names()), path.split("/")
        deepest = max((name.count("/") + 1 for name in known), default=0)
        for length in range(min(len(parts), deepest), 0, -1):
            name = "/".join(parts[:length])
            if name in known:
                return name, "/".join(parts[length:])
        return None

    def summaries(self) -> list[dict[str, Any]]:
        """Each store in some numbers; of one that cannot be read, `error` tells why."""
        return [self._summary(name) for name in self.names()]

    def opened(self, name: str, *, draw: int = 0) -> Opened:
        """A sealed store, opened unless it is open.

        name: as `names` gives it.
        draw: of those that each target has.

        Raises ObjectMissing where there is none of that name, StoreError where it is not sealed.
        """
        with self._lock:
            self.names()
            place = self._places.get(name)
            if place is None:
                raise ObjectMissing("there is no such store", found=name)
            known = self._open.get((name, draw))
            if known is None or known[0] != place.stamp:
                view = self.fixed or StoreView(
                    open_store(place.storage, max_memory=self.max_memory)
                )
                view = view.at_draw(draw)
                known = self._open[name, draw] = (place.stamp, Opened(view, Survey(view.store)))
            self._open.move_to_end((name, draw))
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
            return known[1]

    def _summary(self, name: str) -> dict[str, Any]:
        place = self._places[name]
        known = self._summaries.get(name)
        if known is None or known[0] not in (place.stamp, (place.stamp, self._listed_at)):
            found = {"name": name, **_summary(place.storage)}
            # One that is not sealed has more, or is put right, without another stamp.
            lasts = "error" not in found and found["sealed"]
            known = (place.stamp if lasts else (place.stamp, self._listed_at), found)
            self._summaries[name] = known
        return known[1]

    def _found(self) -> Iterator[tuple[str, _Place]]:
        if self.single:
            yield base_name(self.root) or "store", _Place(self.root, _stamp(self.root))
            return
        root = self.root
        names = _below_folder(root.folder) if isinstance(root, LocalStorage) else _listed(root)
        for _, name in zip(range(_MOST_STORES), names, strict=False):
            storage = open_storage(f"{root.uri.rstrip('/')}/{name}")
            yield name, _Place(storage, _stamp(storage))


def _summary(storage: Storage) -> dict[str, Any]:
    try:
        content = inspect(load_store(storage, allow_partial=True))
    except LogitStoreError as error:
        return {"error": error.problem}
    return {
        **{name: content[name] for name in _SHOWN},
        "teacher": content["teacher"]["name"],
        "tokenizer": content["tokenizer"]["fingerprint"],
        "corpus": content["corpus"]["name"],
        "last_audit": content["last_audit"],
    }


def _stamp(storage: Storage) -> tuple[int | float | None, ...]:
    """What changes when another store is written in a place, or it is audited: sizes and times."""
    modified = getattr(storage, "modified", lambda _: None)
    found: list[int | float | None] = []
    for name in (MANIFEST, AUDIT):
        size = storage.size(name)
        found += [size, None if size is None else modified(name)]
    return tuple(found)


def _below_folder(root: Path) -> Iterator[str]:
    """The paths of stores below a folder, a level at a time."""
    level, looked_into = [""], 0
    for _ in range(_MOST_DEPTH):
        below: list[str] = []
        for name in level:
            looked_into += 1
            if looked_into > _MOST_FOLDERS:
                return
            folder = root / name
            if name and StoreLayout(LocalStorage(folder)).exists():
                yield name
                continue
            below += [f"{name}/{one}" if name else one for one in _folders(folder)]
        level = below


def _folders(folder: Path) -> list[str]:
    """The names of folders in a folder that are neither hidden nor links."""
    try:
        with os.scandir(folder) as entries:
            found = [one.name for one in entries if one.is_dir(follow_symlinks=False)]
    except OSError:
        return []  # nobody may read it, or it has just gone
    return sorted(one for one in found if _can_be_shown(one))


def _can_be_shown(part: str) -> bool:
    return not part.startswith(".") and part.isprintable() and not set(part) & set("/\\?#%")


def _listed(root: Storage) -> Iterator[str]:
    """The paths of stores in a bucket: it lists its objects, all of them."""
    for name in root.list(""):
        folder, _, last = name.rpartition("/")
        if last == SPEC and folder and all(map(_can_be_shown, folder.split("/"))):
            yield folder
