"""How a store comes to be: begun once, units committed by whichever attempt is first, then sealed.

Any number of processes may work on one store. A unit is dumped into a fresh attempt folder, synced,
hashed and read back; creating `commits/<unit>.json` where there is none makes it part of the store.
What no commit names is garbage, so a process may be killed at any moment.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.errors import StoreError
from logitstore.format.json import canonical_json
from logitstore.format.manifest import Commit, Manifest, store_fingerprint
from logitstore.format.spec import FORMAT, StoreSpec, refuse_other_spec
from logitstore.store.card import store_card
from logitstore.store.files import TEMPORARY, put_if_absent, replace, sha256_of
from logitstore.store.layout import Layout

if TYPE_CHECKING:
    from logitstore.format.plan import Plan, WorkUnit

__all__ = ["StoreWriter", "refuse_foreign_folder"]


def refuse_foreign_folder(folder: Path) -> None:
    """Raise StoreError where `folder` holds something that is no store."""
    if folder.is_file():
        raise StoreError("--out is a file", place=folder, remedy="Name a new folder")
    if not folder.is_dir() or Layout(folder).exists():
        return
    strangers = sorted(path.name for path in folder.iterdir() if not path.match(TEMPORARY))
    # Another process may have begun the store while we looked.
    if strangers and not Layout(folder).exists():
        raise StoreError(
            "--out holds something that is no store",
            place=folder,
            found=", ".join(strangers[:4]),
            remedy="Name a new or empty folder",
        )


@dataclass(frozen=True, slots=True)
class StoreWriter:
    """The write side of one store folder."""

    layout: Layout

    def begin(self, spec: StoreSpec, plan: Plan, tokenizer: Any) -> None:
        """Write the spec, the tokenizer and the plan, each where there is none yet.

        A store begun with another spec is refused; the plan that is already there stands.
        """
        if not put_if_absent(self.layout.spec_path, canonical_json(spec.to_json())):
            place = str(self.layout.spec_path)
            refuse_other_spec(self.layout.read_spec(), spec, place=place)
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                put_if_absent(self.layout.tokenizer / path.relative_to(folder), path.read_bytes())
        put_if_absent(self.layout.plan_path, canonical_json(plan.to_json()))

    def new_attempt(self, unit: WorkUnit) -> tuple[str, Path]:
        """The name and the folder, not yet there, of a fresh attempt at `unit`."""
        attempt = secrets.token_hex(4)
        return attempt, self.layout.data / f"{unit.name}-{attempt}"

    def commit(self, commit: Commit) -> bool:
        """Make an attempt part of the store; False, and its files gone, if another was first."""
        path = self.layout.commits / f"{commit.unit}.json"
        if put_if_absent(path, canonical_json(commit.to_json())):
            return True
        if commit.folder is not None:
            shutil.rmtree(self.layout.shard(commit), ignore_errors=True)
        return False

    def committed(self, plan: Plan) -> list[Commit]:
        """The commits that are there, in the plan's order."""
        commits = (self.layout.read_commit(unit) for unit in plan.units)
        return [commit for commit in commits if commit is not None]

    def seal(self, plan: Plan) -> Manifest:
        """Write the manifest over a store whose every unit is committed; sweep what none names.

        Sealing a sealed store finishes what a killed process left undone, and changes nothing else.
        """
        spec, commits = self.layout.read_spec(), self.committed(plan)
        if len(commits) != len(plan.units):
            raise StoreError(
                "store cannot be sealed yet",
                place=self.layout.folder,
                found=f"{len(commits)} of {len(plan.units)} units",
            )
        self._sweep(commits)
        if not self.layout.sealed():
            manifest = self._manifest(spec, commits)
            put_if_absent(self.layout.manifest_path, canonical_json(manifest.to_json()))
        manifest = self.layout.read_manifest()
        readme = self.layout.folder / "README.md"
        if not readme.is_file():
            card = store_card(spec, manifest, commits, name=self.layout.folder.resolve().name)
            replace(readme, card.encode())
        return manifest

    def _manifest(self, spec: StoreSpec, commits: list[Commit]) -> Manifest:
        layout = self.layout
        small = layout.small_files()
        objects = {path.relative_to(layout.folder).as_posix(): sha256_of(path) for path in small}
        size = sum(path.stat().st_size for path in small if layout.tokenizer not in path.parents)
        for commit in commits:
            for one in commit.objects:
                objects[f"data/{commit.folder}/{one.path}"] = one.sha256
                size += one.size
        blocks = [block for commit in commits for block in commit.blocks]
        return Manifest(
            format=FORMAT,
            fingerprint=store_fingerprint(spec, commits),
            objects=objects,
            documents=sum(block.documents for block in blocks),
            tokens=sum(block.tokens for block in blocks),
            targets=sum(block.targets for block in blocks),
            bytes=size,
        )

    def _sweep(self, commits: list[Commit]) -> None:
        """Remove attempts that lost, leases, and temporary files of killed processes."""
        kept = {commit.folder for commit in commits}
        for folder in self.layout.data.glob("*-*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.layout.folder / "leases", ignore_errors=True)
        for folder in (self.layout.folder, self.layout.commits, self.layout.tokenizer):
            for path in folder.glob(TEMPORARY):
                path.unlink(missing_ok=True)
