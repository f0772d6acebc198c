"""The tasks that `evaluate` asks a model: lm-evaluation-harness's own, opened and checked.

Everything that can be refused is refused here, before a model is loaded: names, files, and every
item that will be asked is put into the task's words once.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any

from logitstore import CorpusError, SettingError
from logitstore.plumbing import printable, tell_stage
from trainer.evaluation.harness_output import quiet_harness
from trainer.evaluation.options import task_names
from trainer.evaluation.task_items import TaskItems, shots_of
from trainer.training.state_files import warn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trainer.evaluation.options import EvalOptions

__all__ = ["OpenTasks", "open_tasks"]

_GROUP = "items-of-files"  # groups give their tasks other definitions, and this one other items


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenTasks:
    """Tasks with their items, in the harness's own objects."""

    asked: tuple[Any, ...]  # tasks, and groups of them
    tasks: dict[str, Any]  # every task among them, by its name
    groups: dict[str, tuple[str, ...]]  # the tasks of each group, by its name
    limit: int | None
    manager: Any  # the harness's, which knows all definitions

    def items(self) -> dict[str, dict[str, Any]]:
        """Of each task and group, how many items are asked, and a hash that tells them apart."""
        found = {name: self._items_of(task) for name, task in self.tasks.items()}
        for group, names in self.groups.items():
            parts = [found[name] for name in names]
            found[group] = {
                "count": sum(one["count"] for one in parts),
                "sha256": _hash(one["sha256"] for one in parts),
            }
        return found

    def _items_of(self, task: Any) -> dict[str, Any]:
        lines = [json.dumps(one, sort_keys=True, default=str) for one in self.documents(task)]
        return {"count": len(lines), "sha256": _hash(lines)}

    def documents(self, task: Any) -> Iterator[dict[str, Any]]:
        """The items of a task that are asked, in their order.

        Args:
            task: One of `tasks`.
        """
        return islice(task.eval_docs, self.limit)


def open_tasks(options: EvalOptions) -> OpenTasks:
    """The tasks that `options` name.

    Args:
        options: Those of the evaluation, with `tasks`.

    Raises SettingError for a name that is unknown, a file that is missing, or a task that cannot be
    asked; CorpusError for items that cannot be read.
    """
    if find_spec("lm_eval") is None:
        raise SettingError(
            "tasks need the package lm_eval",
            place="--tasks",
            found=", ".join(task_names(options.tasks)),
            remedy="pip install 'logitstore[eval]'",
        )
    tell_stage(options.on_progress, "reading tasks")
    with quiet_harness():
        opened = _opened(options)
    for task in opened.tasks.values():
        _warn_of_shots(task, options.num_fewshot)
    return opened


def _opened(options: EvalOptions) -> OpenTasks:
    manager = _manager()
    names = task_names(options.tasks)
    _refuse_unknown(names, known=manager.all_tasks)
    folder, shots = options.task_data, options.num_fewshot
    files: dict[str, TaskItems | None] = dict.fromkeys(names)
    if folder is not None:
        for name in names:
            config = _single(manager, name).cfg or {}
            files[name] = TaskItems.of(name, config, folder=folder, shots=shots)
    asked: list[Any] = []
    tasks: dict[str, Any] = {}
    groups: dict[str, tuple[str, ...]] = {}
    for name, items in files.items():
        loaded = _load(manager, name, items)
        if items is not None:
            loaded["groups"] = {}
        elif name in loaded["groups"]:
            asked.append(loaded["groups"][name])
        if name not in loaded["groups"]:
            asked += loaded["tasks"].values()
        tasks |= loaded["tasks"]
        groups |= {
            group: tuple(one.task_name for one in held.get_all_tasks())
            for group, held in loaded["groups"].items()
        }
    opened = OpenTasks(
        asked=tuple(asked), tasks=tasks, groups=groups, limit=options.limit, manager=manager
    )
    _refuse_twice(opened)
    for name, task in tasks.items():
        _check(task, opened, items=files.get(name))
    return opened


@cache
def _manager() -> Any:
    """What knows all definitions of the harness: reading them takes seconds, so it is done once."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _refuse_unknown(names: Sequence[str], *, known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=4, cutoff=0.5)
            raise SettingError(
                "lm-evaluation-harness has no such task",
                place="--tasks",
                found=name,
                allowed=f"such as {', '.join(near)}" if near else None,
                remedy="`lm_eval ls tasks` lists them all",
            )


def _single(manager: Any, name: str) -> Any:
    """The harness's entry of a task whose data set may be replaced."""
    entry = manager.task_index[name]
    kind = entry.kind.name
    if kind == "TASK":
        return entry
    what = {"PY_TASK": "is a task that reads its own data", "TAG": "stands for several tasks"}
    raise SettingError(
        f"this {what.get(kind, 'is a group of tasks')}, so no file can take the place of its data",
        place="--task-data",
        found=name,
        remedy="Leave --task-data out" if kind == "PY_TASK" else "Name its tasks one by one",
    )


def _load(manager: Any, name: str, items: TaskItems | None) -> dict[str, Any]:
    """The harness's task, tag or group `name`, with the items of files where there are some."""
    spec: Any = name
    if items is not None:
        data_set = items.data_set()
        spec = {"group": _GROUP, "task": [{"task": name, "custom_dataset": lambda **_: data_set}]}
    try:
        loaded: dict[str, Any] = {"groups": {}} | manager.load([spec])
    except ModuleNotFoundError as error:
        raise SettingError(
            f"the task needs the package {error.name}",
            place="--tasks",
            found=name,
            remedy=f"pip install {error.name}, or leave the task out",
        ) from error
    except Exception as error:  # of the data set, the network, or the task's own program
        where = f"task {name}" if items is None else next(iter(items.files.values()))
        raise _unreadable(where, error, items=items) from error
    return loaded


def _unreadable(place: object, error: Exception, *, items: TaskItems | None) -> CorpusError:
    found = printable(f"{type(error).__name__}: {error}")[:300]
    if items is None:
        return CorpusError(
            "the task cannot be opened with its data set",
            place=place,
            found=found,
            remedy="Without a network, give its items as TASK.jsonl in a folder (--task-data)",
        )
    return CorpusError(
        "the task cannot make a question of the item",
        place=place,
        found=found,
        allowed="the fields of the task's own data set",
    )


def _refuse_twice(opened: OpenTasks) -> None:
    """Refuse tasks that are asked twice: by their name and in a group, or in two groups."""
    times = Counter(
        one.task_name
        for asked in opened.asked
        for one in (asked.get_all_tasks() if hasattr(asked, "get_all_tasks") else [asked])
    )
    for name, count in times.items():
        if count > 1:
            raise SettingError("a task is named twice", place="--tasks", found=name)


def _check(task: Any, opened: OpenTasks, *, items: TaskItems | None) -> None:
    """Refuse a task that no text model can be asked, and items that it cannot put into words."""
    name = task.task_name
    if getattr(task, "UNSAFE_CODE", False):
        raise SettingError("the task runs code that the model writes", place="--tasks", found=name)
    if getattr(task, "MULTIMODAL", False):
        raise SettingError("the task asks about images or sounds", place="--tasks", found=name)
    for number, document in enumerate(opened.documents(task), 1):
        try:
            task.doc_to_text(document)
            task.doc_to_target(document)
            if task.get_config("doc_to_choice") is not None:
                task.doc_to_choice(document)
        except Exception as error:  # of templates and of the task's own program
            where: object = f"task {name}"
            if items is not None:
                where = next(iter(items.files.values()))
            raise _unreadable(f"{where}, item {number}", error, items=items) from error


def _warn_of_shots(task: Any, shots: int | None) -> None:
    own = task.get_config("num_fewshot")
    if shots and shots_of({"num_fewshot": own}, shots=shots) != shots:
        warn(f"{task.task_name} is asked without solved examples, whatever --num-fewshot says")


def _hash(lines: Any) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
