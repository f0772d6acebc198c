"""The dataset card: README.md of a store, made from its manifest."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from logitstore.errors import printable
from logitstore.sparsify import sparsifier_of

if TYPE_CHECKING:
    from logitstore.format.manifest import Manifest, Totals
    from logitstore.format.spec import StoreSpec

__all__ = ["store_card"]


def store_card(spec: StoreSpec, manifest: Manifest, totals: Totals, *, name: str) -> str:
    """Markdown with the front matter that dataset hubs read.

    spec: of the store.
    manifest: of the store.
    totals: of its commits.
    name: of the store, as its title.
    """
    targets = max(1, manifest.targets)
    mass = totals.sums.get("head_mass")
    held = "" if mass is None else f"; exact ones hold {mass / targets:.3f} of the mass"
    rows = {
        "teacher": spec.teacher.in_words,
        "corpus": spec.corpus.name,
        "documents": f"{manifest.documents:,}",
        "targets": f"{manifest.targets:,}",
        "bytes": f"{manifest.bytes:,} ({manifest.bytes / targets:.1f} per target)",
        "sparsifier": f"{spec.sparsifier.name}, "
        f"{sparsifier_of(spec.sparsifier).entries(spec.sparsifier)} a target{held}",
        "temperatures": sparsifier_of(spec.sparsifier).served(spec.sparsifier),
        "vocabulary": f"{spec.tokenizer.vocab_size:,} ids",
        "container": spec.container,
        "fingerprint": f"`{manifest.fingerprint}`",
    }
    table = "\n".join(f"| {label} | {_cell(value)} |" for label, value in rows.items())
    return f"""---
tags:
- knowledge-distillation
- logitstore
---
# {name}

Next-token distributions of a teacher language model, stored once to distil students from.

| what | value |
|---|---|
{table}

Use it:

    logitstore verify {name}
    trainer fit --logits {name} --student MODEL --out RUN

or from Python:

    import logitstore
    store = logitstore.open("{name}")
    store[0].targets.ids_RK, store[0].targets.logprobs_RK
"""


def _cell(text: str) -> str:
    """A text from elsewhere as a cell of a table: no HTML, no other cell, nothing unseen."""
    return html.escape(printable(text), quote=False).replace("|", "\\|")
