"""`python -m MODULE` in a fork of a process that has imported what takes long, as a `Popen` of it.

A fresh interpreter takes 7 s of a core to import torch, transformers and the trainer, where a run
of a test takes 0.6 s. So one process a test session imports them, starts no thread, and is forked
once for each that is asked for. In the fork the module runs as `__main__`, and ends as it would.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

__all__ = ["Forked", "run", "start"]

_ROOT = Path(__file__).parent.parent
# Not what is run itself: it is to be run anew, as `__main__`.
_SLOW = (
    "accelerate",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "transformers.models.llama.modeling_llama",
    "logitstore.dumping.run",
    "trainer.training.fit",
    "tests.memory_store",
)
_NUMBERS = count()


class Forked:
    """A process that was forked: what it has of a `Popen` does what it does there."""

    def __init__(self, pid: int, *, out: Path, errors: Path) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._files = (out, errors)

    def poll(self) -> int | None:
        """Its exit status, -N where signal N ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = json.loads(_ask({"poll": self.pid}))
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """Its exit status, once it has ended. Raises TimeoutError after so many seconds."""
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(f"process {self.pid} has not ended in {timeout} s")
            time.sleep(0.005)
        return status

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """What it wrote on standard output and standard error, once it has ended."""
        self.wait(timeout)
        out, errors = (file.read_text() for file in self._files)
        return out, errors

    def send_signal(self, number: int) -> None:
        """Send a signal to it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def start(module: str, *arguments: object, cwd: Path = _ROOT, **environment: str) -> Forked:
    """Run a module with its arguments as `python -m` does.

    module: its name; or "-c", and the first argument is the program itself.
    arguments: each as `str` gives it.
    cwd: the folder in which it runs.
    environment: what is added to the variables of this process.
    """
    out, errors = (_written() / f"{next(_NUMBERS)}" for _ in range(2))
    asked = {
        "module": module,
        "arguments": [str(one) for one in arguments],
        "cwd": str(cwd),
        "environment": dict(os.environ) | environment,
        "files": [str(out), str(errors)],
    }
    return Forked(int(_ask(asked)), out=out, errors=errors)


def run(
    module: str, *arguments: object, cwd: Path = _ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The same, and what it gave once it has ended."""
    process = start(module, *arguments, cwd=cwd, **environment)
    out, errors = process.communicate()
    return subprocess.CompletedProcess([module, *arguments], process.wait(), out, errors)


def _ask(what: dict[str, Any]) -> str:
    origin = _origin()
    assert origin.stdin is not None
    assert origin.stdout is not None
    origin.stdin.write(f"{json.dumps(what)}\n")
    origin.stdin.flush()
    answer = origin.stdout.readline()
    if not answer:
        raise RuntimeError(f"the process that is forked has ended: status {origin.wait()}")
    return answer


@cache
def _written() -> Path:
    """Where what processes write lies until this one ends."""
    folder = tempfile.TemporaryDirectory(prefix="forked-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def _origin() -> subprocess.Popen[str]:
    path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
    origin = subprocess.Popen(
        [sys.executable, "-m", "tests.forked"],
        env=os.environ | {"PYTHONPATH": path},
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def close() -> None:
        assert origin.stdin is not None
        origin.stdin.close()
        origin.wait()

    atexit.register(close)
    return origin


def _warm() -> None:
    """Import, and make what the first run of a process makes: 1 s of it are patterns of names."""
    for name in _SLOW:
        import_module(name)
    from tests.tiny_models import tiny

    with tempfile.TemporaryDirectory() as folder:
        tiny().save_pretrained(folder)
    gc.collect()
    gc.freeze()  # a fork neither looks through what was imported, nor copies its pages


def _serve() -> dict[str, Any] | None:
    """What is to be run, in a fork; None in the process itself, when nobody asks any more."""
    while line := sys.stdin.readline():
        asked: dict[str, Any] = json.loads(line)
        if "poll" in asked:
            done, status = os.waitpid(asked["poll"], os.WNOHANG)
            print(os.waitstatus_to_exitcode(status) if done else "null", flush=True)
            continue
        child = os.fork()
        if child == 0:
            return asked
        print(child, flush=True)
    return None


def _become(asked: dict[str, Any]) -> None:
    """Be the process that was asked for."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in enumerate(asked["files"], start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    module, words = asked["module"], asked["arguments"]
    if module == "-c":
        sys.argv = ["-c", *words[1:]]
        exec(words[0], {"__name__": "__main__"})
        return
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C ends who asks, and so this one
    _warm()
    _asked = _serve()
    if _asked is not None:
        _become(_asked)
