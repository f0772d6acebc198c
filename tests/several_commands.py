"""Several commands of a program that has something added, each in a fork: it is imported once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

__all__ = ["main", "run_several"]

_SLOW = (
    "transformers.models.llama.modeling_llama",
    "logitstore.dumping.run",
    "logitstore.fidelity.audit",
    "trainer.training.fit",
    "trainer.evaluation.measure",
)


def run_several(
    module: str, commands: list[list[object]]
) -> list[subprocess.CompletedProcess[str]]:
    """What each command gave, run by `module`, which calls `main` here.

    module: below this folder, with what its own arguments are behind a space.
    commands: the program's name and its words.
    """
    name, *own = module.split()
    call = [sys.executable, "-m", f"tests.{name}", *own]
    words = [[str(one) for one in command] for command in commands]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [*call, json.dumps(words)], check=True, capture_output=True, text=True, cwd=root
    )
    return [subprocess.CompletedProcess(**one) for one in json.loads(done.stdout)]


def main(commands: list[list[str]]) -> None:
    """Run the commands one after another, and print what each gave."""
    for name in _SLOW if len(commands) > 2 else ():
        import_module(name)  # here, and not in each
    print(json.dumps([_run(*one) for one in commands]))


def _run(program: str, *words: str) -> dict[str, object]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            sys.argv = [program, *words]
            if program == "logitstore":
                from logitstore.cli import main
            else:
                from trainer.cli import main
            try:
                main()
            except SystemExit as ended:
                sys.stdout.flush()
                os._exit(ended.code if isinstance(ended.code, int) else ended.code is not None)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return {"args": words, "returncode": code, "stdout": texts[0], "stderr": texts[1]}
