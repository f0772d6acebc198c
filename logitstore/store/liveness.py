"""Whether a process of this machine is alive: one that was killed counts as dead at once."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_alive"]


def is_alive(pid: int) -> bool:
    """Whether the process `pid` of this machine runs, whoever owns it.

    pid: its number.

    One that has ended keeps its number until its parent asks for its exit code: it is dead too,
    where the system tells the two apart (Linux). Raises OverflowError for what is no number of one.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # a process of another user
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[:1]
    except OSError:
        return True
    return state not in ([b"Z"], [b"X"])
