"""A trained run in files, the change of one of them, and the reading of all that is read of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

import logitstore
import trainer
from logitstore.format.json import with_check
from tools.fuzzing.byte_changes import changed_bytes
from tools.fuzzing.json_changes import changed, json_bytes
from tools.tiny_teacher import make_teacher, texts
from trainer.data.packing import Packing, Position
from trainer.reporting.data import load_runs
from trainer.reporting.page import Report, render_table, report
from trainer.training import run_folder
from trainer.training.checkpoints import find_checkpoints
from trainer.training.run_record import read_record, run_fingerprint
from trainer.training.run_result import weight_hashes
from trainer.training.state_files import EVALS, EVALUATION, write_state

if TYPE_CHECKING:
    from pathlib import Path

    from tools.fuzzing.choices import Choices

__all__ = ["RunFiles", "make_run"]

_DOCUMENTS_B = np.array([3, 5])
_TASKS = {  # as an evaluation by tasks has them
    "format": EVALUATION,
    "tasks": {"lambada": {"acc": 0.25, "acc_stderr": 0.25, "exact,strict": 0.5}},
    "items": {"lambada": {"count": 4, "sha256": "feed"}},
    "num_fewshot": {"lambada": 2},
    "higher_is_better": {"lambada": {"acc": True}},
    "task_versions": {"lambada": "1.0"},
    "harness": "lm_eval 0.4",
}
_PAGE_FROM = 65_400  # of 65,536: a page takes a second


def make_run(work: Path) -> dict[str, bytes]:
    """The files of a tiny student's run, its evaluation and checkpoints among them, by name."""
    teacher = make_teacher(work / "teacher")
    student = shutil.copy(teacher / "config.json", work / "student.json")
    store, out = work / "store", work / "run"
    logitstore.dump(teacher=str(teacher), data=texts(8), out=store, device="cpu")
    sizes: dict[str, Any] = {"batch_tokens": 128, "micro_tokens": 64, "steps": 4, "save_steps": 2}
    trainer.fit(logits=str(store), student=student, out=out, device="cpu", log_steps=1, **sizes)
    trainer.evaluate(str(out), logits=str(store), device="cpu")
    write_state(out / EVALS / "tasks.json", {"weights": weight_hashes(out)} | _TASKS)
    files = {str(one.relative_to(out)): one for one in out.rglob("*") if one.is_file()}
    return {name: path.read_bytes() for name, path in sorted(files.items())}


class RunFiles:
    """The folder of a run, in which one small file at a time is another.

    Args:
        folder: Where the files are written.
        files: By their names, as `make_run` gave them.
    """

    def __init__(self, folder: Path, files: dict[str, bytes]) -> None:
        self._folder, self._files = folder, files
        self._small = [name for name in files if name.endswith(".json")]
        for name, data in files.items():
            self._write(name, data)

    def try_one(self, choices: Choices) -> None:
        """Change a file, hash it and what names its hash anew, read the run, put all back."""
        name = choices.one_of(self._small)
        try:
            for one, data in self._changed(name, choices).items():
                self._write(one, data)
            self._read(page=choices.number(2) >= _PAGE_FROM)
        finally:
            for one in {name, *self._naming(name)}:
                self._write(one, self._files[one])

    def _write(self, name: str, data: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def _naming(self, name: str) -> list[str]:
        """The file that holds the hash of another: complete.json of a checkpoint's, or run.json."""
        folder = name.rpartition("/")[0]
        holder = f"{folder}/complete.json" if folder else "run.json"
        return [] if name == holder or folder == EVALS else [holder]

    def _changed(self, name: str, choices: Choices) -> dict[str, bytes]:
        if choices.chance(0.1):
            data = changed_bytes(self._files[name], choices)
        else:
            content = json.loads(self._files[name])
            own = isinstance(content, dict) and content.pop("sha256", None) is not None
            data = json_bytes(changed(content, choices), choices, check=own)
        found = {name: data}
        for holder in self._naming(name):
            content = json.loads(self._files[holder])
            del content["sha256"]
            content["files"][name.rpartition("/")[2]] = hashlib.sha256(data).hexdigest()
            found[holder] = with_check(content)
        return found

    def _read(self, *, page: bool) -> None:
        """What `fit` with `resume`, and `report`, read of a run. Errors of the project pass."""
        for reading in (self._as_resumed, self._as_reported):
            reading()
        if page:
            report(dirs=[self._folder], out=self._folder.parent / "page.html")

    def _as_resumed(self) -> None:
        found = read_record(self._folder)
        wanted = {} if found is None else found["wanted"]
        begun = run_folder.begin(self._folder, wanted=wanted, resume=True)
        if begun is None:
            return
        packing = Packing.from_json(begun["packing"])

        def fits(stream: dict[str, Any]) -> None:
            Position.from_json(stream, packing=packing, documents_B=_DOCUMENTS_B)

        find_checkpoints(self._folder, runs=(run_fingerprint(begun),), fits=fits)

    def _as_reported(self) -> None:
        render_table(Report.of(load_runs([self._folder]), path=self._folder))
