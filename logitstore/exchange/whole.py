"""Whole distributions as targets: what a dump makes of a teacher's logits.

Shapes: R rows, V vocabulary, W columns of the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from logitstore.sparsify import SPARSIFIERS
from logitstore.targets.draws import row_keys
from logitstore.targets.targets import SparseTargets

if TYPE_CHECKING:
    from logitstore.exchange.foreign_documents import ForeignDocument
    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.documents import Document

__all__ = ["whole_targets"]


def whole_targets(
    document: ForeignDocument, own: Document, spec: SparsifierSpec, *, vocab_size: int
) -> tuple[SparseTargets, ...]:
    """The targets of a document in every draw of a sparsifier.

    document: with `WholeRows`.
    own: the same document as the store has it.
    spec: of the sparsifier.
    vocab_size: V. Columns of the file beyond it stand for no token, and are left out before the
        rest is normalised.
    """
    import torch

    labels_R = own.input_ids_L[own.counted_L].astype(np.int64)
    keys_R = row_keys(own, seed=spec.seed)
    parts, start = [], 0
    for logprobs_RW in document.rows.chunks():  # type: ignore[union-attr]
        rows = slice(start, start + len(logprobs_RW))
        logits_RV = torch.from_numpy(np.ascontiguousarray(logprobs_RW[:, :vocab_size]))
        labels = torch.from_numpy(labels_R[rows])
        parts.append(SPARSIFIERS[spec.name].draw(logits_RV, labels, keys_R[rows], spec))
        start = rows.stop
    return tuple(SparseTargets.concatenate(draw) for draw in zip(*parts, strict=True))
