"""The loop: `transformers.Trainer` with a loss, batches and reports of its own.

What differs from its parent: the loss is computed inside the model's own forward, so that DDP, FSDP
and ZeRO see it; it is a sum, divided by the counted targets of the whole step over all ranks and
micro-batches, not by the number of label tokens; accelerate does not distribute the batches; a
resumed run sets the position of the batches instead of skipping batches.
"""

from __future__ import annotations

import copy
import math
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import SaveStrategy
from transformers.utils import SAFE_WEIGHTS_NAME

from logitstore import LogitStoreError, SettingError, StoreError
from trainer.data.batches import Batches
from trainer.losses.distillation import (
    loss_from_forward,
    loss_inside_forward,
    named_loss,
    refuse_unserved,
)
from trainer.losses.options import ALPHA, ROUTER_WEIGHT
from trainer.training import run_folder
from trainer.training.callbacks import StopBeforeNonFinite, refuse_non_finite
from trainer.training.checkpoints import (
    Checkpoint,
    complete_checkpoint,
    find_checkpoints,
    read_checkpoint,
)
from trainer.training.metrics import MetricSums

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

    from trainer.data.rows import Batch
    from trainer.data.selection import Selection
    from trainer.losses import Loss, SpanLoss
    from trainer.losses.hints import Hints

__all__ = ["DistillationTrainer"]


class DistillationTrainer(Trainer):
    """`transformers.Trainer` that learns from the batches of a store.

    Logging, callbacks, checkpoints, evaluation and saving are those of transformers. A log of the
    loss also holds ce, kl, divergence and agreement, each averaged over the targets since the last
    log. What is different: batch sizes come from `train_dataset`, not from `args`; callbacks see
    the whole training as one epoch, so strategies must count steps; a checkpoint is used only if it
    is whole. Raises SettingError for an argument that is out of range, and for a loss that the
    store's targets cannot serve.

    Args:
        model: The student.
        args: The settings of transformers. `max_steps` counts optimiser steps; without it,
            `num_train_epochs` passes over the store are made. Batch sizes, accumulation and the
            seed of the data order are those of `train_dataset`. A copy of it is used.
        train_dataset: What `training_batches` gives; the rank is set here. Its temperature is that
            of the loss.
        alpha: The weight of the teacher's distribution, 0 to 1; the true tokens have the rest.
        loss: The divergence: a name of the table of losses, or a `Loss` of your own.
        router_weight: The weight of the load-balancing loss of a student with routed experts.
        hints: Hints from the teacher's layers, which `fit` makes and attaches to the model.
        eval_dataset: As transformers takes it: evaluated by the model's own loss.
        data_collator: For `eval_dataset`.
        processing_class: The tokenizer, to be saved with the model.
        compute_metrics: For `eval_dataset`.
        callbacks: More callbacks, after those of transformers.
        optimizers: An optimizer and a scheduler in place of those that `args` describes.
    """

    # What an error of a checkpoint that cannot be written tells the user to do.
    resume_remedy = (
        "Make room, then go on from the last whole checkpoint: resume_from_checkpoint=True"
    )

    # Where a run.json says it, the hash of what decides the result; and those by which earlier
    # versions called the same run.
    run: str | None = None
    run_before: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: TrainingArguments,
        train_dataset: Batches,
        alpha: float = 0.9,
        loss: str | Loss | SpanLoss = "forward_kl",
        router_weight: float | None = None,
        hints: Hints | None = None,
        eval_dataset: Any = None,
        data_collator: Any = None,
        processing_class: Any = None,
        compute_metrics: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        alpha, loss = ALPHA.check(alpha), named_loss(loss)
        if not isinstance(train_dataset, Batches):
            raise SettingError(
                "train_dataset must be what `trainer.training_batches` gives",
                found=type(train_dataset).__name__,
            )
        refuse_unserved(train_dataset.spec, loss=loss, temperature=train_dataset.temperature)
        batches = train_dataset.of_rank(args.process_index, args.world_size)
        use_cache = model.config.use_cache if hasattr(model.config, "use_cache") else None
        super().__init__(
            model=model,
            args=_arguments_for(batches, args),
            train_dataset=batches,
            eval_dataset=eval_dataset,
            data_collator=data_collator,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=[
                StopBeforeNonFinite(self._take_step_loss, lambda: self._step_norm),
                *(callbacks or ()),
            ],
            optimizers=optimizers,
        )
        if use_cache is not None:
            model.config.use_cache = use_cache  # else the saved model would generate without one
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True  # what says the same before transformers 5.20
        self._step_loss = torch.zeros((), device=self.args.device)
        self._step_norm: float | None = None  # of the gradient, before it is clipped
        self.tokens_seen = 0  # by this call, on all ranks, as many on each as on this one
        self.objective = {  # the arguments of the loss
            "alpha": alpha,
            "loss": loss,
            "router_weight": ROUTER_WEIGHT.check(router_weight),
            "hints": hints,
        }
        self.step_temperature: float | None = None  # another than that of the batches
        self._batches = batches
        self._batch_thread: Iterator[Batch] | None = None
        self._go_on_from({"seconds": 0.0, "sums": {}})

    # --- batches

    def get_train_dataloader(self) -> Any:
        """The batches of this rank: accelerate would distribute them a second time."""
        return _Inputs(self)

    def batches(self) -> Iterator[dict[str, Any]]:
        """The batches, each with the ids that transformers counts."""
        self._batch_thread = iter(self._batches)
        for batch in self._batch_thread:
            yield {"input_ids": batch.input_ids_BW, "batch": batch}

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, _device: torch.device
    ) -> tuple[list[Any], int]:
        """The batches of a step, and the number of targets of the whole step on all ranks.

        Args:
            epoch_iterator: The batches.
            num_batches: The number of batches of a step.

        Raises what reading the store raises; the steps before are saved first, where they can be.
        """
        before = self._batches.state_dict()
        try:
            samples = [next(epoch_iterator) for _ in range(num_batches)]
        except LogitStoreError:
            self._save_steps(before)
            raise
        tokens = sum(one["batch"].tokens for one in samples)
        self.tokens_seen += tokens * self.args.world_size
        if self._batches.selection is not None:
            samples = self._weighed(samples, self._batches.selection)
        return samples, samples[0]["batch"].step_targets

    def _weighed(self, samples: list[Any], selection: Selection) -> list[Any]:
        """The batches of a step with the weights of their rows; all ranks must call it."""
        own = sum(int(one["batch"].selected_R.sum()) for one in samples)
        count = torch.tensor(own, dtype=torch.int64, device=self.args.device)
        selected = int(self.accelerator.reduce(count, reduction="sum"))
        found = []
        for one in samples:
            batch = one["batch"]
            weights = selection.weights(
                batch.selected_R, targets=batch.step_targets, selected=selected
            )
            found.append(one | {"batch": replace(batch, weights=weights)})
        return found

    # --- loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The share of a micro-batch in the mean loss of its step.

        It is multiplied by the number of ranks, because their gradients are averaged, not summed.

        Args:
            model: The student, which may be wrapped.
            inputs: What `batches` gives; of other inputs it is the model's own loss.
            return_outputs: Whether the sums of the batch are returned too.
            num_items_in_batch: Targets of the whole step.
        """
        if "batch" not in inputs:
            return super().compute_loss(model, inputs, return_outputs=return_outputs)
        batch: Batch = inputs["batch"]
        result = loss_from_forward(
            model, batch, temperature=self.step_temperature, **self.objective
        )
        self._sums.add(result)
        targets = num_items_in_batch if num_items_in_batch is not None else batch.step_targets
        loss = result.loss * (self.args.world_size / int(targets))
        self._step_loss = self._step_loss + loss.detach()
        return (loss, result) if return_outputs else loss

    def _take_step_loss(self) -> float:
        """The loss of the micro-batches since the last call; it waits for the device."""
        value = float(self._step_loss)
        self._step_loss = torch.zeros_like(self._step_loss)
        return value

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Keep the norm, which transformers takes before each step of the optimizer."""
        found = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._step_norm = None if found is None else float(found)
        return found

    # --- reports

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means over all targets since the last report.

        Args:
            logs: What is logged.
            start_time: As transformers gives it.

        Raises ModelError for a figure that is no finite number, before anything keeps it.
        """
        if "loss" in logs:
            logs |= self._sums.take_means()
            logs["seconds"] = self.seconds
            self.state.epoch = self._batches.epoch  # the trainer sees one epoch of max_steps
        refuse_non_finite(logs, step=self.state.global_step)
        super().log(logs, start_time)

    @property
    def seconds(self) -> float:
        """Wall time of the run, including the time before it was resumed."""
        return time.monotonic() - self._began

    # --- checkpoints

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train to the last step; a resumed run gives the same weights as one without a stop.

        Args:
            resume_from_checkpoint: The folder of a checkpoint, or True for the newest whole one in
                the output folder.
            trial: As transformers takes it.
            ignore_keys_for_eval: As transformers takes it.

        Raises StoreError where there is no whole checkpoint.
        """
        if not resume_from_checkpoint:
            return self.train_from(None, trial, ignore_keys_for_eval)
        if resume_from_checkpoint is True:
            place, newest = Path(self.args.output_dir), self.newest_checkpoint()
        else:
            place = Path(resume_from_checkpoint)
            newest = read_checkpoint(place, runs=self._runs, fits=self.go_to)
        if newest is None:
            raise StoreError("there is no whole checkpoint", place=place)
        return self.train_from(newest, trial, ignore_keys_for_eval)

    def newest_checkpoint(self) -> Checkpoint | None:
        """The newest whole checkpoint in the output folder; None where none was ever completed.

        What is passed over is told, and put aside. Raises StoreError where all are damaged.
        """
        out = Path(self.args.output_dir)
        found = find_checkpoints(out, runs=self._runs, fits=self.go_to)
        found.refuse_none(out)
        self.accelerator.wait_for_everyone()  # every rank has looked before one clears up
        if self.args.should_save:
            found.tell(found.clear(out))
        return found.newest

    @property
    def _runs(self) -> tuple[str, ...]:
        return () if self.run is None else (self.run, *self.run_before)

    def train_from(self, checkpoint: Checkpoint | None, *arguments: Any) -> Any:
        """`train` from a checkpoint that was found and checked.

        Args:
            checkpoint: The checkpoint; None begins anew.
            arguments: Further arguments of `transformers.Trainer.train`.
        """
        folder = None
        if checkpoint is not None:
            folder = str(checkpoint.folder)
            self.go_to(checkpoint.state["stream"])
            self._go_on_from(checkpoint.state)
        try:
            with loss_inside_forward(self.model):
                return super().train(folder, *arguments)
        finally:
            if self._batch_thread is not None:
                self._batch_thread.close()  # type: ignore[attr-defined]

    def go_to(self, stream: dict[str, Any]) -> None:
        """Set the position of the batches. Raises SettingError for one that they cannot have."""
        self._batches.load_state_dict(stream)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Load the weights and reports of `checkpoint`, without training from there."""
        self._go_on_from(checkpoint.state)
        if self.is_fsdp_enabled:
            self._load_whole(checkpoint)
        else:
            self._load_from_checkpoint(str(checkpoint.folder))
        self.state = TrainerState.load_from_json(str(checkpoint.folder / TRAINER_STATE_NAME))

    def _load_whole(self, checkpoint: Checkpoint) -> None:
        """Load the weights into a model that is yet to be sharded."""
        weights = checkpoint.folder / SAFE_WEIGHTS_NAME
        if not weights.is_file():
            raise StoreError(
                "the run has done all its steps, and its last checkpoint holds shards alone",
                place=checkpoint.folder,
                remedy="Go on with more --steps: the result is written after the last of them",
            )
        self.model.load_state_dict(load_file(weights), strict=False)  # tied ones are named once

    def more_state(self) -> dict[str, Any]:
        """What a checkpoint holds besides step, position, seconds and sums."""
        return {}

    def _go_on_from(self, state: dict[str, Any]) -> None:
        self._began = time.monotonic() - state["seconds"]
        self._sums = MetricSums(self.accelerator, carried=state["sums"])

    def _save_steps(self, stream: dict[str, Any]) -> None:
        """Save a checkpoint of the steps so far, which end at `stream`, unless there is one.

        Nothing is saved where none is wanted, or where other ranks would have to save with us.
        """
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        wanted = self.args.save_strategy != SaveStrategy.NO and self.args.world_size == 1
        if not wanted or not self.state.global_step or folder.exists():
            return
        self.go_to(stream)
        with suppress(LogitStoreError):  # what stopped the run is told, not this
            self._save_checkpoint(self.model, trial=None)
            self.callback_handler.on_save(self.args, self.state, self.control)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with run_folder.explain_failed_write(folder, remedy=self.resume_remedy):
            super()._save_checkpoint(model, trial)
            sums = self._sums.gathered()
            self.accelerator.wait_for_everyone()  # every rank has written its part
            if self.args.should_save:
                complete_checkpoint(
                    folder,
                    {
                        "step": self.state.global_step,
                        "stream": self._batches.state_dict(),
                        "seconds": self.seconds,
                        "sums": sums,
                    }
                    | self.more_state(),
                    run=self.run,
                )


class _Inputs:
    """An iterable without a length: its steps are counted by `max_steps` alone."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._trainer.batches()


def _arguments_for(batches: Batches, args: TrainingArguments) -> TrainingArguments:
    """A copy of `args` with the sizes that the batches decide, and with settings that they need."""
    args = copy.copy(args)
    if args.max_steps <= 0:
        epochs = math.ceil(args.num_train_epochs)
        args.max_steps = math.ceil(batches.count_steps(epochs) * args.num_train_epochs / epochs)
    args.gradient_accumulation_steps = batches.per_step
    args._n_gpu = min(args.n_gpu, 1)  # several GPUs of one process would copy the forward
    args.ignore_data_skip = True
    args.remove_unused_columns = False
    args.logging_nan_inf_filter = False
    return args
