"""Items that a thread makes in advance, and what is raised where a thread or a process has died."""

from __future__ import annotations

import copy
import queue
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from torch.utils.data import get_worker_info

from logitstore import LogitStoreError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["in_worker", "made_ahead"]

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 1.0  # between two looks whether the thread still lives

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Made(Generic[T]):
    item: T


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


def made_ahead(items: Iterator[T], *, depth: int) -> Iterator[T]:
    """`items`, up to `depth` of them made in advance by a thread that ends with this generator.

    Args:
        items: Is iterated in the thread.
        depth: The most items that wait to be taken.

    A LogitStoreError of `items` is raised here as it is; whatever else ends the thread as a
    WorkerError, for it is no error of the thread that iterates, and might end that without a word.
    """
    made: queue.Queue[_Made[T] | _Failed | None] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    worker = threading.Thread(
        target=_make, args=(items, made.put, stop), name="batches", daemon=True
    )
    worker.start()
    try:
        while (one := _next(made, worker)) is not None:
            if isinstance(one, _Failed):
                raise _told(one.error)
            yield one.item
    finally:
        stop.set()
        worker.join()


def _next(
    made: queue.Queue[_Made[T] | _Failed | None], worker: threading.Thread
) -> _Made[T] | _Failed | None:
    while True:
        alive = worker.is_alive()
        try:
            return made.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            if not alive:  # too little memory was left even to hand its error over
                return _Failed(SystemError("it gave no reason"))


def _told(error: BaseException) -> BaseException:
    if isinstance(error, LogitStoreError):
        return error
    told = WorkerError(f"the thread that reads batches has died: {type(error).__name__}: {error}")
    told.__cause__ = error
    return told


def _make(items: Iterator[T], put: Callable[..., None], stop: threading.Event) -> None:
    def hand_over(one: _Made[T] | _Failed | None) -> None:
        while not stop.is_set():
            try:
                put(one, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return

    try:
        for item in items:
            hand_over(_Made(item))
            if stop.is_set():
                return
        hand_over(None)
    except BaseException as error:  # raised again in the thread that iterates
        hand_over(_Failed(error))


@contextmanager
def in_worker() -> Iterator[None]:
    """In a worker process of a `DataLoader`, an error without its traceback.

    The loader sends the traceback to the main process as the message of an error of the same kind,
    which shows so many characters; what happened stands at its end.
    """
    try:
        yield
    except LogitStoreError as error:
        if get_worker_info() is None:
            raise
        raise copy.copy(error) from None
