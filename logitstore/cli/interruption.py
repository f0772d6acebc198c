"""How a program ends at Ctrl-C and at SIGTERM: one line, exit code 130 or 143, nothing left behind.

The first signal raises `Interrupted` wherever the program is, so that files are closed, leases
released and threads ended as they are at an error. Those that follow within a second are the same
wish: a shell and torchrun send several. A later one ends the program where it stands, which loses
nothing that was committed. What a library raises in place of `Interrupted` counts as that.

This module is imported before all others, and imports nothing that takes time.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from types import FrameType

__all__ = [
    "AGAIN",
    "Interrupted",
    "Stopped",
    "describe",
    "interruption",
    "last_line_is_told",
    "leave_interrupted",
    "run_program",
    "say_how",
]

AGAIN = "Run the same command again"

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_SAME_WISH_SECONDS = 1.0
_RAISE_AGAIN_SECONDS = 0.05
_CLEAN_LINE = "\r\x1b[2K\x1b[?25h"  # of a terminal: no half of a progress bar, a cursor


class Interrupted(KeyboardInterrupt):
    """A signal asks the program to end."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signum)


class Stopped(SystemExit):
    """A signal has ended what runs until one comes."""

    def __init__(self) -> None:
        super().__init__(0)
        last_line_is_told()


class _Received:
    """The first signal that came; one program runs in a process."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.at = 0.0
        self.again = AGAIN
        self.told = False  # whether the last line was printed


_received = _Received()


def run_program(module: str) -> None:
    """Run the `app` of `module`, importing it first; a signal ends it cleanly from now on.

    Args:
        module: The name of a module of a command line.
    """
    _listen()
    try:
        import_module(module).app()
    except BaseException as error:
        signum = interruption(error)
        if signum is None:
            raise
        if not _received.told:
            with suppress(SystemExit):
                leave_interrupted(describe(error))
            _leave(128 + signum)
        code = error.code if isinstance(error, SystemExit) else None
        _leave(code if isinstance(code, int) else 128 + signum)
    finally:
        for one in _WORDS:
            if signal.getsignal(one) is _on_signal:
                signal.signal(one, signal.SIG_IGN)  # all is done and told, the exit code known


def interruption(error: BaseException) -> int | None:
    """The signal that `error` comes of, if it comes of one.

    Args:
        error: What ends a command.
    """
    if isinstance(error, Interrupted):
        return error.signum
    return signal.SIGINT if isinstance(error, KeyboardInterrupt) else _received.signum


def say_how(again: str) -> None:
    """Say how the command that begins is taken up again after a signal.

    Args:
        again: A sentence without its full stop.
    """
    _received.again = again


def describe(error: BaseException) -> str:
    """What a message says of an interruption: its kind, what is kept, how to go on.

    Args:
        error: What ends a command. Notes on a KeyboardInterrupt say what is kept.
    """
    word = _WORDS[signal.Signals(interruption(error) or signal.SIGINT)]
    kept = getattr(error, "__notes__", []) if isinstance(error, KeyboardInterrupt) else []
    return f"{'; '.join([word, *kept])}. {_received.again}"


def last_line_is_told() -> None:
    """Say that the program's last line is printed: a signal adds nothing to it."""
    _received.told = True


def leave_interrupted(message: str, *, signum: int | None = None) -> NoReturn:
    """Print the last line of a program on standard error, and end it with the signal's exit code.

    Args:
        message: The line; nothing in it comes from outside.
        signum: The signal; that which came, if it is not named.
    """
    start = _CLEAN_LINE if sys.stderr.isatty() else ""
    if os.environ.get("RANK", "0") == "0":  # the other ranks of a run have got the same signal
        print(f"{start}error: {message}", file=sys.stderr, flush=True)
    last_line_is_told()
    raise SystemExit(128 + (signum or _received.signum or signal.SIGINT))


def _listen() -> None:
    """Take Ctrl-C and SIGTERM, unless whoever began the program wants them ignored."""
    for one in _WORDS:
        if signal.getsignal(one) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(one, _on_signal)
    signal.signal(signal.SIGALRM, _raise_again)
    sys.unraisablehook = _on_unraisable


def _on_signal(signum: int, _frame: FrameType | None) -> None:
    if _received.signum is None:
        _received.signum, _received.at = signum, time.monotonic()
        logging.disable()  # libraries complain of what is left undone
        raise Interrupted(signum)
    if time.monotonic() - _received.at > _SAME_WISH_SECONDS:
        _leave_at_once()


def _leave_at_once() -> NoReturn:
    """End the process without waiting for a thread; no temporary folder is left."""
    from logitstore.corpus.temporary import remove_temporary_folders

    signum = _received.signum or signal.SIGINT
    remove_temporary_folders()
    start = _CLEAN_LINE if os.isatty(2) else ""
    word = _WORDS[signal.Signals(signum)]
    line = f"{start}error: {word} at once; nothing committed is lost. {_received.again}\n"
    os.write(2, line.encode())
    os._exit(128 + signum)


def _leave(code: int) -> NoReturn:
    """End the process without the end of the interpreter: event loops of libraries complain there,
    and threads of theirs may hang. Ours have ended."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _on_unraisable(found: sys.UnraisableHookArgs, /) -> None:
    """Where Python drops `Interrupted`, as in a finaliser, it is raised again a little later."""
    if issubclass(found.exc_type, Interrupted):
        signal.setitimer(signal.ITIMER_REAL, _RAISE_AGAIN_SECONDS)
    else:
        sys.__unraisablehook__(found)


def _raise_again(*_: Any) -> None:
    raise Interrupted(_received.signum or signal.SIGINT)
