"""The gradients of the two halves of a loss, on what enters the student's output layer.

There every target still has a gradient of its own, [D] numbers, and no backward pass through the
model is needed, whose activations need not be kept. On the parameters, where the gradients of all
targets add up, norms and angles are others.

Shapes: R targets, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from trainer.losses.fused import sparse_distillation_loss

if TYPE_CHECKING:
    from torch import Tensor

    from logitstore import SparsifierSpec
    from logitstore.plumbing import LMHead
    from trainer.losses import Loss, TargetTensors

__all__ = ["gradient_products"]


def gradient_products(
    hidden_RD: Tensor,
    head: LMHead,
    targets: TargetTensors,
    labels_R: Tensor,
    *,
    loss: Loss,
    temperature: float,
    sparsifier: SparsifierSpec,
    vocab_size: int,
    sampler_logprobs_R: Tensor | None = None,
    teacher: LMHead | None = None,
) -> dict[str, Tensor]:
    """The products of the two gradients with themselves and each other, of each target, float64.

    "ce_ce" and "kd_kd" are their squared norms, "ce_kd" their inner product. The divergence has its
    factor T^2, if the loss declares that, and no alpha.

    Args:
        hidden_RD: What the output layer sees.
        head: The output layer, whole.
        targets: What is stored of these rows.
        labels_R: The true tokens.
        loss: The divergence.
        temperature: T.
        sparsifier: The one that made the targets.
        vocab_size: V.
        sampler_logprobs_R: Nats: with which each true token was drawn, where that is known.
        teacher: The teacher's output layer, where the targets are its hidden states.
    """
    fixed = replace(
        head,
        weight_PD=head.weight_PD.detach(),
        bias_P=None if head.bias_P is None else head.bias_P.detach(),
    )
    gradients = []
    for alpha in (0.0, 1.0):  # cross-entropy alone, the divergence alone
        leaf_RD = hidden_RD.detach().clone().requires_grad_()
        with torch.enable_grad():
            total = sparse_distillation_loss(
                leaf_RD,
                fixed,
                targets,
                labels_R,
                alpha=alpha,
                temperature=temperature,
                loss=loss,
                sparsifier=sparsifier,
                vocab_size=vocab_size,
                sampler_logprobs_N=sampler_logprobs_R,
                teacher=teacher,
            ).loss
            gradients.append(torch.autograd.grad(total, leaf_RD)[0].double())
    ce_RD, kd_RD = gradients
    return {
        "ce_ce": (ce_RD * ce_RD).sum(dim=1),
        "kd_kd": (kd_RD * kd_RD).sum(dim=1),
        "ce_kd": (ce_RD * kd_RD).sum(dim=1),
    }
