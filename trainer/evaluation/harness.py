"""A model answers tasks by lm-evaluation-harness: its questions, its scoring, its standard errors.

The figures are those of `lm_eval.simple_evaluate` on the same model, items and batch size, bit by
bit: the harness does all of it, and is only given a model that is loaded already.
"""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore import ModelError, SettingError
from logitstore.plumbing import Meter, evaluating, printable, tell_stage
from trainer.evaluation.harness_output import HarnessWarnings, quiet_harness

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logitstore.plumbing import OnProgress
    from trainer.evaluation.options import EvalOptions
    from trainer.evaluation.subject import Subject
    from trainer.evaluation.tasks import OpenTasks

__all__ = ["measure_tasks"]


def measure_tasks(subject: Subject, tasks: OpenTasks, options: EvalOptions) -> dict[str, Any]:
    """What `evaluate` gives of a model that was asked tasks.

    Args:
        subject: The model.
        tasks: What it is asked.
        options: Those of the evaluation.

    Raises SettingError where a task needs a longer context than the model has, ModelError where an
    answer is no finite number.
    """
    # The harness sets a padding token where there is none, and this tokenizer may be the caller's.
    tokenizer = copy.deepcopy(subject.open_tokenizer())
    tell_stage(options.on_progress, f"loading {Path(subject.name).name}")
    model = subject.open_model(None)
    began, heard = time.perf_counter(), HarnessWarnings()
    with evaluating(model), quiet_harness():
        from lm_eval.models.huggingface import HFLM

        asked = HFLM(
            pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=options.batch_size
        )
        _refuse_short_context(asked, tasks)
        asked.set_cache_hook(_Answers(tasks, options.on_progress))
        with heard:
            found = _simple_evaluate(asked, tasks, shots=options.num_fewshot)
        items = tasks.items()
    heard.tell()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tasks": {name: _figures(one) for name, one in found["results"].items()},
        "items": items,
        "num_fewshot": dict(found["n-shot"]),
        "higher_is_better": {
            name: {metric: bool(up) for metric, up in one.items() if up is not None}
            for name, one in found["higher_is_better"].items()
        },
        "task_versions": {name: str(one) for name, one in found["versions"].items()},
        "limit": options.limit,
        "harness": f"lm_eval {version('lm_eval')}",
        "seconds": time.perf_counter() - began,
    }


def _simple_evaluate(asked: Any, tasks: OpenTasks, *, shots: int | None) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    try:
        found: dict[str, Any] = simple_evaluate(
            model=asked,
            tasks=list(tasks.asked),
            task_manager=tasks.manager,
            num_fewshot=shots,
            limit=tasks.limit,
            log_samples=False,
        )
    except OverflowError as error:
        raise ModelError(
            "a figure is too large for a float: the model knows nothing of the text",
            place=", ".join(tasks.tasks),
        ) from error
    except AssertionError as error:
        raise SettingError(
            "the harness cannot ask this model these tasks",
            place="--tasks",
            found=printable(str(error)) or ", ".join(tasks.tasks),
            remedy="Leave out tasks whose texts are longer than the model's context",
        ) from error
    return found


def _refuse_short_context(asked: Any, tasks: OpenTasks) -> None:
    """Refuse a task whose answers alone may be longer than the model's context."""
    for name, task in tasks.tasks.items():
        if task.OUTPUT_TYPE != "generate_until":
            continue
        settings = task.get_config("generation_kwargs") or {}
        most = int(settings.get("max_gen_toks", asked.max_gen_toks))
        if most >= asked.max_length:
            raise SettingError(
                f"the model's context has no room for the answers of the task {name}",
                place="--tasks",
                found=f"answers of up to {most} tokens",
                allowed=f"fewer than {asked.max_length}",
            )


class _Answers:
    """Stands where the harness would keep answers: checks each of them, and tells of progress."""

    def __init__(self, tasks: OpenTasks, on_progress: OnProgress | None) -> None:
        self._tasks, self._on_progress = tasks, on_progress
        self._meter = Meter(on_progress, stage="asking", unit="requests")
        self._answered = 0

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:  # noqa: ARG002
        """Take one answer.

        Args:
            kind: What was asked for, by the name of the harness's method.
            request: The question.
            answer: A text, a log-probability, or one with whether it is the likeliest.
        """
        number = answer[0] if isinstance(answer, tuple) else answer
        if not isinstance(number, str) and not math.isfinite(number):
            raise ModelError(
                "the model's log-probability of an answer is no finite number",
                place=printable(str(request))[-200:],
                found=number,
                remedy="Where a run has diverged, train again with a smaller --lr",
            )
        self._answered += 1
        asked = sum(len(one.instances) for one in self._tasks.tasks.values())
        self._meter.tell(self._answered, fraction=min(1.0, self._answered / max(1, asked)))
        if self._answered == asked:
            tell_stage(self._on_progress, "scoring")


def _figures(found: Mapping[str, Any]) -> dict[str, float | None]:
    """Metrics of one task by name, `METRIC_stderr` beside each.

    The harness calls them "METRIC,FILTER"; the filter stays where a task has a metric by several.
    """
    keyed = {tuple(key.split(",", 1)): value for key, value in found.items() if "," in key}
    filters = Counter(metric for metric, _ in keyed)
    return {
        metric if filters[metric] == 1 else f"{metric},{kind}": _number(value)
        for (metric, kind), value in keyed.items()
    }


def _number(value: Any) -> float | None:
    """A figure, None where the harness has none: one item alone has no standard error."""
    if isinstance(value, bool | str) or value is None:
        return None
    return float(value) if math.isfinite(value) else None
