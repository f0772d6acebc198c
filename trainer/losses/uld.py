"""Universal logit distillation: the sorted probabilities of teacher and student, whatever tokens.

Boizard, El Haddad, Hudelot and Colombo 2024, "Towards Cross-Tokenizer Distillation: the Universal
Logit Distillation Loss for LLMs" (arXiv 2402.12030): the Wasserstein distance with a uniform cost,
`sum_i |p_(i) - q_(i)|` over sorted probabilities, the shorter vector padded with zeros. Here it is
taken where a token of both sides begins at the same byte, so both distributions are of what follows
the same text.

A store has the K largest probabilities and the mass of the rest. The rest is compared as one
number: `sum_{i<=K} |p_(i) - q_(i)| + |P - Q|`, a lower bound of the whole sum, and lower than it by
at most `2 min(P, Q)`.

Shapes: A aligned rows, K entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.losses.span_loss import SpanLoss

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["sorted_distance", "uld"]


def sorted_distance(p_AK: Tensor, q_AK: Tensor, used_AK: Tensor) -> Tensor:
    """`sum |p - q|` over the ranks in use and over what is left, [A].

    Args:
        p_AK: The teacher's largest probabilities, falling.
        q_AK: The student's.
        used_AK: bool: which ranks the teacher's target has.
    """
    gap_AK = (p_AK - q_AK).masked_fill(~used_AK, 0.0)
    # The masses that are left differ by as much as those that are compared, with the other sign.
    return gap_AK.abs().sum(dim=1) + gap_AK.sum(dim=1).abs()


uld = SpanLoss(
    name="uld",
    summary="Distance of sorted probabilities: for a student of another tokenizer.",
    of_ranks=sorted_distance,
)
