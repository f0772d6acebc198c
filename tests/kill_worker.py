"""A process that trains in children of its own, each killed at another file operation, and resumes.

    python -m tests.kill_worker FOLDER CONFIG '{"steps": 9}' POINTS

Prints, for each of POINTS operations between the first checkpoint and the end, and for each of some
sizes at which a file cannot grow, what was about to happen and whether the weights are those of a
run without a stop. Python tells of an operation before it is made; what safetensors and torch write
by themselves is killed by the size of the file.
"""

import json
import os
import resource
import signal
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

import logitstore
import trainer
from tests.memory_store import MemoryStore
from trainer.training.state_files import RunWarning

FROM_STEP = 4  # a step behind the first checkpoint
SIZES = (200, 30_000)
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate"}


class Killer:
    """Counts the operations on files below a folder, and kills this process before one of them."""

    def __init__(self, out: Path, *, point: int | None) -> None:
        self.seen: list[str] = []
        self._out, self._point = str(out), point

    def start(self) -> None:
        sys.addaudithook(self._count)

    def _count(self, event: str, given: tuple) -> None:
        changes = event in CHANGES or (event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR))
        if not changes or not str(given[0]).startswith(self._out):
            return
        self.seen.append(f"{event} {Path(str(given[0])).name}")
        if len(self.seen) == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(out: Path, config: str, settings: dict, **more: object) -> None:
    trainer.fit(logits="memory", student=config, out=out, device="cpu", **settings, **more)


def in_child(out: Path, config: str, settings: dict, *, point=None, size=None) -> list[str]:
    """What a child that trains into `out` had done to files when it ended or was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        killer = Killer(out, point=point)

        def report(one: dict) -> None:
            if one["step"] == FROM_STEP:
                killer.start()
                if size is not None:
                    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        fit(out, config, settings, report=report)
        os.write(writing, json.dumps(killer.seen).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        seen = pipe.read()
    _, status = os.waitpid(child, 0)
    if point is None and size is None:
        return json.loads(seen)
    expected = signal.SIGKILL if size is None else signal.SIGXFSZ
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != expected:
        raise SystemExit(f"point {point}, size {size}: the child was not killed, {status}")
    return []


def main(folder: str, config: str, settings: str, points: str) -> None:
    torch.set_num_threads(1)
    store = MemoryStore(tokenizer=Path(config).parent / "tokenizer")
    logitstore.open = lambda _, **__: store
    # A kill leaves what was never completed, and nothing that would count as damaged.
    warnings.simplefilter("error", RunWarning)
    work, chosen = Path(folder), json.loads(settings)
    seen = in_child(work / "straight", config, chosen)
    expected = load_file(work / "straight" / "model.safetensors")
    every = max(1, len(seen) // int(points))
    cases = [(f"before {seen[at - 1]}", {"point": at}) for at in range(1, len(seen) + 1, every)]
    cases += [(f"in a file at {size} bytes", {"size": size}) for size in SIZES]
    for number, (what, case) in enumerate(cases):
        out = work / f"run{number}"
        in_child(out, config, chosen, **case)
        fit(out, config, chosen, resume=True)
        found = load_file(out / "model.safetensors")
        same = all(torch.equal(expected[name], found[name]) for name in expected)
        print(json.dumps([what, same]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
