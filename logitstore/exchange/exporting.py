"""Export: a store's blocks, one after another, as tables of another system.

What is written lies in a folder beside the one that was named until all of it is there, so a killed
export leaves no half of a data set under that name.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from logitstore.errors import SettingError, StorageError, no_room
from logitstore.exchange.exports import load_exporter
from logitstore.exchange.options import EXPORT_OPTIONS
from logitstore.options import takes
from logitstore.progress import Meter
from logitstore.store.reader import as_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from logitstore.exchange.exports import Exporter
    from logitstore.progress import OnProgress
    from logitstore.store.reader import Store, StoreLike

__all__ = ["ExportSummary", "export_store"]

_ROWS = 4096  # of a row group
_SHARD = 500 << 20  # bytes of a file that `datasets` saves


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSummary:
    """What an export left behind."""

    path: str
    files: tuple[str, ...]
    documents: int
    targets: int
    bytes: int
    lacks: tuple[str, ...]  # what the format does not hold of the store
    seconds: float


@takes(EXPORT_OPTIONS)
def export_store(
    store: StoreLike,
    out: Path,
    *,
    to: str,
    max_memory: int | str | None,
    on_note: Any,
    on_progress: OnProgress | None,
) -> ExportSummary:
    """Write a store, decoded, for other systems to read. Memory is that of a block.

    Raises SettingError where `out` is there already, and for a store that the format cannot hold;
    StoreError or CorruptionError for a store that is not there or damaged; StorageError.
    """
    started = time.monotonic()
    kind, opened = load_exporter(to), as_store(store, max_memory=max_memory)
    kind.refuse(opened.spec)
    if out.exists():
        raise SettingError(
            "OUT is there already", place=str(out), remedy="Name a folder that is not there"
        )
    _refuse_missing_library(kind)
    with _storing(out), _beside(out) as folder:
        _write(opened, kind, folder, on_progress)
        if kind.on_disk:
            _save_to_disk(folder)
        folder.chmod(0o777 & ~_umask())
        folder.rename(out)
    lacks = kind.lacks(opened.spec)
    if opened.spec.states is not None:
        lacks = (*lacks, "hidden states")
    if callable(on_note):
        for one in lacks:
            on_note(f"not in {out}: {one}")
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return ExportSummary(
        path=str(out),
        files=tuple(str(path.relative_to(out)) for path in files),
        documents=len(opened),
        targets=opened.targets,
        bytes=sum(path.stat().st_size for path in files),
        lacks=lacks,
        seconds=time.monotonic() - started,
    )


def _write(store: Store, kind: Exporter, folder: Path, on_progress: OnProgress | None) -> None:
    meter = Meter(on_progress, stage="writing", unit="targets")
    done = 0
    writers: dict[str, Any] = {}
    with ExitStack() as stack:
        for number, counts in enumerate(store.blocks):
            tables: Mapping[str, pa.Table] = kind.tables(store.read_block(number), store.spec)
            for name, table in tables.items():
                if name not in writers:
                    writers[name] = stack.enter_context(_writer(folder / name, table.schema, kind))
                _add(writers[name], table)
            done += counts.targets
            meter.tell(done, fraction=done / max(1, store.targets))


def _writer(path: Path, schema: pa.Schema, kind: Exporter) -> Any:
    if kind.on_disk:
        return pa.ipc.new_stream(str(path), schema)
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


def _add(writer: Any, table: pa.Table) -> None:
    if isinstance(writer, pq.ParquetWriter):
        writer.write_table(table, row_group_size=_ROWS)
    else:
        writer.write_table(table, max_chunksize=_ROWS)


def _save_to_disk(folder: Path) -> None:
    """Replace the Arrow files by what `datasets` saves of them."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        _saved(folder)
    finally:
        if shown:
            datasets.enable_progress_bars()


def _saved(folder: Path) -> None:
    import datasets

    written = sorted(folder.glob("*.arrow"))
    data = datasets.concatenate_datasets(
        [datasets.Dataset.from_file(str(path)) for path in written]
    )
    shards = 1 + sum(path.stat().st_size for path in written) // _SHARD
    data.save_to_disk(str(folder / "saved"), num_shards=shards)
    for path in written:
        path.unlink()
    for path in sorted((folder / "saved").iterdir()):
        path.rename(folder / path.name)
    (folder / "saved").rmdir()


def _refuse_missing_library(kind: Exporter) -> None:
    if not kind.on_disk:
        return
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise SettingError(
            "writing a data set to disk needs the package datasets",
            place="--to datasets",
            remedy="Install it: pip install 'logitstore[hub]'",
        ) from error


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, removed unless it was renamed."""
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)


@contextmanager
def _storing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = no_room(error) or error.strerror or error
        raise StorageError(f"it cannot be written: {problem}", place=str(out)) from error


def _umask() -> int:
    import os

    found = os.umask(0)
    os.umask(found)
    return found
