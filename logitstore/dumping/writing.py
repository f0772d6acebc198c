"""The thread that writes finished units, one at a time, while the teacher works on the next."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from logitstore.errors import LogitStoreError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from logitstore.format.plan import WorkUnit

__all__ = ["WritingThread"]


class WritingThread:
    """One thread, and the unit that it is at; to be used in a `with`, which ends it.

    What goes wrong in it is raised by the next call of the thread that uses it: a LogitStoreError
    as it is, and a KeyboardInterrupt, by which a caller's `on_progress` may stop it; anything else
    as a WorkerError that names the unit.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writing")
        self._unit: WorkUnit | None = None
        self._writing: Future[None] | None = None

    def __enter__(self) -> WritingThread:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)

    def begin(self, unit: WorkUnit, write: Callable[[], None]) -> None:
        """Wait for the unit before, then let the thread write this one.

        unit: the one to write.
        write: writes it.
        """
        self.wait()
        self._unit, self._writing = unit, self._pool.submit(write)

    def check(self) -> None:
        """Raise what has gone wrong so far, without waiting."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the unit is written."""
        writing, self._writing = self._writing, None
        error = None if writing is None else writing.exception()
        if isinstance(error, LogitStoreError | KeyboardInterrupt):
            raise error
        if error is not None and self._unit is not None:
            raise WorkerError(
                f"the thread that writes it has died: {type(error).__name__}: {error}",
                place=f"unit {self._unit.name}",
                remedy="Run the same command again: it resumes",
            ) from error
