"""The process in which one target is fuzzed, by atheris, or in which its lines are counted.

    python -m tools.fuzzing.child fuzz TARGET --seeds FILE --work FOLDER --runs N ...
    python -m tools.fuzzing.child lines TARGET --seeds FILE --work FOLDER

The modules of the project are instrumented as they are imported, so that inputs that reach new code
are kept in WORK/corpus and changed further. WORK/outcome.json, written anew each second, tells what
was found; WORK/findings has the inputs. A hang or a crash ends the process: then libFuzzer leaves
the input there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.fuzzing.engine import Tried

__all__ = ["main"]

_HANG_SECONDS = 60  # of the clock, on a machine that may do much else
_LONGEST = 256  # bytes of an input
_PROJECT = ("logitstore", "trainer")


def main() -> None:
    """Parse, then fuzz or count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("fuzz", "lines"))
    parser.add_argument("target")
    parser.add_argument("--seeds", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as folder:
        (_fuzz if given.what == "fuzz" else _lines)(given, Path(folder))


def _memory_folder() -> str | None:
    """A folder in memory, where there is one: targets write files."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _fuzz(given: argparse.Namespace, folder: Path) -> None:
    import atheris  # of the extra `torture`; `tools.torture_fuzz` says so

    with atheris.instrument_imports(include=[*_PROJECT]):
        from tools.fuzzing import engine, targets

        one = targets.TARGETS[given.target].make(targets.Seeds.read(given.seeds), folder)
    for name in ("corpus", "findings"):
        (given.work / name).mkdir(parents=True, exist_ok=True)
    found = engine.Tried()
    step = _stepper(given, found, lambda data: engine.tried(one, data, found))
    step(b"")
    arguments = [
        *(f"-seed={given.seed}", f"-max_len={_LONGEST}", f"-timeout={_HANG_SECONDS}"),
        *(f"-artifact_prefix={given.work / 'findings'}/", "-rss_limit_mb=0", "-verbosity=0"),
        *("-print_final_stats=0", "-len_control=0", str(given.work / "corpus")),
    ]
    atheris.Setup([sys.argv[0], *arguments], step)
    atheris.Fuzz()


def _stepper(
    given: argparse.Namespace, found: Tried, one: Callable[[bytes], Any]
) -> Callable[[bytes], None]:
    """What libFuzzer calls: tries an input, keeps findings, and ends when enough was tried."""
    started = told = time.monotonic()

    def step(data: bytes) -> None:
        nonlocal told
        finding = one(data)
        now = time.monotonic()
        if finding is not None:
            (given.work / "findings" / f"{finding.kind}-{len(found.findings)}").write_bytes(data)
        done = found.executions >= given.runs or now - started > given.seconds
        if done or finding is not None or now - told > 1:
            told = now
            _tell(given.work / "outcome.json", found)
        if done:
            sys.stderr.flush()
            os._exit(0)

    return step


def _tell(path: Path, found: Tried) -> None:
    content = {
        "executions": found.executions,
        "refused": found.outcomes["refused"],
        "accepted": found.outcomes["accepted"],
        "findings": [
            {"kind": one.kind, "place": one.place, "told": one.told, "times": times}
            for one, times in found.findings.items()
        ],
    }
    path.with_suffix(".tmp").write_text(json.dumps(content))
    path.with_suffix(".tmp").replace(path)


def _lines(given: argparse.Namespace, folder: Path) -> None:
    """Print how many lines of the target's modules the kept inputs reach, and of how many."""
    import coverage  # of the extra `torture`

    counter = coverage.Coverage(data_file=None, source_pkgs=[*_PROJECT], config_file=False)
    counter.start()
    from tools.fuzzing import engine, targets

    target = targets.TARGETS[given.target]
    one = target.make(targets.Seeds.read(given.seeds), folder)
    found = engine.Tried()
    for path in sorted((given.work / "corpus").iterdir()):
        engine.tried(one, path.read_bytes(), found)
    counter.stop()
    reached = total = 0
    root = Path(__file__).parents[2]
    for path in sorted({path for one in target.modules for path in root.glob(one)}):
        _, statements, _, missing, _ = counter.analysis2(str(path))
        reached, total = reached + len(statements) - len(missing), total + len(statements)
    print(json.dumps({"reached": reached, "total": total}))


if __name__ == "__main__":
    main()
