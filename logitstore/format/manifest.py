"""What a store says of its data: the commit of each work unit, and the manifest that seals all.

A commit names the attempt that won a work unit, and the objects it wrote with their hashes.
`manifest.json` holds the hash of each commit and of every other small object, and the counts of
each block: so a store opens without its commits, and each is checked when its unit is read.
"""

from __future__ import annotations

import builtins
import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError
from logitstore.format.blocks import BlockCounts, BlockTable, counts_array
from logitstore.format.json import build, canonical_json, fingerprint, with_check
from logitstore.format.spec import FORMATS, StoreSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

__all__ = ["Commit", "Manifest", "SealedUnits", "StoredObject", "Totals", "store_fingerprint"]


_MOST = 1e18  # what no sum over a store reaches
_SUMS = re.compile("([0-9a-f]{8})+")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """One file of a shard. `path` is relative to the shard's folder."""

    path: str
    size: int  # bytes
    sha256: str
    # Since logitstore/3: of an object in chunks, the crc32c of each in the order of its index, then
    # that of the index, 8 hex digits each. A chunk of another object has another one.
    chunks: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in a commit."""
        content = asdict(self)
        if self.chunks is None:
            del content["chunks"]
        return content


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """The attempt that won a work unit, what it wrote and what that holds."""

    unit: str
    attempt: str | None  # None: every record of the unit was skipped, so there is no shard
    objects: tuple[StoredObject, ...]
    blocks: tuple[BlockCounts, ...]
    skipped: int  # records left out by --skip-bad
    column_bytes: dict[str, int]  # stored bytes by column
    sums: dict[str, float]  # over its targets: label_logprob, entropy, head_mass
    # Since logitstore/4: the hash of the spec's identity, by which the unit was made.
    settings: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the object that stands in commits/<unit>.json."""
        content = asdict(self)
        if self.settings is None:
            del content["settings"]
        content["objects"] = [one.to_json() for one in self.objects]
        content["blocks"] = list(content["blocks"])
        return content

    @staticmethod
    def from_json(content: Any, *, place: str) -> Commit:
        """The commit that `to_json` gave.

        content: JSON of any kind; CorruptionError unless it is a commit.
        place: what an error names.
        """
        commit = build(Commit, content, place=place)
        objects = tuple(build(StoredObject, one, place=place) for one in commit.objects)
        blocks = tuple(build(BlockCounts, one, place=place) for one in commit.blocks)
        object.__setattr__(commit, "objects", objects)
        object.__setattr__(commit, "blocks", blocks)
        for one in objects:
            if one.chunks is not None and not _SUMS.fullmatch(one.chunks):
                raise CorruptionError(
                    "chunks are no checksums", place=f"{place}: {one.path}", found=one.chunks[:80]
                )
        _refuse_odd_sums(commit, place=place)
        if any(min(one.documents, one.tokens, one.targets) < 1 for one in blocks):
            raise CorruptionError("a block holds nothing", place=place, allowed="1 or more")
        return commit

    @property
    def folder(self) -> str | None:
        """The shard's folder below `data/`."""
        return None if self.attempt is None else f"{self.unit}-{self.attempt}"

    def data_identity(self) -> dict[str, Any]:
        """What the unit holds, without the attempt's name."""
        return {
            "unit": self.unit,
            "objects": {one.path: one.sha256 for one in self.objects},
            "skipped": self.skipped,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """What the commits of a store add up to."""

    documents: int
    tokens: int
    targets: int
    skipped: int  # records left out by --skip-bad
    column_bytes: dict[str, int]  # stored bytes by column
    sums: dict[str, float]  # as in a commit

    @staticmethod
    def of(commits: Iterable[Commit]) -> Totals:
        """The totals of some commits."""
        counts, skipped = [0, 0, 0], 0
        column_bytes: dict[str, int] = {}
        sums: dict[str, float] = {}
        for commit in commits:
            skipped += commit.skipped
            for block in commit.blocks:
                for number, one in enumerate((block.documents, block.tokens, block.targets)):
                    counts[number] += one
            for name, size in commit.column_bytes.items():
                column_bytes[name] = column_bytes.get(name, 0) + size
            for name, value in commit.sums.items():
                sums[name] = sums.get(name, 0.0) + value
        return Totals(
            documents=counts[0],
            tokens=counts[1],
            targets=counts[2],
            skipped=skipped,
            column_bytes=column_bytes,
            sums=sums,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SealedUnits:
    """What a manifest says of each work unit, in the order of the plan."""

    names: tuple[str, ...]
    commit_sha256: tuple[str, ...]  # of commits/<unit>.json
    blocks_U: np.ndarray  # int64 [U]: how many of the store's blocks are the unit's

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest: a list for each field."""
        return {
            "name": list(self.names),
            "commit_sha256": list(self.commit_sha256),
            "blocks": self.blocks_U.tolist(),
        }

    @staticmethod
    def from_json(content: Any, *, place: str) -> SealedUnits:
        """The units that `to_json` gave.

        content: JSON of any kind; CorruptionError unless they are such units.
        place: what an error names.
        """
        fields = ("blocks", "commit_sha256", "name")
        if not isinstance(content, dict) or sorted(content) != list(fields):
            raise CorruptionError("units have other fields", place=place, allowed=", ".join(fields))
        names, hashes = content["name"], content["commit_sha256"]
        blocks_U = counts_array(content["blocks"], place=f"{place}: units.blocks")
        if not (_are_strings(names) and _are_strings(hashes)) or not (
            len(names) == len(hashes) == len(blocks_U) == len(set(names))
        ):
            raise CorruptionError(
                "units are no lists of as many names, hashes and counts", place=place
            )
        return SealedUnits(names=tuple(names), commit_sha256=tuple(hashes), blocks_U=blocks_U)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The seal: hashes, totals, the store's fingerprint, and what each block holds."""

    format: str
    fingerprint: str
    # Path in the store -> sha256: of store.json, plan.json and the tokenizer. Before logitstore/4
    # of every object but README.md, and there was nothing below `bytes`.
    objects: dict[str, str]
    documents: int
    tokens: int
    targets: int
    bytes: int  # of every object but the tokenizer, the README and the manifest itself
    skipped: int = 0
    column_bytes: dict[str, int] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    units: SealedUnits | None = None
    blocks: BlockTable | None = None

    def encoded(self) -> builtins.bytes:
        """As the object manifest.json."""
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        if self.units is None or self.blocks is None:
            for name in _SINCE_4:
                del content[name]
            return canonical_json(content)
        listed = {"units": self.units.to_json(), "blocks": self.blocks.to_json()}
        return with_check(content | listed)

    @staticmethod
    def from_json(content: Any, *, place: str) -> Manifest:
        """The manifest that `encoded` gave, without its hash.

        content: JSON of any kind; CorruptionError unless it is a manifest.
        place: what an error names.
        """
        manifest = build(Manifest, content, place=place)
        given = [name for name in _SINCE_4 if name in content]
        old = manifest.format in FORMATS[:3]
        if given != ([] if old else list(_SINCE_4)):
            raise CorruptionError(
                "fields missing or unknown", place=place, found=", ".join(given) or "no units"
            )
        if old:
            return manifest
        _refuse_odd_sums(manifest, place=place)
        units = SealedUnits.from_json(content["units"], place=place)
        blocks = BlockTable.from_json(content["blocks"], place=place)
        counted = {
            "blocks": (len(blocks), int(units.blocks_U.sum())),
            "documents": (manifest.documents, int(blocks.documents_B.sum())),
            "tokens": (manifest.tokens, int(blocks.tokens_B.sum())),
            "targets": (manifest.targets, int(blocks.targets_B.sum())),
        }
        for name, (said, found) in counted.items():
            if said != found:
                raise CorruptionError(
                    f"{name} do not add up", place=place, found=found, allowed=said
                )
        return replace(manifest, units=units, blocks=blocks)


_SINCE_4 = ("skipped", "column_bytes", "sums", "units", "blocks")


def _are_strings(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(one, str) for one in content)


def _refuse_odd_sums(counted: Commit | Manifest, *, place: str) -> None:
    """Raise CorruptionError where a sum is none: it would be shown, or divided by."""
    for one in (*counted.column_bytes.values(), *counted.sums.values()):
        if isinstance(one, bool) or not isinstance(one, int | float) or not abs(one) < _MOST:
            raise CorruptionError("a sum is no number", place=place, allowed=f"below {_MOST:g}")


def store_fingerprint(spec: StoreSpec, units: Iterable[dict[str, Any]]) -> str:
    """Covers the spec and the hashes of the data, no attempt names and no times.

    spec: of the store.
    units: the `data_identity` of every commit, in any order.
    """
    listed = sorted(units, key=lambda one: one["unit"])
    return fingerprint({"spec": spec.identity(), "units": listed})
