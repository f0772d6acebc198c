"""What the files of a run's folder say of how it learnt; a model without them says nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore import SettingError, StoreError
from trainer.advice.facts import Course
from trainer.losses import SPAN_LOSSES, Loss
from trainer.losses.options import ALPHA, LOSS, LOSS_OPTIONS, TEMPERATURE, chosen_loss
from trainer.training.run_record import RECORD, learnt_stores, read_record
from trainer.training.state_files import (
    NUMBER,
    SECONDS,
    count,
    read_json,
    refuse_changed_file,
    refuse_odd_fields,
)
from trainer.training.value_schedule import ValueSchedule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trainer.diagnosis.options import DiagnoseOptions

__all__ = ["RunFiles"]

_PUT_BACK = "Put a copy of it back, or move it to another folder"
# What a report may hold besides numbers of any sign.
_FIELDS = {"step": count()} | dict.fromkeys(
    ("seconds", "epoch", "targets", "lr", "grad_norm", "ce", "eval_ce", "eval_targets"), SECONDS
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """How a model learnt, as far as that is known, or as the options say in its place."""

    is_run: bool
    loss: Loss
    alpha: float  # the least of the run
    temperature: float  # that of the last step
    epochs: float | None  # passes over the store with the largest weight
    stores: tuple[str, ...]  # the fingerprints of those that it learnt from
    training: Course | None  # of the loss; None where alpha or the temperature change
    held_out: Course | None  # of the figure by which its best step was chosen
    kept_best: bool
    besides: tuple[str, ...] = ()  # what it learnt otherwise than it is measured here, in sentences

    @staticmethod
    def read(options: DiagnoseOptions, folder: Path | None) -> RunFiles:
        """What the folder of a model says; what `options` give goes before it.

        Args:
            options: Those of the diagnosis.
            folder: That of the model, which need not be a run's; None for a loaded one.

        Raises StoreError for files that are not what they should be, SettingError for a run that
        learnt over spans of text.
        """
        record = read_record(folder) if folder is not None and folder.is_dir() else None
        settings = {} if record is None else record["settings"]
        if settings.get("loss") in SPAN_LOSSES and options.loss is None:
            raise SettingError(
                "the run learnt over spans of text, in tokens that are not the store's",
                place=f"{folder}/{RECORD}",
                found=f"--loss {settings['loss']}",
                remedy="Measure it with `trainer eval`",
            )
        course = _reports(folder, "history.json", record)
        held = _reports(folder, "held_out.json", record)
        figure = f"eval_{settings.get('best_by', 'loss')}"
        epochs = course[-1].get("epoch") if course else None
        parts = [] if record is None else record.get("parts", [])
        return RunFiles(
            is_run=record is not None,
            loss=_loss(options, settings),
            alpha=_alpha(options, settings),
            temperature=_temperature(options, settings),
            epochs=None
            if epochs is None
            else epochs * max([float(one["weight"]) for one in parts], default=1.0),
            stores=() if record is None else learnt_stores(record),
            training=None if _changes(settings) else _course(course, "loss"),
            held_out=_course(held, figure),
            kept_best=settings.get("keep_best", False),
            besides=() if record is None else tuple(_besides(record, folder)),
        )


def _besides(record: dict[str, Any], folder: Path | None) -> Iterator[str]:
    """What a diagnosis does not look at of how the run learnt."""
    rule, teachers = record["settings"].get("select"), record.get("averaged", ())
    if rule:
        yield (
            f"{folder}: it learnt its teacher's distributions of the targets that --select {rule} "
            "takes, and is measured here on all targets of the sample"
        )
    if teachers:
        names = " and ".join(str(one.get("name")) for one in teachers)
        yield (
            f"{folder}: it learnt from the mean of several teachers ({names}), and is measured "
            "here by the one of --logits"
        )


def _loss(options: DiagnoseOptions, settings: dict[str, Any]) -> Loss:
    if options.loss is not None or "loss" not in settings:
        found = chosen_loss(options.loss or LOSS.default, {})
    else:
        own = {one.name: settings[one.name] for one in LOSS_OPTIONS if one.name in settings}
        found = chosen_loss(settings["loss"], own)
    if not isinstance(found, Loss):
        raise SettingError("the loss compares spans of text", place="--loss", found=found.name)
    return found


def _alpha(options: DiagnoseOptions, settings: dict[str, Any]) -> float:
    if options.alpha is not None or "alpha" not in settings:
        return float(ALPHA.default if options.alpha is None else options.alpha)
    return min(_schedule(settings, "alpha").values)


def _temperature(options: DiagnoseOptions, settings: dict[str, Any]) -> float:
    if options.temperature is not None or "temperature" not in settings:
        given = options.temperature
        return float(TEMPERATURE.default if given is None else given)
    steps = settings["steps"] or 1
    return _schedule(settings, "temperature").at(steps - 1, steps=steps)


def _schedule(settings: dict[str, Any], name: str) -> ValueSchedule:
    return ValueSchedule.parse(
        settings.get(f"{name}_schedule"), first=settings[name], flag=f"--{name}-schedule"
    )


def _changes(settings: dict[str, Any]) -> bool:
    """Whether the loss of one step is another than that of the next."""
    return any(settings.get(f"{name}_schedule") for name in ("alpha", "temperature"))


def _reports(folder: Path | None, name: str, record: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The reports of a file that the run writes; none where there is no such file.

    Raises StoreError where a finished run wrote the file otherwise, and where it holds no reports.
    """
    if folder is None or record is None:
        return []
    path, hashes = folder / name, record.get("files", {})
    if name in hashes:
        refuse_changed_file(path, hashes[name])
    if not path.exists():
        return []
    found = read_json(path)
    if not isinstance(found, list):
        raise StoreError(
            "is no list of reports", place=path, found=repr(found)[:80], remedy=_PUT_BACK
        )
    for number, one in enumerate(found):
        known = one if isinstance(one, dict) else {}
        fields = {field: _FIELDS.get(field, NUMBER) for field in ("step", *known)}
        refuse_odd_fields(one, fields, place=path, of=f"{number}.")
    return found


def _course(reports: list[dict[str, Any]], figure: str) -> Course | None:
    """How a figure of reports went; None where fewer than two hold it."""
    held = [
        (one["step"], float(one[figure]))
        for one in reports
        if isinstance(one.get(figure), int | float) and math.isfinite(one[figure])
    ]
    if len(held) < 2:
        return None
    least_step, least = min(held, key=lambda one: one[1])
    return Course(
        first=held[0][1],
        least=least,
        last=held[-1][1],
        least_step=least_step,
        last_step=held[-1][0],
        reports=len(held),
    )
