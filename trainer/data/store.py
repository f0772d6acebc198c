"""The contract of a store that the trainer reads: a folder, or any other object that keeps it.

`logitstore.open` gives such a store.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import logitstore
from logitstore import SettingError
from logitstore.plumbing import sparsifier_of
from trainer.data.answer_files import is_answers
from trainer.data.spans import has_spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from logitstore import DocumentBlock, StoredDocument, StoreSpec
    from logitstore.plumbing import StoredHead

__all__ = [
    "Ahead",
    "BlockSize",
    "StoreLike",
    "StoreSource",
    "as_store",
    "begin_reading",
    "reading_ahead",
    "teacher_head_of",
]


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
    """A read-only sequence of documents in numbered blocks, with a target for each counted token.

    Equal fingerprints mean equal content: order, packing and exact resume depend on it. One thread
    at a time reads blocks, in any order, and more than once. A store that goes to the worker
    processes of a data loader must pickle.
    """

    @property
    def fingerprint(self) -> str:
        """A name of the content: equal content has an equal one."""
        ...

    @property
    def spec(self) -> StoreSpec:
        """What the targets are. `sparsifier`, `tokenizer` and `text.max_length` are read."""
        ...

    @property
    def blocks(self) -> Sequence[BlockSize]:
        """The size of each block, in store order; known without reading one."""
        ...

    @property
    def draw(self) -> int:
        """The number of the draw that is read of each target; 0 where there is one."""
        ...

    def with_draw(self, draw: int) -> StoreLike:
        """The same documents with the targets of draw number `draw`.

        See `SparsifierSpec.draw_number`.
        """
        ...

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of each document of block `number`, without its entries."""
        ...

    def read_block(self, number: int) -> DocumentBlock:
        """Block `number` of the store, decoded and checked."""
        ...

    def __iter__(self) -> Iterator[StoredDocument]:
        """Every document, in store order."""
        ...


class Ahead(Protocol):
    """What a store may offer besides: it fetches the blocks that it is told to expect."""

    @property
    def far(self) -> bool:
        """Whether it does anything ahead; otherwise nobody needs to tell it what comes."""
        ...

    def expect(self, number: int) -> None:
        """Block `number` is read soon, and once."""
        ...

    def expect_lengths(self, number: int) -> None:
        """The lengths of block `number` are asked for soon."""
        ...

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """As the store gives them."""
        ...

    def read_block(self, number: int) -> DocumentBlock:
        """As the store gives it."""
        ...


@dataclass(frozen=True, slots=True)
class _Near:
    """A store that does nothing ahead."""

    store: StoreLike
    far: bool = False

    def expect(self, number: int) -> None:
        """Nothing is done."""

    def expect_lengths(self, number: int) -> None:
        """Nothing is done."""

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """As the store gives them."""
        return self.store.document_lengths(number)

    def read_block(self, number: int) -> DocumentBlock:
        """As the store gives it."""
        return self.store.read_block(number)


def reading_ahead(store: StoreLike) -> Ahead:
    """What reads the blocks of a store: its own `ahead()`, where it has one.

    Args:
        store: That is read.
    """
    own = getattr(store, "ahead", None)
    return _Near(store) if own is None else own()


def teacher_head_of(store: Any) -> StoredHead | None:
    """The output layer of a store's teacher, where its targets are hidden states.

    Args:
        store: A StoreLike, or one in other tokens, which reads entries alone.

    Raises SettingError for a store of such targets that does not give it.
    """
    if has_spans(store.spec) or not sparsifier_of(store.spec.sparsifier).targets.keeps_state:
        return None
    head = getattr(store, "head", None)
    if head is None:
        raise SettingError(
            "the store holds hidden states, and does not give its teacher's output layer",
            place=f"store {store.fingerprint[:12]}",
            found=type(store).__name__,
            allowed="a store with `head`, as `logitstore.open` gives it",
        )
    found: StoredHead = head
    return found


def begin_reading(reader: Ahead, number: int) -> None:
    """Have a block read from now on, beside others, where the reader has a `begin`.

    Without one, one thread at a time reads the store.

    Args:
        reader: What `reading_ahead` gave.
        number: Of the block, which is asked for next.
    """
    begin = getattr(reader, "begin", None)
    if begin is not None:
        begin(number)


# A store that is open, or what `logitstore.open` takes: a path, a URI, a `logitstore.Storage`.
StoreSource: TypeAlias = "StoreLike | str | os.PathLike[str] | logitstore.Storage"

_CONTRACT = ("fingerprint", "spec", "blocks", "draw", "with_draw", "document_lengths", "read_block")


def as_store(
    source: StoreSource,
    *,
    model: str | None = None,
    tokenizer: Any | None = None,
    max_memory: int | str | None = None,
) -> Any:
    """The store that `source` is, or the one that is opened from it.

    Args:
        source: An object that keeps the contract of `StoreLike`, such as an open store: it is
            returned as it is. Or what `logitstore.open` takes, or the path of a Parquet file of
            answers.
        model: The name of the model that reads it, whose tokenizer the ids of answers are of.
        tokenizer: That tokenizer, where it is loaded.
        max_memory: What a block may take while it is read, as `logitstore.open` takes it; an open
            store keeps its own.

    Raises SettingError for anything else, and what `logitstore.open` raises.
    """
    if is_answers(source):
        from trainer.data.answers import AnswerStore

        return AnswerStore(str(source), model=model, tokenizer=tokenizer)
    if isinstance(source, str | os.PathLike | logitstore.Storage):
        return logitstore.open(source, max_memory=max_memory)
    missing = [name for name in _CONTRACT if not hasattr(source, name)]
    if missing:
        raise SettingError(
            "a store is an open store, a folder's path, a URI or a `logitstore.Storage`",
            found=type(source).__name__,
            allowed=f"an object with {', '.join(_CONTRACT)}",
        )
    return source
