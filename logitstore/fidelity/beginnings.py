"""Documents that do not begin as the tokenizer begins texts: no fault, but worth a warning.

A teacher that was trained on texts behind BOS is far off where it is missing, and its targets are
as faithful to that as any. Chats lack it whose template writes none, and records of tokens that
come without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore.corpus.encoder import beginning
from logitstore.errors import ModelError
from logitstore.fidelity.rereading import stored_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from logitstore.store.reader import Store
    from logitstore.targets.documents import Document

__all__ = ["beginnings"]


def beginnings(store: Store, documents: Sequence[Document]) -> dict[str, Any]:
    """How many documents lack the tokenizer's BOS, and the warning where some do.

    store: open; its tokenizer decides.
    documents: those that were looked at.

    `without_bos` is None where the tokenizer begins texts with none, or cannot be loaded. What the
    teacher read counts.
    """
    tokenizer = _tokenizer(store)
    first = [] if tokenizer is None else beginning(tokenizer)
    if tokenizer is None or not first:
        return {"without_bos": None, "warnings": []}
    lacking = sum(document.as_read.input_ids_L[:1].tolist() != first for document in documents)
    warning = (
        f"{lacking:,} of {len(documents):,} documents do not begin with {tokenizer.bos_token}, as "
        "the tokenizer begins texts: a teacher that knows no text without it is far off there"
    )
    return {"without_bos": lacking, "warnings": [warning] if lacking else []}


def _tokenizer(store: Store) -> Any:
    files = store.tokenizer_files()
    try:
        return stored_tokenizer(files) if files else None
    except ModelError:  # of a class that this version of transformers does not have
        return None
