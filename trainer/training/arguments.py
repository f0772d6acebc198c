"""The settings of `transformers.Trainer` that the options of a run stand for."""

from __future__ import annotations

import torch
from transformers import TrainingArguments

from trainer.training.options import FitOptions

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
    """
    return TrainingArguments(
        output_dir=str(options.out),
        learning_rate=options.lr,
        weight_decay=options.weight_decay,
        adam_beta1=options.adam_beta1,
        adam_beta2=options.adam_beta2,
        max_grad_norm=options.max_grad_norm,
        seed=options.seed,
        bf16=dtype == "bfloat16",
        use_cpu=device == "cpu",
        per_device_train_batch_size=1,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=_CHECKPOINTS,
        logging_strategy="steps",
        logging_steps=options.log_steps,
        logging_first_step=True,
        disable_tqdm=True,
        log_level="error",
        report_to="none",
    )
