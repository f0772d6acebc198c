"""Forward KL to the head, where the true token gets the mass that the head lacks.

The "naive fix" of "Sparse Logit Sampling" (arXiv 2503.16870): biased towards the labels, but the
tail is no longer taught to be nothing.
"""

from __future__ import annotations

from trainer.losses.base import Loss
from trainer.losses.forward_kl import forward_kl

__all__ = ["residual_to_label"]

residual_to_label = Loss(divergence=forward_kl.divergence, linear=False, tail="label")
