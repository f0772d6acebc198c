"""Options of `fit` that do not go together, or describe what is not there: refused at once.

Importing this costs no torch, and nothing is opened here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from logitstore import SettingError
from trainer.data.answer_files import is_answers, refuse_teacher
from trainer.data.options import SPAN_ENDS
from trainer.data.sources import sources_of
from trainer.losses import SPAN_LOSSES, Loss
from trainer.losses.options import ALPHA, TEMPERATURE, refuse_average
from trainer.training.adaptation import Lora, refuse_no_peft
from trainer.training.settings import compile_settings, parse_settings

__all__ = ["refuse_misfits"]


def refuse_misfits(options: Any) -> None:
    """Raise SettingError where options are of a wrong type or do not fit together.

    Args:
        options: A `FitOptions`, each value within its own bounds.
    """
    loaded = all(hasattr(options.student, one) for one in ("get_output_embeddings", "config"))
    if not isinstance(options.student, str | Path) and not loaded:
        raise SettingError(
            "--student is neither a name nor a loaded transformers model",
            found=type(options.student).__name__,
            allowed="a transformers folder, a Hub id, or a configuration file .json",
        )
    _check_pieces(options)
    sources = sources_of(options.logits)
    for one in sources:
        if is_answers(one.store):
            refuse_teacher(one.store, alpha=options.alpha)
    if options.loss in SPAN_LOSSES and (len(sources) > 1 or sources[0].weight != 1):
        raise SettingError(
            "several stores, or one with a weight, are not served for losses over spans",
            place="--loss",
            found=options.loss,
            remedy="Learn from one store, or make one of them with `logitstore merge`",
        )
    _check_spans(options)
    _check_average(options, len(sources))
    _check_selection(options)
    _check_hints(options)
    options.chosen_loss()
    if options.report is not None and not callable(options.report):
        raise SettingError("report must be a function", found=repr(options.report)[:80])


def _check_pieces(options: Any) -> None:
    """Raise SettingError for a part that is described in a wrong way, or lacks its package."""
    if options.lora is not None:
        Lora.parse(options.lora)
        refuse_no_peft()
    _check_settings(options)
    _check_schedules(options)
    if options.eval_logits is not None and options.loss in SPAN_LOSSES:
        raise SettingError(
            "--eval-logits is not served for losses over spans of text",
            place="--loss",
            found=options.loss,
            remedy="Measure the result with `trainer eval`",
        )
    if options.lora_result == "adapter" and str(options.student).endswith(".json"):
        raise SettingError(
            "an adapter alone says nothing without its student, and a fresh one lies nowhere",
            place="--lora-result",
            found="adapter",
            allowed="merged",
        )


def _check_settings(options: Any) -> None:
    """Raise SettingError for what is no --set, or what would have no effect."""
    named = compile_settings(parse_settings(options.set or ()))
    if named and not options.compile:
        raise SettingError(
            "--set names a setting of torch.compile, and the run does not use it",
            found=", ".join(named),
            remedy="Give --compile too",
        )


def _check_schedules(options: Any) -> None:
    """Raise SettingError for a schedule that is none, or that gives values out of range."""
    for one in (ALPHA, TEMPERATURE):
        for value in options.schedule(one.name).values:
            try:
                one.check(value)
            except SettingError as error:
                raise SettingError(
                    f"--{one.name}-schedule gives a value out of range",
                    found=value,
                    allowed=error.allowed,
                ) from error
    if options.temperature_schedule is not None and options.loss in SPAN_LOSSES:
        raise SettingError(
            "--temperature-schedule is not served for losses over spans of text",
            place="--loss",
            found=options.loss,
        )
    _check_best(options)


def _check_best(options: Any) -> None:
    """Raise SettingError for a best step by a figure that is another one at each step."""
    if options.patience is None and not options.keep_best:
        return
    changes = {
        "alpha_schedule": ("loss",),
        "temperature_schedule": ("loss", "kl"),
    }
    for name, figures in changes.items():
        if getattr(options, name) is not None and options.best_by in figures:
            raise SettingError(
                f"--best-by {options.best_by} is another figure at each step of a schedule, so no "
                "step is the best by it",
                place=f"--{name.replace('_', '-')}",
                found=getattr(options, name),
                remedy="Take --best-by ce",
            )


def _check_average(options: Any, sources: int) -> None:
    """Raise SettingError for a mean of teachers where there is none."""
    if options.average is None:
        return
    if sources < 2:
        raise SettingError(
            "--average takes the mean of several teachers' targets, and one store is given",
            place="--average",
            found=options.average,
            remedy="Give --logits once for each teacher's store of the corpus",
        )
    if options.select is not None:
        raise SettingError(
            "--select is not served with --average: the entropy of the teachers' mean is not known",
            place="--select",
            found=options.select,
            remedy="Leave one of them out",
        )
    if options.skip_damaged is not None:
        raise SettingError(
            "--skip-damaged is not served with --average: what is damaged in one store would be "
            "left out of all",
            place="--skip-damaged",
            found=options.skip_damaged,
            remedy="Mend the stores (`logitstore verify` names what is damaged), or leave one of "
            "the two out",
        )
    loss = options.chosen_loss()
    if isinstance(loss, Loss):
        refuse_average(loss)


def _check_spans(options: Any) -> None:
    """Raise SettingError for options of another tokenizer that the loss does not look at."""
    given = {
        "--student-tokenizer": options.student_tokenizer,
        "--span-ends": None if options.span_ends == SPAN_ENDS.default else options.span_ends,
    }
    for name, value in given.items():
        if value is not None and options.loss not in SPAN_LOSSES:
            raise SettingError(
                f"{name} has no effect with a loss over tokens",
                place="--loss",
                found=options.loss,
                allowed=", ".join(SPAN_LOSSES),
            )


def _check_hints(options: Any) -> None:
    """Raise SettingError for hints beside what they are not served with."""
    if not options.hint_weight:
        if options.hint_layers is not None:
            raise SettingError(
                "--hint-layers has no effect without --hint-weight",
                found=options.hint_layers,
                remedy="Give --hint-weight 1 with it, or leave --hint-layers out",
            )
        return
    for flag, given, problem, remedy in (
        (
            "--loss",
            options.loss in SPAN_LOSSES and options.loss,
            "a student of another tokenizer has no position of its own for each target",
            "Leave out --hint-weight",
        ),
        (
            "--average",
            options.average,
            "several teachers' hidden states have no mean that means anything",
            "Leave out --hint-weight, or learn from the stores without --average",
        ),
        (
            "--lora",
            options.lora,
            "checkpoints of an adapter hold no maps",
            "Leave out --hint-weight, or train the student whole",
        ),
        (
            "--compile",
            options.compile,
            "compiled layers tell nobody what they give",
            "Leave out --compile",
        ),
    ):
        if given:
            raise SettingError(
                f"hints are not served with {flag}: {problem}",
                place="--hint-weight",
                found=f"{flag} {given}" if given is not True else flag,
                remedy=remedy,
            )


def _check_selection(options: Any) -> None:
    """Raise SettingError for a selection that is none, or of what it does not change."""
    if options.rule is None:
        return
    if options.loss in SPAN_LOSSES:
        raise SettingError(
            "--select is not served for losses over spans of text",
            place="--loss",
            found=options.loss,
            remedy="Leave it out, or dump with --positions",
        )
    if not any(options.schedule("alpha").values) and options.select_labels == "all":
        raise SettingError(
            "--select has no effect where the teacher's distribution has no weight",
            place="--alpha",
            found=f"{options.alpha:g}",
            remedy="Raise --alpha, or give --select-labels selected",
        )
