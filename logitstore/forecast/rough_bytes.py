"""What a target takes in a store, roughly, from a table that was measured once.

`logitstore tune` on the 5-million-parameter teacher of docs/benchmarks.md, V = 8,192, entropy 5.7
nats, 117,000 targets, `--fidelity balanced`. Other vocabularies and texts were up to a third away:
`topk` 64 took 61 bytes at V = 32,768 on easier text, and 113 at V = 49,152 in a small store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from logitstore.sparsify import sparsifier_of

if TYPE_CHECKING:
    from logitstore.format.spec import SparsifierSpec

__all__ = ["layer_bytes", "rough_bytes_per_target"]

# codec -> entries of a target and its bytes, tokens and all scalars included.
_MEASURED: dict[str, tuple[tuple[int, float], ...]] = {
    "rank-delta/2": ((12, 24.1), (25, 38.8), (50, 66.2), (64, 81.0), (100, 118.2)),
    "rank-delta-weighted/2": ((8, 15.0), (12, 19.9), (16, 24.5), (24, 33.1), (32, 41.5)),
    "rank-delta-counted/1": ((13, 20.6), (50, 52.1), (150, 110.3)),
}
# What a tail adds where the table was measured without one: nine nodes.
_TAIL = {"rank-delta-weighted/2": 6.5}
_NODES = 9


# number type -> bytes of a number of a hidden state, compressed (decision 023).
_STATE = {"float16": 1.7, "bfloat16": 1.5, "float32": 3.5}


def rough_bytes_per_target(
    spec: SparsifierSpec,
    *,
    width: int | None = None,
    state: str = "float16",
    layers: int = 0,
) -> float | None:
    """Bytes of a target, all its draws together; None where the codec was not measured.

    Between the measured numbers of entries it is interpolated, beyond the last extrapolated. The
    output layer beside hidden states, which a store has once, is not among them.

    Args:
        spec: What is kept of a distribution.
        width: The numbers of a hidden state; None where the teacher does not say.
        state: The number type in which they are stored.
        layers: Behind how many layers they are kept, beside the last one of `hidden`.
    """
    declared = sparsifier_of(spec)
    points = _MEASURED.get(declared.codec)
    layers += declared.targets.keeps_state
    if points is None or (layers and width is None):
        return None
    entries, sizes = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    one = float(np.interp(spec.k, entries, sizes))
    slope = (sizes[-1] - sizes[-2]) / (entries[-1] - entries[-2])
    one += float(slope) * max(0.0, spec.k - float(entries[-1]))
    tail = _TAIL.get(declared.codec, 0.0) * len(spec.tail_nodes) / _NODES
    return (one + tail) * spec.draw_count + layer_bytes(width=width or 0, state=state) * layers


def layer_bytes(*, width: int, state: str) -> float:
    """Bytes of a target's hidden state behind one layer, roughly.

    Args:
        width: Its numbers.
        state: The number type in which they are stored.
    """
    return _STATE[state] * width
