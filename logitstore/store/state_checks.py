"""Whether the hidden states of a store give what was stored beside them.

Another output layer, or states of another number type, move the entropy of nearly every row, though
every hash is right. So some rows of each block are looked at.

Shapes: R targets, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from logitstore.errors import CorruptionError
from logitstore.format.states import HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logitstore.store.head import StoredHead
    from logitstore.targets.targets import SparseTargets

__all__ = ["state_errors"]

_ROWS = 8  # of a block, whose whole distributions are made
# By which an entropy may differ that other kernels make of the same states, in half precision too.
_NATS, _SHARE = 0.05, 0.02


def state_errors(
    head: StoredHead, targets: SparseTargets, *, place: str
) -> Iterator[CorruptionError]:
    """Where hidden states do not give the entropies that were stored beside them.

    head: the output layer. What refuses it to all that ask is not told here again.
    targets: of a block, with their last states.
    place: of the block.
    """
    if not len(targets):
        return
    some = np.unique(np.linspace(0, len(targets) - 1, _ROWS).astype(np.int64))
    chosen = targets.rows(some)
    try:
        log_RV = np.concatenate(list(head.log_probs(chosen))).astype(np.float64)
    except CorruptionError as error:
        if not str(error.place).startswith(head.layout.place(HEAD)):
            yield error
        return
    entropy_R = -(np.exp(log_RV) * log_RV).sum(axis=1)
    stored_R = chosen.entropy_R.astype(np.float64)
    off_R = np.abs(entropy_R - stored_R) > _NATS + _SHARE * stored_R
    if off_R.any():
        row = int(np.argmax(off_R))
        yield CorruptionError(
            f"target {some[row]}: its hidden state gives another entropy than is stored",
            place=place,
            found=round(float(entropy_R[row]), 4),
            allowed=round(float(stored_R[row]), 4),
        )
