"""What lm-evaluation-harness does beside its figures is undone; its warnings of a model are told.

The harness prints, draws bars and logs on both standard streams. A command's standard output is for
its result, and its standard error for its own progress, which was opened before and is not touched.
It also seeds every generator of random numbers.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from logitstore.plumbing import printable
from trainer.training.state_files import warn

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HarnessWarnings", "quiet_harness"]

# What of the harness speaks of the questions and answers; the rest speaks of its own settings.
_TELLING = ("lm_eval.models", "lm_eval.api")
# A pool of processes would import the caller's script anew on some systems; the figures are equal.
_ONE_PROCESS = {"DISABLE_MULTIPROC": "1"}


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Nothing that is printed or logged until the context is left is shown.

    Afterwards the generators of random numbers of Python, numpy and torch are as they were.
    """
    logger = logging.getLogger("lm_eval")
    before, silent = logger.propagate, logging.NullHandler()
    environment = {name: os.environ.get(name) for name in _ONE_PROCESS}
    with ExitStack() as stack:
        sink = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        stack.enter_context(redirect_stdout(sink))
        stack.enter_context(redirect_stderr(sink))
        stack.enter_context(_kept_random_state())
        logger.addHandler(silent)
        logger.propagate = False
        os.environ.update(_ONE_PROCESS)
        try:
            yield
        finally:
            logger.removeHandler(silent)
            logger.propagate = before
            for name, value in environment.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


@contextmanager
def _kept_random_state() -> Iterator[None]:
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


class HarnessWarnings(logging.Handler):
    """Keeps what the harness warns of within its context: one message of each kind, and how many.

    They are told by `tell`, outside `quiet_harness`.
    """

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self._first: dict[tuple[str, int], str] = {}
        self._times: Counter[tuple[str, int]] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message.

        Args:
            record: The message, and where in the harness it comes from.
        """
        place = (record.pathname, record.lineno)
        self._first.setdefault(place, " ".join(record.getMessage().split()))
        self._times[place] += 1

    def __enter__(self) -> HarnessWarnings:
        for name in _TELLING:
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in _TELLING:
            logging.getLogger(name).removeHandler(self)

    def tell(self) -> None:
        """Tell the user, once for each kind of message."""
        for place, message in self._first.items():
            more = self._times[place] - 1
            again = f" (and {more} more such warnings)" if more else ""
            warn(f"lm-evaluation-harness: {printable(message)[:300]}{again}")
