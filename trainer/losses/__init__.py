"""The losses by name, and what they see."""

from trainer.losses.base import HeadTail, Loss, bucketed, kl_terms
from trainer.losses.forward_kl import forward_kl
from trainer.losses.rows import RowLoss
from trainer.losses.tail import teacher_head_tail
from trainer.losses.targets import TargetTensors

__all__ = [
    "LOSSES",
    "HeadTail",
    "Loss",
    "RowLoss",
    "TargetTensors",
    "bucketed",
    "forward_kl",
    "kl_terms",
    "teacher_head_tail",
]

LOSSES: dict[str, Loss] = {"forward_kl": forward_kl}
