"""What every codec needs: nats as whole steps, sums in log space, and the table of documents.

Shapes: R targets, K entries, D documents, C columns of the table of documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from logitstore.errors import CorruptionError, SettingError
from logitstore.format.columns import DOCUMENT_COLUMNS
from logitstore.targets.targets import EMPTY_TAIL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logitstore.targets.documents import DocumentBlock

__all__ = [
    "decode_documents",
    "encode_documents",
    "from_steps",
    "logsumexp",
    "scalar",
    "whole_steps",
]

_MAX_SCALAR = (1 << 24) - 1


def whole_steps(value_R: np.ndarray, steps: int, *, what: str) -> np.ndarray:
    """uint32: values in whole steps, rounded; negative values become 0.

    Args:
        value_R: Values in nats, of any shape.
        steps: Steps per nat.
        what: The name of the value in an error.

    Raises SettingError where a value is not finite or too large for 24 bits.
    """
    whole_R = np.rint(np.maximum(value_R.astype(np.float64), 0) * steps)
    # An empty tail is +1e4 nats here; the caller replaces it by its own code.
    highest = whole_R[whole_R < -EMPTY_TAIL * steps].max(initial=0)
    if not np.isfinite(whole_R).all() or highest > _MAX_SCALAR:
        raise SettingError(
            f"{what} is not a number that the codec can hold",
            place="teacher's distribution",
            found=float(value_R[~np.isfinite(whole_R)][0]) if highest <= _MAX_SCALAR else highest,
            allowed=f"finite, up to {_MAX_SCALAR / steps:.0f} nats",
        )
    return np.minimum(whole_R, _MAX_SCALAR).astype(np.uint32)


def from_steps(code_R: np.ndarray, steps: int) -> np.ndarray:
    """float32, nats: the values that `whole_steps` has coded.

    Args:
        code_R: Values in whole steps.
        steps: Steps per nat.
    """
    return code_R.astype(np.float32) / np.float32(steps)


def scalar(scalars: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The column `name` of `scalars`. Raises CorruptionError where there is none."""
    if name not in scalars:
        raise CorruptionError(
            "a column is missing", place=name, allowed="one value for each target"
        )
    return scalars[name]


def logsumexp(values_RK: np.ndarray, mask_RK: np.ndarray) -> np.ndarray:
    """float64 [R]: log-sum-exp of each row; 0 for a row without entries.

    Args:
        values_RK: float32 values.
        mask_RK: bool, which of them are summed.
    """
    highest_R = values_RK.max(axis=1, where=mask_RK, initial=-np.inf)
    highest_R[np.isinf(highest_R)] = 0.0
    shifted_RK = np.minimum(values_RK - highest_R[:, None], 0)
    total_R = np.exp(shifted_RK).sum(axis=1, where=mask_RK, dtype=np.float64)
    return np.where(total_R > 0, highest_R + np.log(np.maximum(total_R, 1e-300)), 0.0)


def encode_documents(block: DocumentBlock) -> np.ndarray:
    """uint64 [D, C]: ids, sources and lengths of the block's documents: see `DOCUMENT_COLUMNS`."""
    halves_D2 = np.frombuffer(b"".join(block.ids), dtype=">u8").reshape(-1, 2)
    columns = {
        "id_high": halves_D2[:, 0],
        "id_low": halves_D2[:, 1],
        "record": block.records_D,
        "piece": block.pieces_D,
        "tokens": block.token_lengths_D,
        "targets": block.target_lengths_D,
    }
    return np.stack([columns[name].astype(np.uint64) for name in DOCUMENT_COLUMNS], axis=1)


def decode_documents(documents_DC: np.ndarray) -> dict[str, Any]:
    """The fields of a `DocumentBlock` that are in its table of documents.

    Args:
        documents_DC: uint64, as `encode_documents` gave it.
    """
    columns = dict(zip(DOCUMENT_COLUMNS, documents_DC.T, strict=True))
    halves_D2 = documents_DC[:, :2].astype(">u8")
    return {
        "ids": tuple(row.tobytes() for row in halves_D2),
        "records_D": columns["record"].astype(np.int64),
        "pieces_D": columns["piece"].astype(np.int64),
        "token_lengths_D": columns["tokens"].astype(np.int64),
        "target_lengths_D": columns["targets"].astype(np.int64),
    }
