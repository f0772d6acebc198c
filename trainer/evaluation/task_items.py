"""Items of a task from a folder, in place of its data set: `TASK.jsonl`, one JSON object a line.

The fields are those of the task's own data set, and all that is done with them stays the task's
own. The solved examples of few-shot tasks come from the split that the task draws them from:
`TASK.SPLIT.jsonl`, or `TASK.jsonl` where that is the split that is measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore import CorpusError, SettingError
from logitstore.plumbing import printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["TaskItems", "shots_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskItems:
    """The files of one task, by the names of its splits."""

    files: Mapping[str, Path]

    @staticmethod
    def of(name: str, config: Mapping[str, Any], *, folder: Path, shots: int | None) -> TaskItems:
        """The files of the task `name` in `folder`.

        Args:
            name: The task's.
            config: Its definition, as the harness has it.
            folder: Where the files lie.
            shots: How many solved examples the user wants; None for as many as the task says.

        Raises SettingError for a file that is missing, with its name.
        """
        measured = config.get("test_split") or config.get("validation_split")
        if not isinstance(measured, str):
            raise SettingError(
                "the task names no split to measure on, so no file can take its place",
                place="--task-data",
                found=name,
                remedy="Leave --task-data out",
            )
        files = {measured: folder / f"{name}.jsonl"}
        drawn = _example_split(config) or measured
        if drawn != measured:
            # The harness reads this split in any case; without shots it uses nothing of it.
            wanted = shots_of(config, shots=shots) > 0
            files[drawn] = folder / f"{name}.{drawn}.jsonl" if wanted else files[measured]
        for split, file in files.items():
            if not file.is_file():
                what = "items" if split == measured else "solved examples"
                raise SettingError(
                    f"there is no file with the {what} of the task {name}",
                    place=file,
                    allowed="one JSON object a line, in the fields of the task's data set",
                    remedy="Put it there, or leave --task-data out to read the Hub's",
                )
        return TaskItems(files=files)

    def data_set(self) -> dict[str, Any]:
        """The items of each split, as `datasets` holds them.

        Raises CorpusError for a line that is no item.
        """
        read = {file: _items(file) for file in dict.fromkeys(self.files.values())}
        return {split: read[file] for split, file in self.files.items()}


def shots_of(config: Mapping[str, Any], *, shots: int | None) -> int:
    """How many solved examples stand before an item; the harness leaves tasks of 0 at 0.

    Args:
        config: The task's definition.
        shots: What the user wants; None for as many as the task says.
    """
    own = config.get("num_fewshot")
    return int(own or 0) if own == 0 or shots is None else shots


def _example_split(config: Mapping[str, Any]) -> str | None:
    """The split from which the harness draws solved examples; None for that which is measured."""
    own = config.get("fewshot_config") or {}
    named = own.get("split") or config.get("fewshot_split")
    if named is None and own.get("samples") is None:
        named = config.get("training_split") or config.get("validation_split")
    return named


def _items(file: Path) -> Any:
    """The lines of `file` as a data set in memory; a field that an item lacks is None."""
    import datasets
    import pyarrow

    rows = []
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise CorpusError("the file cannot be read", place=file, found=error) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            rows.append(_item(line, place=f"{file}:{number}"))
    if not rows:
        raise CorpusError("the file holds no items", place=file)
    fields = dict.fromkeys(field for row in rows for field in row)
    columns = {field: [row.get(field) for row in rows] for field in fields}
    try:
        return datasets.Dataset.from_dict(columns)
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise CorpusError(
            "a field has values of several types", place=file, found=printable(str(error))
        ) from error


def _item(line: bytes, *, place: str) -> dict[str, Any]:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            "the line is no JSON", place=place, found=printable(str(error))
        ) from error
    if not isinstance(item, dict):
        raise CorpusError("the line is no JSON object", place=place, found=type(item).__name__)
    return item
