"""Options of the loss, which `distillation_loss`, `DistillationTrainer` and `fit` all take.

Importing this costs no torch, so that a command line can refuse a value at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore import SettingError
from logitstore.plumbing import Option, own_options
from trainer.losses import LOSSES, SPAN_LOSSES
from trainer.losses.hint_pairs import parse_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.losses import Loss, SpanLoss

__all__ = [
    "ALPHA",
    "HINT_LAYERS",
    "HINT_WEIGHT",
    "LOSS",
    "LOSS_OPTIONS",
    "ROUTER_WEIGHT",
    "TEMPERATURE",
    "chosen_loss",
    "refuse_average",
]

ALPHA = Option(
    name="alpha",
    kind=float,
    default=0.9,
    help="The weight of the teacher's distribution in the loss; the true tokens have the rest: "
    "0 is hard labels alone, 1 the teacher alone.",
    least=0,
    most=1,
)
TEMPERATURE = Option(
    name="temperature",
    kind=float,
    default=1.0,
    help="The temperature T of both distributions in the divergence, which most losses multiply by "
    "T^2. A store serves those from 1 to 10, those it was drawn at, or with hidden states any.",
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
HINT_WEIGHT = Option(
    name="hint_weight",
    kind=float,
    default=0.0,
    help="The weight, such as 1, of hints beside the loss: the part of the teacher's hidden states "
    "that a learnt linear map of the student's does not give, behind the layers that the store "
    "keeps (`logitstore dump --hidden-layers`). 0 leaves them out.",
    least=0,
)
HINT_LAYERS = Option(
    name="hint_layers",
    kind=str,
    default=None,
    nullable=True,
    refuse=parse_pairs,
    help="With --hint-weight: which layer of the student follows which one of the teacher: "
    "2:6,4:12 lets its second follow the teacher's sixth; both are counted from 1 "
    "(`trainer student --layers` counts from 0).",
    unset="each stored layer of the teacher with the student's at the same share of its depth",
)
LOSS = Option(
    name="loss",
    kind=str,
    default="forward_kl",
    help="The divergence between the teacher's distribution and the student's; docs/losses.md says "
    f"what each computes. {' and '.join(SPAN_LOSSES)} are for a student of another tokenizer.",
    choices=lambda: (*LOSSES, *SPAN_LOSSES),
)
# Of losses that have options; each declares its own, with its default.
LOSS_OPTIONS = own_options({name: one.options for name, one in LOSSES.items()})


def refuse_average(loss: Loss) -> None:
    """Raise SettingError for a loss that the mean of several teachers cannot serve.

    Args:
        loss: The loss.
    """
    if not loss.serves_mean:
        raise SettingError(
            f"--loss {loss.name} of the teachers' mean is not the mean of its values, and where "
            "stores keep different tokens the teachers' mean is not known",
            place="--loss",
            found=loss.name,
            allowed=", ".join(one.name for one in LOSSES.values() if one.serves_mean),
            remedy="Take one of these, or leave --average out: each document is then read with the "
            "targets of each teacher in turn",
        )


def chosen_loss(name: str, values: Mapping[str, Any]) -> Loss | SpanLoss:
    """The loss of that name with the values of its options that are set, else its defaults.

    Args:
        name: A name of the table of losses.
        values: Values of `LOSS_OPTIONS` by name; None where one is not set.

    Raises SettingError for an unknown name, for an option that is set and that the loss does not
    have, and for a value that is out of range.
    """
    name = LOSS.check(name)
    given = {option: value for option, value in values.items() if value is not None}
    for one in LOSS_OPTIONS:
        takers = [other.name for other in LOSSES.values() if one.name in other.values]
        if one.name in given and name not in takers:
            raise SettingError(
                f"{one.flag} has no effect with --loss {name}",
                found=given[one.name],
                allowed=f"with --loss {' or '.join(takers)}",
                remedy=f"Leave {one.flag} out, or choose another loss",
            )
    return LOSSES[name].with_options(**given) if name in LOSSES else SPAN_LOSSES[name]
