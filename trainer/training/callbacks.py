"""What watches over a run: numbers that are none, ctrl-C, and the reports that go to its folder."""

from __future__ import annotations

import math
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from logitstore import ModelError
from trainer.training import run_folder
from trainer.training.metrics import history_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import TrainerControl, TrainerState, TrainingArguments

__all__ = ["ReportToFolder", "SaveAtInterrupt", "StopBeforeNonFinite"]


class StopBeforeNonFinite(TrainerCallback):
    """Stops before a loss that is no finite number reaches the weights."""

    def __init__(self, take_loss: Callable[[], float]) -> None:
        self._take_loss = take_loss  # of the step whose gradient is complete

    def on_pre_optimizer_step(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """One look a step: the value is needed on the host, and once costs under 1 %."""
        value = self._take_loss()
        if not math.isfinite(value):
            raise ModelError(
                "the loss is no finite number; the weights were left as they were before this step",
                place=f"step {state.global_step + 1}",
                found=value,
                remedy="Begin again with a lower learning rate (--lr), in another folder",
            )


class ReportToFolder(TrainerCallback):
    """Hands on each report of the loss, the last step's too, and keeps history.json up to date."""

    def __init__(self, report: Callable[[dict[str, float]], None], *, remedy: str) -> None:
        self._report = report
        self._remedy = remedy  # where history.json cannot be written

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The last step of a run is always reported."""
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """The report that was logged just now, if it is one of the loss."""
        newest = history_of(state.log_history[-1:])
        if newest and state.is_world_process_zero:
            self._report(newest[0])

    def on_save(
        self, args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """The reports up to this checkpoint."""
        if args.should_save:
            path = Path(args.output_dir) / "history.json"
            with run_folder.explain_failed_write(path, remedy=self._remedy):
                run_folder.write_json(path, history_of(state.log_history))


class SaveAtInterrupt(TrainerCallback):
    """Lets ctrl-C finish the step and save it before it ends the run; a second ends it at once.

    Ranks are interrupted at different steps and could not save together, so only a run of one
    process does this.
    """

    def __init__(self) -> None:
        self._interrupted = False

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The step under way when it came was the last."""
        if self._interrupted and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    @contextmanager
    def listening(self, *, ranks: int) -> Iterator[None]:
        """Takes ctrl-C while it lasts, and raises KeyboardInterrupt at its end if it came."""
        if ranks > 1 or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        if self._interrupted:
            raise KeyboardInterrupt

    def _interrupt(self, *_: object) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
