"""Where a store's objects lie, and how the small ones are read.

store.json  plan.json  commits/<unit>.json  manifest.json  README.md
tokenizer/  data/<unit>-<attempt>/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError, StoreError
from logitstore.format.json import canonical_json, parse_json
from logitstore.format.manifest import Commit, Manifest
from logitstore.format.plan import Plan, WorkUnit
from logitstore.format.spec import StoreSpec

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Layout"]

# Names that become paths: nothing in them can leave the store.
_UNIT = re.compile(r"[0-9]{6,12}")
_ATTEMPT = re.compile(r"[0-9a-f]{8}")
_OBJECT = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one store, and its JSON objects."""

    folder: Path

    @property
    def spec_path(self) -> Path:
        """The immutable spec."""
        return self.folder / "store.json"

    @property
    def plan_path(self) -> Path:
        """The work units."""
        return self.folder / "plan.json"

    @property
    def manifest_path(self) -> Path:
        """The seal."""
        return self.folder / "manifest.json"

    @property
    def commits(self) -> Path:
        """Folder of the commits."""
        return self.folder / "commits"

    @property
    def data(self) -> Path:
        """Folder of the shards."""
        return self.folder / "data"

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self.folder / "tokenizer"

    def shard(self, commit: Commit) -> Path:
        """The folder of the attempt that `commit` names."""
        return self.data / str(commit.folder)

    def small_files(self) -> list[Path]:
        """Every object but the shards, the manifest and the README, in order."""
        tokenizer = [path for path in self.tokenizer.rglob("*") if path.is_file()]
        commits = self.commits.glob("*.json")
        return [self.spec_path, self.plan_path, *sorted(commits), *sorted(tokenizer)]

    def exists(self) -> bool:
        """Whether there is a store here, finished or not."""
        return self.spec_path.is_file()

    def sealed(self) -> bool:
        """Whether the store is finished."""
        return self.manifest_path.is_file()

    def read_spec(self) -> StoreSpec:
        """store.json."""
        if not self.exists():
            raise StoreError(
                "no store here: it has no store.json",
                place=self.folder,
                remedy="Name the folder that `logitstore dump --out` wrote",
            )
        return StoreSpec.from_json(_read_json(self.spec_path), place=str(self.spec_path))

    def read_plan(self) -> Plan:
        """plan.json."""
        content = _read_json(self.plan_path)
        try:
            plan = Plan.from_json(content)
        except (KeyError, TypeError) as error:
            raise CorruptionError(f"no plan: {error}", place=self.plan_path) from error
        names = [unit.name for unit in plan.units]
        if len(set(names)) != len(names) or not all(_is(_UNIT, name) for name in names):
            raise CorruptionError("names of units are not as they should be", place=self.plan_path)
        return plan

    def read_commit(self, unit: WorkUnit) -> Commit | None:
        """The commit of `unit`; None while it has none."""
        path = self.commits / f"{unit.name}.json"
        if not path.is_file():
            return None
        commit = Commit.from_json(_read_json(path), place=str(path))
        paths = [one.path for one in commit.objects]
        safe = all(_inside(path) for path in paths)
        attempt = commit.attempt is None or _is(_ATTEMPT, commit.attempt)
        if commit.unit != unit.name or not attempt or not safe:
            raise CorruptionError(
                "a commit must name its own unit, an attempt and files inside of it",
                place=path,
                found=f"unit {commit.unit!r}, attempt {commit.attempt!r}, files {paths[:3]}",
            )
        return commit

    def read_manifest(self) -> Manifest:
        """manifest.json, which must be the canonical serialisation of its content."""
        path = self.manifest_path
        data = path.read_bytes()
        content = parse_json(data, place=str(path))
        if canonical_json(content) != data:
            raise CorruptionError("manifest has changed since it was written", place=path)
        manifest = Manifest.from_json(content, place=str(path))
        for name in manifest.objects:
            if not _inside(name):
                raise CorruptionError("a name leaves the store", place=path, found=name)
        return manifest


def _is(pattern: re.Pattern[str], name: Any) -> bool:
    return isinstance(name, str) and pattern.fullmatch(name) is not None


def _inside(name: Any) -> bool:
    return _is(_OBJECT, name) and not {".", ".."} & set(name.split("/"))


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise CorruptionError("file is missing", place=path)
    return parse_json(path.read_bytes(), place=str(path))
