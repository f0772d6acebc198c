"""The losses by name, and what they see."""

from trainer.losses.base import HeadTail, Loss, bucketed, kl_terms
from trainer.losses.forward_kl import forward_kl
from trainer.losses.renormalised import renormalised
from trainer.losses.residual_to_label import residual_to_label
from trainer.losses.reverse_kl import reverse_kl
from trainer.losses.row_loss import RowLoss
from trainer.losses.teacher import exact_teacher, teacher_head_tail, weighted_teacher
from trainer.losses.tensors import TargetTensors
from trainer.losses.views import View, choose_view, draw_for

__all__ = [
    "LOSSES",
    "HeadTail",
    "Loss",
    "RowLoss",
    "TargetTensors",
    "View",
    "bucketed",
    "choose_view",
    "draw_for",
    "exact_teacher",
    "forward_kl",
    "kl_terms",
    "teacher_head_tail",
    "weighted_teacher",
]

LOSSES: dict[str, Loss] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "renormalised": renormalised,
    "residual_to_label": residual_to_label,
}
