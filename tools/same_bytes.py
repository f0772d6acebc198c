"""Whether two revisions write the same bytes and learn the same losses, on this machine.

    python -m tools.same_bytes BASE [HEAD]

BASE and HEAD are revisions of git; without HEAD the working tree is compared. Each revision runs
the commands of `same_bytes_cases` in one process of its own, through its two command lines alone,
so modules may move between the revisions. Compared are the data of a store and what describes it,
the losses and the weights of a run, the figures of an evaluation; left out are names of attempts,
times, speeds and provenance. Prints a line a case; exit code 1 if any differs or fails.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.same_bytes_cases import Case, all_cases, write_inputs

__all__ = ["main"]

_ROOT = Path(__file__).parent.parent
_SHOWN = 3  # of the objects that differ

# The same at both revisions. One process runs all commands, because the imports take 10 s.
_CHILD = '''"""Run each command of a list, and write down how it ended."""

import contextlib
import importlib
import io
import json
import sys
import traceback
from pathlib import Path

source, cases, outcome = sys.argv[1:]
ended = []
for case in json.loads(Path(cases).read_text()):
    program = importlib.import_module(case["program"] + ".cli")
    if not Path(program.__file__).is_relative_to(source):
        sys.exit(f"{program.__file__} is not below {source}")
    sys.argv = [case["program"], *case["arguments"]]
    said = io.StringIO()
    fault = ""
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            program.main()
    except SystemExit as end:
        fault = "" if end.code in (None, 0) else said.getvalue()
    except Exception:
        fault = traceback.format_exc()
    ended.append(fault)
Path(outcome).write_text(json.dumps(ended))
'''


def main() -> int:
    """Parse, run both revisions, print the table; exit code 1 if anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="revision to compare with")
    parser.add_argument("head", nargs="?", help="revision to compare; default: the working tree")
    parser.add_argument("--keep", type=Path, help="work in this new folder, and leave it")
    given = parser.parse_args()
    cases = all_cases()
    with tempfile.TemporaryDirectory() as folder:
        work = given.keep or Path(folder)
        work.mkdir(exist_ok=True)
        write_inputs(work)
        base = _results(work / "base", given.base, cases)
        head = _results(work / "head", given.head, cases)
    return _print_table(cases, base, head)


# --- a revision


def _results(folder: Path, revision: str | None, cases: list[Case]) -> dict[str, dict[str, str]]:
    """What each case at that revision left: object -> its hash, or "failed" -> the message."""
    folder.mkdir()
    source = _ROOT if revision is None else _checkout(revision, folder / "source")
    outputs = folder / "outputs"
    outputs.mkdir()
    (outputs.parent / "inputs").symlink_to(folder.parent.resolve() / "inputs")
    started = time.monotonic()
    faults = _run(source.resolve(), outputs, cases)
    print(f"{revision or 'working tree'}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return {
        case.name: {"failed": fault} if fault else dict(_objects(outputs / case.out))
        for case, fault in zip(cases, faults, strict=True)
    }


def _checkout(revision: str, folder: Path) -> Path:
    """The files of `revision`, without touching the working tree or the index."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", revision], cwd=_ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        sys.exit(archive.stderr.decode())
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def _run(source: Path, outputs: Path, cases: list[Case]) -> list[str]:
    """Run the cases by the code in `source`; of each the message of its failure, or nothing."""
    script, listed, outcome = (
        outputs.parent.resolve() / name for name in ("child.py", "cases.json", "outcome.json")
    )
    script.write_text(_CHILD)
    listed.write_text(json.dumps([asdict(case) for case in cases]))
    environment = os.environ | {
        "PYTHONPATH": str(source),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, str(script), str(source), str(listed), str(outcome)]
    done = subprocess.run(
        command, cwd=outputs, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{source}: the commands could not be run\n{done.stderr[-4000:]}")
    return json.loads(outcome.read_text())


# --- what a case left


def _objects(folder: Path) -> Iterator[tuple[str, str]]:
    """Every object that must be the same, and its hash."""
    if (folder / "store.json").is_file():
        yield from _store_objects(folder)
    if (folder / "history.json").is_file():
        yield from _run_objects(folder)
    if (folder / "eval.json").is_file():
        yield from _figures(_read(folder / "eval.json"), but=("tokens_per_second",))


def _store_objects(folder: Path) -> Iterator[tuple[str, str]]:
    """The data of each unit by path, and the objects that describe the store."""
    yield "fingerprint", _read(folder / "manifest.json")["fingerprint"]
    totals = ("format", "documents", "tokens", "targets")
    yield "totals", _hash({name: _read(folder / "manifest.json")[name] for name in totals})
    yield "store.json", _hash(_without(_read(folder / "store.json"), "provenance"))
    yield "plan.json", _hash(_read(folder / "plan.json"))
    for path in sorted((folder / "commits").iterdir()):
        yield f"commits/{path.name}", _hash(_without(_read(path), "attempt"))
    for part in ("tokenizer", "data"):
        for path in sorted(one for one in (folder / part).rglob("*") if one.is_file()):
            yield _nameless(path.relative_to(folder)), _sha256(path.read_bytes())


def _nameless(path: Path) -> str:
    """`path` without the name of the attempt: data/000000-1a2b3c4d/zarr.json -> data/000000/..."""
    parts = path.parts
    if parts[0] == "data":
        parts = ("data", parts[1].partition("-")[0], *parts[2:])
    return "/".join(parts)


def _run_objects(folder: Path) -> Iterator[tuple[str, str]]:
    """Each report of the loss, to the last bit, and the weights."""
    for report in _read(folder / "history.json"):
        for name, value in _figures(report, but=("seconds",)):
            yield f"step {report['step']}: {name}", value
    yield "model.safetensors", _sha256((folder / "model.safetensors").read_bytes())


def _figures(content: dict[str, Any], *, but: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    # The shortest decimal that gives the same float: equal text is equal bits.
    for name, value in _without(content, *but).items():
        yield name, json.dumps(value, sort_keys=True)


def _without(content: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _hash(content: Any) -> str:
    return _sha256(json.dumps(content, sort_keys=True).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- the table


def _print_table(
    cases: list[Case], base: dict[str, dict[str, str]], head: dict[str, dict[str, str]]
) -> int:
    width = max(len(case.name) for case in cases)
    bad = 0
    for case in cases:
        verdict = _verdict(base[case.name], head[case.name])
        bad += not verdict.startswith("same")
        print(f"{case.name:{width}}  {verdict}")
    print(f"{len(cases)} cases, {bad} of them not the same")
    return 1 if bad else 0


def _verdict(base: dict[str, str], head: dict[str, str]) -> str:
    failed = [one["failed"].strip().splitlines()[-1] for one in (base, head) if "failed" in one]
    if failed:
        return f"failed: {failed[0]}"
    if not base or not head:
        return "failed: nothing was written"
    different = [name for name in sorted({*base, *head}) if base.get(name) != head.get(name)]
    if not different:
        return f"same, {len(base)} objects"
    more = len(different) - _SHOWN
    shown = ", ".join(different[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"different, {len(different)} of {len({*base, *head})} objects: {shown}"


if __name__ == "__main__":
    sys.exit(main())
