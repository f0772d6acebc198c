"""The loop: `transformers.Trainer`, of which only the loss, the batches and the reports are ours.

What it would get wrong here, and what is done about it: the loss is computed inside the model's own
forward, so that DDP, FSDP and ZeRO see it; it is a sum, divided by the counted targets of the whole
step over all ranks and micro-batches, never by the trainer's count of label tokens; batches pass by
accelerate's dispatcher; resuming sets our stream's position instead of skipping batches.
"""

from __future__ import annotations

import functools
import math
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from logitstore import ModelError
from logitstore.plumbing import LMHead, hidden_states
from trainer.losses import LOSSES
from trainer.losses.fused import TargetTensors, sparse_distillation_loss
from trainer.training import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import (
        PreTrainedModel,
        TrainerControl,
        TrainingArguments,
    )

    from logitstore import SparsifierSpec
    from trainer.data.batches import BatchStream
    from trainer.data.layout import Batch

__all__ = [
    "METRICS",
    "DistillationTrainer",
    "Objective",
    "learning_inside_forward",
    "saving_at_interrupt",
]

# What a report of the loop shows: means over the targets of the sums that every forward gives, and
# of the agreement over those "judged", where the teacher's likeliest token is known.
METRICS = ("loss", "ce", "divergence", "kl", "kl_binary", "kl_head", "agreement")


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What the student is asked to minimise, per target."""

    loss: str  # a name of the LOSSES table
    alpha: float  # weight of the teacher's distribution; 1 - alpha is that of the true token
    temperature: float
    vocab_size: int
    sparsifier: SparsifierSpec  # which made the store's targets


@contextmanager
def learning_inside_forward(model: PreTrainedModel, objective: Objective) -> Iterator[None]:
    """While it lasts, `model(..., lesson=batch)` computes the loss of a batch inside its forward.

    Without a lesson the forward is the model's own, so saving, wrapping and adapters go on as
    they would. The method is set on the instance: the class, and other models of it, stay as they
    are.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    plain, before = inner.forward, inner.__dict__.get("forward")

    @functools.wraps(plain)
    def forward(*args: Any, lesson: dict[str, Any] | None = None, **inputs: Any) -> Any:
        if lesson is None:
            return plain(*args, **inputs)
        return _learn(inner, objective, lesson, inputs)

    inner.forward = forward
    try:
        yield
    finally:
        # Mixed precision may have wrapped it once more; whatever stands there now goes with it.
        inner.__dict__.pop("forward", None)
        if before is not None:
            inner.forward = before


def _learn(
    model: PreTrainedModel, objective: Objective, lesson: dict[str, Any], inputs: dict[str, Any]
) -> dict[str, Any]:
    """The loss summed over the lesson's targets, differentiable, and the sums to report."""
    hidden_ND = hidden_states(model, inputs.pop("input_ids"), **inputs).flatten(0, 1)
    if lesson["targets"] is None:
        # Nothing counts, yet every rank must take part in the exchange of gradients.
        return {"loss": hidden_ND.float().sum() * 0.0, "sums": {}, "count": 0}
    result = sparse_distillation_loss(
        hidden_ND[lesson["at_R"]],
        LMHead.of(model, vocab_size=objective.vocab_size),
        lesson["targets"],
        lesson["labels_R"],
        alpha=objective.alpha,
        temperature=objective.temperature,
        loss=LOSSES[objective.loss],
        sparsifier=objective.sparsifier,
    )
    return {"loss": result.loss, "sums": result.sums, "count": result.count}


class DistillationTrainer(Trainer):
    """`transformers.Trainer` fed by a BatchStream, with the loss in the model's forward."""

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        args: TrainingArguments,
        stream: BatchStream,
        report: Callable[[dict[str, float]], None],
        seconds: float = 0.0,
        sums: dict[str, float] | None = None,
    ) -> None:
        use_cache = model.config.use_cache if hasattr(model.config, "use_cache") else None
        args._n_gpu = min(args.n_gpu, 1)  # several GPUs of one process would copy the forward
        super().__init__(model=model, args=args)
        if use_cache is not None:
            model.config.use_cache = use_cache  # else the saved model would generate without one
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True  # what says the same before transformers 5.20
        self.remove_callback(PrinterCallback)
        self.add_callback(_Guard(self))
        self.interrupted = False  # by ctrl-C: the step under way is the last
        self.step_loss = torch.zeros((), device=args.device)
        self._stream = stream
        self._batches: Iterator[Batch] | None = None
        self._report = report
        self._began = time.monotonic() - seconds
        self._carried = dict(sums or {})  # of reports begun before the last checkpoint
        self._sums: dict[str, torch.Tensor] = {}

    # --- batches

    def get_train_dataloader(self) -> Any:
        """Our stream as it is: accelerate would deal its batches out once more."""
        return _Inputs(self)

    def batches(self) -> Iterator[dict[str, Any]]:
        """The stream's batches in the form that the trainer moves to a device."""
        self._batches = iter(self._stream)
        for batch in self._batches:
            yield _inputs(batch)

    def close(self) -> None:
        """End the thread that makes batches ahead."""
        if self._batches is not None:
            self._batches.close()  # type: ignore[attr-defined]

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, _device: torch.device
    ) -> tuple[list[Any], int]:
        """The batches of a step, and the targets that the whole step counts on all ranks."""
        samples = [next(epoch_iterator) for _ in range(num_batches)]
        return samples, samples[0]["step_targets"]

    # --- loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """This micro-batch's share of the step's mean loss.

        Times the number of ranks, because their gradients are averaged and not summed.
        """
        lesson = {name: inputs[name] for name in ("at_R", "labels_R", "targets")}
        if lesson["targets"] is not None:
            lesson["targets"] = lesson["targets"].to(self.args.device)
        arguments = {name: inputs[name] for name in ("input_ids", "position_ids") if name in inputs}
        outputs = model(**arguments, lesson=lesson)
        for name, value in (outputs["sums"] | {"targets": outputs["count"]}).items():
            self._sums[name] = self._sums.get(name, 0.0) + torch.as_tensor(
                value, dtype=torch.float64, device=self.args.device
            )
        targets = num_items_in_batch if num_items_in_batch is not None else inputs["step_targets"]
        loss = outputs["loss"] * (self.args.world_size / max(1, int(targets)))
        self.step_loss = self.step_loss + loss.detach()
        return (loss, outputs) if return_outputs else loss

    # --- reports

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means over all targets since the last report, and hand them on."""
        if "loss" in logs:
            logs |= self._means()
            logs["seconds"] = self.seconds
            self.state.epoch = self._stream.epochs  # the trainer sees one epoch of max_steps
        super().log(logs, start_time)
        if "loss" in logs and self.is_world_process_zero():
            self._report(self.history[-1])

    @property
    def history(self) -> list[dict[str, float]]:
        """Every report so far, those before a restart too."""
        names = {*METRICS, "step", "targets", "seconds", "grad_norm", "epoch"}
        return [
            {name: value for name, value in one.items() if name in names}
            | {"lr": one["learning_rate"]}
            for one in self.state.log_history
            if "kl" in one
        ]

    @property
    def seconds(self) -> float:
        """Wall time of the run, that before a restart included."""
        return time.monotonic() - self._began

    def _means(self) -> dict[str, float]:
        sums = self._gathered()
        self._carried, self._sums = {}, {}
        targets, judged = sums.pop("targets", 0.0), sums.pop("judged", 0.0)
        agreement = sums.pop("agreement", 0.0)
        means = {name: total / max(1.0, targets) for name, total in sums.items()}
        if judged:
            means["agreement"] = agreement / judged
        return means | {"targets": targets}

    def _gathered(self) -> dict[str, float]:
        """The sums of all ranks since the last report; what no rank has summed is left out."""
        names = (*METRICS, "judged", "targets")
        zero = torch.zeros((), dtype=torch.float64, device=self.args.device)
        local = torch.stack(
            [self._sums.get(name, zero) for name in names]
            + [zero + (name in self._sums) for name in names]
        )
        total = self.accelerator.reduce(local, reduction="sum").tolist()
        seen = dict(zip(names, total[len(names) :], strict=True))
        return {
            name: self._carried.get(name, 0.0) + value
            for name, value in zip(names, total[: len(names)], strict=True)
            if seen[name] or name in self._carried
        }

    # --- checkpoints

    def restore(self, checkpoint: Path) -> None:
        """The weights and reports of a checkpoint, without going on from it."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        sums = self._gathered()
        self.accelerator.wait_for_everyone()  # every rank has written its part
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            run.complete_checkpoint(
                folder,
                {
                    "step": self.state.global_step,
                    "stream": self._stream.state_dict(),
                    "seconds": self.seconds,
                    "sums": sums,
                },
            )
            run.write_json(Path(self.args.output_dir) / "history.json", self.history)


class _Inputs:
    """An iterable without a length: its steps are counted by `max_steps` alone."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._trainer.batches()


def _inputs(batch: Batch) -> dict[str, Any]:
    return batch.model_inputs | {
        "at_R": batch.at_R,
        "labels_R": batch.labels_R,
        "targets": None if batch.targets is None else TargetTensors.of(batch.targets),
        "step_targets": batch.step_targets,
    }


class _Guard(TrainerCallback):
    """Stops before a loss that is no number reaches the weights; reports the last step too."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """One look a step: the value is needed on the host, and once costs under 1 %."""
        value = float(self._trainer.step_loss)
        self._trainer.step_loss = torch.zeros_like(self._trainer.step_loss)
        if not math.isfinite(value):
            raise ModelError(
                "the loss is no finite number; the weights were left as they were before this step",
                place=f"step {state.global_step + 1}",
                found=value,
                remedy="Begin a run with a lower --lr in another folder",
            )

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The last step of a run is always reported; an interrupted run is saved where it is."""
        if state.global_step >= state.max_steps:
            control.should_log = True
        elif self._trainer.interrupted:
            control.should_save = control.should_training_stop = True


@contextmanager
def saving_at_interrupt(loop: DistillationTrainer) -> Iterator[None]:
    """Let ctrl-C finish the step and save it before it ends the run; a second one ends it at once.

    Ranks are interrupted at different steps and could not save together, so only a run of one
    process does this.
    """
    alone = loop.args.world_size == 1 and threading.current_thread() is threading.main_thread()
    if not alone:
        yield
        return

    def ask(*_: object) -> None:
        if loop.interrupted:
            raise KeyboardInterrupt
        loop.interrupted = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if loop.interrupted:
        raise KeyboardInterrupt
