"""Stores to be looked at: texts that would harm a page, token by token."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.store.commit import StoreWriter
from logitstore.store.layout import StoreLayout
from logitstore.store.writer import UnitWriter
from logitstore.targets.documents import Document, StoredDocument, document_id
from logitstore.viewing.token_texts import _BYTES
from tests.synthetic import plan_of, sparse_targets, store_spec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VOCABULARY = 300
ADDED = {
    256: "<|end|>",
    257: "</script><script>window.harmed = 1</script>",
    258: "W" * 9000,
    259: "\u202eturned around\u202c",
}
HOSTILE = (
    "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'> & \"quoted\"\n",
    "naïve 漢字 🙂 \u202e turned \x00 zero \x1b[31m red \u2028 line\n",
    "A plain text about a needle in a haystack, long enough to wrap around on a phone at least.\n",
)


def tokenizer_json() -> dict[str, bytes]:
    """A byte-level tokenizer: an id for each byte, and some that were added."""
    content = {
        "model": {"type": "BPE", "vocab": _BYTES, "merges": []},
        "decoder": {"type": "ByteLevel"},
        "added_tokens": [
            {"id": one, "content": text, "special": one == 256} for one, text in ADDED.items()
        ],
    }
    return {"tokenizer.json": json.dumps(content).encode()}


def documents(
    texts: Sequence[str | list[int]], *, seed: int = 0, source: str = "viewed", **options: Any
) -> list[StoredDocument]:
    """Documents of texts, a token for each byte, or of ids; their third token does not count."""
    found = []
    for number, text in enumerate(texts):
        ids = list(text.encode()) if isinstance(text, str) else text
        counted_L = np.ones(len(ids), dtype=bool)
        counted_L[[0, 2]] = False
        document = Document(
            id=document_id(source=source, record=number, piece=0),
            record=number,
            piece=0,
            input_ids_L=np.array(ids, dtype=np.uint32),
            counted_L=counted_L,
        )
        targets = sparse_targets(
            document.targets, k=8, vocab_size=VOCABULARY, seed=seed + number, **options
        )
        # What follows has an entry in every second target.
        labels_R = document.input_ids_L[counted_L]
        targets.ids_RK[::2, 3] = np.where(
            (targets.ids_RK[::2] == labels_R[::2, None]).any(axis=1),
            targets.ids_RK[::2, 3],
            labels_R[::2],
        )
        found.append(StoredDocument(document=document, targets=targets))
    return found


def write_viewed(folder: Path, stored: list[StoredDocument], **changes: Any) -> Path:
    """A store of documents with that tokenizer."""
    spec = replace(store_spec(vocab_size=VOCABULARY, block_targets=200), **changes)
    writer, plan = StoreWriter(StoreLayout.at(folder)), plan_of(1)
    writer.begin(spec, plan, tokenizer_json())
    UnitWriter.of(writer, spec).write(plan.units[0], stored, skipped=0)
    writer.seal(plan)
    return folder
