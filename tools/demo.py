"""The main job from end to end, on two cores and without a network: `python -m tools.demo`.

A teacher is trained on text that comes with every Python and dumped once. Students of a third of
its size learn from a seventh of its text: from the text's own tokens (alpha 0), from the stored
distributions (alpha 1), and from both, each with several seeds. Every step after the teacher is a
command line, printed before it runs. The demo ends with the table of a sweep, its answers in words,
and its page.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from logitstore import LogitStoreError, SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FULL", "QUICK", "Sizes", "main", "run_demo"]

MARKER = "demo.json"  # written first; without it a folder is not ours to clear
OUTPUTS = (
    *("train.jsonl", "student.jsonl", "heldout.jsonl", "teacher", "student.json"),
    *("store", "heldout", "sweep"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much of everything: what the demo's minutes depend on."""

    characters: int | None  # of the corpus; None: all
    teacher_steps: int
    teacher_width: int
    teacher_layers: int
    student_steps: int
    student_width: int
    student_layers: int
    batch_tokens: int
    unit_tokens: int
    lr: float
    seeds: int


FULL = Sizes(
    characters=None,
    teacher_steps=1950,
    teacher_width=128,
    teacher_layers=2,
    student_steps=700,
    student_width=64,
    student_layers=2,
    batch_tokens=1024,
    unit_tokens=25_000,
    # The rate at which hard labels do best (held-out loss at 1.5e-3, 3e-3, 6e-3, 1e-2: 5.35, 5.30,
    # 5.48, 5.41), so that the comparison does not favour the soft labels.
    lr=3e-3,
    seeds=4,  # with three an interval is more than half as wide again
)
QUICK = Sizes(
    characters=150_000,
    teacher_steps=30,
    teacher_width=64,
    teacher_layers=1,
    student_steps=10,
    student_width=32,
    student_layers=1,
    batch_tokens=1024,
    unit_tokens=5_000,
    lr=3e-3,
    seeds=2,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and turn expected errors into one message and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder, cleared if a demo's"
    )
    parser.add_argument("--quick", action="store_true", help="all steps with tiny sizes")
    chosen = parser.parse_args(arguments)
    try:
        run_demo(chosen.out, sizes=QUICK if chosen.quick else FULL)
    except LogitStoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: the command above ended with exit code {error.returncode}", file=sys.stderr)
        return 1
    return 0


def run_demo(out: Path, *, sizes: Sizes) -> None:
    """Run every step in `out`, cleared before.

    Raises `SettingError` where `out` holds anything that is not the demo's.
    """
    step = _Steps(started=time.monotonic())
    _clear(out, sizes)
    step.heading("train a teacher")
    _teach(out, sizes)
    step.heading("dump its distributions into a store")
    for data, store in (("student.jsonl", "store"), ("heldout.jsonl", "heldout")):
        measure = store == "heldout"
        _dump(out / data, out / store, teacher=out / "teacher", sizes=sizes, measure=measure)
        _command("logitstore", "verify", out / store)
    _command("logitstore", "inspect", out / "store")
    step.heading("distil students from the store: hard labels, both, soft labels")
    _sweep(out, sizes)
    print(f"\n[{step.elapsed()}] done", flush=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Steps:
    """Headings with the time since the start."""

    started: float

    def heading(self, title: str) -> None:
        print(f"\n[{self.elapsed()}] {title}", flush=True)

    def elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{minutes}:{seconds:02d}"


def _clear(out: Path, sizes: Sizes) -> None:
    """An `out` that holds the marker alone; nothing but an earlier demo's outputs is deleted."""
    found = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    foreign = [name for name in found if name not in {MARKER, *OUTPUTS}]
    if out.is_file() or foreign or (found and MARKER not in found):
        raise SettingError(
            "the folder holds something else than a demo",
            place=out,
            found=", ".join(foreign or found) or "a file",
            remedy="Name another folder with --out",
        )
    for name in found:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text(json.dumps(asdict(sizes), indent=2) + "\n", encoding="utf-8")


def _teach(out: Path, sizes: Sizes) -> None:
    """Corpus, tokenizer, teacher, and the configuration of its students."""
    # Imported late: `--help` and a refused folder should not wait seconds for torch.
    from tools.demo_corpus import collect, write_corpus
    from tools.demo_teacher import llama_config, train_teacher

    corpus = write_corpus(out, list(collect()), limit=sizes.characters)
    teacher = train_teacher(
        train=corpus.train,
        heldout=corpus.heldout,
        out=out / "teacher",
        steps=sizes.teacher_steps,
        width=sizes.teacher_width,
        layers=sizes.teacher_layers,
    )
    print(f"held-out loss {teacher.loss:.3f} nats per token, {teacher.seconds:.0f} s", flush=True)
    student = llama_config(
        vocab_size=len(teacher.tokenizer), width=sizes.student_width, layers=sizes.student_layers
    )
    (out / "student.json").write_text(json.dumps(student, indent=2) + "\n", encoding="utf-8")


def _dump(data: Path, store: Path, *, teacher: Path, sizes: Sizes, measure: bool = False) -> None:
    options: tuple[object, ...] = ("--unit-tokens", sizes.unit_tokens)
    if measure:  # 64 exact entries, finely stored, say more of a student than 8 and a sample
        options = ("--sparsify", "topk", "--k", 64, "--fidelity", "exact", *options)
    _command("logitstore", "dump", "--teacher", teacher, "--data", data, "--out", store, *options)


def _sweep(out: Path, sizes: Sizes) -> None:
    stores = ("--logits", out / "store", "--eval-logits", out / "heldout")
    models = ("--student", out / "student.json", "--teacher", out / "teacher")
    amount = ("--steps", sizes.student_steps, "--batch-tokens", sizes.batch_tokens)
    # Small students leave a core idle: two at a time take less than twice as long as one.
    jobs = min(2, os.cpu_count() or 1)
    rest = ("--lr", sizes.lr, "--seeds", sizes.seeds, "--jobs", jobs, "--out", out / "sweep")
    _command("trainer", "sweep", "--preset", "ablation", *stores, *models, *amount, *rest)


def _command(program: str, *arguments: object) -> None:
    """Print a command, then run it; `CalledProcessError` where it fails."""
    words = [str(argument) for argument in arguments]
    print(f"$ {shlex.join([program, *words])}", flush=True)
    folder = Path(sys.executable).parent
    path = shutil.which(program, path=str(folder))
    if path is None:
        raise SettingError(
            "a command is not installed",
            place=folder,
            found=f"no {program}",
            remedy="Install the project into this Python: pip install --editable .",
        )
    environment = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    subprocess.run([path, *words], check=True, env=os.environ | environment)


if __name__ == "__main__":
    sys.exit(main())
