"""Peak memory and time of the fused loss beside the dense one, each in a process of its own.

The dense loss is what a plain training step does: `cross_entropy(hidden @ weight.T, labels)` and
its backward. Memory is the peak of the resident set above the weights and their gradients, which
exist before the baseline is taken; time is that of the best of the repeats.

    python -m tools.bench_memory --vocab-size 131072 --rows 4096 --width 1024
    python -m tools.bench_memory --vocab-size 201088 --rows 32768 --width 256 --dense-rows 2048,4096

With --dense-rows the dense loss, whose logits would not fit, is measured at those rows and
extrapolated along the line through the first and the last of them.

Shapes: N rows, D width, V vocabulary, K entries.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from logitstore import SparsifierSpec
from logitstore.plumbing import SPARSIFIERS, LMHead
from trainer.losses import forward_kl
from trainer.losses.fused import TargetTensors, sparse_distillation_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

__all__ = ["main", "measure", "table"]

_DENSE, _AT_TWO = "dense cross-entropy", "fused, T = 2"
_NODES = (1.0, 0.75, 0.5, 0.25)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The size of the problem."""

    rows: int
    width: int
    vocab_size: int
    k: int
    repeats: int
    threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one step of a loss, forward and backward, takes."""

    bytes: int  # above weights and their gradients
    seconds: float


def measure(name: str, shape: Shape) -> Cost:
    """The cost of the step `name`, one of `_STEPS`, in a process that does nothing else."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_here, args=(name, shape, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def _measure_here(name: str, shape: Shape, sender: Connection) -> None:
    torch.set_num_threads(shape.threads)
    torch.manual_seed(0)
    weight_VD = torch.randn(shape.vocab_size, shape.width).mul_(0.02).requires_grad_()
    weight_VD.grad = torch.zeros_like(weight_VD).add_(0.0)  # written to, so that it is resident
    hidden_ND = torch.randn(shape.rows, shape.width).requires_grad_()
    hidden_ND.grad = torch.zeros_like(hidden_ND).add_(0.0)
    labels_N = torch.randint(0, shape.vocab_size, (shape.rows,))
    step = _STEPS[name](shape)
    baseline, seconds = _peak_bytes(), float("inf")
    for _ in range(shape.repeats):
        start = time.perf_counter()
        step(hidden_ND, weight_VD, labels_N).backward()
        seconds = min(seconds, time.perf_counter() - start)
    sender.send(Cost(bytes=_peak_bytes() - baseline, seconds=seconds))
    sender.close()


def _dense(_: Shape) -> Callable[..., torch.Tensor]:
    def step(
        hidden_ND: torch.Tensor, weight_VD: torch.Tensor, labels_N: torch.Tensor
    ) -> torch.Tensor:
        return functional.cross_entropy(hidden_ND @ weight_VD.t(), labels_N, reduction="sum")

    return step


def _fused(shape: Shape, *, temperature: float = 1.0) -> Callable[..., torch.Tensor]:
    targets = _targets(shape)

    def step(
        hidden_ND: torch.Tensor, weight_VD: torch.Tensor, labels_N: torch.Tensor
    ) -> torch.Tensor:
        head = LMHead(
            weight_PD=weight_VD,
            bias_P=None,
            scale=1.0,
            softcap=None,
            vocab_size=shape.vocab_size,
        )
        return sparse_distillation_loss(
            hidden_ND,
            head,
            targets,
            labels_N,
            alpha=0.9,
            temperature=temperature,
            loss=forward_kl,
            sparsifier=SparsifierSpec(name="topk", k=shape.k, tail_nodes=_NODES),
            vocab_size=shape.vocab_size,
        ).loss

    return step


_STEPS: dict[str, Callable[[Shape], Callable[..., torch.Tensor]]] = {
    _DENSE: _dense,
    "fused, T = 1": _fused,
    _AT_TWO: lambda shape: _fused(shape, temperature=2.0),
}


def _targets(shape: Shape) -> TargetTensors:
    """Entries that hold 0.9 of the mass and a tail with the rest; no id stands twice in a row."""
    first_N1 = torch.randint(0, shape.vocab_size, (shape.rows, 1))
    step = shape.vocab_size // shape.k
    ids_NK = (first_N1 + step * torch.arange(shape.k)) % shape.vocab_size
    logprobs_NK = torch.randn(shape.rows, shape.k).log_softmax(-1) + torch.tensor(0.9).log()
    return TargetTensors(
        ids_NK=ids_NK,
        logprobs_NK=logprobs_NK,
        kind=SPARSIFIERS["topk"].targets,
        sampled_NK=torch.zeros(ids_NK.shape, dtype=torch.bool),
        count_N=torch.full((shape.rows,), shape.k),
        tail_logmass_NB=torch.tensor([-2.3, 0.0, 2.0, 5.0]).repeat(shape.rows, 1),
        entropy_N=torch.full((shape.rows,), 3.0),
        label_logprob_N=torch.full((shape.rows,), -3.0),
    )


def _peak_bytes() -> int:
    """The largest resident set this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def table(costs: dict[str, Cost]) -> str:
    """The costs as a markdown table; ratios are to its first row."""
    first = next(iter(costs.values()))
    lines = [
        "| loss | peak memory | of dense | seconds | of dense |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {cost.bytes / 2**20:,.0f} MiB | 1/{first.bytes / max(cost.bytes, 1):.1f} "
            f"| {cost.seconds:.2f} | {cost.seconds / first.seconds:.3f} |"
            for name, cost in costs.items()
        ),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for one shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--vocab-size", type=int, default=131072)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dense-rows", help="rows of the dense loss, with a comma between")
    parser.add_argument("--at-one", action="store_true", help="leave out the loss at T = 2")
    given = vars(parser.parse_args(arguments))
    names = [name for name in _STEPS if not (given["at_one"] and name == _AT_TWO)]
    del given["at_one"]
    dense = given.pop("dense_rows")
    shape = Shape(**given)
    print(f"V = {shape.vocab_size:,}, {shape.rows:,} rows, D = {shape.width:,}, K = {shape.k}\n")
    if dense is None:
        print(table({name: measure(name, shape) for name in names}))
        return
    rows = sorted(int(one) for one in dense.split(","))
    found = [measure(_DENSE, replace(shape, rows=number)) for number in rows]
    for number, cost in zip(rows, found, strict=True):
        print(f"{_DENSE}, {number:,} rows: {cost.bytes / 2**20:,.0f} MiB, {cost.seconds:.2f} s")
    costs = {f"{_DENSE}, extrapolated": _along(rows, found, shape.rows)}
    print()
    print(table(costs | {name: measure(name, shape) for name in names if name != _DENSE}))


def _along(rows: Sequence[int], costs: Sequence[Cost], wanted: int) -> Cost:
    """The cost at `wanted` rows on the line through the first and the last that were measured."""
    share = (wanted - rows[0]) / (rows[-1] - rows[0])
    first, last = costs[0], costs[-1]
    return Cost(
        bytes=round(first.bytes + share * (last.bytes - first.bytes)),
        seconds=first.seconds + share * (last.seconds - first.seconds),
    )


if __name__ == "__main__":
    main()
