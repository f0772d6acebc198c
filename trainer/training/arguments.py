"""The settings of `transformers.Trainer` that the options of a run stand for."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from logitstore import SettingError
from trainer.training.options import FitOptions
from trainer.training.settings import arguments_settings, parse_settings, refuse_unknown_settings

__all__ = ["computing_dtype", "training_arguments"]

# Two checkpoints are kept: the newest, and the one before it while the newest is being written.
_CHECKPOINTS = 2


def computing_dtype(dtype: str, device: str) -> str:
    """The number type that "auto" stands for on `device`.

    Args:
        dtype: The option of that name.
        device: A device of torch.
    """
    if dtype != "auto":
        return dtype
    return "bfloat16" if torch.device(device).type == "cuda" else "float32"


def training_arguments(options: FitOptions, *, dtype: str, device: str) -> TrainingArguments:
    """The settings of transformers, among them those that keep it quiet.

    Args:
        options: Those of the run.
        dtype: The number type of the forward pass.
        device: A device of torch.

    Raises SettingError for a setting that there is not, that has no such value, or that does not
    fit the others.
    """
    given = arguments_settings(parse_settings(options.set or ()))
    refuse_unknown_settings(given, known=[one.name for one in fields(TrainingArguments)])
    own: dict[str, Any] = {
        "output_dir": str(options.out),
        "run_name": options.out.name or None,
        "learning_rate": options.lr,
        "weight_decay": options.weight_decay,
        "adam_beta1": options.adam_beta1,
        "adam_beta2": options.adam_beta2,
        "max_grad_norm": options.max_grad_norm,
        "seed": options.seed,
        "bf16": dtype == "bfloat16",
        "use_cpu": device == "cpu",
        "per_device_train_batch_size": 1,
        "save_strategy": "steps",
        "save_steps": options.save_steps,
        "save_total_limit": _CHECKPOINTS,
        "logging_strategy": "steps",
        "logging_steps": options.log_steps,
        "logging_first_step": True,
        "disable_tqdm": True,
        "log_level": "error",
        "report_to": _integrations(options.report_to),
    }
    try:
        return TrainingArguments(**own | given)
    except (TypeError, ValueError, ImportError) as error:
        if not given:
            raise
        raise SettingError(
            f"transformers does not take these settings: {' '.join(str(error).split())[:300]}",
            place="--set",
            found=", ".join(f"{name}={value}" for name, value in given.items()),
        ) from error


def _integrations(named: str | None) -> list[str] | str:
    """The names of where reports go. Raises SettingError for one that is not installed."""
    if named is None:
        return "none"
    found = [one.strip() for one in named.split(",")]
    known = get_available_reporting_integrations()
    for one in found:
        if one not in known:
            raise SettingError(
                "--report-to names nothing that is installed",
                found=one,
                allowed=", ".join(sorted(known)) or "nothing here",
                remedy=f"pip install {one}, if that is its package",
            )
    return found
