"""The options of `fit`, declared once for the command line, the docs and Python.

Importing this costs no torch, so that a command line can refuse a value at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.plumbing import (
    DEVICE,
    DTYPE,
    MAX_MEMORY,
    ON_PROGRESS,
    SKIP_DAMAGED,
    STORE,
    TargetRule,
    option,
    refuse_uri,
)
from trainer.data.options import (
    AVERAGE,
    BATCH_TOKENS,
    EPOCHS,
    MICRO_TOKENS,
    SEED,
    SELECT,
    SELECT_LABELS,
    SPAN_ENDS,
    WINDOW,
)
from trainer.data.sources import sources_of
from trainer.losses import Loss
from trainer.losses.options import (
    ALPHA,
    HINT_LAYERS,
    HINT_WEIGHT,
    LOSS,
    ROUTER_WEIGHT,
    TEMPERATURE,
    chosen_loss,
)
from trainer.training.option_checks import refuse_misfits
from trainer.training.schedule import SCHEDULES
from trainer.training.settings import compile_settings, parse_settings
from trainer.training.value_schedule import ValueSchedule
from trainer.training.wanted import wanted_settings

if TYPE_CHECKING:
    from trainer.losses import SpanLoss

__all__ = ["TRAINER_DEVICE", "FitOptions"]

_BELOW_1 = 1 - 1e-6

# The devices that the loop of transformers takes; it has no name for a second GPU.
TRAINER_DEVICE = replace(
    DEVICE,
    help="The device to compute on: auto takes a GPU where there is one. Of several GPUs, "
    "CUDA_VISIBLE_DEVICES chooses.",
    choices=lambda: ("auto", "cpu", "cuda", "mps"),
)


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The options of a run, each within its bounds."""

    logits: Any = option(
        refuse=sources_of,
        repeated=True,
        places=True,
        help="The store to learn from, its folder or its URI; or with --alpha 0 a Parquet file of "
        "answers, as `logitstore generate` writes it. May be given several times: one student then "
        "learns from all of them, and an epoch passes once over each; STORE@2 is passed over "
        "twice, STORE@0.5 in half.",
        in_python="Or an open store, a `logitstore.Storage`, or a `trainer.StoreLike`; of several, "
        "a list, in which a store may stand in a pair with its weight.",
    )
    average: str | None = option(like=AVERAGE)
    student: Any = option(
        refuse=refuse_uri,
        help="The student: a transformers folder, a Hub id, or a configuration file .json, from "
        "which one is made with fresh weights; or the folder of an adapter, which is trained on.",
        in_python="Or a loaded transformers model, which is trained in place and is float32 "
        "afterwards.",
    )
    out: Path = option(help="The folder of the run: a new one, or that of a run to go on with.")
    alpha: float = option(like=ALPHA)
    temperature: float = option(like=TEMPERATURE)
    alpha_schedule: str | None = option(
        None,
        help="How alpha changes from its own value: linear:0.1 or cosine:0.1 to that at the last "
        "step, or steps:100=0.5,200=0.1 from those steps on.",
        unset="it does not",
    )
    temperature_schedule: str | None = option(
        None,
        help="How the temperature changes from its own value, likewise; for stores that keep the "
        "tail's mass.",
        unset="it does not",
    )
    loss: str = option(like=LOSS)
    loss_values: Mapping[str, Any] = field(default_factory=dict)  # of the loss's own options
    select: str | None = option(like=SELECT)
    select_labels: str = option(like=SELECT_LABELS)
    student_tokenizer: Any = option(
        None,
        refuse=refuse_uri,
        help="The folder or Hub id of the student's tokenizer, where that is another than the "
        "store's; for the losses alm and uld.",
        unset="that of the student's folder, else the store's",
    )
    span_ends: str = option(like=SPAN_ENDS)
    epochs: int | None = option(
        like=EPOCHS, unset="1, where --steps is not given", excludes=("steps",)
    )
    steps: int | None = option(
        None,
        help="The number of optimiser steps.",
        unset="as many as --epochs takes",
        least=1,
        excludes=("epochs",),
    )
    batch_tokens: int = option(like=BATCH_TOKENS)
    micro_tokens: int | None = option(like=MICRO_TOKENS)
    lr: float = option(3e-4, help="The highest learning rate.", above=0)
    lr_schedule: str = option(
        "cosine",
        help="How the learning rate falls after its rise: along a cosine, a line, not at all, or "
        "along a line in the last fifth of the steps (wsd).",
        choices=lambda: tuple(SCHEDULES),
    )
    lr_floor: float = option(0.0, help="The share of --lr that the fall ends at.", least=0, most=1)
    warmup: float = option(
        0.03,
        help="The share of the steps in which the learning rate rises to --lr.",
        least=0,
        most=1,
        excludes=("warmup_steps",),
    )
    warmup_steps: int | None = option(
        None,
        help="The number of steps in which the learning rate rises to --lr.",
        unset="a share of all, --warmup",
        least=0,
        excludes=("warmup",),
    )
    weight_decay: float = option(0.1, help="The weight decay of AdamW.", least=0)
    adam_beta1: float = option(
        0.9, help="AdamW's decay of the mean of gradients.", least=0, most=_BELOW_1
    )
    adam_beta2: float = option(
        0.95, help="AdamW's decay of the mean of their squares.", least=0, most=_BELOW_1
    )
    max_grad_norm: float = option(
        1.0, help="The norm at which gradients are clipped; 0 clips none.", least=0
    )
    seed: int = option(
        like=SEED, help="The seed of the order of documents, of fresh weights and of dropout."
    )
    window: int | None = option(like=WINDOW)
    router_weight: float | None = option(like=ROUTER_WEIGHT)
    hint_weight: float = option(like=HINT_WEIGHT)
    hint_layers: str | None = option(like=HINT_LAYERS)
    lora: str | None = option(
        None,
        help="Train an adapter beside the linear layers and nothing else (LoRA, by PEFT): r=16, "
        "with further parts after commas: alpha=32, dropout=0.05, targets=q_proj+v_proj.",
        unset="all weights are trained; of a student that is an adapter, the adapter",
    )
    lora_result: str = option(
        "merged",
        help="What a run with an adapter leaves: the student with it merged, or the adapter alone.",
        choices=lambda: ("merged", "adapter"),
    )
    freeze: list[str] | None = option(
        None,
        help="Parameters to leave as they are, by their names, as *.embed_tokens.*; may be given "
        "several times.",
        unset="none",
    )
    attn: str | None = option(
        None,
        help="The student's attention, as transformers names it: eager, sdpa, flash_attention_2, "
        "flex_attention.",
        unset="what transformers chooses",
    )
    gradient_checkpointing: bool = option(
        False, help="Compute activations a second time in the backward pass: less memory, slower."
    )
    compile: bool = option(
        False, help="Compile the student's layers by torch.compile: a slow first step, then faster."
    )
    eval_logits: Any | None = option(
        None,
        like=STORE,
        nullable=True,
        positional=False,
        help="A held-out store that the student is measured on during the run.",
        unset="none",
        in_python="Or an open store, as `logits`.",
    )
    eval_steps: int | None = option(
        None,
        help="The number of steps between measurements; the last step has one too.",
        unset="a tenth of the run",
        least=1,
        needs="eval_logits",
    )
    best_by: str = option(
        "loss",
        help="The figure whose least value on --eval-logits is the best: the loss of the run, "
        "cross-entropy, or KL to the teacher.",
        choices=lambda: ("loss", "ce", "kl"),
        needs="eval_logits",
    )
    keep_best: bool = option(
        False,
        help="Let the result be the measured step that was best, and not the last.",
        needs="eval_logits",
    )
    patience: int | None = option(
        None,
        help="Stop after that many measurements in a row without a better one.",
        unset="never",
        least=1,
        needs="eval_logits",
    )
    save_steps: int = option(500, help="The number of steps between checkpoints.", least=1)
    log_steps: int = option(10, help="The number of steps between reports.", least=1)
    resume: bool = option(
        False,
        help="Go on with an unfinished run from its newest checkpoint, or begin a new one. With "
        "more --steps or --epochs than before a run is made longer.",
    )
    keep_checkpoints: bool = option(
        False,
        help="Keep the newest checkpoint when the run has finished: two to three times the size of "
        "the model, and what a longer run goes on from.",
    )
    report_to: str | None = option(
        None,
        help="Where reports go besides, separated by commas: tensorboard, wandb, trackio, or any "
        "other that transformers knows.",
        unset="nowhere",
    )
    push_to_hub: str | None = option(
        None,
        refuse=refuse_uri,
        help="The repository on the Hub, as org/name, that the result is uploaded to; it is made "
        "if it is not there, for yourself alone.",
        unset="none",
    )
    set: list[str] | None = option(
        None,
        help="Any other setting of transformers.TrainingArguments, as NAME=VALUE; may be given "
        "several times.",
        unset="none",
    )
    save_dtype: str = option(
        "auto",
        help="The number type in which the weights of the result are saved: auto is that of the "
        "student. Checkpoints hold float32.",
        choices=lambda: ("auto", "float32", "bfloat16", "float16"),
    )
    device: str = option(like=TRAINER_DEVICE)
    dtype: str = option(
        like=DTYPE,
        help="The number type of the forward pass, by autocast: auto is bfloat16 on cuda, else "
        "float32. Weights are float32.",
        choices=lambda: ("auto", "float32", "bfloat16"),
    )
    skip_damaged: Any = option(like=SKIP_DAMAGED)
    max_memory: Any = option(like=MAX_MEMORY)
    report: Any = option(
        None, help="A function that is called with each report of the loss.", python_only=True
    )
    on_note: Any = option(
        None,
        help="A function that is called with each line on what is trained beside the student.",
        python_only=True,
    )
    on_progress: Any = option(None, like=ON_PROGRESS)

    def __post_init__(self) -> None:
        """Raise SettingError for what is of a wrong type or does not fit together."""
        refuse_misfits(self)

    @property
    def compile_settings(self) -> dict[str, Any] | None:
        """The settings of torch.compile by their names there; None where it is not used."""
        return compile_settings(parse_settings(self.set or ())) if self.compile else None

    def schedule(self, name: str) -> ValueSchedule:
        """How alpha or the temperature changes.

        Args:
            name: "alpha" or "temperature".
        """
        return ValueSchedule.parse(
            getattr(self, f"{name}_schedule"),
            first=getattr(self, name),
            flag=f"--{name}-schedule",
        )

    @property
    def rule(self) -> TargetRule | None:
        """Which targets count in the soft part of the loss; None is all.

        Raises SettingError for a text that says nothing of the kind.
        """
        return None if self.select is None else TargetRule.parse(self.select, flag="--select")

    @property
    def student_name(self) -> str:
        """How the student is called: as it was named, or a loaded one by where it came from."""
        if isinstance(self.student, str | Path):
            return str(self.student)
        return str(getattr(self.student.config, "name_or_path", "") or type(self.student).__name__)

    def chosen_loss(self) -> Loss | SpanLoss:
        """The loss with the values of its own options.

        Raises SettingError where those do not fit it.
        """
        return chosen_loss(self.loss, self.loss_values)

    def wanted(self, *, store: str, dtype: str, held_out: str | None = None) -> dict[str, Any]:
        """The settings that decide the weights of the result, as run.json holds them.

        Args:
            store: The fingerprint of the store that `logits` names.
            dtype: The number type that "auto" stands for here.
            held_out: The fingerprint of the store that `eval_logits` names.
        """
        return wanted_settings(self, store=store, dtype=dtype, held_out=held_out)
