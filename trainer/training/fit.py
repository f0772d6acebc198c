"""`fit`: trains a student on a store and writes the folder of a run; no teacher is loaded.

What is cheap is checked first: the options before the store is opened, the store and the folder
before the student is loaded, and the student before a batch is read.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from transformers import PrinterCallback

from logitstore import CorruptionError, ModelError, SpecError, StorageError
from logitstore.plumbing import LocalStorage, choose_device, takes, tell_stage
from trainer.data.averaged import AveragedStore
from trainer.data.batches import count_steps
from trainer.data.mixture import MixedStore
from trainer.data.packing import Lengths, Packing
from trainer.data.selection import Selection, refuse_unselectable
from trainer.data.spans import has_spans
from trainer.losses import Loss, SpanLoss
from trainer.losses.distillation import refuse_unserved
from trainer.losses.samples import told_of_sampler
from trainer.training import run_folder
from trainer.training.adaptation import without_adapter
from trainer.training.advising import FirstStep, recipe_of_run
from trainer.training.arguments import computing_dtype, training_arguments
from trainer.training.batching import batches_of, plan_packing, selection_of
from trainer.training.best import forget_best
from trainer.training.callbacks import (
    MeasureHeldOut,
    ReportToFolder,
    SaveAtInterrupt,
    TellProgress,
    write_histories,
)
from trainer.training.checkpoints import newest_completed, remove_checkpoints
from trainer.training.compiling import compiled_layers
from trainer.training.damage import sound_store
from trainer.training.fit_loop import FitLoop
from trainer.training.fit_options import FIT_OPTIONS, fit_options
from trainer.training.held_out import HeldOut, held_batches, open_held_out
from trainer.training.hinting import hints_of, hints_record, hints_words, refuse_unhinted
from trainer.training.metrics import history_of
from trainer.training.mixing import open_sources
from trainer.training.options import FitOptions
from trainer.training.prepared import prepared_student
from trainer.training.pushing import make_repository, push_result
from trainer.training.ranks import Ranks, begin_together
from trainer.training.retokenizing import in_students_tokens, prepare
from trainer.training.run_record import (
    FORMAT,
    earlier_fingerprints,
    run_fingerprint,
    write_record,
)
from trainer.training.run_result import (
    refuse_in_the_way,
    result_hashes,
    share_weights,
    tokenizer_of,
    write_tokenizer,
)
from trainer.training.saved_dtype import saved_dtype
from trainer.training.sharding import local_part, refuse_unsharded, whole_weights
from trainer.training.state_files import warn
from trainer.training.student import configuration_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel, TrainingArguments

    from trainer.losses.hints import Hints
    from trainer.training.loop import DistillationTrainer
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
        record = self.begun or self._record(student, lengths, selection, hints)
        _refuse_other_student(student, record, self.options)
        record = self._counted(record, lengths)
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
        return self._finish(loop, record, dtype=saved_dtype(self.options, own))

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

    def _record(
        self,
        student: PreTrainedModel,
        lengths: Lengths,
        selection: Selection | None,
        hints: Hints | None,
    ) -> dict[str, Any]:
        """The content of run.json for a run that begins now."""
        packing = plan_packing(
            self.store,
            seed=self.options.seed,
            batch_tokens=self.options.batch_tokens,
            micro_tokens=self.options.micro_tokens,
            window=self.options.window,
            ranks=self.args.world_size,
        )
        steps = self.wanted["steps"]
        if steps is None:
            steps = count_steps(packing, lengths, epochs=self.wanted["epochs"])
        return {
            "format": FORMAT,
            "wanted": self.wanted,
            "settings": self.wanted | {"steps": steps},
            "packing": packing.to_json(),
            "store": self.store.fingerprint,
            "teacher": self.store.spec.teacher.name,
            "parameters": _parameters(student),
            "configuration": configuration_hash(self.options.student),
            "finished": False,
        } | self._besides(selection, hints)

    def _counted(self, record: dict[str, Any], lengths: Lengths) -> dict[str, Any]:
        """The record with the steps of a run that was made longer by epochs."""
        if record["settings"]["steps"] is not None:
            return record
        packing = Packing.from_json(record["packing"])
        steps = count_steps(packing, lengths, epochs=self.wanted["epochs"])
        before = record["extended"][-1]
        if steps <= before:
            raise SpecError(
                "the run would not be longer than it was",
                place="--epochs",
                found=f"{self.wanted['epochs']}, which are {steps} steps",
                allowed=f"more than {before} steps",
            )
        return record | {"settings": record["settings"] | {"steps": steps}}

    def _rise(self) -> int:
        """The steps in which the learning rate rises."""
        if self.options.warmup_steps is not None:
            return self.options.warmup_steps
        return math.ceil(self.options.warmup * self.args.max_steps)

    def _besides(self, selection: Selection | None, hints: Hints | None) -> dict[str, Any]:
        """What run.json says of several stores, of what is left out, and of several ranks."""
        said: dict[str, Any] = {}
        if isinstance(self.store, MixedStore):
            said["parts"] = self.store.describe()
        if isinstance(self.store, AveragedStore):
            said["averaged"] = self.store.describe()
            said["left_out"] = list(self.store.left_out)
        if self.options.skip_damaged is not None:
            said["damaged"] = [list(astuple(one)) for one in self.store.damaged]
        if has_spans(self.store.spec):
            said["crossed"] = self.store.counts
        if selection is not None:
            said["selected"] = selection.to_json()
        if hints is not None:
            said["hints"] = hints_record(hints)
        if self.args.world_size > 1:
            said["ranks"] = self.args.world_size
        return said

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

    def _finish(
        self, loop: FitLoop, record: dict[str, Any], *, dtype: torch.dtype
    ) -> dict[str, Any]:
        """Write the result: model, tokenizer, history, and run.json last."""
        _refuse_ruined(loop)
        out = self.options.out
        finished = record | {
            "format": FORMAT,
            "finished": True,
            "seconds": loop.seconds,
            "metrics": history_of(loop.state.log_history)[-1],
        }
        if loop.held_out is not None:
            finished["best"] = asdict(loop.held_out.best) | {"by": loop.held_out.metric}
        with run_folder.explain_failed_write(out, remedy=_RESUME):
            loop.take_best()
            if self.options.lora_result == "merged":
                loop.model = without_adapter(loop.model)
            loop.save_result(out, dtype=dtype)
            if self.args.should_save:
                LocalStorage(out).delete("training_args.bin")  # a pickle that nobody needs
                write_tokenizer(out, self.tokenizer)
                write_histories(out, loop.state.log_history, remedy=_RESUME)
                share_weights(out)
                # What transformers wrote, before it is named as the result.
                LocalStorage(out).sync()
                finished["files"] = result_hashes(out, tokenizer=self.tokenizer)
                write_record(out, finished)
                if not self.options.keep_checkpoints:
                    remove_checkpoints(out)
                    forget_best(out)
        loop.accelerator.wait_for_everyone()
        if self.options.push_to_hub is not None and self.args.should_save:
            tell_stage(self.options.on_progress, f"uploading to {self.options.push_to_hub}")
            push_result(out, self.options.push_to_hub)
        return finished


def _refuse_ruined(loop: DistillationTrainer) -> None:
    """Raise ModelError for weights that are not finite: no loss follows the last step.

    Of a sharded student each rank looks at its own part, and all of them raise.
    """
    ruined = [
        name
        for name, weight in loop.model.named_parameters()
        if not bool(torch.isfinite(local_part(weight)).all())
    ]
    if loop.args.world_size > 1:
        ruined = sorted({*gather_object(ruined)})
    if ruined:
        raise ModelError(
            "the last step left weights that are no finite numbers; nothing was saved",
            place=ruined[0],
            found=f"{len(ruined)} tensors",
            remedy="Begin a run with a lower --lr in another folder",
        )


def _refuse_other_student(
    student: PreTrainedModel, record: dict[str, Any], options: FitOptions
) -> None:
    """Raise ModelError where the student is not the one that the run was begun with.

    The same weights compute something else where its configuration says so.
    """
    name, configuration = options.student_name, configuration_hash(options.student)
    found = {"parameters": _parameters(student), "configuration": configuration}
    called = {"parameters": "number of parameters", "configuration": "configuration"}
    for what, value in found.items():
        # Runs of earlier versions name no configuration.
        if record.get(what, value) != value:
            raise ModelError(
                "the student is not the one that the run was begun with: "
                f"it has another {called[what]}",
                place=name,
                found=value,
                allowed=record[what],
                remedy="Give the student of before, or name another folder (--out)",
            )


def _parameters(student: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in student.parameters())
