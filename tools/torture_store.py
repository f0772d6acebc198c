"""Small stores to attack, what is read of them, and the counts of what came of attacks.

The teacher and its tokenizer stay in memory, so a dump of some 1,000 targets takes a tenth of a
second (Parquet) or a fifth (Zarr). Blocks are small, so that each shard has several.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

import logitstore
from logitstore.dumping import states
from logitstore.store.head import read_head
from logitstore.store.layout import StoreLayout
from tools.tiny_teacher import make_teacher, texts, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from logitstore.targets.documents import StoredDocument

__all__ = [
    "CONTAINERS",
    "SPARSIFIERS",
    "Outcomes",
    "Scene",
    "content",
    "make_scene",
    "shard_bytes",
    "small_blocks",
]

CONTAINERS = ("zarr", "parquet")
BLOCK_TARGETS = 150
UNIT_TOKENS = 300  # as estimated: some 500 in truth
SPARSIFIERS: dict[str, dict[str, Any]] = {
    "default": {},
    "two draws": {"sparsify": "unbiased", "k": 8, "temperature": [1, 2]},
    "hidden states": {"sparsify": "hidden", "k": 4},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A tiny teacher, as a folder and in memory, and a small corpus in a file."""

    folder: Path
    teacher: Path
    data: Path
    model: Any
    tokenizer: Any

    def dump(self, out: Any, *, container: str, **more: Any) -> logitstore.DumpSummary:
        """Dump in this process into `out`, in small units and small blocks.

        out: a folder or a storage.
        container: its format.
        more: options of `logitstore.dump`.
        """
        with small_blocks():
            return logitstore.dump(
                teacher=self.model,
                tokenizer=self.tokenizer,
                data=str(self.data),
                out=out,
                format=container,
                **{"unit_tokens": UNIT_TOKENS, **more},
            )


def make_scene(folder: Path, *, records: int = 16, seed: int = 0) -> Scene:
    """A scene whose files lie in `folder`.

    folder: which must be there.
    records: texts of the corpus; 16 are two units.
    seed: of the texts and of the teacher's weights.
    """
    teacher = make_teacher(folder / "teacher", seed=seed)
    return Scene(
        folder=folder,
        teacher=teacher,
        data=write_jsonl(folder / "corpus.jsonl", "text", texts(records, seed=seed)),
        model=AutoModelForCausalLM.from_pretrained(teacher),
        tokenizer=AutoTokenizer.from_pretrained(teacher),
    )


@contextmanager
def small_blocks(targets: int = BLOCK_TARGETS) -> Iterator[None]:
    """Dumps in this process make blocks of about that many targets meanwhile.

    targets: instead of 65,536.
    """
    with patch.object(states, "BLOCK_TARGETS", targets):
        yield


def content(where: Any, *, allow_partial: bool = False, named: bool = True) -> str:
    """A hash of every value that reading a store gives: each document, each draw, the tokenizer.

    where: what `logitstore.open` takes.
    allow_partial: whether an unsealed store is read as far as it goes.
    named: whether the fingerprint counts, which is that of the bytes.

    Raises what reading raises.
    """
    store = logitstore.open(where, allow_partial=allow_partial)
    digest = hashlib.sha256(f"{store.fingerprint if named else ''} {len(store)}".encode())
    for name, data in sorted(store.tokenizer_files().items()):
        digest.update(name.encode() + data)
    if store.spec.states is not None and store.spec.states.head is not None:
        digest.update(read_head(store.layout, store.spec.states.head))
    for draw in range(store.spec.sparsifier.draw_count):
        for stored in store.with_draw(draw):
            _add(digest, stored)
    return digest.hexdigest()


def _add(digest: Any, stored: StoredDocument) -> None:
    for part in (stored.document, stored.targets):
        for one in fields(part):
            value = getattr(part, one.name)
            if isinstance(value, np.ndarray):
                digest.update(value.tobytes())
            elif one.name == "states":
                for name, kept in value.items():
                    digest.update(name.encode() + kept.bits_RD.tobytes())
            else:
                digest.update(repr(value).encode())


def shard_bytes(where: Any) -> dict[str, str]:
    """What of a sealed store must be as in an undisturbed one: name -> hash, attempts left out.

    where: what `logitstore.open` takes.

    Of `store.json` only what identifies it counts, and of commits what they name: versions and
    times may differ, and so may the names of attempts, which commits, manifest and README hold.
    """
    layout = StoreLayout.at(where)
    store = logitstore.open(where)
    small = ["plan.json", *layout.tokenizer_names(layout.read_spec())]
    found = {name: layout.storage.read(name) for name in small}
    for commit in store.commits:
        prefix = layout.shard_prefix(commit) if commit.attempt is not None else ""
        for one in commit.objects:
            found[f"{commit.unit}/{one.path}"] = layout.storage.read(f"{prefix}{one.path}")
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}
    return {**hashes, "fingerprint": store.fingerprint}


@dataclass(slots=True)
class Outcomes:
    """Counts of what came of attacks: a row of the table for each kind, a column for each outcome.

    columns: the outcomes, in order; the one called `wrong` fails the tool.
    """

    columns: tuple[str, ...]
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, kind: str, outcome: str, *, told: str = "") -> None:
        """Count one attack.

        kind: its row.
        outcome: one of the columns.
        told: what repeats it, for standard error, if it is wrong.
        """
        if outcome not in self.columns:
            raise ValueError(f"{outcome!r} is none of {self.columns}")
        self.counts[kind, outcome] += 1
        if outcome == "wrong":
            print(f"wrong: {kind}: {told}", file=sys.stderr, flush=True)

    def of(self, outcome: str) -> int:
        """How many attacks ended so.

        outcome: one of the columns.
        """
        return sum(count for (_, one), count in self.counts.items() if one == outcome)

    @property
    def wrong(self) -> int:
        """How many attacks ended as none may."""
        return self.of("wrong")

    @property
    def total(self) -> int:
        """How many attacks there were."""
        return self.counts.total()

    def table(self, what: str) -> str:
        """All counts as Markdown.

        what: the head of the first column.
        """
        kinds = list(dict.fromkeys(kind for kind, _ in self.counts))
        rows = [[kind, *(self.counts[kind, one] for one in self.columns)] for kind in kinds]
        if len(kinds) > 1:
            rows.append(["all", *(self.of(one) for one in self.columns)])
        lines = [
            "| " + " | ".join([what, *self.columns]) + " |",
            "|---" * (len(self.columns) + 1) + "|",
            *("| " + " | ".join(_cell(one) for one in row) + " |" for row in rows),
        ]
        return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
