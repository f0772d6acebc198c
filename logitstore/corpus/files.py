"""Files: which ones a name stands for, and what kind of source each is.

The kind is told by the end of a file's name, behind which that of a compression may stand.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from logitstore.corpus.arrays import ArrayFile, holds_array
from logitstore.corpus.compressed import COMPRESSIONS
from logitstore.corpus.delimited import DelimitedFile
from logitstore.corpus.sources import FileBytes, LineFile, TextFile, reading
from logitstore.corpus.tables import ArrowTable, ParquetTable, TableSource
from logitstore.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from logitstore.corpus.compressed import StreamCursor
    from logitstore.corpus.fields import Fields
    from logitstore.corpus.sources import Source

__all__ = ["SUFFIXES", "Files", "find_files", "open_source"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """A file that is to become a source."""

    name: str
    path: Path
    fields: Fields
    data: FileBytes


def _text(file: _File) -> Source:
    wanted = file.fields.messages or file.fields.tokens
    if wanted is not None:
        raise CorpusError(
            "plain text has no fields",
            place=file.name,
            found=wanted,
            remedy="Leave the option out that names one, or give a file of records",
        )
    return TextFile(name=file.name, path=file.path, field=file.fields.text or "text")


def _lines(file: _File) -> Source:
    return LineFile(name=file.name, data=file.data)


def _json(file: _File) -> Source:
    """One array, or a record in each line: both are called .json."""
    with reading(file.name), file.data.open() as stream:
        array = holds_array(stream)
    return ArrayFile(name=file.name, data=file.data) if array else _lines(file)


def _commas(file: _File) -> Source:
    return DelimitedFile(name=file.name, delimiter=",", data=file.data)


def _tabs(file: _File) -> Source:
    return DelimitedFile(name=file.name, delimiter="\t", data=file.data)


def _parquet(file: _File) -> Source:
    table = ParquetTable(name=file.name, path=file.path)
    return TableSource(name=file.name, fields=file.fields, table=table)


def _arrow(file: _File) -> Source:
    table = ArrowTable(name=file.name, path=file.path)
    return TableSource(name=file.name, fields=file.fields, table=table)


_RECORDS: dict[str, Callable[[_File], Source]] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json,
    ".csv": _commas,
    ".tsv": _tabs,
}
_KINDS: dict[str, Callable[[_File], Source]] = {
    ".txt": _text,
    **_RECORDS,
    **{
        f"{suffix}{compression}": opener
        for suffix, opener in _RECORDS.items()
        for compression in COMPRESSIONS
    },
    ".parquet": _parquet,
    ".arrow": _arrow,
}
SUFFIXES = tuple(_KINDS)
_NAMED = 3  # files that a message names
_LISTED = f".txt, {', '.join(_RECORDS)} (also with {', '.join(COMPRESSIONS)}), .parquet, .arrow"


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """The files of a corpus by their names in it, and the names of those that are left unread."""

    used: dict[str, Path]
    unread: tuple[str, ...]


def find_files(names: Sequence[str | os.PathLike[str]]) -> Files:
    """The files that paths, folders and patterns stand for.

    names: each a file, a folder, whose files are taken in the order of their relative paths, hidden
        ones being passed over, or a pattern as a shell's, `**` included. A file is called in the
        corpus by its path below the one folder that was named, or below the folder that all files
        have in common.

    Raises CorpusError where a name stands for nothing, or for nothing that can be read.
    """
    paths: dict[Path, None] = {}
    unread: dict[Path, None] = {}
    for name in names:
        with reading(os.fspath(name)):
            found = sorted(_found(Path(name)))
        read = [path for path in found if path.name.lower().endswith(SUFFIXES)]
        if not read:
            raise _nothing_at(Path(name), found)
        paths |= dict.fromkeys(read)
        unread |= dict.fromkeys(path for path in found if path not in read)
    alone = Path(names[0]) if len(names) == 1 else None
    base = alone if alone is not None and alone.is_dir() else _common_folder(paths)
    return Files(
        used={_name(path, base): path for path in paths},
        unread=tuple(_name(path, base) for path in unread),
    )


def open_source(name: str, path: Path, *, fields: Fields, cursor: StreamCursor) -> Source:
    """The source that a file is, called `name`; of a table the schema is read.

    fields: which fields of its records are wanted.
    cursor: the stream that all compressed files of a corpus share.

    Raises CorpusError where it has no such fields, or cannot be read.
    """
    lowered = path.name.lower()
    kind = next(suffix for suffix in SUFFIXES if lowered.endswith(suffix))
    data = FileBytes(path, cursor)
    return _KINDS[kind](_File(name=name, path=path, fields=fields, data=data))


def _found(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for file in path.rglob("*"):
            inside = file.relative_to(path)
            if not any(part.startswith(".") for part in inside.parts) and file.is_file():
                yield file
    elif path.exists():
        yield path
    elif glob.has_magic(str(path)):
        for match in glob.iglob(str(path), recursive=True):  # noqa: PTH207 - also absolute ones
            if Path(match).is_file():
                yield Path(match)


def _common_folder(paths: Iterable[Path]) -> Path:
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def _name(path: Path, base: Path) -> str:
    return path.absolute().relative_to(base.absolute()).as_posix()


def _nothing_at(path: Path, found: Sequence[Path]) -> CorpusError:
    problem, there = "there is no such file or folder", None
    if path.is_dir():
        problem = "the folder holds no file that can be read"
        names = [_name(one, path) for one in found]
        there = ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "") or "no file"
    elif path.exists():
        problem = "files with such a name are not read"
    elif glob.has_magic(str(path)):
        problem = "no file matches the pattern"
        there = ", ".join(path.name for path in found[:_NAMED]) or None
        if found:
            problem = "no file that matches the pattern can be read"
    return CorpusError(
        problem,
        place=path,
        found=there,
        allowed=f"{_LISTED}; a folder or a pattern of them; a Hub data set",
    )
