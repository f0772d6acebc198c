"""The content of run.json for a run that begins, and what a run that goes on must share."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from logitstore import ModelError, SpecError
from trainer.data.averaged import AveragedStore
from trainer.data.batches import count_steps
from trainer.data.mixture import MixedStore
from trainer.data.packing import Packing
from trainer.data.spans import has_spans
from trainer.training.batching import plan_packing
from trainer.training.hinting import hints_record
from trainer.training.run_record import FORMAT
from trainer.training.student import configuration_hash

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from trainer.data.packing import Lengths
    from trainer.data.selection import Selection
    from trainer.losses.hints import Hints
    from trainer.training.options import FitOptions

__all__ = ["counted", "new_record", "refuse_other_student"]


def new_record(
    store: Any,
    options: FitOptions,
    *,
    wanted: Mapping[str, Any],
    ranks: int,
    student: PreTrainedModel,
    lengths: Lengths,
    selection: Selection | None,
    hints: Hints | None,
) -> dict[str, Any]:
    """The content of run.json for a run that begins now.

    Args:
        store: What is learnt from, a StoreLike.
        options: Those of the run.
        wanted: What was asked for, as run.json has it.
        ranks: Processes that learn together.
        student: Which is loaded.
        lengths: Of the store's documents.
        selection: Which targets count in the soft part; None: all.
        hints: The maps of hidden states; None without.
    """
    packing = plan_packing(
        store,
        seed=options.seed,
        batch_tokens=options.batch_tokens,
        micro_tokens=options.micro_tokens,
        window=options.window,
        ranks=ranks,
    )
    steps = wanted["steps"]
    if steps is None:
        steps = count_steps(packing, lengths, epochs=wanted["epochs"])
    record = {
        "format": FORMAT,
        "wanted": wanted,
        "settings": {**wanted, "steps": steps},
        "packing": packing.to_json(),
        "store": store.fingerprint,
        "teacher": store.spec.teacher.name,
        "parameters": _parameters(student),
        "configuration": configuration_hash(options.student),
        "finished": False,
        **_of_store(store, options),
    }
    if selection is not None:
        record["selected"] = selection.to_json()
    if hints is not None:
        record["hints"] = hints_record(hints)
    if ranks > 1:
        record["ranks"] = ranks
    return record


def _of_store(store: Any, options: FitOptions) -> dict[str, Any]:
    """What is said of several stores, of what is left out, and of other tokens."""
    said: dict[str, Any] = {}
    if isinstance(store, MixedStore):
        said["parts"] = store.describe()
    if isinstance(store, AveragedStore):
        said["averaged"] = store.describe()
        said["left_out"] = list(store.left_out)
    if options.skip_damaged is not None:
        said["damaged"] = [list(astuple(one)) for one in store.damaged]
    if has_spans(store.spec):
        said["crossed"] = store.counts
    return said


def counted(record: dict[str, Any], lengths: Lengths) -> dict[str, Any]:
    """The record with the steps of a run that was made longer by epochs.

    Args:
        record: Of a run; its steps are None where they are to be counted.
        lengths: Of the store's documents.

    Raises SpecError where the run would not be longer.
    """
    if record["settings"]["steps"] is not None:
        return record
    packing, epochs = Packing.from_json(record["packing"]), record["wanted"]["epochs"]
    steps = count_steps(packing, lengths, epochs=epochs)
    before = record["extended"][-1]
    if steps <= before:
        raise SpecError(
            "the run would not be longer than it was",
            place="--epochs",
            found=f"{epochs}, which are {steps} steps",
            allowed=f"more than {before} steps",
        )
    return record | {"settings": record["settings"] | {"steps": steps}}


def refuse_other_student(
    student: PreTrainedModel, record: dict[str, Any], options: FitOptions
) -> None:
    """Raise ModelError where the student is not the one that the run was begun with.

    The same weights compute something else where its configuration says so.

    Args:
        student: Which is loaded.
        record: The content of run.json.
        options: Those of the command.
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
