"""What stays in use while a store of many units is read round after round: objects and bytes.

    python -m tools.memory_in_use [--units 100] [--rounds 90]

A process's size on the whole (`tools.torture_memory`) also moves with what the C library keeps of
freed memory. Here Python's objects are counted, and the bytes that the C library has given out
(`mallinfo2`, all arenas), after every tenth round: what grows is a leak. Linux with glibc only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import tempfile
from pathlib import Path

import logitstore
from tools.memory_jobs import prepare

_FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS.split()]


def main() -> None:
    """Read, count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=90)
    given = parser.parse_args()
    library = ctypes.CDLL("libc.so.6")
    library.mallinfo2.restype = _MallInfo
    print("| rounds | shards opened | Python objects | MB in use | MB free in the heap |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), minutes=0.01, units=given.units, seed=0)
        for number in range(1, given.rounds + 1):
            store = logitstore.open(Path(folder) / "many")
            for block in range(len(store.blocks)):
                store.read_block(block)
            del store
            if number % 10 == 0:
                gc.collect()
                found = library.mallinfo2()
                used = (found.uordblks + found.hblkhd) / 1e6
                objects = len(gc.get_objects())
                opened = number * given.units
                print(
                    f"| {number} | {opened:,} | {objects:,} | {used:.2f} | "
                    f"{found.fordblks / 1e6:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
