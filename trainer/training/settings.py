"""`--set NAME=VALUE`: settings of transformers.TrainingArguments that no option stands for.

Importing this costs no torch: names and values are checked when the arguments are made.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from logitstore import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["arguments_settings", "compile_settings", "parse_settings", "refuse_unknown_settings"]

# Settings that go to torch.compile, by their names there: as one of TrainingArguments each would
# have the whole model compiled, output layer and loss included.
_COMPILE = {"torch_compile_backend": "backend", "torch_compile_mode": "mode"}

# Settings that an option stands for.
_OPTIONS = {
    "output_dir": "--out",
    "learning_rate": "--lr",
    "lr_scheduler_type": "--lr-schedule",
    "lr_scheduler_kwargs": "--lr-floor",
    "warmup_ratio": "--warmup",
    "warmup_steps": "--warmup-steps",
    "weight_decay": "--weight-decay",
    "adam_beta1": "--adam-beta1",
    "adam_beta2": "--adam-beta2",
    "max_grad_norm": "--max-grad-norm",
    "seed": "--seed",
    "data_seed": "--seed",
    "bf16": "--dtype",
    "fp16": "--dtype",
    "max_steps": "--steps",
    "num_train_epochs": "--epochs",
    "save_steps": "--save-steps",
    "logging_steps": "--log-steps",
    "eval_steps": "--eval-steps",
    "eval_strategy": "--eval-steps",
    "report_to": "--report-to",
    "use_cpu": "--device",
    "no_cuda": "--device",
    "gradient_checkpointing": "--gradient-checkpointing",
    "activation_checkpointing": "--gradient-checkpointing",
    "torch_compile": "--compile",
    "push_to_hub": "--push-to-hub",
    "hub_model_id": "--push-to-hub",
    "load_best_model_at_end": "--keep-best",
    "metric_for_best_model": "--best-by",
    "resume_from_checkpoint": "--resume",
    "save_total_limit": "--keep-checkpoints",
    "per_device_train_batch_size": "--micro-tokens",
    "per_device_eval_batch_size": "--micro-tokens",
    "gradient_accumulation_steps": "--batch-tokens",
    "auto_find_batch_size": "--micro-tokens",
}
# Settings that the run must have as they are: order, resume, and reports are its own.
_FIXED = frozenset(
    (
        *("save_strategy", "logging_strategy", "logging_first_step", "save_on_each_node"),
        *("ignore_data_skip", "remove_unused_columns", "logging_nan_inf_filter", "disable_tqdm"),
        *("save_only_model", "dataloader_num_workers", "dataloader_drop_last", "group_by_length"),
        *("label_smoothing_factor", "past_index", "do_train", "do_eval", "do_predict"),
        *(
            "full_determinism",
            "batch_eval_metrics",
            "accelerator_config",
            "average_tokens_across_devices",
        ),
        *("hub_strategy", "hub_token", "log_level", "restore_callback_states_from_checkpoint"),
    )
)


def parse_settings(given: Iterable[str]) -> dict[str, Any]:
    """The settings by their names; a value is JSON where it can be read so, else a text.

    Args:
        given: Each as NAME=VALUE.

    Raises SettingError for what is no such pair, for a name that is given twice, for one that an
    option stands for, and for one that the run needs as it is.
    """
    found: dict[str, Any] = {}
    for one in given:
        name, sign, text = (part.strip() for part in one.partition("="))
        if not sign or not name.isidentifier() or not text:
            raise SettingError("--set is no pair", found=repr(one), allowed="NAME=VALUE")
        if name in found:
            raise SettingError("--set is given twice for one setting", found=name)
        if name in _OPTIONS:
            raise SettingError(
                "--set does not take a setting that has an option of its own",
                found=name,
                allowed=_OPTIONS[name],
            )
        if name in _FIXED:
            raise SettingError("--set cannot change what the run needs as it is", found=name)
        found[name] = _value(text)
    return found


def compile_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that are torch.compile's, by their names there.

    Args:
        given: All settings.
    """
    return {_COMPILE[name]: value for name, value in given.items() if name in _COMPILE}


def arguments_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that are not torch.compile's.

    Args:
        given: All settings.
    """
    return {name: value for name, value in given.items() if name not in _COMPILE}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def refuse_unknown_settings(names: Iterable[str], *, known: Iterable[str]) -> None:
    """Raise SettingError for the name of no setting.

    Args:
        names: Those that are given.
        known: Those that there are.
    """
    listed = sorted(known)
    for name in names:
        if name not in listed:
            near = get_close_matches(name, listed, n=3)
            raise SettingError(
                "--set names no setting of transformers.TrainingArguments",
                found=name,
                allowed=", ".join(near) if near else "a field of that class",
            )
