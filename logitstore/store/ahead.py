"""Reading ahead: where the storage is far, the bytes of the blocks to come are fetched meanwhile.

Who reads blocks says beforehand which come next. Only bytes are fetched; they are checked and
decoded when the block is read, by the thread that reads it, as those of any block. Where several
blocks are needed at once, as for the first batch of a run, two threads read them, near or far.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from logitstore.store.storage import FarStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np

    from logitstore.format.blocks import BlockTable
    from logitstore.store.containers.base import Fetched
    from logitstore.store.layout import StoreLayout
    from logitstore.targets.documents import DocumentBlock

__all__ = ["ReadAhead"]

# Compressed blocks of 65,536 targets take 2 to 5 MB: some 50 of them, which is one of each lane.
_MOST_BYTES = 256 << 20
_THREADS = 8  # each waits for the requests of one block, which are made together
_IN_TURN = 8  # blocks ahead of one that reads them in order
_MOST_LENGTHS = 256
_READERS = 2  # threads that decode: each takes what decoding takes besides the block


class Blocks(Protocol):
    """What is asked of a store here; a `Store` has it."""

    @property
    def layout(self) -> StoreLayout:
        """Where it lies."""
        ...

    @property
    def blocks(self) -> BlockTable:
        """The counts of each block."""
        ...

    @property
    def stored_bytes(self) -> int:
        """Bytes of all blocks, about."""
        ...

    def fetch_block(self, number: int, *, all_draws: bool = False) -> Fetched:
        """The bytes that reading a block takes."""
        ...

    def read_block(self, number: int, *, fetched: Fetched | None = None) -> DocumentBlock:
        """A block, of what was fetched."""
        ...

    def read_draws(self, number: int, *, fetched: Fetched | None = None) -> Iterator[DocumentBlock]:
        """A block at each draw in turn, of what was fetched."""
        ...

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of each document of a block."""
        ...


class ReadAhead:
    """The blocks of one store, for one reader. Where the storage is near, nothing is done ahead.

    Args:
        store: What is read.
        most: Bytes of blocks that wait to be read, at most; one block may always wait.
        all_draws: Whether blocks are read with all their draws.
    """

    def __init__(self, store: Blocks, *, most: int = _MOST_BYTES, all_draws: bool = False) -> None:
        self._store, self._most, self._all_draws = store, most, all_draws
        self.far = isinstance(store.layout.storage, FarStorage)
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._queue: deque[int] = deque()
        self._fetching: dict[int, Future[Fetched]] = {}
        self._lengths: dict[int, Future[tuple[np.ndarray, np.ndarray]]] = {}
        self._reading: dict[int, Future[DocumentBlock]] = {}

    def __getstate__(self) -> tuple[Blocks, int, bool]:
        return self._store, self._most, self._all_draws

    def __setstate__(self, state: tuple[Blocks, int, bool]) -> None:
        store, most, all_draws = state
        self.__init__(store, most=most, all_draws=all_draws)  # type: ignore[misc]

    def _forget_another_process(self) -> None:
        """In a fork nothing that was begun before it ever ends."""
        if self._process != os.getpid():
            self._begin()

    def expect(self, number: int) -> None:
        """Fetch block `number` as soon as there is room for it: it is read soon, and once.

        number: of the block, from 0.
        """
        self._forget_another_process()
        if self.far:
            with self._lock:
                if number not in self._fetching and number not in self._queue:
                    self._queue.append(number)
                self._start()

    def begin(self, number: int) -> None:
        """Read block `number` from now on, beside others: it is asked for next, and once.

        It is in memory from then on: only blocks are begun that are to be held at the same time.

        number: of the block, from 0.
        """
        self._forget_another_process()
        if number not in self._reading:
            with suppress(RuntimeError):  # no thread is to be had: who asks for the block reads it
                self._reading[number] = _begun(self._read, number, pool=_readers(os.getpid()))

    def expect_lengths(self, number: int) -> None:
        """Read the lengths of the documents of block `number`: they are asked for soon.

        number: of the block, from 0.
        """
        self._forget_another_process()
        if self.far and number not in self._lengths and len(self._lengths) < _MOST_LENGTHS:
            reading = _begun(self._store.document_lengths, number)
            self._lengths[number] = reading

    def read_block(self, number: int) -> DocumentBlock:
        """`Store.read_block`, of what was fetched before, if it was expected.

        number: of the block, from 0.
        """
        self._forget_another_process()
        begun = self._reading.pop(number, None)
        if begun is None:
            return self._read(number)
        found: DocumentBlock | None = _result(begun)
        if found is not None:
            return found
        for other in self._reading.values():  # an error ends what the others were begun for
            other.cancel()
        self._reading.clear()
        return self._read(number)

    def _read(self, number: int) -> DocumentBlock:
        return self._store.read_block(number, fetched=self._taken(number))

    def read_draws(self, number: int) -> Iterator[DocumentBlock]:
        """`Store.read_draws`, likewise.

        number: of the block, from 0.
        """
        return self._store.read_draws(number, fetched=self._taken(number))

    def document_lengths(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """`Store.document_lengths`, likewise.

        number: of the block, from 0.
        """
        self._forget_another_process()
        expected = self._lengths.pop(number, None)
        found = None if expected is None else _result(expected)
        return self._store.document_lengths(number) if found is None else found

    def in_turn(self, numbers: Iterable[int]) -> Iterator[int]:
        """The numbers, of which the next few are expected while one is read.

        numbers: of blocks.
        """
        left = iter(numbers)
        coming = deque(islice(left, 1))
        while coming:
            for number in islice(left, _IN_TURN + 1 - len(coming) if self.far else 1):
                coming.append(number)
                self.expect(number)
            yield coming.popleft()

    def _taken(self, number: int) -> Fetched | None:
        """What was fetched of a block; None where that was not begun, or has failed."""
        self._forget_another_process()
        with self._lock:
            if number in self._queue:
                self._queue.remove(number)
            fetching = self._fetching.get(number)
        # What has failed is read anew: that succeeds, or raises what names the place.
        found = None if fetching is None else _result(fetching)
        with self._lock:
            self._fetching.pop(number, None)
            self._start()
        return found

    def _start(self) -> None:
        """Begin to fetch what waits, as long as there is room."""
        while self._queue and (not self._fetching or self._waiting_bytes() < self._most):
            number = self._queue.popleft()
            self._fetching[number] = _begun(
                self._store.fetch_block, number, all_draws=self._all_draws
            )

    def _waiting_bytes(self) -> int:
        """Bytes in memory, and those that are on their way, about."""
        each = self._store.stored_bytes // max(1, len(self._store.blocks))
        return each + sum(
            _size(one.result()) if one.done() and not one.exception() else each
            for one in self._fetching.values()
        )


def _size(fetched: Fetched) -> int:
    return sum(len(part) for parts in fetched.values() for part in parts)


def _result(future: Future[Any]) -> Any:
    return None if future.exception() else future.result()


def _begun(
    read: Callable[..., Any], *arguments: Any, pool: ThreadPoolExecutor | None = None, **named: Any
) -> Future[Any]:
    """What a thread reads from now on."""

    def reading() -> Any:
        with _FORKS:
            return read(*arguments, **named)

    return (pool or _pool(os.getpid())).submit(reading)


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - threads do not survive a fork
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="ahead")


@lru_cache(maxsize=1)
def _readers(process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - threads do not survive a fork
    return ThreadPoolExecutor(_READERS, thread_name_prefix="readers")


class _Forks:
    """Within it no fork begins, and while one is made nobody comes in.

    A lock that a thread holds at a fork (a cached property of Python 3.11 has one, so have
    libraries) is held for ever in the child, which has no such thread: a worker of a data loader
    would wait without end for a store that its parent read ahead.
    """

    def __init__(self) -> None:
        self._free = threading.Condition(threading.Lock())
        self._within = 0

    def __enter__(self) -> None:
        with self._free:
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._free:
            self._within -= 1
            self._free.notify_all()

    def before(self) -> None:
        """Wait until all are out, and keep them out."""
        self._free.acquire()
        self._free.wait_for(lambda: not self._within)

    def after(self) -> None:
        """Let them in again."""
        self._free.release()


_FORKS = _Forks()
if hasattr(os, "register_at_fork"):  # systems that fork
    os.register_at_fork(
        before=_FORKS.before, after_in_parent=_FORKS.after, after_in_child=_FORKS.after
    )
