"""Columns: one block as integers, which is all that a container has to hold.

The codec decides what the integers mean, the container decides how they lie in files. Beside its
blocks a shard has tables, which the codec makes once for all of them: each a name and one array of
uint32, such as the order in which `rank-delta` counts the token ids.

Shapes: R targets, K entries (of all draws), N tokens, D documents, C columns of their table, W
width of a hidden state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["DOCUMENT_COLUMNS", "Columns", "planes_needed"]

# Two 64-bit halves of the id (big-endian), where the document comes from, and its lengths.
DOCUMENT_COLUMNS = ("id_high", "id_low", "record", "piece", "tokens", "targets")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Columns:
    """One block of documents as unsigned integers, exactly as the codec made them.

    All entries are of one shape; where targets have several draws, these lie side by side. A name
    is made of lower-case letters, digits and underscores. What a container gives back may have a
    wider type than what it was given: values are equal.
    """

    entries: Mapping[str, np.ndarray]  # name -> up to uint32 [R, K], in the codec's order
    scalars: Mapping[str, np.ndarray]  # name -> uint32 [R], in the codec's order
    tokens_N: np.ndarray  # uint32
    counted_N: np.ndarray  # uint8, 0 or 1
    documents_DC: np.ndarray  # uint64, one column for each name in DOCUMENT_COLUMNS
    # Layer -> uint16 or uint32 [R, W]: the bits of hidden states, where the store keeps them.
    states: Mapping[str, np.ndarray] = field(default_factory=dict)


def planes_needed(highest: int) -> int:
    """Bytes that hold any integer up to `highest`, at least one."""
    return max(1, (int(highest).bit_length() + 7) // 8)
