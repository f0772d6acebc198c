"""How much memory a block of code takes at its peak."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """What a block took above what the process held before, in bytes; set when it ends."""

    bytes: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the resident memory that the block takes.

    `tracemalloc` counts more exactly, but stopping it while another thread allocates crashes
    Python before 3.12.9 (CPython's issue 128679), and these tests share a process with
    threads of several libraries. What was freed before goes back to the system first, so
    that what the block takes shows.
    """
    if not _CLEAR.exists():
        pytest.skip("the peak of a block is read from Linux's /proc")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5")  # the peak is what is held now
    before = _status("VmRSS")
    peak = Peak()
    yield peak
    peak.bytes = _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
