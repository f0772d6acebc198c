"""`fit`: trains a student on a store and writes the folder of a run; no teacher is loaded.

What is cheap is checked first: the options before the store is opened, the store and the folder
before the student is loaded, and the student before a batch is read.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback

from logitstore import CorruptionError, StorageError
from logitstore.plumbing import choose_device, takes, tell_stage
from trainer.data.mixture import MixedStore
from trainer.data.packing import Lengths, Packing
from trainer.data.selection import Selection, refuse_unselectable
from trainer.losses import Loss, SpanLoss
from trainer.losses.distillation import refuse_unserved
from trainer.losses.samples import told_of_sampler
from trainer.training.advising import FirstStep, recipe_of_run
from trainer.training.arguments import computing_dtype, training_arguments
from trainer.training.batching import batches_of, selection_of
from trainer.training.callbacks import (
    MeasureHeldOut,
    ReportToFolder,
    SaveAtInterrupt,
    TellProgress,
)
from trainer.training.checkpoints import newest_completed
from trainer.training.compiling import compiled_layers
from trainer.training.damage import sound_store
from trainer.training.finishing import finish
from trainer.training.fit_loop import FitLoop
from trainer.training.fit_options import FIT_OPTIONS, fit_options
from trainer.training.held_out import HeldOut, held_batches, open_held_out
from trainer.training.hinting import hints_of, hints_words, refuse_unhinted
from trainer.training.mixing import open_sources
from trainer.training.new_record import counted, new_record, refuse_other_student
from trainer.training.options import FitOptions
from trainer.training.prepared import prepared_student
from trainer.training.pushing import make_repository
from trainer.training.ranks import Ranks, begin_together
from trainer.training.retokenizing import in_students_tokens, prepare
from trainer.training.run_record import (
    earlier_fingerprints,
    run_fingerprint,
    write_record,
)
from trainer.training.run_result import (
    refuse_in_the_way,
    tokenizer_of,
)
from trainer.training.saved_dtype import saved_dtype
from trainer.training.sharding import refuse_unsharded, whole_weights
from trainer.training.state_files import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel, TrainingArguments

    from trainer.losses.hints import Hints
    from trainer.training.value_schedule import ValueSchedule


__all__ = ["fit"]

_RESUME = "Make room, then go on from the last whole checkpoint (--resume)"


@takes(FIT_OPTIONS)
def fit(**values: Any) -> dict[str, Any]:
    """Distil a student from stores into the folder of a run; returns the content of run.json.

    The loss is `(1 - alpha)` cross-entropy plus `alpha T^2` divergence from the teacher at
    temperature T, both in nats and averaged over the counted targets of a step. With the losses alm
    and uld the student may have another tokenizer than the store (docs/cross-tokenizer.md). If the
    store holds several draws of a target at T, each epoch reads the next one, and after the last
    the first. The optimiser is AdamW. The learning rate rises along a line, without a step at 0,
    and then falls as `lr_schedule` says. A student with routed experts has their load-balancing
    loss added.

    With `resume` an unfinished run goes on from its newest whole checkpoint and gives the same
    weights as a run without a stop; a checkpoint that has changed since it was written is passed
    over with a warning. With more `steps` or `epochs` the run is made longer: from that checkpoint
    on it has the learning rate of the new length. A finished run is not changed otherwise; where
    files of its result are gone, `resume` makes them anew. A finished run keeps no checkpoint
    unless `keep_checkpoints` says so, and its weights are saved in the student's own number type.

    Raises SettingError, SpecError (the run was begun with other options), StoreError (also for a
    run whose files have changed), StorageError (a place that cannot be written), ModelError,
    WorkerError (another rank has died).
    """
    options = fit_options(**values)
    store = open_sources(
        options.logits,
        model=options.student_name,
        max_memory=options.max_memory,
        documents=options.average,
    )
    loss = options.chosen_loss()
    if isinstance(loss, SpanLoss):
        loss.refuse_unserved(store.spec.sparsifier, temperature=options.temperature)
    else:
        for temperature in _temperatures(options):
            refuse_unserved(store.spec, loss=loss, temperature=temperature)
        if (told := told_of_sampler(store.spec, loss=loss)) is not None:
            warn(told)
    rule = options.rule
    if rule is not None:
        refuse_unselectable(store, rule)
    refuse_unhinted(options, store)
    device = choose_device(options.device)
    args = training_arguments(options, dtype=computing_dtype(options.dtype, device), device=device)
    refuse_unsharded(options, args)
    store = sound_store(store, options, args)
    if isinstance(loss, SpanLoss):
        store = in_students_tokens(store, options)
    held = open_held_out(options, store=store, loss=loss) if isinstance(loss, Loss) else None
    wanted = options.wanted(
        store=store.fingerprint,
        dtype=computing_dtype(options.dtype, device),
        held_out=None if held is None else held.fingerprint,
    )
    parts = store.describe() if isinstance(store, MixedStore) else None
    found = begin_together(args, wanted=wanted, parts=parts, resume=options.resume)
    if found is not None and found["finished"]:
        return found
    if options.push_to_hub is not None and args.should_save:
        make_repository(options.push_to_hub)
    tokenizer = tokenizer_of(store)
    refuse_in_the_way(options.out, tokenizer)
    work = _Fit(
        store=store,
        held=held,
        options=options,
        wanted=wanted,
        args=args,
        begun=found,
        tokenizer=tokenizer,
    )
    with _telling_what_is_kept(options.out), Ranks.meet(args).watched():
        return work.run()


def _temperatures(options: FitOptions) -> list[float]:
    """Temperatures that a store must serve: the ends of a schedule, and what lies between."""
    schedule = options.schedule("temperature")
    found = [*schedule.values]
    if schedule.continuous:
        found.append(sum(schedule.values) / 2)
    return found


@contextmanager
def _telling_what_is_kept(out: Path) -> Iterator[None]:
    """Add which checkpoint a resumed run goes on from to an interruption and to an error."""
    try:
        yield
    except KeyboardInterrupt as error:
        newest = newest_completed(out)
        error.add_note("no checkpoint was written yet" if newest is None else f"{newest} is kept")
        raise
    except (CorruptionError, StorageError) as error:
        newest, told = newest_completed(out), error.remedy or ""
        if newest is not None and "--resume" not in told:
            kept = f"{newest} is kept: --resume goes on from it once this is mended"
            error.remedy = f"{told}. {kept}" if told else kept
        raise


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fit:
    """One run, after the checks that are cheap."""

    store: Any  # a StoreLike: a store, one without its damaged blocks, several as one
    options: FitOptions
    wanted: dict[str, Any]
    args: TrainingArguments
    held: Any  # the held-out store, a StoreLike; None without one
    begun: dict[str, Any] | None  # run.json, where the run goes on
    tokenizer: dict[str, bytes]  # the store's, by the names of its files

    def run(self) -> dict[str, Any]:
        """Train to the last step and write the result."""
        prepare(self.store, args=self.args, on_progress=self.options.on_progress)
        selection = self._selection()
        tell_stage(self.options.on_progress, f"loading {Path(self.options.student_name).name}")
        own = getattr(self.options.student, "dtype", None)
        with whole_weights(self.args):
            student = prepared_student(self.options, store=self.store, device=self.args.device)
        tell_stage(self.options.on_progress, "packing documents")
        lengths = Lengths(self.store)
        hints = hints_of(self.options, self.store, student, begun=(self.begun or {}).get("hints"))
        record = self.begun or new_record(
            self.store,
            self.options,
            wanted=self.wanted,
            ranks=self.args.world_size,
            student=student,
            lengths=lengths,
            selection=selection,
            hints=hints,
        )
        refuse_other_student(student, record, self.options)
        record = counted(record, lengths)
        if hints is None:
            return self._learn(student, record, lengths, selection, None, own=own)
        if callable(self.options.on_note) and self.args.should_save:
            self.options.on_note(hints_words(hints))
        with hints.attached(student):
            return self._learn(student, record, lengths, selection, hints, own=own)

    def _learn(
        self,
        student: PreTrainedModel,
        record: dict[str, Any],
        lengths: Lengths,
        selection: Selection | None,
        hints: Hints | None,
        *,
        own: torch.dtype | None,
    ) -> dict[str, Any]:
        """Train the student, whose maps are attached, and write the result in its `own` type."""
        batches = batches_of(
            self.store,
            model=student,
            packing=Packing.from_json(record["packing"]),
            lengths=lengths,
            temperature=self.options.temperature,
            selection=selection,
            layers=() if hints is None else hints.names,
        )
        self.args.max_steps = record["settings"]["steps"]
        interrupt, held_out = SaveAtInterrupt(), self._held_out(student)
        first_step = self._first_step(student)
        measure = []
        if held_out is not None:
            measure = [MeasureHeldOut(held_out, patience=self.options.patience)]
        loop = FitLoop(
            model=student,
            args=self.args,
            train_dataset=batches,
            alpha=self.options.alpha,
            loss=self.options.chosen_loss(),
            router_weight=self.options.router_weight,
            hints=hints,
            rise=self._rise(),
            schedule=self.options.lr_schedule,
            floor=self.options.lr_floor,
            held_out=held_out,
            keep_best=self.options.keep_best,
            alpha_schedule=self._changing("alpha"),
            temperature_schedule=self._changing("temperature"),
            first_step=first_step,
            callbacks=[
                *([] if first_step is None else [first_step]),
                *measure,
                interrupt,
                ReportToFolder(self.options.report or (lambda _: None), remedy=_RESUME),
            ],
        )
        loop.remove_callback(PrinterCallback)
        loop.add_callback(TellProgress(self.options.on_progress, lambda: loop.tokens_seen))
        loop.resume_remedy = _RESUME
        loop.run, loop.run_before = run_fingerprint(record), earlier_fingerprints(record)
        if record != self.begun and self.args.should_save:
            write_record(self.options.out, record)
        with compiled_layers(student, settings=self.options.compile_settings):
            self._train(loop, interrupt, over=lambda: any(one.over for one in measure))
        return finish(
            loop,
            record,
            self.options,
            tokenizer=self.tokenizer,
            dtype=saved_dtype(self.options, own),
            remedy=_RESUME,
        )

    def _changing(self, name: str) -> ValueSchedule | None:
        """How alpha or the temperature changes; None where it does not."""
        schedule = self.options.schedule(name)
        return None if schedule.shape == "constant" else schedule

    def _first_step(self, student: PreTrainedModel) -> FirstStep | None:
        """What warns of the settings after the first step of a run that begins now."""
        recipe = recipe_of_run(self.options, self.store, steps=self.args.max_steps)
        if recipe is None or self.begun is not None:
            return None
        columns = len(student.get_output_embeddings().weight)
        return FirstStep(recipe, spec=self.store.spec, columns=columns)

    def _held_out(self, student: PreTrainedModel) -> HeldOut | None:
        """What is measured during the run, and how often."""
        if self.held is None:
            return None
        self.args.eval_strategy = "steps"
        self.args.eval_steps = self.options.eval_steps or max(1, self.args.max_steps // 10)
        ranks = self.args.world_size
        batches = held_batches(self.held, self.options, model=student, ranks=ranks)
        return HeldOut(batches=batches, metric=self.options.best_by)

    def _selection(self) -> Selection | None:
        """Which targets count in the soft part: as run.json says, or as measured now."""
        rule, labels = self.options.rule, self.options.select_labels
        if rule is None:
            return None
        if self.begun is not None:
            return Selection.of(rule, labels=labels, content=self.begun["selected"])
        tell_stage(self.options.on_progress, "selecting targets")
        return selection_of(
            self.store,
            self.options.select,
            labels=labels,
            temperature=self.options.temperature,
        )

    def _rise(self) -> int:
        """The steps in which the learning rate rises."""
        if self.options.warmup_steps is not None:
            return self.options.warmup_steps
        return math.ceil(self.options.warmup * self.args.max_steps)

    def _train(
        self, loop: FitLoop, interrupt: SaveAtInterrupt, *, over: Callable[[], bool]
    ) -> None:
        """Train from the newest whole checkpoint, if there is one, to the last step.

        `over` says whether a run that was measured has ended before it.
        """
        newest = loop.newest_checkpoint()
        if newest is not None:
            loop.restore_state(newest)
            if newest.step >= self.args.max_steps or over():
                loop.restore(newest)  # it was killed after the last step: no step is left
                return
        with interrupt.listening(ranks=self.args.world_size):
            loop.train_from(newest)
