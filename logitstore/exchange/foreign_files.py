"""What a format's reader is given and gives: files, each a list of records, read in order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.errors import CorpusError, SettingError

if TYPE_CHECKING:
    from logitstore.exchange.foreign_documents import ForeignDocument, Values

__all__ = ["ALIGNMENTS", "Foreign", "ForeignFile", "Request", "files_of", "refuse_given"]

# `--alignment` -> the token, counted from t, that row t belongs to.
ALIGNMENTS = {"same": 0, "next": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignFile:
    """Documents that one file holds, or several that belong together."""

    name: str  # below the source
    paths: tuple[Path, ...]
    read: Callable[[], Iterator[ForeignDocument]]  # all of them, in order, as often as asked


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreign:
    """A source of another system, opened."""

    files: tuple[ForeignFile, ...]
    values: Values
    lacks: tuple[str, ...]  # what the format cannot carry, in words
    settings: dict[str, Any] = field(default_factory=dict)  # that the file does not tell
    tested: bool = False  # the values may be logits: their sums tell
    columns: int | None = None  # of the teacher's head, where the file tells


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What an import was asked for; a format refuses what means nothing to it."""

    source: Path
    config: Path | None
    tokens: Path | None
    alignment: str | None
    bos: str | None
    tokenizer: Any  # of transformers


def files_of(source: Path, pattern: str) -> list[Path]:
    """The source itself, or the files in it whose name fits, in the order of their numbers.

    source: a file or a folder.
    pattern: a glob of names.

    Raises CorpusError where there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise CorpusError("there is no such file or folder", place=str(source))
    found = [path for path in source.glob(pattern) if path.is_file()]
    if not found:
        raise CorpusError(
            "the folder has no file of this format", place=str(source), allowed=pattern
        )
    return sorted(found, key=lambda path: _natural(path.name))


def refuse_given(request: Request, *names: str, what: str) -> None:
    """Raise SettingError for options that mean nothing to a format.

    request: what was asked for.
    names: of the options.
    what: the format, in words.
    """
    for name in names:
        if getattr(request, name) is not None:
            raise SettingError(
                f"--{name} means nothing to {what}",
                found=getattr(request, name),
                remedy="Leave it out",
            )


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which data_10 comes behind data_9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
