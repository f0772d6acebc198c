"""The formats that a store can be written as, by the names that `--to` takes; a module for each.

Each turns a block of documents into Arrow tables; `exporting.py` writes them as they come.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pyarrow as pa

    from logitstore.format.spec import StoreSpec
    from logitstore.targets.documents import DocumentBlock

__all__ = ["EXPORTS", "ExportFormat", "Exporter", "load_exporter"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exporter:
    """What a format's module declares."""

    refuse: Callable[[StoreSpec], object]  # raises SettingError for a store that it cannot hold
    lacks: Callable[[StoreSpec], tuple[str, ...]]  # what it leaves out, in words
    tables: Callable[[DocumentBlock, StoreSpec], Mapping[str, pa.Table]]  # file name -> rows
    on_disk: bool = False  # as `datasets` saves it, and not Parquet


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportFormat:
    """A format: what it is, and where its `Exporter` stands."""

    summary: str  # for help texts
    exporter: str  # "module:name", so that naming a format imports nothing


_HERE = "logitstore.exchange.exports"
EXPORTS: dict[str, ExportFormat] = {
    "parquet": ExportFormat(
        summary="a row a target, as lists of numbers, and a table of documents",
        exporter=f"{_HERE}.numbers:BY_TARGET",
    ),
    "distillkit": ExportFormat(
        summary="DistillKit's plain training columns", exporter=f"{_HERE}.to_distillkit:DISTILLKIT"
    ),
    "axolotl": ExportFormat(
        summary="axolotl's prepared data set", exporter=f"{_HERE}.to_axolotl:AXOLOTL"
    ),
    "datasets": ExportFormat(
        summary="a data set on disk for load_from_disk", exporter=f"{_HERE}.numbers:BY_DOCUMENT"
    ),
}


def load_exporter(name: str) -> Exporter:
    """What writes the format `name`, one of EXPORTS."""
    module, attribute = EXPORTS[name].exporter.split(":")
    found: Exporter = getattr(importlib.import_module(module), attribute)
    return found
