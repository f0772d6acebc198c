"""Documents for forward passes: as many together as fit, in an order that the lengths allow.

Shapes: D documents of a pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from trainer.data.rows import lay_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from logitstore.plumbing import LengthClasses
    from trainer.data.rows import Batch, RowLayout
    from trainer.evaluation.material import Pair

__all__ = ["laid_out", "passes", "targets_of"]


def passes(
    documents: Iterable[Pair], *, lengths: LengthClasses, batch_tokens: int
) -> Iterator[list[Pair]]:
    """Documents for a forward pass each: as many as fit and may meet, at least one.

    Args:
        documents: With their targets, or without.
        lengths: Which lengths the model may read together.
        batch_tokens: The most tokens of a pass of several documents.
    """
    for pairs in _in_order(documents, batch_tokens=batch_tokens):
        for places in lengths.groups([len(document) for document, _ in pairs]):
            yield [pairs[place] for place in places]


def _in_order(documents: Iterable[Pair], *, batch_tokens: int) -> Iterator[list[Pair]]:
    waiting: list[Pair] = []
    tokens = 0
    for document, targets in documents:
        if waiting and tokens + len(document) > batch_tokens:
            yield waiting
            waiting, tokens = [], 0
        waiting.append((document, targets))
        tokens += len(document)
    if waiting:
        yield waiting


def targets_of(pairs: Iterable[Pair]) -> torch.Tensor:
    """int64 [D]: how many tokens of each document count."""
    return torch.tensor([int(document.counted_L.sum()) for document, _ in pairs])


def laid_out(pairs: list[Pair], layout: RowLayout) -> Batch:
    """The documents of a pass as its batch.

    Args:
        pairs: The documents, each with its targets if there is a teacher.
        layout: How documents share rows.
    """
    return lay_out(
        [document for document, _ in pairs],
        layout=layout,
        targets=[targets for _, targets in pairs if targets is not None],
    )
