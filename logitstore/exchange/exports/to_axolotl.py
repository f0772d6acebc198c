"""A store as axolotl's prepared data set: row t for token t + 1, renormalised over its entries.

Drawn entries have weights and no probabilities, so only exact ones are written; what a row has
fewer of is masked.

Shapes: R targets, K entries, D documents, N tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from logitstore.exchange.arrow_lists import by_length, entries_of, sorted_entries
from logitstore.exchange.exports import Exporter
from logitstore.exchange.exports.exact_entries import lacks_of_entries, refuse_drawn

if TYPE_CHECKING:
    from logitstore.format.spec import StoreSpec
    from logitstore.targets.documents import DocumentBlock

__all__ = ["AXOLOTL"]

_IGNORED = -100  # the label of a token that does not count


def _lacks(spec: StoreSpec) -> tuple[str, ...]:
    """What is left out. spec: of the store."""
    return (*lacks_of_entries(spec), "the mass of the entries, which are renormalised")


def _tables(block: DocumentBlock, spec: StoreSpec) -> dict[str, pa.Table]:
    """`train.parquet`: a row a token, of which row t belongs to token t + 1.

    block: of a store.
    spec: its spec.
    """
    del spec
    targets = sorted_entries(block.targets, drawn=False)
    used_RK = targets.used_RK()
    values_RK = np.where(used_RK, targets.logprobs_RK, -np.inf)
    values_RK = values_RK - np.logaddexp.reduce(values_RK, axis=1)[:, None]
    # A counted token is never a document's first, so the row before it is the document's too.
    tokens, k = len(block.input_ids_N), targets.k
    at_R = np.flatnonzero(block.counted_N) - 1
    ids_NK = np.tile(np.arange(k, dtype=np.int64), (tokens, 1))
    logprobs_NK = np.full((tokens, k), -np.inf, dtype=np.float32)
    mask_NK = np.zeros((tokens, k), dtype=np.int64)
    ids_NK[at_R] = np.where(used_RK, targets.ids_RK, 0)
    logprobs_NK[at_R] = values_RK
    mask_NK[at_R] = used_RK
    lengths_D = block.token_lengths_D
    labels_N = np.where(block.counted_N, block.input_ids_N.astype(np.int64), _IGNORED)
    table = {
        "input_ids": by_length(block.input_ids_N.astype(np.int32), lengths_D),
        "attention_mask": by_length(np.ones(tokens, dtype=np.int8), lengths_D),
        "labels": by_length(labels_N, lengths_D),
        "target_logprobs": entries_of(logprobs_NK, lengths_D),
        "target_token_ids": entries_of(ids_NK, lengths_D),
        "target_mask": entries_of(mask_NK, lengths_D),
    }
    return {"train.parquet": pa.table(table)}


AXOLOTL = Exporter(refuse=refuse_drawn, lacks=_lacks, tables=_tables)
