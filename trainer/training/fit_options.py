"""All options of `fit`: those of `FitOptions`, and those that belong to one loss of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore.plumbing import options_of
from trainer.losses.options import LOSS, LOSS_OPTIONS
from trainer.training.options import FitOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logitstore.plumbing import Option

__all__ = ["FIT_OPTIONS", "FIT_SECTIONS", "fit_options"]


def _all_options() -> Iterator[Option]:
    """Those of `FitOptions`, and behind the loss those of single losses."""
    for one in options_of(FitOptions):
        yield one
        if one.name == LOSS.name:
            yield from LOSS_OPTIONS


FIT_OPTIONS = tuple(_all_options())


# What the help shows together, the most needed first.
FIT_SECTIONS = (
    ("What is learnt, by whom, where to", ("logits", "average", "student", "out")),
    (
        "The loss",
        (
            *("alpha", "temperature", "alpha_schedule", "temperature_schedule"),
            *("loss", *(one.name for one in LOSS_OPTIONS)),
            *("select", "select_labels", "router_weight", "hint_weight", "hint_layers"),
            *("student_tokenizer", "span_ends"),
        ),
    ),
    (
        "Length and learning rate",
        (
            *("epochs", "steps", "batch_tokens", "lr", "warmup", "warmup_steps", "lr_schedule"),
            *("lr_floor", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "seed"),
        ),
    ),
    ("A held-out store", ("eval_logits", "eval_steps", "best_by", "keep_best", "patience")),
    ("What of the student is trained", ("lora", "lora_result", "freeze")),
    (
        "Reports, checkpoints and the result",
        (
            *("log_steps", "report_to", "save_steps", "resume", "keep_checkpoints", "save_dtype"),
            *("push_to_hub", "json"),
        ),
    ),
    (
        "Memory, speed and the rest",
        (
            *("micro_tokens", "device", "dtype", "attn", "compile", "gradient_checkpointing"),
            *("window", "max_memory", "skip_damaged", "set", "help"),
        ),
    ),
)


def fit_options(**values: Any) -> FitOptions:
    """`FitOptions` from the values of `FIT_OPTIONS` by name.

    Raises SettingError for what does not fit together.
    """
    own = {one.name for one in LOSS_OPTIONS}
    return FitOptions(
        loss_values={name: value for name, value in values.items() if name in own},
        **{name: value for name, value in values.items() if name not in own},
    )
