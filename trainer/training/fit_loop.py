"""The loop of `trainer fit`: its learning rate, and the number type of its result."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from logitstore import ModelError
from logitstore.plumbing import LocalStorage
from trainer.losses.hints import without_hint_maps
from trainer.training.best import checked_best, save_best
from trainer.training.held_out import PREFIX, Best
from trainer.training.loop import DistillationTrainer
from trainer.training.run_folder import explain_failed_write
from trainer.training.schedule import share_of_rate
from trainer.training.sharding import one_tensor_of_tied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.training.advising import FirstStep
    from trainer.training.checkpoints import Checkpoint
    from trainer.training.held_out import HeldOut
    from trainer.training.value_schedule import ValueSchedule

__all__ = ["FitLoop"]


class FitLoop(DistillationTrainer):
    """`DistillationTrainer` with the schedule of `share_of_rate`.

    Args:
        rise: Steps in which the learning rate rises.
        schedule: How it falls then.
        floor: The share of the highest rate that it falls to.
        held_out: What is measured during the run; None measures nothing.
        keep_best: Whether the weights of the best measurement are kept.
        alpha_schedule: How alpha changes; None is constant.
        temperature_schedule: How the temperature changes; None is constant.
        first_step: Is told of the batches of the first step; None looks at none.
        others: The arguments of `DistillationTrainer`.
    """

    def __init__(
        self,
        *,
        rise: int,
        schedule: str,
        floor: float,
        held_out: HeldOut | None = None,
        keep_best: bool = False,
        alpha_schedule: ValueSchedule | None = None,
        temperature_schedule: ValueSchedule | None = None,
        first_step: FirstStep | None = None,
        **others: Any,
    ) -> None:
        # transformers asks for a data set where it is to measure by steps, and does not read it.
        data = None if held_out is None else held_out.batches
        self.held_out, self._keep_best = held_out, keep_best
        self._first_step = first_step
        super().__init__(eval_dataset=data, **others)
        self._share = functools.partial(share_of_rate, rise=rise, schedule=schedule, floor=floor)
        self._saved_as: torch.dtype | None = None
        self._alpha, self._temperature = alpha_schedule, temperature_schedule

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], int]:
        """The batches of the next step, whose alpha and temperature are set here.

        Args:
            epoch_iterator: As `DistillationTrainer` takes it.
            num_batches: Likewise.
            device: Likewise.
        """
        step, steps = self.state.global_step, self.args.max_steps
        if self._alpha is not None:
            self.objective["alpha"] = self._alpha.at(step, steps=steps)
        if self._temperature is not None:
            self.step_temperature = self._temperature.at(step, steps=steps)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The share of a micro-batch in the mean loss of its step.

        Args:
            model: As `DistillationTrainer` takes it.
            inputs: Likewise.
            return_outputs: Likewise.
            num_items_in_batch: Likewise.
        """
        first = self._first_step
        if first is None or first.over or "batch" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, result = super().compute_loss(model, inputs, True, num_items_in_batch)
        first.add(model, inputs["batch"], result)
        return (loss, result) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add alpha and T of the step to a report or a measurement of the loss, where they change.

        Args:
            logs: What is logged.
            start_time: As transformers gives it.
        """
        measured = "loss" in logs or f"{PREFIX}loss" in logs
        if measured and self._alpha is not None:
            logs["alpha"] = self.objective["alpha"]
        if measured and self._temperature is not None and self.step_temperature is not None:
            logs["temperature"] = self.step_temperature
        super().log(logs, start_time)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The scheduler that transformers asks for.

        Args:
            num_training_steps: All steps of the run.
            optimizer: Default: that of the loop.
        """
        share = functools.partial(self._share, steps=num_training_steps)
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, share)
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """A run that was made longer takes the rate of its new schedule, not the saved one."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not isinstance(self.lr_scheduler, LambdaLR):
            return
        scheduler = self.lr_scheduler
        rates = [
            base * share(scheduler.last_epoch)
            for base, share in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure the held-out store and log its figures; all ranks must call it.

        Args:
            eval_dataset: Another data set, which transformers then measures.
            ignore_keys: As transformers takes it.
            metric_key_prefix: As transformers takes it.
        """
        if self.held_out is None or eval_dataset is not None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        held = self.held_out
        means = held.measure(
            self.model_wrapped,
            accelerator=self.accelerator,
            objective=self.objective | {"hints": None},  # a figure of the student alone
            temperature=self.step_temperature,
        )
        held.best = held.best.after(self.state.global_step, means[held.metric])
        if self._keep_best and held.best.step == self.state.global_step:
            out = Path(self.args.output_dir)
            with explain_failed_write(out, remedy=self.resume_remedy):
                save_best(
                    out,
                    held.best.step,
                    lambda folder: self.save_model(str(folder)),
                    writes=self.args.should_save,
                )
        metrics = {f"{PREFIX}{name}": value for name, value in means.items()}
        self.log(metrics | {"seconds": self.seconds})
        control: Any = self.control  # type: ignore[has-type]
        self.control = self.callback_handler.on_evaluate(self.args, self.state, control, metrics)
        return metrics

    def more_state(self) -> dict[str, Any]:
        """The best measurement so far."""
        return {} if self.held_out is None else {"best": asdict(self.held_out.best)}

    def _go_on_from(self, state: dict[str, Any]) -> None:
        super()._go_on_from(state)
        if self.held_out is not None and "best" in state:
            self.held_out.best = Best(**state["best"])

    def restore_state(self, checkpoint: Checkpoint) -> None:
        """Take on what a checkpoint says besides its weights.

        Args:
            checkpoint: One that is whole.
        """
        self._go_on_from(checkpoint.state)

    def take_best(self) -> None:
        """Load the weights of the best measurement, if they are kept.

        Raises StoreError where they have changed since they were written.
        """
        if self._keep_best and self.held_out is not None and self.held_out.best.step:
            folder = checked_best(Path(self.args.output_dir), self.held_out.best.step)
            self._load_from_checkpoint(str(folder))

    def save_result(self, out: Path, *, dtype: torch.dtype) -> None:
        """Write the model as the result of the run.

        Args:
            out: The folder of the run.
            dtype: The number type of its weights.

        Raises ModelError where a weight is too large for that type.
        """
        self._saved_as = dtype
        try:
            if self.is_fsdp_enabled:  # whole, also where checkpoints are of shards
                self._save(str(out), state_dict=self.accelerator.get_state_dict(self.model))
            elif self.is_deepspeed_enabled and self.model_wrapped is self.model:
                self._save(str(out))  # no step was left: nothing was sharded
            else:
                self.save_model(str(out))
        finally:
            self._saved_as = None
        if self.args.should_save and (out / "config.json").is_file():
            _name_dtype(out / "config.json", dtype)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self._saved_as is not None:
            if state_dict is None:
                state_dict = self.model.state_dict()
            state_dict = one_tensor_of_tied(self.model, without_hint_maps(state_dict))
            state_dict = _cast(state_dict, self._saved_as)
        super()._save(output_dir, state_dict=state_dict)


def _cast(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights as `dtype`. Those that are one tensor stay one, so they are saved once."""
    found: dict[str, torch.Tensor] = {}
    known: dict[tuple[int, torch.Size, tuple[int, ...]], torch.Tensor] = {}
    for name, weight in state.items():
        key = (weight.data_ptr(), weight.shape, weight.stride())
        if key not in known:
            known[key] = weight.to(dtype) if weight.is_floating_point() else weight
            if weight.is_floating_point() and not bool(known[key].isfinite().all()):
                raise ModelError(
                    f"a weight of the result is too large for {str(dtype).removeprefix('torch.')}",
                    place=name,
                    found=float(weight.abs().max()),
                    remedy="Go on with --resume --save-dtype float32",
                )
        found[name] = known[key]
    return found


def _name_dtype(path: Path, dtype: torch.dtype) -> None:
    """Let the configuration of a result say in which type its weights are."""
    content = json.loads(path.read_bytes())
    for part in (content, *(one for one in content.values() if isinstance(one, dict))):
        if part is content or "dtype" in part:
            part["dtype"] = str(dtype).removeprefix("torch.")
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    LocalStorage(path.parent).put(path.name, (text + "\n").encode())
