"""A store for the trainers of DistillKit and of axolotl: entries of equal number in every row.

Drawn entries have weights and no probabilities, so only exact ones are written, and what a row has
fewer of is padded: by id 0 with log-probability -10,000 for DistillKit, by the mask for axolotl.

Shapes: R targets, K entries, D documents, L tokens of a document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from logitstore.errors import SettingError
from logitstore.exchange.lists import by_length, entries_of, sorted_entries
from logitstore.sparsify import sparsifier_of
from logitstore.targets.kinds import Entries
from logitstore.targets.targets import EMPTY_TAIL

if TYPE_CHECKING:
    from logitstore.format.spec import StoreSpec
    from logitstore.targets.documents import DocumentBlock

__all__ = [
    "axolotl",
    "distillkit",
    "lacks_axolotl",
    "lacks_distillkit",
    "refuse_axolotl",
    "refuse_distillkit",
]

_IGNORED = -100  # the label of a token that does not count


def refuse_axolotl(spec: StoreSpec) -> None:
    """Raise SettingError for a store of whose rows some may have no exact entry.

    spec: of the store.
    """
    declared = sparsifier_of(spec.sparsifier)
    kind = declared.targets
    if kind.drawn and not kind.keeps_tail:
        raise SettingError(
            "the entries were drawn, and have weights that are no probabilities",
            place="--to",
            found=f"a store of --sparsify {declared.name}",
            remedy="Take --to parquet or --to datasets, which write the weights",
        )


def refuse_distillkit(spec: StoreSpec) -> None:
    """The same, and for a store that does not know log-probabilities.

    spec: of the store.
    """
    refuse_axolotl(spec)
    if sparsifier_of(spec.sparsifier).targets.entries is Entries.SHARES:
        raise SettingError(
            "the store knows its entries up to a constant of each row, and DistillKit takes "
            "log-probabilities",
            place="--to",
            remedy="Take --to axolotl, which renormalises them",
        )


def lacks_distillkit(spec: StoreSpec) -> tuple[str, ...]:
    """What is left out. spec: of the store."""
    return (
        *_lacks(spec),
        "the last token of each document, to which its last row belongs",
    )


def lacks_axolotl(spec: StoreSpec) -> tuple[str, ...]:
    """What is left out. spec: of the store."""
    return (*_lacks(spec), "the mass of the entries, which are renormalised")


def _lacks(spec: StoreSpec) -> tuple[str, ...]:
    drawn = sparsifier_of(spec.sparsifier).targets.drawn
    return (
        *(("drawn entries",) if drawn else ()),
        "the tail's mass, the entropy and the true token's log-probability outside the entries",
        "ids of documents",
    )


def distillkit(block: DocumentBlock, spec: StoreSpec) -> dict[str, pa.Table]:
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


def axolotl(block: DocumentBlock, spec: StoreSpec) -> dict[str, pa.Table]:
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
