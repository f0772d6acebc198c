"""What every command shares: one object on standard output, one message on standard error.

Exit codes: 0 done, 1 a fault found or an expected error, 2 wrong usage (typer's own), 130 ended by
Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.cli.interruption import (
    AGAIN,
    Stopped,
    describe,
    interruption,
    last_line_is_told,
    leave_interrupted,
    say_how,
)
from logitstore.errors import LogitStoreError, WorkerError, no_room, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "RESUMES",
    "announce_hub",
    "note",
    "print_json",
    "quiet_libraries",
    "reporting_errors",
    "say",
]

RESUMES = f"{AGAIN}: it resumes"
# A name on the Hub: `name` or `org/name`, of a data set with `:configuration:split` behind it.
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[^/]*)?")
_FILE_NAMES = (
    ".txt",
    ".jsonl",
    ".gz",
    ".parquet",
    ".json",
    ".csv",
    ".tsv",
    ".arrow",
    ".zst",
    ".bz2",
)


@contextmanager
def reporting_errors(*, json: bool, again: str = RESUMES) -> Iterator[None]:
    """Turn expected errors of a command's body into one message and exit code 1.

    With `json`, standard output gets `{"error": message}` too. `again` is how an interrupted
    command is taken up again: Ctrl-C and SIGTERM give one message and exit code 130 or 143.
    """
    say_how(again)
    try:
        yield
        _flush()
    except Stopped:
        raise
    except BaseException as error:
        # A launcher ends the others where one process of a run has died: that is what is told.
        signum = None if isinstance(error, WorkerError) else interruption(error)
        if signum is not None:
            if json:
                _print_error(describe(error))
            leave_interrupted(describe(error), signum=signum)
        _report(error, as_json=json, again=again)
        raise


def _report(error: BaseException, *, as_json: bool, again: str) -> None:
    """Leave the program, if the error is an expected one."""
    if isinstance(error, LogitStoreError):
        _fail(error.command_line_message, as_json=as_json)
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has gone; the interpreter's own flush must not complain again.
        _drop_output()
        raise SystemExit(1)
    if isinstance(error, MemoryError):
        _fail(f"out of memory. Make room, or ask for less at once. {again}", as_json=as_json)
    if isinstance(error, OSError) and (full := no_room(error)) is not None:
        place = error.filename or "standard output or a file"
        _fail(f"{place}: {full}. Make room. {again}", as_json=as_json)


def _flush_output() -> None:
    """What was printed before; where it is refused, Python would complain at its end."""
    try:
        _flush()
    except OSError:
        _drop_output()


def _flush() -> None:
    if sys.stdout is not None:  # it is where the shell has closed it
        sys.stdout.flush()


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, *, as_json: bool) -> None:
    if as_json:
        _print_error(message)
    rank = os.environ.get("RANK", "0")  # of the processes of a run
    _flush_output()
    say(f"error: {message}" if rank == "0" else f"error: rank {rank}: {message}", err=True)
    last_line_is_told()
    raise SystemExit(1)


def _print_error(message: str) -> None:
    """The object on standard output, unless that is what refuses."""
    with suppress(OSError):
        print_json({"error": message})
    _flush_output()


def say(*lines: str, err: bool = False) -> None:
    """Lines for people, on standard output or standard error.

    All that commands print passes here: what a store, a corpus or a run calls itself is shown, and
    can neither tell the terminal what to do nor begin a line.
    """
    print("\n".join(map(printable, lines)), file=sys.stderr if err else sys.stdout)


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on standard output; a number that JSON has no form for becomes null."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    # The escapes of JSON, which are the same text to whoever reads it.
    print("".join(map(_json_escape, text)))


def _json_escape(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return json.dumps(character)[1:-1]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def announce_hub(*names: Any) -> None:
    """Say on standard error which of `names` are looked for on the Hub: that may take a minute.

    What is a path here, or no name at all, is not.
    """
    for name in dict.fromkeys(one for one in names if isinstance(one, str)):
        if name.endswith(_FILE_NAMES) or Path(name).exists():
            continue
        if _HUB_NAME.fullmatch(name):
            say(f"{name}: no such path here; asking the Hugging Face Hub for it", err=True)


def note(line: str) -> None:
    """Tell the user something that is neither a result nor an error: on standard error."""
    say(line, err=True)


def quiet_libraries() -> None:
    """Keep the progress bars and warnings of transformers and the Hub out of a command's output."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
