"""The summary of a report: a row for each run, its cells, and what a reader must know of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from logitstore import StoreError
from trainer.evaluation.signs import SIGNS, shown
from trainer.reporting.data import as_number, words
from trainer.training.state_files import DIAGNOSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.reporting.data import RunFolder

__all__ = ["COLUMNS", "best_rows", "cell", "notes_of", "other_rows", "row_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    """A column of the summary: where its value stands, how it is shown, which value is best."""

    title: str
    source: str  # "file.key.key"
    show: str  # a format specification
    better: int = 0  # 1: more is better, -1: less, 0: neither
    short: str | None = None  # its title in the terminal, whose 80 columns have no room for all


COLUMNS = {
    "alpha": _Column(title="α", source="run.settings.alpha", show="g", short="α"),
    "temperature": _Column(title="T", source="run.settings.temperature", show="g"),
    "steps": _Column(title="Steps", source="run.settings.steps", show=",.0f"),
    "seconds": _Column(title="Training (s)", source="run.seconds", show=",.1f"),
    "parameters": _Column(
        title="Parameters", source="eval.parameters", show=",.0f", short="parameters"
    ),
    "targets": _Column(title="Held-out targets", source="eval.targets", show=",.0f"),
    "loss": _Column(
        title="Held-out loss (nats)", source="eval.loss", show=".3f", better=-1, short="loss"
    ),
    "perplexity": _Column(title="Perplexity", source="eval.perplexity", show=",.2f", better=-1),
    "kl": _Column(
        title="KL to teacher (nats)", source="eval.kl", show=".3f", better=-1, short="KL"
    ),
    "top1_agreement": _Column(
        title="Top-1 agreement", source="eval.top1_agreement", show=".1%", better=1, short="top-1"
    ),
    "acceptance": _Column(
        title="Acceptance", source="eval.acceptance", show=".1%", better=1, short="accepted"
    ),
    "ece": _Column(
        title="Calibration error", source="eval.ece", show=".1%", better=-1, short="ECE"
    ),
    # No best one: the machine's load is in it.
    "tokens_per_second": _Column(
        title="Speed (tokens/s)", source="eval.tokens_per_second", show=",.0f"
    ),
}
_BOUNDS = ("lower", "upper", "estimate")
# The signs of bounds that the exact value may be below of, or above of, by any amount.
_BETTER_THAN = {
    side: {one.page for key, one in SIGNS.items() if key.startswith(side)}
    for side in ("lower", "upper")
}
_AT_A_TEMPERATURE = ("kl", "acceptance")


def row_of(run: RunFolder) -> dict[str, Any]:
    """The row of `run` in the summary, by the keys that `trainer.reporting.page.Report` lists."""
    row: dict[str, Any] = {key: run.number(column.source) for key, column in COLUMNS.items()}
    if row["parameters"] is None:
        row["parameters"] = run.number("run.parameters")
    for one in run.kept.values():
        if row["parameters"] is None:
            row["parameters"] = as_number(one.get("parameters"), f"{run.folder}: parameters")
    signs: dict[str, str] = {}
    for key in COLUMNS:
        if row[key] is not None and (bound := run.value(f"eval.bounds.{key}")) in _BOUNDS:
            coding_error = run.number(f"eval.coding_errors.{key}")
            sign, row[key] = shown(key, row[key], bound=bound, coding_error=coding_error)
            signs |= {} if sign is None else {key: SIGNS[sign].page}
    errors = {key: run.number(f"eval.standard_errors.{key}") for key in COLUMNS}
    return {
        "name": run.name,
        "reference": run.reference,
        "bounds": signs,
        "standard_errors": {key: one for key, one in errors.items() if one is not None},
        "store": words(run.value("eval.store")),
        "compared_at": run.number("eval.temperature"),
        **row,
    }


def best_rows(key: str, rows: Sequence[dict[str, Any]]) -> set[int]:
    """Numbers of the rows with the best value of a column.

    None where fewer than two students have a value, nor where they were measured on other stores,
    or at other temperatures if that matters; nor where a figure is a bound on the better side, for
    then nothing says that the exact value is any good.

    Args:
        key: The column, of `COLUMNS`.
        rows: The rows of the summary.
    """
    sign = COLUMNS[key].better
    values = {
        number: sign * row[key]
        for number, row in enumerate(rows)
        if sign and not row["reference"] and row[key] is not None and math.isfinite(row[key])
    }
    measured = {
        (rows[number]["store"], rows[number]["compared_at"] if key in _AT_A_TEMPERATURE else None)
        for number in values
    }
    if len(values) < 2 or len(measured) > 1:
        return set()
    flattering = {1: _BETTER_THAN["upper"], -1: _BETTER_THAN["lower"]}[sign or 1]
    if key in _AT_A_TEMPERATURE and any(
        rows[number]["bounds"].get(key) in flattering for number in values
    ):
        return set()
    return {number for number, value in values.items() if value == max(values.values())}


def cell(key: str, row: dict[str, Any], *, with_error: bool = False) -> str:
    """What stands in a cell of the summary.

    Args:
        key: The column, of `COLUMNS`.
        row: The row.
        with_error: Whether the standard error stands behind the figure, where it is known.
    """
    value, error = row[key], row["standard_errors"].get(key)
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    sign = row["bounds"].get(key, "")
    after = ""
    if with_error and error is not None and math.isfinite(error):
        after = f" ± {error:{COLUMNS[key].show}}"
    return f"{sign} {value:{COLUMNS[key].show}}{after}".strip()


def notes_of(runs: Sequence[RunFolder], rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """What a reader of the table must know, in sentences.

    Args:
        runs: The runs that the table is about.
        rows: Its rows.
    """
    used = {sign for row in rows for sign in row["bounds"].values()}
    notes = [f"{one.page} means: {one.meaning}." for one in SIGNS.values() if one.page in used]
    if any(row["standard_errors"] for row in rows):
        notes.append(
            "± is one standard error of a mean over targets, by the spread over documents; of a "
            "bound, that of the figure before its coding error (on the page; not in the terminal)."
        )
    if len({words(run.value("eval.store")) for run in runs if run.evaluation}) > 1:
        notes.append("Not all were evaluated on the same store: do not compare across stores.")
    learnt = [
        f"{run.name}: {name}"
        for run in runs
        for name, one in run.kept.items()
        if one.get("trained_on") is True and one != run.evaluation
    ]
    learnt = [run.name for run in runs if run.value("eval.trained_on") is True] + learnt
    if learnt:
        notes.append(
            "On the training text, not on held-out text (the store that the run learnt from): "
            f"{', '.join(learnt)}."
        )
    notes += [note for note in map(_other_tokens, runs) if note is not None]
    temperatures = sorted({row["compared_at"] for row in rows if row["compared_at"] is not None})
    if len(temperatures) > 1:
        listed = ", ".join(f"{one:g}" for one in temperatures)
        notes.append(
            f"KL and acceptance are at different temperatures ({listed}): compare neither."
        )
    for done, source in {"Learnt": "run.damaged", "Measured": "eval.damaged"}.items():
        damaged = {run.name: run.value(source) for run in runs}
        left_out = [
            f"{name} ({len(blocks)})"
            for name, blocks in damaged.items()
            if isinstance(blocks, list) and blocks
        ]
        if left_out:
            notes.append(f"{done} without damaged blocks of the store: {', '.join(left_out)}.")
    unfinished = [run.name for run in runs if run.value("run.finished") is False]
    if unfinished:
        notes.append(f"Not finished: {', '.join(unfinished)}.")
    lacking = {
        "run.json, so no settings": [run for run in runs if not run.run and not run.reference],
        "history.json, so no curves": [
            run for run in runs if not run.history and not run.reference
        ],
        "eval.json, so no held-out figures": [
            run for run in runs if not run.evaluation and not run.stray
        ],
    }
    notes += [
        f"Without {what}: {', '.join(run.name for run in some)}."
        for what, some in lacking.items()
        if some
    ]
    notes += [
        f"The {file} of {run.name} is left out: {why}. Measure it anew: "
        f"`trainer {'diagnose' if file.startswith(DIAGNOSES) else 'eval'}`."
        for run in runs
        for file, why in run.strays.items()
    ]
    notes += [note for run in runs for note in _findings(run)]
    mixed = [run.name for run in runs if len(_weights(run)) > 1]
    if mixed:
        notes.append(f"Of several models, by the weights they name: {', '.join(mixed)}.")
    return tuple(notes)


def _findings(run: RunFolder) -> list[str]:
    """What `trainer diagnose` found in a run, a sentence for each finding."""
    notes = []
    for name, one in run.diagnoses.items():
        place = f"{run.name} ({DIAGNOSES}/{name}.json)"
        found = one.get("findings")
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise StoreError(
                "findings are no list of objects",
                place=run.folder / DIAGNOSES / f"{name}.json",
                found=words(found)[:80],
            )
        notes += [
            f"Found in {place}: {words(each.get('says'))}. {words(each.get('remedy'))}."
            for each in found
        ]
        if not found:
            notes.append(f"Nothing was found wrong in {place}.")
    return notes


def _weights(run: RunFolder) -> set[str]:
    """What the evaluations of a folder say of the weights that they measured; each once."""
    found = [run.evaluation or {}, *run.kept.values()]
    return {words(weights) for one in found if (weights := one.get("weights"))}


def other_rows(run: RunFolder) -> list[dict[str, Any]]:
    """Rows as `row_of` gives them, for what a run was measured on besides: other stores, texts.

    Args:
        run: The run, or a reference.
    """
    return [
        row_of(replace(run, name=f"{run.name}: {name}", evaluation=one))
        for name, one in run.kept.items()
        if "tasks" not in one and one != run.evaluation
    ]


def _other_tokens(run: RunFolder) -> str | None:
    """What is said of a run that was measured over spans, in tokens that are not the store's."""
    own, teacher = run.number("eval.bits_per_byte"), run.number("eval.teacher_bits_per_byte")
    kl = run.number("eval.span_kl")
    if own is None or teacher is None or kl is None:
        return None
    return (
        f"{run.name} has another tokenizer than the store: its loss is of other tokens and "
        f"compares with no other run's. It takes {own:.3f} bits a byte, the teacher {teacher:.3f}; "
        f"KL {kl:.3f} nats a span."
    )
