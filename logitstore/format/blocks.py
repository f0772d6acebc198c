"""How much each block of a store holds: its documents, tokens and targets, as three arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from logitstore.errors import CorruptionError

__all__ = ["BlockCounts", "BlockTable", "counts_array"]

_MOST_COUNT = 1 << 40  # documents, tokens or targets of one block
_MOST_BLOCKS = 1 << 22  # so that no sum leaves 64 bits


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockCounts:
    """How much one block holds."""

    documents: int
    tokens: int
    targets: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockTable(Sequence[BlockCounts]):
    """The counts of every block, in order: a sequence of `BlockCounts`, made when one is asked for.

    documents_B, tokens_B, targets_B: int64 [B], each 1 or more.
    """

    documents_B: np.ndarray
    tokens_B: np.ndarray
    targets_B: np.ndarray

    @staticmethod
    def of(blocks: Iterable[BlockCounts]) -> BlockTable:
        """The table of some blocks."""
        rows = [(one.documents, one.tokens, one.targets) for one in blocks]
        table_B3 = np.array(rows, dtype=np.int64).reshape(-1, 3)
        return BlockTable(
            documents_B=table_B3[:, 0], tokens_B=table_B3[:, 1], targets_B=table_B3[:, 2]
        )

    def without(self, numbers: Sequence[int]) -> BlockTable:
        """The table of the blocks but those of the given numbers.

        numbers: from 0.
        """
        return BlockTable(
            documents_B=np.delete(self.documents_B, numbers),
            tokens_B=np.delete(self.tokens_B, numbers),
            targets_B=np.delete(self.targets_B, numbers),
        )

    def to_json(self) -> dict[str, list[int]]:
        """As it stands in a manifest: a list for each count."""
        return {
            "documents": self.documents_B.tolist(),
            "tokens": self.tokens_B.tolist(),
            "targets": self.targets_B.tolist(),
        }

    @staticmethod
    def from_json(content: Any, *, place: str) -> BlockTable:
        """The table that `to_json` gave.

        content: JSON of any kind; CorruptionError unless it is such a table.
        place: what an error names.
        """
        names = ("documents", "tokens", "targets")
        if not isinstance(content, dict) or set(content) != set(names):
            raise CorruptionError("blocks have other counts", place=place, allowed=", ".join(names))
        documents_B, tokens_B, targets_B = (
            counts_array(content[name], place=f"{place}: blocks.{name}", least=1) for name in names
        )
        if not len(documents_B) == len(tokens_B) == len(targets_B):
            raise CorruptionError("counts of blocks differ in number", place=place)
        return BlockTable(documents_B=documents_B, tokens_B=tokens_B, targets_B=targets_B)

    def __len__(self) -> int:
        return len(self.documents_B)

    @overload
    def __getitem__(self, index: int) -> BlockCounts: ...
    @overload
    def __getitem__(self, index: slice) -> BlockTable: ...

    def __getitem__(self, index: int | slice) -> BlockCounts | BlockTable:
        if isinstance(index, slice):
            return BlockTable(
                documents_B=self.documents_B[index],
                tokens_B=self.tokens_B[index],
                targets_B=self.targets_B[index],
            )
        return BlockCounts(
            documents=int(self.documents_B[index]),
            tokens=int(self.tokens_B[index]),
            targets=int(self.targets_B[index]),
        )

    def __iter__(self) -> Iterator[BlockCounts]:
        columns = (self.documents_B.tolist(), self.tokens_B.tolist(), self.targets_B.tolist())
        for documents, tokens, targets in zip(*columns, strict=True):
            yield BlockCounts(documents=documents, tokens=tokens, targets=targets)


def counts_array(content: Any, *, place: str, least: int = 0) -> np.ndarray:
    """int64: a list of whole numbers from `least` up.

    content: JSON of any kind; CorruptionError unless it is such a list.
    place: what an error names.
    least: the smallest that is allowed.
    """
    if not isinstance(content, list) or len(content) > _MOST_BLOCKS:
        raise CorruptionError("a list of counts is missing or too long", place=place)
    for number, one in enumerate(content):
        if type(one) is not int or not least <= one <= _MOST_COUNT:
            raise CorruptionError(
                "a count is out of range",
                place=f"{place}[{number}]",
                found=repr(one)[:80],
                allowed=f"{least} to {_MOST_COUNT}",
            )
    return np.array(content, dtype=np.int64)
