"""What the benchmarks run on: the standard library's docstrings or source, and a teacher."""

from __future__ import annotations

import json
import random
import sysconfig
from pathlib import Path

from tools.demo_corpus import collect, write_corpus
from tools.demo_teacher import train_teacher

__all__ = ["docstrings", "sources", "teacher_folder", "wide_teacher"]


def docstrings(path: Path, *, characters: int) -> Path:
    """About `characters` of text as JSONL, a document a line."""
    taken = 0
    with path.open("w") as file:
        for document in collect():
            file.write(json.dumps({"text": document.text}) + "\n")
            taken += len(document.text)
            if taken >= characters:
                break
    return path


def sources(path: Path, *, characters: int) -> Path:
    """About `characters` of the standard library's source as JSONL, a module a line, well mixed."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [one for one in sorted(library.rglob("*.py")) if "site-packages" not in one.parts]
    random.Random(0).shuffle(files)
    taken = 0
    with path.open("w") as file:
        for module in files:
            text = module.read_text(encoding="utf-8", errors="replace")
            file.write(json.dumps({"text": text}) + "\n")
            taken += len(text)
            if taken >= characters:
                break
    return path


def teacher_folder(given: Path | None, folder: Path) -> Path:
    """`given`, or a teacher trained for a minute in `folder`."""
    if given is not None:
        return given
    files = write_corpus(folder / "corpus", list(collect()))
    train_teacher(
        train=files.train, heldout=files.heldout, out=folder / "teacher", steps=400, report=_silent
    )
    return folder / "teacher"


def wide_teacher(folder: Path) -> Path:
    """A teacher of 32,768 ids, trained for some minutes on source code in `folder`."""
    text = sources(folder / "wide.jsonl", characters=16_000_000)
    lines = text.read_text().splitlines(keepends=True)
    train, heldout = folder / "wide_train.jsonl", folder / "wide_heldout.jsonl"
    train.write_text("".join(lines[:-20]))
    heldout.write_text("".join(lines[-20:]))
    train_teacher(
        train=train,
        heldout=heldout,
        out=folder / "wide_teacher",
        steps=500,
        vocab_size=32_768,
        report=_silent,
    )
    return folder / "wide_teacher"


def _silent(_: str) -> None:
    """The benchmarks print their tables and nothing else."""
