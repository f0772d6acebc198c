"""Every torture of a store, a run and their files, one after another.

    python -m tools.torture [--short] [--only NAME]...

Each tool prints its counts; what its outcomes mean stands at its head. All run, whatever the ones
before have found. The exit code is 1 if one of them has found anything wrong. All of it takes some
hours on two cores, `--short` some minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from importlib.util import find_spec

# Tool -> what makes a run of it short.
TORTURES: dict[str, str] = {
    "flips": "--flips 100 --swaps 40 --resumed 24",
    "kills": "--points 4 --unlinked 4 --moments 4 --workers 4 --interpreters 2",
    "io": "--faults 60",
    "power": "--losses 30",
    "races": "--processes 4 --rounds 40",
    "runs": "--flips 60 --trained 2",
    "hostile": "--share 0.02",
    "fuzz": "--runs 2000",
    "signals": "--signals 12",
    "memory": "--minutes 1 --units 200",
}


def main() -> int:
    """Run them; exit code 1 if any of them fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few attacks of each")
    parser.add_argument("--only", action="append", choices=TORTURES, help="this one alone")
    given = parser.parse_args()
    rows, failed = [], False
    for name in given.only or filter(_is_there, TORTURES):
        command = [sys.executable, "-m", f"tools.torture_{name}"]
        command += TORTURES[name].split() if given.short else []
        print(f"\n### python {' '.join(command[1:])}", flush=True)
        started = time.monotonic()
        code = subprocess.run(command, check=False).returncode
        failed |= code != 0
        rows.append(
            f"| {name} | {time.monotonic() - started:,.0f} | {'wrong' if code else 'none'} |"
        )
    print("\n| torture | seconds | wrong |\n|---|---|---|\n" + "\n".join(rows))
    return int(failed)


def _is_there(name: str) -> bool:
    return find_spec(f"tools.torture_{name}") is not None


if __name__ == "__main__":
    sys.exit(main())
