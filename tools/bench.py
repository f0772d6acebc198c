"""Every benchmark of docs/benchmarks.md, one after another.

python -m tools.bench [--teacher FOLDER]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

BENCHMARKS = {
    "tools.bench_dump": True,
    "tools.bench_sparsify": True,
    "tools.bench_codec": True,
    "tools.bench_decode": False,
    "tools.bench_step": True,
    "tools.bench_resident": True,
    "tools.bench_memory": False,
    "tools.bench_repeats": True,
    "tools.bench_fidelity": True,
    "tools.bench_edit": True,
    "tools.bench_remote": False,
    "tools.bench_page": True,
}


def main() -> int:
    """Run them; the exit code of the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default=None)
    teacher = parser.parse_args().teacher
    for module, takes_teacher in BENCHMARKS.items():
        options = ["--teacher", teacher] if teacher and takes_teacher else []
        command = [sys.executable, "-m", module, *options]
        print(f"\n### python {' '.join(command[1:])}", flush=True)
        code = subprocess.run(command, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
