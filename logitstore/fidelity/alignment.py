"""Whether rows belong to the token they predict: their loss for that token and its neighbours.

Row t is the distribution of token t + 1. At shift s its loss is taken for token t + 1 + s instead.
For a teacher that models its language, the loss of rows that are in line is least at shift 0.

Shapes: R targets, K entries, V vocabulary, L tokens of a document, P >= V logit columns.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from logitstore.teacher.base import OwnForward
from logitstore.teacher.torch_state import neutral_torch_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from logitstore.targets.documents import Document, StoredDocument
    from logitstore.targets.targets import SparseTargets
    from logitstore.teacher.base import Teacher

__all__ = ["SHIFTS", "mean_and_error", "shift_faults", "shift_losses"]

SHIFTS = (-1, 0, 1)
# Of the probability by which shifts are compared: the part that is spread over the vocabulary, so
# that a token that is no entry costs log(V / 0.1) and not infinity.
_SMOOTHING = 0.1
_STANDARD_ERRORS = 3
# Of a document, for which the model's own logits are formed all at once.
_PROBED_TOKENS = 512


def shift_losses(stored: StoredDocument, *, vocab_size: int) -> dict[int, np.ndarray]:
    """nats [R] at each of SHIFTS: the loss of row t for token t + 1 + shift; NaN without one.

    The loss is -log(0.9 p + 0.1 / V) of the stored probability p.

    Args:
        stored: A document and its targets.
        vocab_size: V.
    """
    return {
        shift: _smoothed_loss(
            _probability(stored.targets, tokens_R, vocab_size=vocab_size), there_R, vocab_size
        )
        for shift, tokens_R, there_R in _shifted(stored.document)
    }


def shift_faults(
    losses: dict[int, np.ndarray], teacher: Teacher, documents: Sequence[Document]
) -> Iterator[str]:
    """What is wrong, where the mean loss is less at another shift than at 0.

    A difference within 3 standard errors counts as chance. Nor is it a fault where the teacher
    itself predicts the neighbour better, as one with random weights may: that is measured with the
    model's own forward, by another way than the one by which rows are dumped.

    Args:
        losses: Of all rows, by shift, as `shift_losses` gives them.
        teacher: The live teacher.
        documents: The documents of these rows, or some of them.
    """
    shift = min(SHIFTS, key=lambda one: np.nansum(losses[one] - losses[0]))
    apart_R = losses[shift] - losses[0]
    apart, error = mean_and_error(apart_R[~np.isnan(apart_R)])
    if apart < -_STANDARD_ERRORS * error and _live_apart(teacher, documents, shift) >= 0:
        yield (
            f"shift_loss is {-apart:.3g} nats lower at {shift} than at 0: rows fit a neighbour "
            "of the token they should predict, tokens and targets are out of line"
        )


def mean_and_error(values_R: np.ndarray) -> tuple[float, float]:
    """The mean of `values_R` and its standard error; that is infinite for fewer than two values."""
    if len(values_R) < 2:
        return float(values_R.sum()), math.inf
    return float(values_R.mean()), float(values_R.std(ddof=1)) / math.sqrt(len(values_R))


def _live_apart(teacher: Teacher, documents: Sequence[Document], shift: int) -> float:
    """nats: the mean loss of the model's own logits at `shift`, less that at 0."""
    parts = []
    for document in documents:
        row_R, p_RV = _own_probabilities(teacher, document)
        ids_L = document.input_ids_L.astype(np.int64)
        losses = []
        for place in (shift, 0):
            p_R = p_RV[np.arange(len(row_R)), ids_L[row_R + place]]
            there_R = np.ones(len(p_R), dtype=bool)
            losses.append(_smoothed_loss(p_R, there_R, p_RV.shape[1]))
        parts.append(losses[0] - losses[1])
    apart_R = np.concatenate(parts)
    return float(apart_R.mean()) if len(apart_R) else 0.0


def _own_probabilities(teacher: Teacher, document: Document) -> tuple[np.ndarray, np.ndarray]:
    """Places of counted tokens that have a neighbour on either side, and their rows [R, V].

    By the model's own forward where the teacher has one, else by its logits as they are dumped.
    """
    tokens = min(len(document), _PROBED_TOKENS)
    row_R = np.flatnonzero(document.counted_L[: tokens - 1])
    if isinstance(teacher, OwnForward):
        with neutral_torch_state():
            # Row t is what the model says after token t.
            logits_RV = teacher.own_logits(document, tokens=tokens)[torch.from_numpy(row_R - 1)]
    else:
        with neutral_torch_state():
            chunks = [logits_RV.clone() for logits_RV, _ in teacher.logits([document])]
            logits_RV = torch.cat(chunks)[: len(row_R)]
    return row_R, logits_RV.float().softmax(-1).cpu().numpy()


def _shifted(document: Document) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Each shift, the token it sets beside each row, and whether there is one."""
    ids_L = document.input_ids_L
    for shift in SHIFTS:
        place_R = np.flatnonzero(document.counted_L) + shift
        yield shift, ids_L[np.minimum(place_R, len(ids_L) - 1)], place_R < len(ids_L)


def _smoothed_loss(p_R: np.ndarray, there_R: np.ndarray, vocab_size: int) -> np.ndarray:
    loss_R = -np.log((1 - _SMOOTHING) * p_R.astype(np.float64) + _SMOOTHING / vocab_size)
    return np.where(there_R, loss_R, np.nan)


def _probability(targets: SparseTargets, tokens_R: np.ndarray, *, vocab_size: int) -> np.ndarray:
    """float64 [R]: what each stored target gives to one token.

    That is its weight as an entry, and 0 where it is none; a head with a bucket gives each token
    outside the head an equal part of the bucket.
    """
    found_RK = (targets.ids_RK == tokens_R[:, None]) & targets.used_RK()
    weight_R = (targets.weights_RK.astype(np.float64) * found_RK).sum(axis=1)
    share_R = targets.tail_share_R(vocab_size=vocab_size)
    return np.where(found_RK.any(axis=1), weight_R, share_R)
