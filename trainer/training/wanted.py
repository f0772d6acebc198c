"""The options of a run that decide the weights of its result, as run.json holds them.

A run goes on only with the same. What changes no weight may be another one each time.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from trainer.losses import SPAN_LOSSES, Loss

__all__ = ["wanted_settings"]

# They change no weight of the result, so a resumed run may have others. The store is identified by
# its fingerprint.
_NOT_OF_THE_RESULT = (
    "logits",
    "out",
    "save_steps",
    "log_steps",
    "resume",
    "keep_checkpoints",
    "save_dtype",
    "lora_result",
    "eval_logits",  # by its fingerprint
    "report_to",
    "push_to_hub",
    "max_memory",
    "device",
    "student_tokenizer",  # by its fingerprint it is part of the store's
    "report",
    "on_note",
    "on_progress",
)

# What earlier versions had no option for stands in run.json where it is not left as it was then, so
# that their runs can be gone on with.
_LATER = (
    "lr_schedule",
    "lr_floor",
    "warmup_steps",
    "alpha_schedule",
    "temperature_schedule",
    "average",
    "select",
    "select_labels",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "router_weight",
    "hint_weight",
    "hint_layers",
    "lora",
    "freeze",
    "attn",
    "gradient_checkpointing",
    "compile",
    "eval_steps",
    "best_by",
    "keep_best",
    "patience",
    "set",
)


def wanted_settings(
    options: Any, *, store: str, dtype: str, held_out: str | None
) -> dict[str, Any]:
    """The settings that decide the weights of the result; see `FitOptions.wanted`.

    Args:
        options: A `FitOptions`, that of the run.
        store: The fingerprint of the store that `logits` names.
        dtype: The number type that "auto" stands for here.
        held_out: The fingerprint of the store that `eval_logits` names.
    """
    content = {one.name: getattr(options, one.name) for one in fields(options)}
    if options.rule is not None:
        content["select"] = str(options.rule)  # in its full form
    for name in _NOT_OF_THE_RESULT:
        del content[name]
    del content["loss_values"]
    if options.epochs is None and options.steps is None:
        content["epochs"] = 1
    if options.loss not in SPAN_LOSSES:
        del content["span_ends"]
    for one in fields(options):
        if one.name in _LATER and content[one.name] == one.default:
            del content[one.name]
    if options.skip_damaged is not None:
        content["skip_damaged"] = "all"  # which are left out, run.json says
    if held_out is not None and (options.keep_best or options.patience is not None):
        content["held_out"] = held_out  # the others are not looked at by what is trained
    if isinstance(loss := options.chosen_loss(), Loss):
        content |= loss.values
    return content | {"student": options.student_name, "dtype": dtype, "store": store}
