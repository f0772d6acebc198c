"""A short form of `tools.torture_kills`: dumps are killed between two calls to the file system."""

import subprocess
import sys
from pathlib import Path


def test_a_dump_that_is_killed_between_two_calls_ends_as_if_nothing_had_been():
    options = "--points 1 --unlinked 0 --moments 0 --workers 0 --interpreters 0"
    done = subprocess.run(
        [sys.executable, "-m", "tools.torture_kills", *options.split()],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, _, *rows = done.stdout.strip().splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert len(cells) == 3
    counts = [sum(map(int, row[1:])) for row in cells]
    assert counts == [2, 2, 4]
