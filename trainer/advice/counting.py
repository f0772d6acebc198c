"""The loss of one who only counts: a teacher or a student that is no better has learnt nothing.

Shapes: R targets.
"""

from __future__ import annotations

import numpy as np

__all__ = ["counting_loss"]


def counting_loss(label_R: np.ndarray, *, vocab_size: int) -> float:
    """The loss of one who knows of the sample how often each token occurs, nats per target.

    Each target is predicted from the counts of all others, c of its token among N - 1, by
    `(1 - m) c / (N - 1) + m / V`, where m is the share of tokens that occur once: the mass of those
    not seen yet, by Good (1953). That is more than the loss of one who knows the true frequencies.

    Args:
        label_R: The true tokens.
        vocab_size: V.
    """
    label_R = label_R.astype(np.int64)
    times_R = np.bincount(label_R)[label_R]
    unseen = max(1, int((times_R == 1).sum())) / len(label_R)
    others = max(1, len(label_R) - 1)
    share_R = (1 - unseen) * (times_R - 1) / others + unseen / vocab_size
    return float(-np.log(share_R).mean())
