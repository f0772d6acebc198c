"""What the trainer asks of a store, be it a folder, something in memory, or made of several.

`logitstore.open` gives one. Another class will do as well if it keeps this contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from logitstore import DocumentBlock, StoredDocument, StoreSpec

__all__ = ["BlockSize", "StoreLike"]


class BlockSize(Protocol):
    """What is in a block, by number."""

    @property
    def documents(self) -> int:
        """Documents of the block."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens of its documents."""
        ...

    @property
    def targets(self) -> int:
        """Counted tokens, each of which has a target."""
        ...


class StoreLike(Protocol):
    """A read-only sequence of documents in numbered blocks, each with a target per counted token.

    Content never changes while `fingerprint` stays the same: order, packing and exact resume are
    functions of it. Blocks are read from one thread at a time, in any order, and more than once. To
    go to the worker processes of a data loader, a store must pickle.
    """

    @property
    def fingerprint(self) -> str:
        """Names the content: equal content has an equal one."""
        ...

    @property
    def spec(self) -> StoreSpec:
        """What the targets are; read here: `sparsifier`, `tokenizer` and `text.max_length`."""
        ...

    @property
    def blocks(self) -> Sequence[BlockSize]:
        """The size of each block, in store order; known without reading one."""
        ...

    @property
    def draw(self) -> int:
        """Which of the draws of each target is read; 0 where there is one."""
        ...

    def with_draw(self, draw: int) -> StoreLike:
        """The same documents with the targets of another draw; see `SparsifierSpec.draw_number`."""
        ...

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of each document of block `number`, read without its entries."""
        ...

    def read_block(self, number: int) -> DocumentBlock:
        """Block `number`, decoded and checked."""
        ...

    def __iter__(self) -> Iterator[StoredDocument]:
        """Every document, in store order."""
        ...
