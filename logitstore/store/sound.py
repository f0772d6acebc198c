"""What is left of a store that is damaged: the blocks that read as they were written.

A block is damaged where its files, or the commit of its unit, are not what was written. What the
storage refuses for now is no damage, and is raised. Nor is a store.json, a plan or a manifest that
has changed: without them nothing says what the blocks are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from logitstore.errors import CorruptionError, ObjectMissing, SettingError, StoreError
from logitstore.options import Option
from logitstore.progress import Meter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np

    from logitstore.format.blocks import BlockTable
    from logitstore.progress import OnProgress
    from logitstore.targets.documents import DocumentBlock

__all__ = [
    "SKIP_DAMAGED",
    "DamagedBlock",
    "describe_damage",
    "find_damaged",
    "most_damaged",
    "refuse_more_damaged",
    "refuse_other_blocks",
]

_ALL = "all"
_MOST_DIGITS = 16
_NAMED = 4  # damaged blocks, in a message


class Blocks(Protocol):
    """What is asked of a store here; a `Store` has it."""

    @property
    def uri(self) -> str:
        """Where it lies."""
        ...

    @property
    def blocks(self) -> BlockTable:
        """The counts of each block."""
        ...

    def read_draws(self, number: int) -> Iterator[DocumentBlock]:
        """Block `number` at each draw in turn."""
        ...

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of each document of block `number`."""
        ...


@dataclass(frozen=True, slots=True)
class DamagedBlock:
    """A block that cannot be read as it was written."""

    number: int  # of the whole store
    place: str
    problem: str


def most_damaged(value: Any) -> int | None:
    """How many damaged blocks `--skip-damaged` passes over; None for any number.

    value: True or "all"; or a number, which may be a string.

    Raises SettingError for anything else.
    """
    if value is True or (isinstance(value, str) and value == _ALL):
        return None
    if isinstance(value, str) and value.isdecimal() and len(value) < _MOST_DIGITS:
        return int(value)
    if isinstance(value, int) and value >= 0 and not isinstance(value, bool):
        return value
    raise SettingError(
        "is no number of blocks", found=repr(value)[:80], allowed=f"{_ALL}, or 0 or more"
    )


SKIP_DAMAGED = Option(
    name="skip_damaged",
    kind=object,
    default=None,
    nullable=True,
    bare=_ALL,
    help="Go on without the blocks of a store that are damaged, named and counted, if there are no "
    "more than N; without a number, however many. Every block is read once to find them.",
    in_python="True for however many.",
    unset="a damaged block is refused",
    refuse=most_damaged,
)


def find_damaged(
    store: Blocks,
    *,
    numbers: Sequence[int] | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[DamagedBlock, ...]:
    """The blocks that are damaged in any draw, in order. Reads and decodes each block once.

    store: all of it, or a view of it.
    numbers: of the blocks to look at; None for all.
    on_progress: told how far it is.

    Raises StorageError where the storage refuses for now.
    """
    listed = range(len(store.blocks)) if numbers is None else numbers
    meter = Meter(on_progress, stage="looking for damaged blocks", unit="blocks")
    found = []
    for done, number in enumerate(listed, start=1):
        try:
            _read(store, number)
        except ObjectMissing as error:
            found.append(DamagedBlock(number, str(error.place), error.problem))
        except CorruptionError as error:
            found.append(DamagedBlock(number, str(error.place), error.problem))
        meter.tell(done, fraction=done / len(listed))
    return tuple(found)


def _read(store: Blocks, number: int) -> None:
    """Read every draw of a block and all its documents; raises what is wrong with them."""
    counts = store.blocks[number]
    for block in store.read_draws(number):
        found = (len(block), len(block.input_ids_N), len(block.targets))
        if found != (counts.documents, counts.tokens, counts.targets):
            raise CorruptionError(
                "documents, tokens and targets are not as many as written",
                place=f"{store.uri}, block {number}",
                found=found,
                allowed=counts,
            )
        for stored in block.split():
            del stored  # building it checks that tokens, mask and targets belong together
    documents, _ = store.document_lengths(number)
    if len(documents) != counts.documents:
        raise CorruptionError(
            "documents are not as many as written", place=f"{store.uri}, block {number}"
        )


def refuse_more_damaged(
    store: Blocks, damaged: Sequence[DamagedBlock], *, most: int | None
) -> None:
    """Raise CorruptionError for more damaged blocks than may be left out, or where none is sound.

    store: all of it.
    damaged: its damaged blocks.
    most: as many as may be left out; None for any number.
    """
    if most is not None and len(damaged) > most:
        raise CorruptionError(
            f"more blocks are damaged than --skip-damaged passes over: {describe_damage(damaged)}",
            place=store.uri,
            found=len(damaged),
            allowed=f"up to {most}",
        )
    if damaged and len(damaged) == len(store.blocks):
        raise CorruptionError(
            f"every block is damaged: {describe_damage(damaged)}", place=store.uri
        )


def describe_damage(damaged: Iterable[DamagedBlock]) -> str:
    """The first damaged blocks by their places and problems, in a few words.

    damaged: the blocks.
    """
    listed = list(damaged)
    words = [f"{one.place}: {one.problem}" for one in listed[:_NAMED]]
    more = [] if len(listed) <= _NAMED else [f"and {len(listed) - _NAMED} more"]
    return "; ".join([*words, *more])


def refuse_other_blocks(store: Blocks, damaged: Sequence[DamagedBlock]) -> None:
    """Raise StoreError unless the numbers of `damaged` rise and are those of blocks of `store`.

    store: all of it.
    damaged: blocks to leave out.
    """
    numbers = [one.number for one in damaged]
    if numbers != sorted(set(numbers)) or not all(0 <= one < len(store.blocks) for one in numbers):
        raise StoreError(
            "the blocks to leave out are not blocks of the store",
            place=store.uri,
            found=numbers[:_NAMED],
            allowed=f"0..{len(store.blocks) - 1}, each once",
        )
