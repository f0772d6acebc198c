"""The names of a store's objects, and how the small ones are read.

store.json  plan.json  commits/<unit>.json  manifest.json  README.md
tokenizer/  data/<unit>-<attempt>/           pulled.json: from where it was pulled
head/       the teacher's output layer, where hidden states are kept
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError, ObjectMissing, StoreError
from logitstore.format.json import MAX_JSON_BYTES, canonical_json, is_checked, parse_checked
from logitstore.format.manifest import Commit, Manifest
from logitstore.format.plan import Plan, WorkUnit
from logitstore.format.spec import StoreSpec
from logitstore.format.states import HEAD
from logitstore.format.tokenizer_names import is_tokenizer_name
from logitstore.store.storage import FarStorage, Storage, StorageLike, open_storage, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "AUDIT",
    "COMMITS",
    "DATA",
    "LEASES",
    "MANIFEST",
    "PLAN",
    "PULLED",
    "README",
    "SPEC",
    "TOKENIZER",
    "TOKENIZER_HASHES",
    "StoreLayout",
    "head_names",
    "is_object_name",
]

SPEC = "store.json"
PLAN = "plan.json"
MANIFEST = "manifest.json"
README = "README.md"
AUDIT = "audit.json"  # what the last audit has found; no part of the store
PULLED = "pulled.json"  # from where a store was pulled; no part of it
COMMITS = "commits/"
TOKENIZER = "tokenizer/"
TOKENIZER_HASHES = "tokenizer_sha256"  # in the provenance of a spec
DATA = "data/"
LEASES = "leases/"

_MOST_COMMIT_BYTES = 4 << 20  # 8,000 blocks of a unit, which is in memory while it is written
_MOST_TOKENIZER_BYTES = 256 << 20  # Gemma's tokenizer.json has 33 MB

# Parts of names: nothing in them can leave the store.
_UNIT = re.compile(r"[0-9]{6,12}")
_ATTEMPT = re.compile(r"[0-9a-f]{8}")
_OBJECT = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """What lies where in the storage of one store."""

    storage: Storage

    @staticmethod
    def at(where: StorageLike) -> StoreLayout:
        """The layout in the storage at `where`. Raises SettingError for a URI that none serves.

        where: a path, a URI or a `Storage`.
        """
        return StoreLayout(open_storage(where))

    @property
    def uri(self) -> str:
        """Where the store lies, for messages."""
        return self.storage.uri

    def place(self, name: str) -> str:
        """An object as its user knows it, for messages.

        name: of the object.
        """
        return place_of(self.storage, name)

    def commit_name(self, unit: str) -> str:
        """The commit of the unit of that name."""
        return f"{COMMITS}{unit}.json"

    def shard_prefix(self, commit: Commit) -> str:
        """What the names of the attempt that `commit` names begin with."""
        return f"{DATA}{commit.folder}/"

    def small_names(self, spec: StoreSpec) -> list[str]:
        """Every object that a manifest hashes by its name: spec, plan, tokenizer, output layer.

        spec: of the store.
        """
        return [SPEC, PLAN, *self.tokenizer_names(spec), *head_names(spec)]

    def stored_bytes(self, commits: Iterable[Commit]) -> int:
        """Bytes of a store with those commits: all objects but tokenizer, README and manifest.

        The manifest says this number, and cannot count itself.
        """
        total = sum(self.storage.size(name) or 0 for name in (SPEC, PLAN, HEAD))
        return total + sum(self.unit_bytes(commit) for commit in commits)

    def unit_bytes(self, commit: Commit) -> int:
        """Bytes of one unit: its commit and its shard."""
        own = self.storage.size(self.commit_name(commit.unit)) or 0
        return own + sum(one.size for one in commit.objects)

    def exists(self) -> bool:
        """Whether there is a store here, finished or not."""
        return self.storage.size(SPEC) is not None

    def sealed(self) -> bool:
        """Whether the store is finished."""
        return self.storage.size(MANIFEST) is not None

    def planned(self) -> bool:
        """Whether the store has its work units."""
        return self.storage.size(PLAN) is not None

    def read_spec(self) -> StoreSpec:
        """store.json."""
        if not self.exists():
            if self.planned() or self.sealed():
                raise CorruptionError("file is missing", place=self.place(SPEC))
            raise StoreError(
                "no store here: it has no store.json",
                place=self.uri,
                remedy="Name the folder that `logitstore dump --out` wrote",
            )
        return self.parse_spec(self._read(SPEC))

    def parse_spec(self, data: bytes) -> StoreSpec:
        """The spec in `data`, which stands or will stand in store.json."""
        place = self.place(SPEC)
        return StoreSpec.from_json(parse_checked(data, place=place), place=place)

    def tokenizer_hashes(self, spec: StoreSpec) -> dict[str, str]:
        """File of the tokenizer -> sha256, as it was when it was written; none in old stores.

        spec: of the store.
        """
        hashes = spec.provenance.get(TOKENIZER_HASHES, {})
        if not isinstance(hashes, dict) or not all(
            is_tokenizer_name(name) and isinstance(sha256, str) for name, sha256 in hashes.items()
        ):
            raise CorruptionError(
                "the hashes of the tokenizer are none", place=self.place(SPEC), found=hashes
            )
        return hashes

    def tokenizer_names(self, spec: StoreSpec) -> list[str]:
        """The objects of the tokenizer, in order: those that the spec names by their hashes.

        spec: of the store. Old ones name none: then each file that may have its name is one.
        """
        hashes = self.tokenizer_hashes(spec)
        if hashes:
            return sorted(f"{TOKENIZER}{name}" for name in hashes)
        names = self.storage.list(TOKENIZER)
        return sorted(name for name in names if is_tokenizer_name(name.removeprefix(TOKENIZER)))

    def most_bytes(self, name: str, *, otherwise: int) -> int:
        """How many bytes an object may have that is not part of a shard.

        name: of the object.
        otherwise: for one that is.
        """
        if name.startswith(TOKENIZER):
            return _MOST_TOKENIZER_BYTES
        if name.startswith(COMMITS):
            return _MOST_COMMIT_BYTES
        return otherwise if name.startswith(DATA) or name == HEAD else MAX_JSON_BYTES

    def read_small(self, name: str) -> bytes:
        """An object that is not read in pieces, if it is as small as such objects are.

        name: of the object.

        Raises ObjectMissing, and CorruptionError for one that is too large: before it is read.
        """
        most = self.most_bytes(name, otherwise=MAX_JSON_BYTES)
        if isinstance(self.storage, FarStorage):  # one request is half the time of two
            (data,) = self.storage.read_ranges(name, [(0, most + 1)])
            if len(data) <= most:
                return data
        size = self.storage.size(name)
        if size is not None and size > most:
            raise CorruptionError(
                "file is too large",
                place=self.place(name),
                found=f"{size:,} bytes",
                allowed=f"up to {most:,}",
            )
        return self.storage.read(name)

    def read_plan(self) -> Plan:
        """plan.json."""
        return self.parse_plan(self._read(PLAN))

    def parse_plan(self, data: bytes) -> Plan:
        """The plan in `data`, which stands or will stand in plan.json."""
        place = self.place(PLAN)
        plan = Plan.from_json(parse_checked(data, place=place), place=place)
        names = [unit.name for unit in plan.units]
        if len(set(names)) != len(names) or not all(_is(_UNIT, name) for name in names):
            raise CorruptionError(
                "names of units are not as they should be", place=self.place(PLAN)
            )
        return plan

    def read_commit(self, unit: WorkUnit) -> Commit | None:
        """The commit of `unit`; None while it has none."""
        return self.read_commit_named(self.commit_name(unit.name))

    def read_commit_named(self, name: str) -> Commit | None:
        """The commit that is the object `name`; None where there is no such object."""
        try:
            return self.parse_commit(name, self.read_small(name))
        except ObjectMissing:
            return None

    def parse_commit(self, name: str, data: bytes) -> Commit:
        """The commit in `data`, which stands or will stand in the object `name`."""
        place = self.place(name)
        commit = Commit.from_json(parse_checked(data, place=place), place=place)
        paths = [one.path for one in commit.objects]
        safe = all(is_object_name(path) for path in paths)
        attempt = commit.attempt is None or _is(_ATTEMPT, commit.attempt)
        if self.commit_name(commit.unit) != name or not attempt or not safe:
            raise CorruptionError(
                "a commit must name its own unit, an attempt and files inside of it",
                place=place,
                found=f"unit {commit.unit!r}, attempt {commit.attempt!r}, files {paths[:3]}",
            )
        return commit

    def read_manifest(self) -> Manifest:
        """manifest.json, which carries its hash; an old one is canonical JSON."""
        data, place = self.read_small(MANIFEST), self.place(MANIFEST)
        content = parse_checked(data, place=place)
        manifest = Manifest.from_json(content, place=place)
        if manifest.units is None and canonical_json(content) != data:
            raise CorruptionError("manifest has changed since it was written", place=place)
        if manifest.units is not None and not is_checked(data):
            raise CorruptionError("manifest lacks its hash", place=place)
        for name in manifest.units.names if manifest.units is not None else ():
            if not _is(_UNIT, name):
                raise CorruptionError("this is no name of a unit", place=place, found=name)
        for name in manifest.objects:
            if not is_object_name(name):
                raise CorruptionError("a name leaves the store", place=place, found=name)
        return manifest

    def _read(self, name: str) -> bytes:
        try:
            return self.read_small(name)
        except ObjectMissing as error:
            raise CorruptionError("file is missing", place=self.place(name)) from error


def head_names(spec: StoreSpec) -> list[str]:
    """The object of the output layer, where the store keeps it.

    spec: of the store.
    """
    return [HEAD] if spec.states is not None and spec.states.head is not None else []


def _is(pattern: re.Pattern[str], name: Any) -> bool:
    return isinstance(name, str) and pattern.fullmatch(name) is not None


def is_object_name(name: Any) -> bool:
    """Whether a store may hold an object of that name: none leads out of it.

    name: what JSON or a caller gives as one.
    """
    return _is(_OBJECT, name) and not {".", ".."} & set(name.split("/"))
