"""Options of the loss, which `distillation_loss`, `DistillationTrainer` and `fit` all take.

Importing this costs no torch, so that a command line can refuse a value at once.
"""

from __future__ import annotations

from logitstore.plumbing import Option, listed
from trainer.losses import LOSSES, SPAN_LOSSES

__all__ = ["ALPHA", "LOSS", "ROUTER_WEIGHT", "TEMPERATURE"]

ALPHA = Option(
    name="alpha",
    kind=float,
    default=0.9,
    help="The weight of the teacher's distribution in the loss; the true tokens have the rest.",
    least=0,
    most=1,
)
TEMPERATURE = Option(
    name="temperature",
    kind=float,
    default=1.0,
    help="The temperature T of both distributions in the divergence.",
    above=0,
)
ROUTER_WEIGHT = Option(
    name="router_weight",
    kind=float,
    default=None,
    nullable=True,
    help="The weight of the load-balancing loss of a student with routed experts, beside the mean "
    "loss of a target; 0 leaves it out.",
    unset="router_aux_loss_coef of the student's configuration",
    least=0,
)
_LOWER = [one.name for one in LOSSES.values() if one.bound == "lower"]
LOSS = Option(
    name="loss",
    kind=str,
    default="forward_kl",
    help=" ".join(
        [
            "The divergence from the teacher's distribution.",
            *(f"{one.name}: {one.summary}" for one in LOSSES.values()),
            *(f"{one.name}: {one.summary}" for one in SPAN_LOSSES.values()),
            "Over kept tokens and one bucket of all others, the values of",
            f"{listed(_LOWER)} are lower bounds of those over all tokens.",
        ]
    ),
    choices=lambda: (*LOSSES, *SPAN_LOSSES),
)
