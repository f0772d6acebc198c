"""Forward KL in two parts of separate weights: that of the head's mass, and that inside the head.

`KL = KL_bin(M || Q) + (1 - M) KL(head)` with M and Q the masses of the teacher's and the student's
bucket (`kl_terms`); here each part has a weight, and with both 1 it is forward KL over the bucket.
Zhao et al. 2022, "Decoupled Knowledge Distillation" (arXiv 2203.08679), weigh the same two parts of
a split at the true token, and leave out the factor of the second; here the split is that of the
store, into what it kept and what it did not, and the factor stays, so that both parts are linear in
the teacher.

The split belongs to the definition, so a bucket is no bound of a loss that would know more tokens:
with K = V there is no bucket, and the weight of the first part has nothing to weigh. Over the
store's own split both parts are exact. Drawn entries cannot stand for the head. Both parts are
quadratic near the teacher, so the gradient falls like 1 / T^2.

Shapes: N rows, K entries, R rows of whole distributions, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.plumbing import Option
from trainer.losses.base import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.losses.base import DenseRows, LossInputs

__all__ = ["TAIL_WEIGHT", "decoupled"]

_HEAD_WEIGHT = Option(
    name="head_weight",
    kind=float,
    help="The weight of the KL inside the kept tokens.",
    above=0,
)
TAIL_WEIGHT = Option(
    name="tail_weight",
    kind=float,
    help="The weight of the KL of the mass of the kept tokens against that of all others.",
    above=0,
)


def _divergence(inputs: LossInputs, *, head_weight: float, tail_weight: float) -> Tensor:
    from trainer.losses.head_tail import kl_terms

    parts = kl_terms(inputs.student, inputs.teacher)
    return head_weight * parts["kl_head"] + tail_weight * parts["kl_binary"]


def _reference(rows: DenseRows, *, head_weight: float, tail_weight: float) -> Tensor:
    log_p_RV1, log_q_RV1 = rows.pooled(rows.log_teacher_RV), rows.pooled(rows.log_student_RV)
    p_RV, q_RV = (
        side.exp().masked_fill(~rows.kept_RV, 0.0)
        for side in (rows.log_teacher_RV, rows.log_student_RV)
    )
    mass_R, gap_R = p_RV.sum(dim=1), (p_RV.sum(dim=1) / q_RV.sum(dim=1)).log()
    inside_R = (p_RV * (log_p_RV1 - log_q_RV1)[:, :-1]).sum(dim=1) - mass_R * gap_R
    tail_R = (log_p_RV1.exp() * (log_p_RV1 - log_q_RV1))[:, -1]
    return head_weight * inside_R + tail_weight * (mass_R * gap_R + tail_R)


decoupled = Loss(
    name="decoupled",
    summary="Forward KL, the mass of the kept tokens and what is inside them at separate weights.",
    divergence=_divergence,
    reference=_reference,
    linear=True,
    tail="apart",
    bound="none",
    times_temperature_squared=True,
    options={_HEAD_WEIGHT: 1.0, TAIL_WEIGHT: 1.0},
)
