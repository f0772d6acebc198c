"""`fit`: a store and a student in, a run's folder out; the teacher is never loaded.

The order of work is that of cost: settings are checked before the store is opened, the store and
the folder before the student is loaded, the student before a batch is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments

import logitstore
from logitstore import LogitStoreError, ModelError, SettingError
from logitstore.plumbing import LMHead, LocalStorage, check_head
from trainer.data import order
from trainer.data.batches import BatchStream, count_steps
from trainer.data.layout import choose_layout
from trainer.data.packing import Lengths, Packing, choose_packing
from trainer.losses import LOSSES, choose_view
from trainer.training import run
from trainer.training.loop import (
    DistillationTrainer,
    Objective,
    learning_inside_forward,
    saving_at_interrupt,
)
from trainer.training.student import Student, load_student

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from logitstore import Store

__all__ = ["fit"]

_DTYPES = ("auto", "float32", "bfloat16")
_DEVICES = ("auto", "cpu", "cuda")
# Two checkpoints are kept: the newest, and the one before it while the newest is being written.
_CHECKPOINTS = 2


def fit(
    *,
    logits: str | Path,
    student: str | Path,
    out: str | Path,
    alpha: float = 0.9,
    temperature: float = 1.0,
    loss: str = "forward_kl",
    epochs: int | None = None,
    steps: int | None = None,
    batch_tokens: int = 16384,
    micro_tokens: int | None = None,
    lr: float = 3e-4,
    warmup: float = 0.03,
    weight_decay: float = 0.1,
    seed: int = 0,
    window: int | None = None,
    save_steps: int = 500,
    log_steps: int = 10,
    resume: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    report: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Distil `student` from the store `logits` into the folder `out`; what run.json then says.

    The loss is `(1 - alpha)` cross-entropy plus `alpha T^2` divergence from the teacher at
    temperature T, both in nats and averaged over the counted targets of a step. `loss` names the
    divergence; of a store that drew its targets several times each epoch reads the next draw at T,
    and the first again after the last. AdamW (0.9, 0.95),
    gradients clipped at norm 1, a linear warm-up over the share `warmup` of the steps, then a
    cosine down to 0. One epoch where neither `epochs` nor `steps` is given.

    `batch_tokens` are those of an optimiser step over all ranks, `micro_tokens` those of one
    forward pass. `report` is called with each report of the loss.

    With `resume` an unfinished run goes on from its newest whole checkpoint, bit by bit as if it
    had never stopped. A finished run is left as it is. Raises SettingError, SpecError (other
    settings than the run was begun with), StoreError, ModelError.
    """
    if epochs is None and steps is None:
        epochs = 1
    dtype, device = _resolved(dtype, device)
    wanted = {
        "student": str(student),
        "alpha": alpha,
        "temperature": temperature,
        "loss": loss,
        "epochs": epochs,
        "steps": steps,
        "batch_tokens": batch_tokens,
        "micro_tokens": micro_tokens,
        "lr": lr,
        "warmup": warmup,
        "weight_decay": weight_decay,
        "seed": seed,
        "window": window,
        "dtype": dtype,
    }
    _refuse_settings(wanted | {"save_steps": save_steps, "log_steps": log_steps})
    store = logitstore.open(logits)
    choose_view(store.spec.sparsifier, loss=LOSSES[loss], temperature=temperature)
    wanted["store"] = store.fingerprint
    args = _arguments(wanted, out=Path(out), device=device)
    args.save_steps, args.logging_steps = save_steps, log_steps  # change no weight: not `wanted`
    found = _begin(args, wanted=wanted, resume=resume)
    if found is not None and found["finished"]:
        return found
    return _Fit(
        store=store,
        wanted=wanted,
        args=args,
        out=Path(out),
        begun=found,
        report=report or (lambda _: None),
    ).run()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fit:
    """One run, after everything that can be refused cheaply has been looked at."""

    store: Store
    wanted: dict[str, Any]
    args: TrainingArguments
    out: Path
    begun: dict[str, Any] | None  # run.json, where the run goes on
    report: Callable[[dict[str, float]], None]

    def run(self) -> dict[str, Any]:
        """Train to the last step and write the result."""
        spec = self.store.spec
        student = load_student(self.wanted["student"], spec=spec, seed=self.wanted["seed"])
        model = student.model.to(self.args.device)
        _check_head(student, vocab_size=spec.tokenizer.vocab_size)
        lengths = Lengths(self.store)
        record = self.begun or self._record(student, lengths)
        stream = BatchStream(
            self.store,
            packing=Packing.from_json(record["packing"]),
            lengths=lengths,
            layout=choose_layout(model, vocab_size=spec.tokenizer.vocab_size),
            temperature=self.wanted["temperature"],
            rank=self.args.process_index,
            ranks=self.args.world_size,
        )
        self._set_steps(record["settings"]["steps"], per_step=stream.per_step)
        if self.begun is None and self.args.should_save:
            run.write_json(self.out / "run.json", record)
        objective = Objective(
            loss=self.wanted["loss"],
            alpha=self.wanted["alpha"],
            temperature=self.wanted["temperature"],
            vocab_size=spec.tokenizer.vocab_size,
            sparsifier=spec.sparsifier,
        )
        with learning_inside_forward(model, objective):
            loop = self._train(model, stream)
        return self._finish(loop, record)

    def _record(self, student: Student, lengths: Lengths) -> dict[str, Any]:
        """What run.json says of a run that begins now."""
        packing = _packing(self.store, self.wanted)
        steps = self.wanted["steps"]
        if steps is None:
            steps = count_steps(packing, lengths, epochs=self.wanted["epochs"])
        return {
            "format": run.FORMAT,
            "wanted": self.wanted,
            "settings": self.wanted | {"steps": steps},
            "packing": packing.to_json(),
            "store": self.store.fingerprint,
            "teacher": self.store.spec.teacher.name,
            "parameters": student.parameters,
            "finished": False,
        }

    def _set_steps(self, steps: int, *, per_step: int) -> None:
        self.args.max_steps = steps
        self.args.gradient_accumulation_steps = per_step
        self.args.warmup_steps = math.ceil(self.wanted["warmup"] * steps)

    def _train(self, model: Any, stream: BatchStream) -> DistillationTrainer:
        newest = run.newest_checkpoint(self.out)
        state: dict[str, Any] = {"step": 0, "seconds": 0.0, "sums": {}}
        if newest:
            state = newest[1]
            stream.load_state_dict(state["stream"])
        loop = DistillationTrainer(
            model=model,
            args=self.args,
            stream=stream,
            report=self.report,
            seconds=state["seconds"],
            sums=state["sums"],
        )
        loop.accelerator.wait_for_everyone()  # all have looked before torn folders go
        if self.args.should_save:
            run.remove_torn_checkpoints(self.out)
        try:
            if state["step"] < self.args.max_steps:
                with run.explain_full_disk(self.out), saving_at_interrupt(loop):
                    loop.train(resume_from_checkpoint=str(newest[0]) if newest else None)
            elif newest:  # killed between the last step and the end: nothing is left to train
                loop.restore(newest[0])
        finally:
            loop.close()
        return loop

    def _finish(self, loop: DistillationTrainer, record: dict[str, Any]) -> dict[str, Any]:
        """The result: model, tokenizer, history, and run.json last."""
        _refuse_ruined(loop)
        with run.explain_full_disk(self.out):
            loop.save_model(str(self.out))
        finished = record | {
            "finished": True,
            "seconds": loop.seconds,
            "metrics": loop.history[-1],
        }
        if self.args.should_save:
            LocalStorage(self.out).delete("training_args.bin")  # a pickle, and ours
            _write_tokenizer(self.store.tokenizer_files(), LocalStorage(self.out))
            run.write_json(self.out / "history.json", loop.history)
            run.write_json(self.out / "run.json", finished)
        loop.accelerator.wait_for_everyone()
        return finished


def _refuse_ruined(loop: DistillationTrainer) -> None:
    """The loss is looked at before each step; what the last one did shows in the weights alone."""
    ruined = [
        name
        for name, weight in loop.model.named_parameters()
        if not bool(torch.isfinite(weight).all())
    ]
    if ruined:
        raise ModelError(
            "the last step left weights that are no finite numbers; nothing was saved",
            place=ruined[0],
            found=f"{len(ruined)} tensors",
            remedy="Begin a run with a lower --lr in another folder",
        )


def _refuse_settings(settings: dict[str, Any]) -> None:
    """Everything that is wrong whatever the store and the student are."""
    limits: dict[str, tuple[Callable[[Any], bool], str]] = {
        "alpha": (lambda value: 0 <= value <= 1, "0 to 1"),
        "temperature": (lambda value: 0 < value < math.inf, "more than 0"),
        "loss": (lambda value: value in LOSSES, ", ".join(LOSSES)),
        "epochs": (lambda value: value is None or value >= 1, "1 or more"),
        "steps": (lambda value: value is None or value >= 1, "1 or more"),
        "batch_tokens": (lambda value: value >= 1, "1 or more"),
        "micro_tokens": (lambda value: value is None or value >= 1, "1 or more"),
        "lr": (lambda value: 0 < value < math.inf, "more than 0"),
        "warmup": (lambda value: 0 <= value <= 1, "0 to 1"),
        "weight_decay": (lambda value: 0 <= value < math.inf, "0 or more"),
        "seed": (lambda value: 0 <= value < 2**32, "0 to 2^32 - 1"),
        "window": (lambda value: value is None or value >= 1, "1 or more"),
        "save_steps": (lambda value: value >= 1, "1 or more"),
        "log_steps": (lambda value: value >= 1, "1 or more"),
    }
    for name, (fits, allowed) in limits.items():
        if not fits(settings[name]):
            option = f"--{name.replace('_', '-')}"
            raise SettingError(
                "the value does not fit", place=option, found=settings[name], allowed=allowed
            )
    if settings["epochs"] is not None and settings["steps"] is not None:
        raise SettingError("--epochs and --steps exclude each other", remedy="Give one of them")


def _resolved(dtype: str, device: str) -> tuple[str, str]:
    """The number type and the device that "auto" stands for here."""
    for name, value, allowed in (("--dtype", dtype, _DTYPES), ("--device", device, _DEVICES)):
        if value not in allowed:
            raise SettingError("unknown value", place=name, found=value, allowed=", ".join(allowed))
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingError("there is no GPU here", place="--device", found=device, allowed="cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    return dtype, device


def _arguments(wanted: dict[str, Any], *, out: Path, device: str) -> TrainingArguments:
    """transformers' settings: those of the user, and those that its traps ask for."""
    return TrainingArguments(
        output_dir=str(out),
        learning_rate=wanted["lr"],
        lr_scheduler_type="cosine",
        weight_decay=wanted["weight_decay"],
        adam_beta2=0.95,
        max_grad_norm=1.0,
        seed=wanted["seed"],
        bf16=wanted["dtype"] == "bfloat16",
        use_cpu=device == "cpu",
        per_device_train_batch_size=1,
        save_strategy="steps",
        save_total_limit=_CHECKPOINTS,
        logging_strategy="steps",
        logging_first_step=True,
        logging_nan_inf_filter=False,
        ignore_data_skip=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        log_level="error",
        report_to="none",
    )


def _begin(
    args: TrainingArguments, *, wanted: dict[str, Any], resume: bool
) -> dict[str, Any] | None:
    """`run.begin`, decided by the first rank alone, which writes what the others would look at."""
    answer: list[Any] = [None]
    if args.process_index == 0:
        try:
            answer = [run.begin(Path(args.output_dir), wanted=wanted, resume=resume)]
        except LogitStoreError as error:
            answer = [error]
    if args.world_size > 1:
        broadcast_object_list(answer)
    if isinstance(answer[0], LogitStoreError):
        raise answer[0]
    return answer[0]


def _packing(store: Store, wanted: dict[str, Any]) -> Packing:
    spec = store.spec
    lanes = order.lane_count(len(store.blocks))
    # An entry is held as uint32, float32 and, of one draw at a time, bool; a token as uint32 and
    # bool.
    entry = 8 if spec.sparsifier.seed is None else 9
    window = wanted["window"] or order.default_window(
        blocks=len(store.blocks),
        lanes=lanes,
        block_bytes=max(
            (one.targets * spec.sparsifier.k * entry + one.tokens * 5 for one in store.blocks),
            default=0,
        ),
    )
    return choose_packing(
        shuffle=order.Shuffle(
            fingerprint=store.fingerprint, seed=wanted["seed"], lanes=lanes, window=window
        ),
        max_length=spec.text.max_length,
        batch_tokens=wanted["batch_tokens"],
        micro_tokens=wanted["micro_tokens"],
    )


def _check_head(student: Student, *, vocab_size: int) -> None:
    """The head we multiply by ourselves must give the logits that the model gives."""
    model = student.model.eval()
    probe = torch.arange(min(8, vocab_size), device=model.device)[None]
    with torch.no_grad():
        check_head(model, LMHead.of(model, vocab_size=vocab_size), probe)


def _write_tokenizer(files: Mapping[str, bytes], run: LocalStorage) -> None:
    """The store's tokenizer beside the model; files of the model's own names are left out."""
    for name, data in files.items():
        run.put_if_absent(name, data)
