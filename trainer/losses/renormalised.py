"""Forward KL to the head renormalised to a mass of 1: what most top-k distillation does.

Biased: the student learns `t_i / mass` on the head and 0 on the tail, so it grows too sure of
itself ("Sparse Logit Sampling", arXiv 2503.16870). Here to be compared with, never the default.
"""

from __future__ import annotations

from trainer.losses.base import Loss
from trainer.losses.forward_kl import forward_kl

__all__ = ["renormalised"]

renormalised = Loss(divergence=forward_kl.divergence, linear=False, tail="dropped")
