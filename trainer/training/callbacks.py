"""Callbacks of a run: stop at a loss or gradient that is not finite, report, show progress, save at
Ctrl-C and SIGTERM."""

from __future__ import annotations

import math
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from logitstore import ModelError
from logitstore.plumbing import Meter
from trainer.training import run_folder
from trainer.training.best import forget_best
from trainer.training.metrics import history_of, measured_of
from trainer.training.state_files import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from transformers import TrainerControl, TrainerState, TrainingArguments

    from logitstore.plumbing import OnProgress
    from trainer.training.held_out import HeldOut

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_WISH_SECONDS = 1.0  # a shell or a launcher sends several signals, and means one

__all__ = [
    "MeasureHeldOut",
    "ReportToFolder",
    "SaveAtInterrupt",
    "StopBeforeNonFinite",
    "TellProgress",
    "refuse_non_finite",
    "write_histories",
]


class StopBeforeNonFinite(TrainerCallback):
    """Stops the run before a loss or a gradient that is not finite changes the weights.

    Args:
        take_loss: Gives the loss of the step whose gradient is complete.
        norm: Gives the norm of that gradient; None where it is not known.
    """

    def __init__(self, take_loss: Callable[[], float], norm: Callable[[], float | None]) -> None:
        self._take_loss, self._norm = take_loss, norm

    def on_pre_optimizer_step(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """Checks once per step, which waits for the device and costs under 1 %."""
        value = self._take_loss()
        if not math.isfinite(value):
            raise ModelError(
                "the loss is no finite number; the weights are still those before this step",
                place=f"step {state.global_step + 1}",
                found=value,
                remedy="Begin again with a lower learning rate (--lr), in another folder",
            )
        norm = self._norm()
        if norm is not None and not math.isfinite(norm):
            raise ModelError(
                "the norm of the gradient is no finite number; the weights are still those before "
                "this step",
                place=f"step {state.global_step + 1}",
                found=norm,
                remedy="Begin again with a lower --lr or --hint-weight, in another folder",
            )


def refuse_non_finite(logs: Mapping[str, Any], *, step: int) -> None:
    """Raise ModelError for a figure that no JSON can hold.

    Args:
        logs: What is to be logged, and then kept in history.json and in checkpoints.
        step: The steps that are done.
    """
    for name, value in logs.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ModelError(
                f"the figure {name} is no finite number",
                place=f"step {step}",
                found=value,
                remedy="Begin again with a lower --lr or --hint-weight, in another folder",
            )


class TellProgress(TrainerCallback):
    """Tells how far a run is after each step: the newest loss, tokens a second, the time left.

    Args:
        on_progress: Is called by the first process of the run.
        tokens: Gives the tokens that this call has trained on, of all processes.
    """

    def __init__(self, on_progress: OnProgress | None, tokens: Callable[[], int]) -> None:
        self._on_progress, self._tokens = on_progress, tokens
        self._meter: Meter | None = None
        self._loss: tuple[str, ...] = ()

    def on_train_begin(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """The steps before a resumed run's first one count for no time."""
        if self._on_progress is not None and state.is_world_process_zero:
            done = state.global_step / state.max_steps
            self._meter = Meter(self._on_progress, stage="training", unit="tokens", fraction=done)

    def on_log(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """Keeps the newest loss."""
        newest = history_of(state.log_history[-1:])
        if newest:
            self._loss = (f"loss {newest[0]['loss']:.4f}",)

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """Tells of the step."""
        if self._meter is not None:
            self._meter.tell(
                self._tokens(),
                fraction=state.global_step / state.max_steps,
                detail=f"step {state.global_step:,} of {state.max_steps:,}",
                facts=self._loss,
            )


def write_histories(out: Path, log: list[dict[str, Any]], *, remedy: str) -> None:
    """Write history.json, and held_out.json where there are measurements.

    Args:
        out: The folder of the run.
        log: A `state.log_history`.
        remedy: What to do where they cannot be written.
    """
    contents = {"history.json": history_of(log), "held_out.json": measured_of(log)}
    for name, content in contents.items():
        if content or name == "history.json":
            with run_folder.explain_failed_write(out / name, remedy=remedy):
                write_json(out / name, content)


class ReportToFolder(TrainerCallback):
    """Passes on each report of the loss, also that of the last step, and writes history.json.

    Args:
        report: Is called with each report.
        remedy: What to do where history.json cannot be written.
    """

    def __init__(self, report: Callable[[dict[str, float]], None], *, remedy: str) -> None:
        self._report = report
        self._remedy = remedy

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The last step of a run is always reported."""
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """Passes on the newest report, if it is one of the loss."""
        newest = history_of(state.log_history[-1:]) or measured_of(state.log_history[-1:])
        if newest and state.is_world_process_zero:
            self._report(newest[0])

    def on_save(
        self, args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """Writes the reports up to this checkpoint."""
        if args.should_save:
            write_histories(Path(args.output_dir), state.log_history, remedy=self._remedy)


class MeasureHeldOut(TrainerCallback):
    """Measures after the last step too, and ends a run that has got no better for long.

    Args:
        held_out: What is measured.
        patience: Measurements in a row without a better one after which the run ends; None never.
    """

    def __init__(self, held_out: HeldOut, *, patience: int | None) -> None:
        self._held_out, self._patience = held_out, patience

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The last step is measured, and each measured one reported."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = True
        if control.should_evaluate:
            control.should_log = True

    def on_evaluate(
        self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends the run, with a checkpoint from which it would not go on either."""
        if self.over:
            control.should_training_stop = control.should_save = True

    @property
    def over(self) -> bool:
        """Whether the run has got no better for long."""
        return self._patience is not None and self._held_out.best.since >= self._patience

    def on_save(
        self, args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """Removes the weights that this checkpoint does not call the best."""
        if args.should_save:
            forget_best(Path(args.output_dir), but=self._held_out.best.step)


class SaveAtInterrupt(TrainerCallback):
    """At Ctrl-C or SIGTERM finishes the step, saves a checkpoint and ends the run.

    A second one, later than a second after the first, ends it at once. Only a run of one process
    does this: ranks would be interrupted at different steps, and could not save together.
    """

    def __init__(self) -> None:
        self._signum: int | None = None
        self._at = 0.0
        self._before: dict[int, Any] = {}

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends the run after the step in which the signal came."""
        if self._signum is not None and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    @contextmanager
    def listening(self, *, ranks: int) -> Iterator[None]:
        """Takes the signals in the context; at its end they take effect as they would without it.

        Args:
            ranks: The number of processes of the run; with more than one it does nothing.
        """
        if ranks > 1 or threading.current_thread() is not threading.main_thread():
            yield
            return
        for one in _SIGNALS:
            before = signal.getsignal(one)
            if before not in (signal.SIG_IGN, None):
                self._before[one] = before
                signal.signal(one, self._take)
        try:
            yield
        finally:
            self._restore()
        if self._signum is not None:
            signal.raise_signal(self._signum)

    def _take(self, signum: int, _frame: object) -> None:
        if self._signum is None:
            self._signum, self._at = signum, time.monotonic()
        elif time.monotonic() - self._at > _SAME_WISH_SECONDS:
            self._restore()
            signal.raise_signal(signum)

    def _restore(self) -> None:
        for one, before in self._before.items():
            signal.signal(one, before)
