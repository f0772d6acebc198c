"""The demo's text, which every Python has: the language reference and the library's docstrings.

`pydoc_data.topics` holds the language reference as the interactive help shows it (0.5 MB), and the
standard library's own sources hold 1.4 MB of docstrings, read with `ast`, so nothing is imported.
A document is one topic or one module. Whole documents are held out, and a paragraph that stands in
several is kept only where it first stands: both, so that held-out text was never trained on.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["CorpusFiles", "Text", "collect", "split", "write_corpus"]

HELD_OUT_SHARE = 0.05  # of all characters
STUDENT_SHARE = 0.15  # of the rest: the students see a seventh of what their teacher saw
# Tests are code with little prose, the packages of this site differ between machines, and what a
# deprecation removes between Python versions would change the corpus.
SKIPPED_FOLDERS = {
    *("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"),
    *("idlelib", "lib2to3", "distutils", "ensurepip", "pydoc_data", "turtledemo", "_pyrepl"),
}
MIN_DOCSTRING = 40  # characters; shorter ones mostly repeat the name of what they describe
MIN_DOCUMENT = 200
MIN_REPEATED = 60  # characters; a repeated line such as "Raises ValueError." is how people write


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """One document: a topic of the language reference, or a module's docstrings."""

    source: str  # "topics/lambda", "asyncio/base_events.py"
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusFiles:
    """The three files of the demo; `student` is a part of `train`, `heldout` of neither."""

    train: Path
    student: Path
    heldout: Path


def write_corpus(
    folder: Path, documents: Sequence[Text], *, limit: int | None = None
) -> CorpusFiles:
    """`documents` as three JSONL files in `folder`; `limit` keeps that many characters of them."""
    files = CorpusFiles(
        train=folder / "train.jsonl",
        student=folder / "student.jsonl",
        heldout=folder / "heldout.jsonl",
    )
    if limit is not None:
        documents, _ = _take(documents, characters=limit)
    train, student, heldout = split(documents)
    folder.mkdir(parents=True, exist_ok=True)
    for path, part in ((files.train, train), (files.student, student), (files.heldout, heldout)):
        _write(path, part)
    return files


def collect(library: Path | None = None) -> Iterator[Text]:
    """Every document, in an order that depends on names alone, no paragraph twice."""
    seen: set[bytes] = set()
    root = library or Path(sysconfig.get_path("stdlib"))
    for document in (*_topics(), *_modules(root)):
        text = _without_repeats(document.text, seen)
        if len(text) >= MIN_DOCUMENT:
            yield Text(source=document.source, text=text)


def split(documents: Sequence[Text]) -> tuple[list[Text], list[Text], list[Text]]:
    """(train, student, heldout) by the hash of each document's source; student is part of train."""
    characters = sum(len(document.text) for document in documents)
    heldout, train = _take(documents, characters=int(HELD_OUT_SHARE * characters))
    student, _ = _take(
        train, characters=int(STUDENT_SHARE * sum(len(document.text) for document in train))
    )
    return train, student, heldout


def _topics() -> Iterator[Text]:
    for name in sorted(topics):
        yield Text(source=f"topics/{name}", text=topics[name].strip())


def _modules(root: Path) -> Iterator[Text]:
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    for name in sorted(paths):
        if SKIPPED_FOLDERS.isdisjoint(Path(name).parts):
            docstrings = _docstrings(ast.parse(paths[name].read_bytes()))
            yield Text(source=name, text="\n\n".join(docstrings))


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """Of the module, its classes and functions, in the order of the source."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        docstring = (ast.get_docstring(node) or "").strip()
        if len(docstring) >= MIN_DOCSTRING:
            yield docstring


def _without_repeats(text: str, seen: set[bytes]) -> str:
    """`text` without the long paragraphs that are in `seen`, where its own are added."""
    kept = []
    for paragraph in text.split("\n\n"):
        words = " ".join(paragraph.split())
        key = _hash(words)
        if len(words) >= MIN_REPEATED and key in seen:
            continue
        seen.add(key)
        kept.append(paragraph)
    return "\n\n".join(kept).strip()


def _take(documents: Sequence[Text], *, characters: int) -> tuple[list[Text], list[Text]]:
    """(taken, left), each in the given order: by hash of the source, those that still fit."""
    taken, room = set(), characters
    for document in sorted(documents, key=lambda document: _hash(document.source)):
        # No document may be more than a quarter of a part, or one topic would be all of it.
        if len(document.text) <= min(room, characters / 4):
            taken.add(document.source)
            room -= len(document.text)
    return (
        [document for document in documents if document.source in taken],
        [document for document in documents if document.source not in taken],
    )


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _write(path: Path, documents: Sequence[Text]) -> None:
    lines = (
        json.dumps({"text": document.text, "source": document.source}, ensure_ascii=False)
        for document in documents
    )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
