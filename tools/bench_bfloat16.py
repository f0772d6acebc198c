"""A student that is its teacher, in bfloat16: the reported KL beside the floor that was stored.

    python -m tools.bench_bfloat16 [--vocab-size 262144] [--rows 256] [--width 640]

Hidden states and an output layer in bfloat16 are the student; the teacher's distribution is that of
the very same product, in float32. The KL of what a record keeps of it to that distribution, in
float64 over the whole vocabulary, is the floor: it is what a student that is the teacher should be
told. The loss takes the KL through bfloat16 parameters, or by autocast.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitstore.plumbing import SPARSIFIERS, LMHead
from logitstore.sparsify.build import sparsifier_spec
from trainer.losses import LOSSES, TargetTensors
from trainer.losses.fused import sparse_distillation_loss

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["difference", "main"]

RECORDS: dict[str, dict[str, Any]] = {"topk": {"k": 64}, "unbiased": {"k": 16}}


def difference(
    record: str, *, rows: int, width: int, vocab_size: int, autocast: bool, seed: int = 0
) -> tuple[float, float]:
    """The KL that is reported, and that of the same record computed in float64; nats a target.

    Args:
        record: A name of `RECORDS`.
        rows: N.
        width: D.
        vocab_size: V.
        autocast: Whether the parameters are float32, and the product bfloat16 by autocast.
        seed: Of hidden states, output layer and draws.
    """
    g = torch.Generator().manual_seed(seed)
    hidden_ND = torch.randn(rows, width, generator=g).bfloat16()
    weight_VD = (3.5 * torch.randn(vocab_size, width, generator=g) / width**0.5).bfloat16()
    spec = sparsifier_spec(record, **RECORDS[record])
    labels_N = torch.randint(0, vocab_size, (rows,), generator=g)
    keys_N = np.arange(rows, dtype=np.uint64)
    logits_NV = hidden_ND.float() @ weight_VD.float().t()
    targets = SPARSIFIERS[record].draw(logits_NV.clone(), labels_N, keys_N, spec)[0]
    dtype = torch.float32 if autocast else torch.bfloat16
    head = LMHead(
        weight_PD=weight_VD.to(dtype).requires_grad_(),
        bias_P=None,
        scale=1.0,
        softcap=None,
        vocab_size=vocab_size,
    )
    tensors = TargetTensors.of(targets)

    def kl_of(hidden: torch.Tensor, own: LMHead) -> float:
        found = sparse_distillation_loss(
            hidden,
            own,
            tensors,
            labels_N,
            alpha=1.0,
            temperature=1.0,
            loss=LOSSES["forward_kl"],
            sparsifier=spec,
            vocab_size=vocab_size,
        )
        return float(found.sums["kl"]) / rows

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        ours = kl_of(hidden_ND.to(dtype).requires_grad_(), head)
    floor = _floor(targets, logits_NV.double().log_softmax(-1))
    return ours, floor


def _floor(targets: Any, logq_NV: torch.Tensor) -> float:
    """KL of a record to the teacher itself, float64: entries by weight, and the bucket if any."""
    total = 0.0
    for row, count in enumerate(targets.count_R):
        ids_K = torch.from_numpy(targets.ids_RK[row, :count].astype(np.int64))
        p_K = torch.from_numpy(np.exp(targets.logprobs_RK[row, :count].astype(np.float64)))
        if targets.kind.drawn:  # cross-entropy under the weights, less the stored entropy
            total += float(-(p_K * logq_NV[row, ids_K]).sum()) - float(targets.entropy_R[row])
            continue
        total += float((p_K * (p_K.log() - logq_NV[row, ids_K])).sum())
        rest_V = torch.ones(logq_NV.shape[1], dtype=torch.bool)
        rest_V[ids_K] = False
        log_mass = float(targets.tail_logmass_RB[row, 0])
        total += float(np.exp(log_mass)) * (log_mass - float(logq_NV[row, rest_V].logsumexp(0)))
    return total / len(targets.count_R)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--vocab-size", type=int, default=262_144)
    given = vars(parser.parse_args(arguments))
    print(f"V = {given['vocab_size']:,}, {given['rows']} rows, D = {given['width']}\n")
    print("| record | bfloat16 by | KL reported | floor | difference |\n|---|---|---|---|---|")
    for record in RECORDS:
        for autocast in (False, True):
            ours, floor = difference(record, autocast=autocast, **given)
            how = "autocast" if autocast else "parameters"
            print(f"| {record} | {how} | {ours:+.5f} | {floor:+.5f} | {ours - floor:+.5f} |")


if __name__ == "__main__":
    main()
