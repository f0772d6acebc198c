"""Parts: what a run has written so far, beside the file that they are to become.

    FILE.parquet.parts/settings.parquet  with what the run was begun
    FILE.parquet.parts/000000.parquet    the answers of one part, whole or not there
    FILE.parquet.parts/lock              held by the process that is at work

The last part done, they become FILE.parquet in one step and are removed. A process may be killed at
any moment: what is there is whole, and goes into the same bytes.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from logitstore.errors import CorruptionError, LogitStoreError, SpecError, StorageError, no_room
from logitstore.format.answers import AnswersMetadata
from logitstore.generation.answer_file import AnswerCounts, counts_of, write_tables
from logitstore.store.durable import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["AnswerParts"]

_SETTINGS = "settings.parquet"
_WHOLE = "whole.parquet"
_LOCK = "lock"
_PART = re.compile(r"[0-9]{6}\.parquet")
_COUNTED = ["input_ids", "loss_mask", "finish"]
_OPTIONS = re.compile(r"settings\.(\w+)")


class AnswerParts:
    """The parts of one file of answers.

    out: the file that they are to become.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.parts")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside: no other process works on the file. StorageError where one does already."""
        with self._explained():
            descriptor = self._locked()
        try:
            yield
        finally:
            begun = (self.folder / _SETTINGS).is_file() and not self.out.is_file()
            if not begun and not self._numbers():
                shutil.rmtree(self.folder, ignore_errors=True)
            os.close(descriptor)  # releases the lock

    def _locked(self) -> int:
        """The descriptor of the lock, which the kernel releases when this process dies."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise StorageError(
                    "another process is at work on this file",
                    place=self.out,
                    remedy="Wait for it, or name another file with --out",
                ) from None
            except OSError:  # a file system without locks: nobody is kept out
                return descriptor
            with suppress(FileNotFoundError):
                if (self.folder / _LOCK).stat().st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
            os.close(descriptor)  # who held it has just finished and removed it

    def begun(self) -> AnswersMetadata | None:
        """With what the file, or the run that is to become it, was begun; None for a new one.

        Raises StorageError where another kind of file has the name.
        """
        if self.out.is_dir():
            raise StorageError("is a folder", place=self.out, remedy="Name another file with --out")
        for path in (self.out, self.folder / _SETTINGS):
            if path.is_file():
                with self._explained(path):
                    schema = pq.read_schema(path)
                found = AnswersMetadata.of_schema(schema.metadata, place=str(path))
                if found is None:
                    raise StorageError(
                        "is another file than one of answers",
                        place=path,
                        remedy="Name another file with --out",
                    )
                return found
        return None

    def begin(self, metadata: AnswersMetadata) -> None:
        """Write down with what the run is begun; SpecError where it was with something else."""
        found = self.begun()
        if found is not None:
            _refuse_other(found, metadata, place=self.out)
            return
        self._put(_SETTINGS, pa.table({}), metadata)

    @property
    def finished(self) -> bool:
        """Whether the file is there."""
        return self.out.is_file()

    def missing(self, parts: int) -> list[int]:
        """The numbers of those of `parts` parts that are not there."""
        there = self._numbers()
        return [number for number in range(parts) if number not in there]

    def write(self, number: int, table: pa.Table, metadata: AnswersMetadata) -> None:
        """Write a part: it is there whole, or not at all."""
        self._put(f"{number:06d}.parquet", table, metadata)

    def join(self, parts: int, metadata: AnswersMetadata) -> None:
        """Make the file of its parts, in one step, and remove them."""
        tables = (self._read(self._part(number)) for number in range(parts))
        self._put(_WHOLE, tables, metadata)
        with self._explained():
            (self.folder / _WHOLE).replace(self.out)
            sync_folder(self.out.parent)
        self.clear()

    def clear(self) -> None:
        """Remove what is left of the parts of a file that is finished."""
        for number in self._numbers():
            self._part(number).unlink(missing_ok=True)

    def counts(self) -> AnswerCounts:
        """What the answers of the finished file add up to."""
        total = AnswerCounts()
        with self._explained(self.out), pq.ParquetFile(self.out) as file:
            for number in range(file.num_row_groups):
                total = total.plus(counts_of(file.read_row_group(number, columns=_COUNTED)))
        return total

    def _numbers(self) -> set[int]:
        if not self.folder.is_dir():
            return set()
        names = [path.name for path in self.folder.iterdir() if _PART.fullmatch(path.name)]
        return {int(name.partition(".")[0]) for name in names}

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"

    def _read(self, path: Path) -> pa.Table:
        with self._explained(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read()

    def _put(
        self, name: str, tables: pa.Table | Iterator[pa.Table], metadata: AnswersMetadata
    ) -> None:
        temporary = self.folder / f".{name}.tmp"
        listed = iter([tables]) if isinstance(tables, pa.Table) else tables
        with self._explained(self.folder / name):
            write_tables(temporary, listed, metadata.to_schema())
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self.folder / name)
            sync_folder(self.folder)

    @contextmanager
    def _explained(self, path: Path | None = None) -> Iterator[None]:
        """What the file system or Arrow refuses, as an error with a place."""
        place = path or self.out
        try:
            yield
        except LogitStoreError:
            raise
        except pa.ArrowInvalid as error:
            raise CorruptionError(
                f"the file is damaged: {error}",
                place=place,
                remedy="Remove it and run the same command again",
            ) from error
        except OSError as error:
            full = no_room(error)
            raise StorageError(
                full or f"the file system refused: {error.strerror or error}",
                place=error.filename or place,
                remedy=f"{len(self._numbers())} parts are stored. Make room and run the same "
                "command again: it goes on from them"
                if full
                else None,
            ) from error


def _refuse_other(found: AnswersMetadata, wanted: AnswersMetadata, *, place: Path) -> None:
    """Raise SpecError, naming what differs, where a run was begun with other settings."""
    there, here = _flat(found.identity()), _flat(wanted.identity())
    names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if not names:
        return
    listed = [
        f"{_shown(name)} {_told(there.get(name))} there, {_told(here.get(name))} here"
        for name in names
    ]
    raise SpecError(
        f"the answers were begun with other settings: {', '.join(listed)}",
        place=place,
        remedy="Repeat the settings they were begun with, or name another file with --out",
    )


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for part, fields in content.items():
        flat |= {f"{part}.{name}": value for name, value in fields.items()}
    return flat


def _shown(name: str) -> str:
    """A setting by the flag of its option."""
    option = _OPTIONS.fullmatch(name)
    return name if option is None else f"--{option.group(1).replace('_', '-')}"


def _told(value: Any) -> str:
    return "not given" if value is None else str(value)
