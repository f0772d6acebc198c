"""A store in plain numbers: Parquet with a row a target, or a data set with a row a document.

What the store does not know is no column: `logprobs` where it has shares alone, `tail_mass` and
`tail_logmass` where it keeps no tail, `label_logprob` and `entropy` of an imported store. A drawn
entry has a weight and no log-probability (null). Entries fall by weight.

Shapes: R targets, K entries, D documents, B stored temperatures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from logitstore.exchange.arrow_lists import by_length, ragged, sorted_entries
from logitstore.exchange.exports import Exporter
from logitstore.sparsify import sparsifier_of
from logitstore.targets.kinds import Entries

if TYPE_CHECKING:
    from logitstore.format.spec import StoreSpec
    from logitstore.targets.documents import DocumentBlock
    from logitstore.targets.targets import SparseTargets

__all__ = ["BY_DOCUMENT", "BY_TARGET"]


def _refuse(spec: StoreSpec) -> None:
    """Every store can be written so: `spec` is of any."""
    del spec


def _lacks(spec: StoreSpec) -> tuple[str, ...]:
    """What is left out. spec: of the store."""
    count = spec.sparsifier.draw_count
    return (f"draws 1 to {count - 1} of each target",) if count > 1 else ()


def _by_target(block: DocumentBlock, spec: StoreSpec) -> dict[str, pa.Table]:
    """`targets.parquet`, a row a target, and `documents.parquet`, a row a document.

    block: of a store.
    spec: its spec.
    """
    positions_R, document_R = _places(block)
    ids = pa.array([one.hex() for one in block.ids])
    targets = {
        "document": ids.take(pa.array(document_R)),
        "position": positions_R.astype(np.int32),
        "token": block.input_ids_N[block.counted_N].astype(np.int32),
        **_columns(block.targets, spec),
    }
    return {"targets.parquet": pa.table(targets), "documents.parquet": pa.table(_documents(block))}


def _by_document(block: DocumentBlock, spec: StoreSpec) -> dict[str, pa.Table]:
    """`data.arrow`, a row a document, in which each column of a target is a list.

    block: of a store.
    spec: its spec.
    """
    rows_D = block.target_lengths_D
    columns = {
        name: by_length(values, rows_D) for name, values in _columns(block.targets, spec).items()
    }
    return {"data.arrow": pa.table(_documents(block) | columns)}


def _documents(block: DocumentBlock) -> dict[str, Any]:
    return {
        "document": pa.array([one.hex() for one in block.ids]),
        "record": block.records_D,
        "piece": block.pieces_D,
        "input_ids": by_length(block.input_ids_N.astype(np.int32), block.token_lengths_D),
        "counted": by_length(block.counted_N, block.token_lengths_D),
    }


def _columns(targets: SparseTargets, spec: StoreSpec) -> dict[str, Any]:
    """What is known of each target, [R]."""
    kind = sparsifier_of(spec.sparsifier).targets
    ordered = sorted_entries(targets, drawn=True)
    used_RK = ordered.used_RK()
    found: dict[str, Any] = {"ids": ragged(ordered.ids_RK.astype(np.int32), used_RK)}
    if kind.entries is not Entries.SHARES:
        drawn_RK = ordered.sampled_RK if kind.drawn else None
        found["logprobs"] = ragged(ordered.logprobs_RK, used_RK, null_RK=drawn_RK)
    found["weights"] = ragged(ordered.weights_RK, used_RK)
    if kind.drawn:
        found["drawn"] = ragged(ordered.sampled_RK, used_RK)
    if kind.keeps_tail:
        tail_RB = targets.tail_logmass_RB
        found["tail_mass"] = np.exp(tail_RB[:, 0])
        width = np.full(len(tail_RB), tail_RB.shape[1])
        found["tail_logmass"] = by_length(tail_RB.ravel(), width)
    if kind.knows_whole:
        found |= {"label_logprob": targets.label_logprob_R, "entropy": targets.entropy_R}
    return {
        name: values if isinstance(values, pa.Array) else pa.array(values)
        for name, values in found.items()
    }


def _places(block: DocumentBlock) -> tuple[np.ndarray, np.ndarray]:
    """The position of each target's token in its document, and the number of the document, [R]."""
    starts_D = np.cumsum(block.token_lengths_D) - block.token_lengths_D
    document_N = np.repeat(np.arange(len(block)), block.token_lengths_D)
    position_N = np.arange(len(document_N)) - starts_D[document_N]
    return position_N[block.counted_N], document_N[block.counted_N]


BY_TARGET = Exporter(refuse=_refuse, lacks=_lacks, tables=_by_target)
BY_DOCUMENT = Exporter(refuse=_refuse, lacks=_lacks, tables=_by_document, on_disk=True)
