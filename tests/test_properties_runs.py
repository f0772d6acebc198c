"""Any content of a run's state files, any value of an option, any word of a command line."""

from __future__ import annotations

import math
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from logitstore.cli.program import command, new_program
from logitstore.dumping.options import DUMP_OPTIONS
from logitstore.errors import LogitStoreError
from logitstore.fidelity.options import AUDIT_OPTIONS
from logitstore.forecast.options import TUNE_OPTIONS
from logitstore.format.json import canonical_json
from logitstore.generation.options import GENERATE_OPTIONS
from logitstore.options import Option
from logitstore.store.options import VERIFY_OPTIONS
from tests import run_files
from tests.fuzzed import CHOICES, JSON, ODD, told
from tools.fuzzing.choices import Choices
from tools.fuzzing.json_changes import changed, json_bytes
from tools.fuzzing.runs import RunFiles
from trainer.data.packing import Packing, Position
from trainer.reporting.data import load_runs
from trainer.training.checkpoints import read_checkpoint
from trainer.training.fit_options import FIT_OPTIONS
from trainer.training.run_record import RECORD, read_record, write_record
from trainer.training.state_files import read_state, write_json, write_state

LISTS = (DUMP_OPTIONS, TUNE_OPTIONS, AUDIT_OPTIONS, GENERATE_OPTIONS, VERIFY_OPTIONS)
OPTIONS = [one for options in (*LISTS, FIT_OPTIONS) for one in options]
# A folder for all examples of a test: each writes anew what it reads.
shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@shared_folder
@given(content=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), JSON, max_size=4))
def test_a_state_file_comes_back_as_it_was(tmp_path: Path, content: Any) -> None:
    content = content | {"format": "kind/1"}
    content.pop("sha256", None)
    write_state(tmp_path / "state.json", content)
    assert read_state(tmp_path / "state.json", kind="kind/1", unhashed=None) == content


@shared_folder
@given(choices=CHOICES)
def test_a_record_with_a_fault_is_refused_or_comes_back(tmp_path: Path, choices: Choices) -> None:
    """Its hash is right: the fault was written by whoever wrote the file."""
    content = changed(run_files.record(), choices)
    (tmp_path / RECORD).write_bytes(json_bytes(content, choices, check=True))
    found, problem = told(lambda: read_record(tmp_path))
    if problem is None and found is not None:
        Packing.from_json(found["packing"])
        write_record(tmp_path, found)
        assert read_record(tmp_path) == found


@settings(shared_folder, max_examples=40)
@given(choices=CHOICES)
def test_a_run_with_a_fault_is_read_or_refused(tmp_path: Path, choices: Choices) -> None:
    """As it is resumed and as it is reported; all that names the file's hash is written anew."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        out = Path(folder) / "run"
        run_files.finished(out)
        files = {str(one.relative_to(out)): one.read_bytes() for one in out.rglob("*.*")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run tells what it passes over
            told(lambda: RunFiles(out, files).try_one(choices))


@shared_folder
@given(content=JSON)
def test_a_checkpoint_of_any_state_is_refused_or_has_a_position(
    tmp_path: Path, content: Any
) -> None:
    packing = Packing.from_json(run_files.record()["packing"])
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        place = run_files.checkpoint(Path(folder), 10)
        marker = read_state(place / "complete.json", kind="trainer-checkpoint/2", unhashed=None)
        assert marker is not None
        state = marker["state"] | {"stream": content}
        write_state(place / "complete.json", marker | {"state": state})

        def fits(stream: Any) -> None:
            Position.from_json(stream, packing=packing, documents_B=np.array([200, 300]))

        found, problem = told(lambda: read_checkpoint(place, fits=fits))
    assert problem is not None or found.state["stream"] == content


@shared_folder
@given(content=JSON)
def test_a_history_of_any_content_is_reported_or_refused(tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / "history.json", content)
    runs, problem = told(lambda: load_runs([tmp_path]))
    assert problem is not None or runs[0].history == content


@settings(max_examples=400)
@given(st.sampled_from(OPTIONS), ODD)
def test_any_value_of_an_option_is_checked_once_for_all(option: Option, value: Any) -> None:
    found, problem = told(lambda: option.check(value))
    if problem is not None:
        assert problem.isprintable()
        return
    again = option.check(found)
    assert again is found or again == found
    if option.kind in (int, float) and found is not None:
        assert type(found) is option.kind
        assert math.isfinite(found)


WORDS = st.one_of(
    st.text(max_size=8),
    st.floats().map(str),
    st.integers().map(str),
    JSON.map(lambda content: canonical_json(content).decode()),
    st.sampled_from(["", "-", "--", "1,2", "1,,2", "nan", "1e400", "\0", "s3://x", "../x", "@x"]),
)


@settings(max_examples=100)
@given(st.sampled_from([one for one in OPTIONS if not one.python_only]), WORDS)
def test_any_word_of_a_command_line_is_a_value_or_wrong_usage(option: Option, word: str) -> None:
    option = replace(option, needs=None, excludes=())
    taken: list[Any] = []
    program = new_program("program", summary="Take an option.")

    @command(program, options=[option])
    def take(**given: Any) -> None:
        """Take it."""
        taken.append(given)

    words = ["take", word] if option.positional else ["take", f"{option.flag}={word}"]
    done = CliRunner().invoke(program, words)
    assert done.exit_code in (0, 1, 2)
    assert bool(taken) == (done.exit_code == 0)
    assert done.exception is None or isinstance(done.exception, SystemExit | LogitStoreError)
