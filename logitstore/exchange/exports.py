"""The formats that a store can be written as, by the names that `--to` takes.

Each turns a block of documents into Arrow tables; `exporting.py` writes them as they come.

    parquet      a row a target, in numbers that a person reads; documents in a table beside it
    distillkit   a row a document: input_ids, token_ids, top_values; row t for token t + 1
    axolotl      the same with masks and labels, renormalised over the entries
    datasets     a row a document, for `datasets.load_from_disk`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from logitstore.exchange import export_numbers, export_systems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pyarrow as pa

    from logitstore.format.spec import StoreSpec
    from logitstore.targets.documents import DocumentBlock

__all__ = ["EXPORTS", "ExportFormat"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportFormat:
    """A format: what it is, which stores it can hold, and how."""

    name: str
    summary: str
    refuse: Callable[[StoreSpec], object]  # raises SettingError for a store that it cannot hold
    tables: Callable[[DocumentBlock, StoreSpec], Mapping[str, pa.Table]]  # file name -> rows
    lacks: Callable[[StoreSpec], tuple[str, ...]]  # what it leaves out, in words
    on_disk: bool = False  # as `datasets` saves it, and not Parquet


EXPORTS: dict[str, ExportFormat] = {
    one.name: one
    for one in (
        ExportFormat(
            name="parquet",
            summary="a row a target, as lists of numbers, and a table of documents",
            refuse=export_numbers.refuse,
            tables=export_numbers.by_target,
            lacks=export_numbers.lacks,
        ),
        ExportFormat(
            name="distillkit",
            summary="DistillKit's plain training columns",
            refuse=export_systems.refuse_distillkit,
            tables=export_systems.distillkit,
            lacks=export_systems.lacks_distillkit,
        ),
        ExportFormat(
            name="axolotl",
            summary="axolotl's prepared data set",
            refuse=export_systems.refuse_axolotl,
            tables=export_systems.axolotl,
            lacks=export_systems.lacks_axolotl,
        ),
        ExportFormat(
            name="datasets",
            summary="a data set on disk for load_from_disk",
            refuse=export_numbers.refuse,
            tables=export_numbers.by_document,
            lacks=export_numbers.lacks,
            on_disk=True,
        ),
    )
}
