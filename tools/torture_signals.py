"""Commands that are interrupted: Ctrl-C and SIGTERM at any moment, once and twice.

    python -m tools.torture_signals [--signals 200] [--only dump,fit] [--seed 0]

Each command of `logitstore` and `trainer` runs as a process of its own on a tiny store, and gets a
signal at a random moment from its first line of Python on; a third of the time two in quick
succession, a third on a terminal. What came of it:

    clean       one last line that says how to go on, exit code 130 or 143, no traceback, no process
                of its group left, no temporary folder, a cursor on the terminal
    done        it had finished before: exit code 0
    wrong       anything else

A command that writes is run again until it is done: its files must be those of a run without a
signal, and no temporary file among them. The exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tools.tiny_teacher import make_teacher, texts, write_jsonl

__all__ = ["Scene", "interrupt", "scene", "torture"]

_STEPS = 0.005  # seconds between two looks at a process
_PATIENCE = 30.0  # seconds in which a process must have ended
_TWICE = 0.1  # seconds at most between two signals
_WORDS = {signal.SIGINT: "error: interrupted", signal.SIGTERM: "error: terminated"}
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ATTEMPT = re.compile(r"-[0-9a-f]{8}/")
# What a run writes that tells of time, or that is no result.
_UNEQUAL = re.compile(r"(run|history|store|manifest)\.json|README\.md|commits/.*|checkpoint-.*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A folder with a teacher, a corpus, a store and a run, and the commands to interrupt."""

    work: Path
    commands: dict[str, list[str]]
    written: dict[str, str] = field(default_factory=dict)  # what a command writes, by its name

    def environment(self) -> dict[str, str]:
        """That of a command: one thread, temporary folders where they are counted."""
        (self.work / "tmp").mkdir(exist_ok=True)
        return os.environ | {
            "OMP_NUM_THREADS": "1",
            "TERM": "xterm",
            "TMPDIR": str(self.work / "tmp"),
        }

    def run(self, name: str) -> None:
        """A command without a signal."""
        done = subprocess.run(
            self.commands[name], env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr}")

    def content(self, name: str) -> dict[str, bytes]:
        """The files that a command has written and that do not depend on time."""
        place = self.work / self.written[name]
        files = [place] if place.is_file() else [one for one in place.rglob("*") if one.is_file()]
        manifest = place / "manifest.json"
        known = {}
        if manifest.is_file():
            known["fingerprint"] = json.loads(manifest.read_bytes())["fingerprint"].encode()
        names = {_ATTEMPT.sub("/", one.relative_to(place).as_posix()): one for one in files}
        return known | {
            one: file.read_bytes() for one, file in names.items() if not _UNEQUAL.fullmatch(one)
        }

    def leftovers(self, name: str) -> list[Path]:
        """Temporary files beside those, or in their place."""
        place = self.work / self.written[name]
        beside = place.parent.glob(f"{place.name}.*")
        inside = place.rglob(".*") if place.is_dir() else iter(())
        return [*beside, *inside]

    def remove(self, name: str) -> None:
        """What the command has written."""
        place = self.work / self.written[name]
        shutil.rmtree(place, ignore_errors=True)
        place.unlink(missing_ok=True)


def scene(work: Path) -> Scene:
    """Make one in the folder `work`, with everything that a command reads."""
    teacher = make_teacher(work / "teacher")
    corpus = write_jsonl(work / "corpus.jsonl", "text", texts(200))
    student = shutil.copy(teacher / "config.json", work / "student.json")

    def program(name: str, *words: object) -> list[str]:
        return [sys.executable, "-m", name, *map(str, words)]

    job = ("--teacher", teacher, "--data", corpus, "--device", "cpu")
    steps = ("--batch-tokens", 256, "--steps", 60, "--save-steps", 20, "--log-steps", 1)
    learning = ("--student", student, *steps, "--device", "cpu", "--resume")
    store, run = work / "store", work / "run"
    made = Scene(
        work=work,
        commands={
            "dump": program("logitstore", "dump", *job, "--unit-tokens", 800, "--out", store),
            "fit": program("trainer", "fit", "--logits", store, *learning, "--out", run),
        },
        written={"dump": "store", "fit": "run"},
    )
    made.run("dump")
    made.run("fit")
    answers = ("--n", 1, "--max-new-tokens", 8, "--part-answers", 16, "--device", "cpu")
    prompts = write_jsonl(work / "prompts.jsonl", "text", texts(100, longest=4))
    asking = ("--model", teacher, "--data", prompts, *answers, "--out", work / "answers.parquet")
    commands = {
        "dump": program("logitstore", "dump", *job, "--unit-tokens", 800, "--out", work / "dumped"),
        "verify": program("logitstore", "verify", store),
        "inspect": program("logitstore", "inspect", store),
        "gc": program("logitstore", "gc", store),
        "audit": program("logitstore", "audit", store, *job[:2], "--device", "cpu"),
        "estimate": program("logitstore", "estimate", *job, "--seconds", 2),
        "tune": program("logitstore", "tune", *job, "--out", work / "tune.png"),
        "generate": program("logitstore", "generate", *asking),
        "fit": program("trainer", "fit", "--logits", store, *learning, "--out", work / "fitted"),
        "eval": program("trainer", "eval", run, "--logits", store, "--device", "cpu"),
        "report": program("trainer", "report", run, "--out", work / "report.html"),
    }
    written = {"dump": "dumped", "generate": "answers.parquet", "fit": "fitted"}
    return Scene(work=work, commands=commands, written=written)


def interrupt(
    scene: Scene, name: str, *, signum: int, after: float, twice: float | None, terminal: bool
) -> str:
    """Run a command, send it a signal; "clean", "done", or what is wrong with its end.

    Args:
        scene: Where it runs.
        name: The command's.
        signum: The signal.
        after: Seconds from the moment at which the process takes signals.
        twice: Seconds between this signal and a second one; None sends one.
        terminal: Whether the command's output is a terminal.
    """
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        scene.commands[name],
        env=scene.environment(),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_notice_interrupts,
    )
    os.close(theirs)
    _wait_until_it_listens(process)
    time.sleep(after)
    for pause in (0.0,) if twice is None else (0.0, twice):
        time.sleep(pause)
        if process.poll() is None:
            process.send_signal(signum)
    began = time.monotonic()
    said = _CONTROL.sub(_kept, _read_all(ours, process))
    code = process.wait()
    wrong = _wrong(said, code, signum=signum)
    if wrong not in ("clean", "done"):
        return f"{wrong}\n{said}"
    if time.monotonic() - began > _PATIENCE:
        return "it did not end"
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
        return "a process of its group was left"
    left = [one.name for one in (scene.work / "tmp").iterdir()]
    return f"left {left}" if left else wrong


def _notice_interrupts() -> None:
    """What a shell runs in the background ignores Ctrl-C, and so would the child."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait_until_it_listens(process: subprocess.Popen[bytes]) -> None:
    """Return when the process has a handler for SIGTERM: Python itself has none."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        if not status.is_file():
            time.sleep(0.3)  # a system that tells nothing of it
            return
        caught = re.search(r"SigCgt:\s*([0-9a-f]+)", status.read_text())
        if caught is not None and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(_STEPS)


def _read_all(descriptor: int, process: subprocess.Popen[bytes]) -> str:
    """What the process writes until it ends; it is killed when it does not."""
    os.set_blocking(descriptor, False)
    written, until = b"", time.monotonic() + 2 * _PATIENCE
    ended = False
    while True:
        part = b""
        with suppress(OSError):  # nothing there now, or the other side of a terminal is closed
            part = os.read(descriptor, 1 << 16)
        written += part
        if ended and not part:
            break
        ended = process.poll() is not None
        if not part and not ended:
            time.sleep(_STEPS)
        if time.monotonic() > until:
            process.kill()
    os.close(descriptor)
    return written.decode(errors="replace")


def _kept(match: re.Match[str]) -> str:
    return match[0] if match[0] in ("\x1b[?25l", "\x1b[?25h") else ""


def _wrong(said: str, code: int, *, signum: int) -> str:
    """What is wrong with the end of a process; or "clean", or "done"."""
    hidden, shown = said.rfind("\x1b[?25l"), said.rfind("\x1b[?25h")
    lines = [one for one in re.split(r"[\r\n]+", _CONTROL.sub("", said)) if one.strip()]
    if "Traceback" in said or "Exception ignored" in said:
        return "a traceback"
    if hidden > shown:
        return "no cursor"
    if code == 0:
        return "done"
    if code != 128 + signum:
        return f"exit code {code}"
    last = lines[-1] if lines else ""
    again = "gain" in last or "--resume" in last
    return (
        "clean" if last.startswith(_WORDS[signal.Signals(signum)]) and again else f"said {last!r}"
    )


def torture(
    scene: Scene, name: str, *, signals: int, generator: random.Random, wrong: list[str]
) -> Counter[str]:
    """Interrupt one command many times; the counts of what came of it.

    Args:
        scene: Where it runs.
        name: The command's.
        signals: How many times.
        generator: Chooses moments.
        wrong: Gets a line for everything that is wrong.
    """
    began = time.monotonic()
    scene.run(name)
    seconds = time.monotonic() - began
    expected = scene.content(name) if name in scene.written else {}
    if expected:
        scene.remove(name)
    counts = Counter[str]()
    for number in range(signals):
        given = {
            "signum": generator.choice([*_WORDS]),
            "after": generator.uniform(0, seconds),
            "twice": generator.choice([None, None, generator.uniform(0, _TWICE)]),
            "terminal": generator.random() < 1 / 3,
        }
        found = interrupt(scene, name, **given)  # type: ignore[arg-type]
        counts[found if found in ("clean", "done") else "wrong"] += 1
        if found not in ("clean", "done"):
            wrong.append(f"{name} {given}: {found}")
        if expected and (found == "done" or number == signals - 1):
            _compare(scene, name, expected, counts, wrong)
    return counts


def _compare(
    scene: Scene, name: str, expected: dict[str, bytes], counts: Counter[str], wrong: list[str]
) -> None:
    """Run the command to its end, and compare what it has written."""
    scene.run(name)
    counts["resumed"] += 1
    found, left = scene.content(name), scene.leftovers(name)
    if found != expected:
        odd = [one for one in {*found, *expected} if found.get(one) != expected.get(one)]
        wrong.append(f"{name}: resumed, these differ: {odd}")
        counts["wrong"] += 1
    if left:
        wrong.append(f"{name}: left {left}")
        counts["wrong"] += 1
    scene.remove(name)


def main() -> int:
    """Parse, interrupt, print; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--signals", type=int, default=200)
    parser.add_argument("--only", default="", help="commands, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    generator, wrong = random.Random(given.seed), list[str]()
    rows = [
        "| command | signals | clean | done before | resumed | wrong |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        made = scene(Path(folder))
        names = [one for one in made.commands if one in given.only.split(",") or not given.only]
        for name in names:
            told = len(wrong)
            number = -(-given.signals // len(names))
            counts = torture(made, name, signals=number, generator=generator, wrong=wrong)
            shown = " | ".join(str(counts[one]) for one in ("clean", "done", "resumed", "wrong"))
            rows.append(f"| {name} | {number} | {shown} |")
            print(rows[-1], *wrong[told:], sep="\n", file=sys.stderr)
    print("\n".join(rows))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
