"""How much of its teacher a target keeps, and how uneven what it keeps is.

Shapes: R rows, K entries.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from logitstore.plumbing import Entries, sparsifier_of
from trainer.losses import exact_teacher

if TYPE_CHECKING:
    from torch import Tensor

    from logitstore import SparsifierSpec
    from trainer.losses import TargetTensors

__all__ = ["kept_of"]

_MASSES = ("retained_mass", "tempered_mass")


def kept_of(
    targets: TargetTensors, *, sparsifier: SparsifierSpec, temperature: float, vocab_size: int
) -> dict[str, Tensor]:
    """What the exact entries of each row hold, float64 [R], by the names of fields of `Facts`.

    Masses are probabilities of the teacher over all tokens. An evenness is an entropy of the
    entries among themselves over log K: 1 for equal ones, and NaN for a single one. Of draws it is
    that of the whole teacher over log V, from the stored entropy. What the targets do not tell has
    no name in the result: they know T = 1 alone, or that of their draw, or no probability at all. A
    hidden state holds the whole mass, at any T, and has no evenness.

    Args:
        targets: What is stored of the rows, at the draw of the temperature.
        sparsifier: The one that made them.
        temperature: T, one that they serve.
        vocab_size: V.
    """
    kind = sparsifier_of(sparsifier).targets
    found: dict[str, Tensor] = {}
    if kind.drawn and sparsifier.temperatures:
        found["drawn_evenness"] = targets.entropy_N.double() / math.log(vocab_size)
    if not kind.has_exact or kind.entries is Entries.SHARES:
        return found
    if kind.keeps_state:
        return {name: torch.ones_like(targets.entropy_N).double() for name in _MASSES}
    # Without a tail entries are as they were drawn, at one temperature.
    at = {"tempered_": temperature} if not kind.keeps_tail else {"": 1.0, "tempered_": temperature}
    if not kind.keeps_tail and temperature == 1:
        at = {"": 1.0, "tempered_": 1.0}
    exact_NK = targets.exact_NK
    for before, one in at.items():
        teacher = exact_teacher(
            targets, nodes=sparsifier.tail_nodes, temperature=one, vocab_size=vocab_size
        )
        log_p_NK = teacher.log_head_NK.double()
        log_mass_N = log_p_NK.logsumexp(dim=1)
        share_NK = (log_p_NK - log_mass_N[:, None]).masked_fill(~exact_NK, -math.inf).exp()
        entropy_N = -torch.special.xlogy(share_NK, share_NK).sum(dim=1)
        most_N = exact_NK.sum(dim=1).double().log()
        mass = _MASSES[bool(before)]
        found[mass] = log_mass_N.exp().masked_fill(~exact_NK.any(dim=1), 0.0)
        found[f"{before}evenness"] = torch.where(most_N > 0, entropy_N / most_N, math.nan)
    return found
