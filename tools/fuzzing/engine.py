"""One input of one target: what came of it, and what must never come of any."""

from __future__ import annotations

import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from logitstore.errors import LogitStoreError
from trainer.training.state_files import RunWarning

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MOST_BYTES", "MOST_SECONDS", "Finding", "Tried", "tried"]

MOST_SECONDS = 5.0  # of the processor
MOST_BYTES = 500 << 20  # above what was held before the first input
_ROOTS = tuple(str(Path(__file__).parents[2] / name) for name in ("logitstore", "trainer"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What is wrong: the kind, in a word, and where; equal ones are counted once."""

    kind: str
    place: str
    told: str = field(compare=False)
    data: bytes = field(compare=False)

    @staticmethod
    def of(error: BaseException, data: bytes) -> Finding:
        """What an error is that should not have come out."""
        return Finding(
            kind=type(error).__name__, place=_place(error), told=repr(error)[:200], data=data
        )


@dataclass(kw_only=True, slots=True)
class Tried:
    """The outcomes of all inputs so far."""

    outcomes: Counter[str] = field(default_factory=Counter)  # refused, accepted
    findings: dict[Finding, int] = field(default_factory=dict)
    base: int = field(default_factory=lambda: peak_bytes())

    @property
    def executions(self) -> int:
        """How many inputs there were."""
        return self.outcomes.total() + sum(self.findings.values())

    def add(self, finding: Finding) -> bool:
        """Count a finding; whether it is the first of its kind and place."""
        new = finding not in self.findings
        self.findings[finding] = self.findings.get(finding, 0) + 1
        return new


def peak_bytes() -> int:
    """The largest resident set that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def tried(target: Callable[[bytes], object], data: bytes, found: Tried) -> Finding | None:
    """Give `data` to a target and note what came of it; a finding if it is a new one.

    Refused is what raises an error of the project, unless that hides that memory ran out. All other
    errors and warnings are findings, and so are more than MOST_SECONDS and MOST_BYTES.
    """
    finding, started = None, time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            target(data)
        found.outcomes["accepted"] += 1
    except RunWarning:  # what a run goes on without is told
        found.outcomes["refused"] += 1
    except LogitStoreError as error:
        str(error)
        out_of_memory = _of_memory(error)
        if out_of_memory is None:
            found.outcomes["refused"] += 1
        else:
            finding = Finding.of(out_of_memory, data)
    except Exception as error:
        finding = Finding.of(error, data)
    if (seconds := time.process_time() - started) > MOST_SECONDS:
        finding = Finding(kind="slow", place="an input", told=f"{seconds:.1f} s", data=data)
    if peak_bytes() > found.base + MOST_BYTES:
        found.base = peak_bytes()
        told = f"{found.base >> 20} MiB and more"
        finding = Finding(kind="memory", place="peak of the process", told=told, data=data)
    return finding if finding is not None and found.add(finding) else None


def _of_memory(error: BaseException) -> BaseException | None:
    """The MemoryError from which an error was made; None where it was made from another."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | pa.ArrowMemoryError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _place(error: BaseException) -> str:
    """The innermost line of the project that an error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if one.filename.startswith(_ROOTS)] or list(frames)
    if not own:
        return "nowhere"
    root = Path(_ROOTS[0]).parent
    path = Path(own[-1].filename)
    name = path.relative_to(root) if path.is_relative_to(root) else path.name
    return f"{name}:{own[-1].lineno}"
