"""Rows of distributions, and what a loss is given of them."""

from __future__ import annotations

import torch

from logitstore import EMPTY_TAIL
from trainer.losses import HeadTail, LossInputs, SampledTokens, bucketed

__all__ = ["USED", "K", "N", "V", "inputs", "rows", "sampler", "view"]

N, V, K = 32, 200, 16
USED = torch.ones(N, K, dtype=torch.bool)


def rows(*, sharpness: float, seed: int = 0) -> torch.Tensor:
    """Log-probabilities [N, V], float64, falling along each row."""
    g = torch.Generator().manual_seed(seed)
    z = sharpness * torch.randn(N, V, generator=g, dtype=torch.float64)
    return z.log_softmax(-1).sort(-1, descending=True).values


def view(logp_NV: torch.Tensor, *, k: int = K) -> HeadTail:
    """What a loss sees of a whole distribution, in float32."""
    rest = logp_NV[:, k:].logsumexp(-1).clamp(min=EMPTY_TAIL).float()
    return bucketed(logp_NV[:, :k].float(), rest, torch.ones(len(logp_NV), k, dtype=torch.bool))


def sampler(labels_N: torch.Tensor) -> torch.Tensor:
    """With which log-probability each token was drawn, float64: from 0.02 to 0.5, by its id."""
    return (0.02 + 0.48 * ((labels_N * 37) % 101) / 100.0).double().log()


def inputs(student: HeadTail, teacher: HeadTail, used: torch.Tensor = USED) -> LossInputs:
    """What a loss is given; the true token is the last entry in use, which some model drew."""
    last_N1 = used.sum(-1, keepdim=True) - 1
    log_teacher_N = teacher.log_head_NK.gather(1, last_N1).squeeze(1)
    is_label = torch.zeros_like(used).scatter_(1, last_N1, True)
    log_label_N = student.log_head_NK.gather(1, last_N1).squeeze(1)
    return LossInputs(
        student=student,
        teacher=teacher,
        used_NK=used,
        is_label_NK=is_label,
        log_label_N=log_label_N,
        sampled=SampledTokens(
            log_teacher_N=log_teacher_N, log_sampler_N=sampler(last_N1.squeeze(1)).float()
        ),
    )
