"""What a store says of its data: the commit of each work unit, and the manifest that seals all.

A commit names the attempt that won a work unit and the objects it wrote; `manifest.json` holds the
hash of every other object.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorruptionError
from logitstore.format.json import build, fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.format.spec import StoreSpec

__all__ = ["BlockCounts", "Commit", "Manifest", "StoredObject", "store_fingerprint"]


_MOST = 1e18  # what no sum over a unit reaches
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
class BlockCounts:
    """How much one block holds."""

    documents: int
    tokens: int
    targets: int


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

    def to_json(self) -> dict[str, Any]:
        """As the object that stands in commits/<unit>.json."""
        content = asdict(self)
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
        numbers = [*commit.column_bytes.values(), *commit.sums.values()]
        if not all(isinstance(one, int | float) and abs(one) < _MOST for one in numbers):
            raise CorruptionError("a sum is no number", place=place, allowed=f"below {_MOST:g}")
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
class Manifest:
    """The seal: the hash of every other object but README.md, totals, the store's fingerprint."""

    format: str
    fingerprint: str
    objects: dict[str, str]  # path in the store -> sha256
    documents: int
    tokens: int
    targets: int
    bytes: int  # of every object but the tokenizer, the README and the manifest itself

    def to_json(self) -> dict[str, Any]:
        """As the object that stands in manifest.json."""
        return asdict(self)

    @staticmethod
    def from_json(content: Any, *, place: str) -> Manifest:
        """The manifest that `to_json` gave.

        content: JSON of any kind; CorruptionError unless it is a manifest.
        place: what an error names.
        """
        return build(Manifest, content, place=place)


def store_fingerprint(spec: StoreSpec, commits: Sequence[Commit]) -> str:
    """Covers the spec and the hashes of the data, no attempt names and no times.

    spec: of the store.
    commits: of all its units, in any order.
    """
    units = [commit.data_identity() for commit in sorted(commits, key=lambda one: one.unit)]
    return fingerprint({"spec": spec.identity(), "units": units})
