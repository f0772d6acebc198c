"""A store for DistillKit's trainer: its plain columns, with as many entries in every row.

Drawn entries have weights and no probabilities, so only exact ones are written; what a row has
fewer of is padded by id 0 with log-probability -10,000, which weighs nothing.

Shapes: R targets, K entries, D documents, N tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from logitstore.errors import SettingError
from logitstore.exchange.arrow_lists import by_length, entries_of, sorted_entries
from logitstore.exchange.exports import Exporter
from logitstore.exchange.exports.exact_entries import lacks_of_entries, refuse_drawn
from logitstore.sparsify import sparsifier_of
from logitstore.targets.kinds import Entries
from logitstore.targets.targets import EMPTY_TAIL

if TYPE_CHECKING:
    from logitstore.format.spec import StoreSpec
    from logitstore.targets.documents import DocumentBlock

__all__ = ["DISTILLKIT"]


def _refuse(spec: StoreSpec) -> None:
    """Raise SettingError for a store without log-probabilities in every row.

    spec: of the store.
    """
    refuse_drawn(spec)
    if sparsifier_of(spec.sparsifier).targets.entries is Entries.SHARES:
        raise SettingError(
            "the store knows its entries up to a constant of each row, and DistillKit takes "
            "log-probabilities",
            place="--to",
            remedy="Take --to axolotl, which renormalises them",
        )


def _lacks(spec: StoreSpec) -> tuple[str, ...]:
    """What is left out. spec: of the store."""
    return (
        *lacks_of_entries(spec),
        "the last token of each document, to which its last row belongs",
    )


def _tables(block: DocumentBlock, spec: StoreSpec) -> dict[str, pa.Table]:
    """`data_0.parquet`. Raises SettingError for a document in which not every token counts.

    block: of a store.
    spec: its spec.
    """
    del spec
    rows_D = block.target_lengths_D
    partial_D = rows_D != block.token_lengths_D - 1
    if partial_D.any():
        number = int(np.argmax(partial_D))
        raise SettingError(
            "DistillKit has no mask: a document in which not every token counts cannot be told",
            place=f"document {block.ids[number].hex()}",
            found=f"{rows_D[number]} of {block.token_lengths_D[number] - 1} tokens count",
            remedy="Take --to axolotl",
        )
    targets = sorted_entries(block.targets, drawn=False)
    used_RK = targets.used_RK()
    last_N = np.zeros(len(block.input_ids_N), dtype=bool)
    last_N[np.cumsum(block.token_lengths_D) - 1] = True
    table = {
        "input_ids": by_length(block.input_ids_N[~last_N].astype(np.int64), rows_D),
        "token_ids": entries_of(np.where(used_RK, targets.ids_RK, 0).astype(np.int64), rows_D),
        "top_values": entries_of(
            np.where(used_RK, targets.logprobs_RK, EMPTY_TAIL).astype(np.float32), rows_D
        ),
    }
    return {"data_0.parquet": pa.table(table)}


DISTILLKIT = Exporter(refuse=_refuse, lacks=_lacks, tables=_tables)
