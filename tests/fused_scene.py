"""A student's last layer, a teacher's logits and targets of them: what the loss is fed with."""

from __future__ import annotations

import math

import numpy as np
import torch

from logitstore import EMPTY_TAIL, SparseTargets, SparsifierSpec
from logitstore.plumbing import SPARSIFIERS, LMHead
from trainer.losses import forward_kl
from trainer.losses.fused import TargetTensors, sparse_distillation_loss

N, V, P, D, K = 13, 40, 43, 8, 6
TOPK = SparsifierSpec(name="topk", k=K, tail_nodes=(1.0, 0.5, 0.2))


def make_targets(
    teacher_NV: torch.Tensor, *, k: int = K, counts: torch.Tensor | None = None
) -> TargetTensors:
    """The top-k targets of the distributions `teacher_NV` (logits), by way of SparseTargets."""
    logp_NV = teacher_NV.double().log_softmax(-1)
    rows = len(logp_NV)
    count_N = torch.full((rows,), k) if counts is None else counts
    sorted_NV, ids_NV = logp_NV.sort(-1, descending=True)
    columns = torch.arange(logp_NV.shape[1])
    in_head_NV = columns < count_N[:, None]
    tails = [
        (sorted_NV * b).masked_fill(in_head_NV, -math.inf).logsumexp(-1).clamp(min=EMPTY_TAIL)
        for b in TOPK.tail_nodes
    ]
    used_NK = in_head_NV[:, :k]
    return TargetTensors.of(
        SparseTargets(
            ids_RK=ids_NV[:, :k].masked_fill(~used_NK, 0).numpy().astype(np.uint32),
            logprobs_RK=sorted_NV[:, :k].masked_fill(~used_NK, EMPTY_TAIL).float().numpy(),
            kind=SPARSIFIERS["topk"].targets,
            sampled_RK=np.zeros(used_NK.shape, dtype=bool),
            count_R=count_N.numpy().astype(np.int32),
            tail_logmass_RB=torch.stack(tails, -1).float().numpy(),
            label_logprob_R=logp_NV[:, 0].float().numpy(),
            entropy_R=-(logp_NV.exp() * logp_NV).sum(-1).float().numpy(),
        )
    )


def dense_logits(hidden: torch.Tensor, head: LMHead) -> torch.Tensor:
    z = hidden @ head.weight_PD[:V].T
    if head.bias_P is not None:
        z = z + head.bias_P[:V]
    z = z * head.scale
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


def scene(*, bias: bool = True, scale: float = 1.0, softcap: float | None = None, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=g)
    head = LMHead(
        weight_PD=torch.randn(P, D, generator=g).requires_grad_(),
        bias_P=torch.randn(P, generator=g).requires_grad_() if bias else None,
        scale=scale,
        softcap=softcap,
        vocab_size=V,
    )
    teacher = 2.0 * torch.randn(N, V, generator=g)
    labels = torch.randint(0, V, (N,), generator=g)
    labels[:3] = teacher[:3].argmax(-1)  # some labels stand in the head
    counts = torch.randint(1, K + 1, (N,), generator=g)
    counts[0] = K
    return hidden.requires_grad_(), head, teacher, labels, counts


def as_double(head: LMHead) -> LMHead:
    return LMHead(
        weight_PD=head.weight_PD.detach().double().requires_grad_(),
        bias_P=None if head.bias_P is None else head.bias_P.detach().double().requires_grad_(),
        scale=head.scale,
        softcap=head.softcap,
        vocab_size=head.vocab_size,
    )


def fused(hidden, head, targets, labels, **settings):
    wanted = {"alpha": 1.0, "temperature": 1.0, "loss": forward_kl, "sparsifier": TOPK}
    wanted |= {"vocab_size": V} | settings
    return sparse_distillation_loss(hidden, head, targets, labels, **wanted)
