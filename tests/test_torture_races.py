"""A short form of `tools.torture_races`, and the list of `tools.torture`."""

import subprocess
import sys
from pathlib import Path

from tools.torture import TORTURES

ROOT = Path(__file__).parent.parent


def test_of_processes_that_do_the_same_at_once_one_wins_and_nothing_is_lost():
    done = subprocess.run(
        [sys.executable, "-m", "tools.torture_races", "--processes", "3", "--rounds", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "| all | 87 | 0 |"


def test_every_torture_is_in_the_list():
    found = (ROOT / "tools").glob("torture_*.py")
    tools = {path.stem.removeprefix("torture_") for path in found if "__main__" in path.read_text()}
    assert tools >= {"flips", "kills", "io", "power", "races", "runs"}
    assert tools <= set(TORTURES)
